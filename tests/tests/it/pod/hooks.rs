//! `leno-proxy wait` and `leno-proxy quit`, for images without a shell.

use leno_tests::{free_port, origin, sidecar};
use serde_json::json;

use super::{merged, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_returns_when_the_proxy_is_ready_and_not_before() {
    let app = origin("app").await;
    let ready = format!("127.0.0.1:{}", free_port());
    let environment = [("LENO_READY", ready.replace("127.0.0.1", "0.0.0.0"))];
    let asked = std::thread::spawn({
        let environment = environment.clone();
        move || run(&["wait", "--timeout", "30s"], &environment)
    });
    let pod = sidecar(app.address(), "").bootstrap("ready", json!(ready)).start().await;
    let waited = tokio::task::spawn_blocking(|| asked.join()).await.expect("joined").expect("it does not panic");
    assert_eq!((waited.code, waited.stderr.as_str()), (0, ""), "{}", pod.log());
    // Asked once, it is an exec probe.
    assert_eq!(run(&["wait", "--timeout", "0s"], &environment).code, 0);
    let url = format!("http://{ready}/healthz/ready");
    assert_eq!(run(&["wait", "--timeout", "0s", "--url", &url], &[]).code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_waits_in_vain_says_why() {
    let app = origin("app").await;
    let nobody = format!("http://127.0.0.1:{}/healthz/ready", free_port());
    let (builder, at) = merged(sidecar(app.address(), ""));
    let pod = builder.start().await;
    let draining = leno_tests::Call::new(http::Method::POST, "http://127.0.0.1/healthcheck/fail");
    assert_eq!(draining.send(pod.proxy.admin().await).await.status, 200);
    let not_ready = format!("http://{at}/healthz/ready");
    let rows: [(&[&str], i32, &str); 5] = [
        (&["wait", "--timeout", "300ms", "--url", &nobody], 3, "no proxy answers"),
        (&["wait", "--timeout", "300ms", "--url", &not_ready], 1, "answered 503 Service Unavailable: DRAINING"),
        (&["wait", "--timeout", "soon"], 2, "`soon` is not a duration"),
        (&["wait", "--url", "https://127.0.0.1/"], 2, "is not a URL like"),
        (&["quit", "--url", &nobody], 3, "no proxy answers"),
    ];
    for (arguments, code, says) in rows {
        let said = run(arguments, &[]);
        assert_eq!(said.code, code, "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains(says), "{arguments:?}: {}", said.stderr);
    }
}
