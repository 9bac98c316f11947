//! Dashboards and alerts: every metric and every label that they name is emitted, and Prometheus itself agrees.

mod scene;

use leno_tests::prometheus::{has_prometheus, promtool};

use scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_programs_emit_is_as_prometheus_wants_it() {
    if !has_prometheus("promtool on the metrics of a mesh") {
        return;
    }
    let scene = Scene::start().await;
    scene.is_used().await;
    scene.falls_ill().await;
    for (job, text) in scene.texts().await {
        let (content, said) = promtool(&["check", "metrics"], &text);
        assert!(content && said.is_empty(), "{job}: {said}");
    }
    drop(scene.samples().await);
}
