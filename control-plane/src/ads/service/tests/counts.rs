//! What is counted while proxies come, answer, refuse and go.

use std::time::Instant;

use super::*;

impl Running {
    /// The value of a series, 0 where it is not there.
    pub(super) fn counted(&self, series: &str) -> f64 {
        let text = self.hub.metrics().text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a series has this value.
    async fn counts(&self, series: &str, expected: f64) {
        let wait = async {
            while self.counted(series) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "{series} is {} and not {expected}", self.counted(series));
    }
}

fn weights(first: u8) -> Arc<Generation> {
    let of = |weight: u8| format!("weight: {weight}");
    generation(&MESH.replace("weight: 80", &of(first)).replace("weight: 20", &of(100 - first)))
}

#[tokio::test]
async fn a_run_of_two_proxies_is_counted() {
    const CONVERGED: &str = "leno_control_plane_convergence_seconds_count";
    let running = Running::start().await;
    running.hub.publish_edit(weights(80), Instant::now());
    let (mut one, mut other) = (running.proxy("productpage").await, running.proxy("ratings").await);
    in_sync(&mut one).await;
    in_sync(&mut other).await;
    running.counts("leno_control_plane_acks_total{type=\"routes\"}", 2.0).await;
    assert_eq!(running.counted(CONVERGED), 0.0, "nobody was connected when the edit was noticed");
    running.counts("leno_control_plane_unanswered_proxies", 0.0).await;

    // An edit that both accept.
    let noticed = Instant::now() - Duration::from_millis(400);
    running.hub.publish_edit(weights(70), noticed);
    one.takes(Kind::Route).await;
    running.counts("pilot_proxy_convergence_time_count", 1.0).await;
    assert_eq!(running.counted(CONVERGED), 0.0, "one proxy has not answered");
    assert_eq!(running.counted("leno_control_plane_unanswered_proxies"), 1.0);
    other.takes(Kind::Route).await;
    running.counts(CONVERGED, 1.0).await;
    let sum = running.counted("leno_control_plane_convergence_seconds_sum");
    assert!((0.4..20.0).contains(&sum), "{sum}");

    // One that one of them refuses: both have answered.
    running.hub.publish_edit(weights(60), Instant::now());
    one.takes(Kind::Route).await;
    let routes = other.hears().await.unwrap().unwrap();
    other.answers(&routes, Some("15001: no")).await;
    running.counts(CONVERGED, 2.0).await;

    let expected = [
        ("leno_control_plane_connected_proxies{dialect=\"envoy\",variant=\"delta\"}", 2.0),
        ("leno_control_plane_connected_proxies{dialect=\"envoy\",variant=\"sotw\"}", 0.0),
        ("pilot_xds", 2.0),
        ("leno_control_plane_waiting_proxies", 0.0),
        ("leno_control_plane_pushes_total{type=\"clusters\"}", 2.0),
        ("leno_control_plane_pushes_total{type=\"routes\"}", 6.0),
        ("pilot_xds_pushes{type=\"rds\"}", 6.0),
        ("leno_control_plane_acks_total{type=\"routes\"}", 5.0),
        ("leno_control_plane_nacks_total{type=\"routes\"}", 1.0),
        ("leno_control_plane_nacks_total{type=\"clusters\"}", 0.0),
        ("pilot_total_xds_rejects", 1.0),
        ("leno_control_plane_push_seconds_count{step=\"send\"}", 12.0),
    ];
    for (series, value) in expected {
        assert_eq!(running.counted(series), value, "{series}");
    }
    assert!(running.counted("leno_control_plane_push_seconds_count{step=\"compile\"}") >= 3.0, "once per generation");
    assert!(running.counted("leno_control_plane_snapshot_resources{type=\"clusters\"}") > 2.0);
    assert!(running.counted("leno_control_plane_snapshot_bytes{type=\"routes\"}") > 100.0);

    // Who leaves is no longer there, nor waited for.
    drop(other);
    running.counts("pilot_xds", 1.0).await;
    running.hub.publish_edit(weights(50), Instant::now());
    one.takes(Kind::Route).await;
    running.counts(CONVERGED, 3.0).await;
    let ends = ["left", "lost"]
        .map(|reason| running.counted(&format!("leno_control_plane_stream_ends_total{{reason=\"{reason}\"}}")));
    assert_eq!(ends.iter().sum::<f64>(), 1.0);
    running.hub.stop();
    running.counts("leno_control_plane_stream_ends_total{reason=\"stopping\"}", 1.0).await;
}

#[tokio::test]
async fn a_proxy_that_does_not_read_is_in_the_queue() {
    let running = Running::start().await;
    running.hub.publish(weights(80));
    let mut proxy = running.proxy("productpage").await;
    proxy.asks(Kind::Cluster, &[]).await;
    let clusters = proxy.hears().await.unwrap().unwrap();
    // Routes wait for the clusters to be acknowledged.
    proxy.asks(Kind::Route, &["15001"]).await;
    running.counts("leno_control_plane_waiting_proxies", 1.0).await;
    assert_eq!(running.counted("leno_control_plane_unanswered_proxies"), 1.0);
    proxy.answers(&clusters, None).await;
    proxy.takes(Kind::Route).await;
    running.counts("leno_control_plane_waiting_proxies", 0.0).await;
}
