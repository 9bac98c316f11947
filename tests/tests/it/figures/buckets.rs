//! Histograms have Istio's buckets, and a request is counted in the one where it belongs.

use leno_tests::exposition::{figure, samples};
use leno_tests::{Call, Origin, full, sidecar};

/// Those of Envoy, which Istio has for all of its histograms, as Prometheus reads them.
const ISTIOS: [&str; 20] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
    "300000", "600000", "1800000", "3600000", "+Inf",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_and_bytes_are_in_istios_buckets() {
    let app = Origin::answering(|_| http::Response::new(full(vec![b'x'; 600]))).await;
    let shop = sidecar(app.address(), "").start().await;
    for bytes in [7, 10] {
        let call = Call::new(http::Method::POST, "http://shop/").body(full(vec![b'x'; bytes]));
        assert_eq!(call.send(shop.address()).await.status, 200);
    }
    for name in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
        shop.proxy.shows(&format!("{name}_count"), &[("response_code", "200")], 2.0).await;
        let samples = samples(&shop.proxy.metrics().await);
        let bucket = format!("{name}_bucket");
        let bounds: Vec<&str> =
            samples.iter().filter(|sample| sample.metric == bucket).map(|sample| sample.label("le")).collect();
        assert_eq!(bounds, ISTIOS, "{name}");
        let up_to = |bound: &str| figure(&samples, &bucket, &[("le", bound)]);
        assert_eq!(up_to("+Inf"), Some(2.0), "{name}");
        match name {
            // A bound belongs to its bucket.
            "istio_request_bytes" => assert_eq!((up_to("5"), up_to("10")), (Some(0.0), Some(2.0))),
            "istio_response_bytes" => assert_eq!((up_to("500"), up_to("1000")), (Some(0.0), Some(2.0))),
            _ => assert_eq!(up_to("3600000"), Some(2.0)),
        }
    }
    let samples = samples(&shop.proxy.metrics().await);
    let sums = ["istio_request_bytes_sum", "istio_response_bytes_sum"].map(|name| figure(&samples, name, &[]));
    assert_eq!(sums, [Some(17.0), Some(1200.0)]);
}
