//! Where lines go may be full, slow or gone: no request notices.

use std::process::Command;

use leno_tests::{Call, Sidecar, eventually, metric, origin, sidecar};
use tempfile::tempdir;

use super::{json_into, mesh_config, wait_for_lines};

/// So many requests, each answered with 200.
async fn ask(shop: &Sidecar, count: usize) {
    let mut caller = leno_tests::Connection::open(shop.address(), leno_tests::Protocol::Http1).await;
    for number in 0..count {
        let reply = caller.send(Call::get(&format!("http://shop/{number}"))).await;
        assert_eq!(reply.status, 200, "request {number}");
    }
}

async fn counted(shop: &Sidecar) -> (f64, f64) {
    let metrics = shop.proxy.metrics().await;
    let count = |name: &str| metric(&metrics, name, &[]);
    (count("leno_access_log_written_total"), count("leno_access_log_dropped_total"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_lines_and_no_request() {
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &mesh_config("{path: /dev/full}")).workers(2).start().await;
    ask(&shop, 500).await;
    eventually("all lines are counted as dropped", async || match counted(&shop).await {
        (0.0, 500.0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(shop.log().contains("the access log cannot be written"), "{}", shop.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_costs_lines_and_no_request() {
    let directory = tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Somebody has it open and does not read: it fills up, and whoever writes waits.
    let _reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let app = origin("shop").await;
    let long = format!("{{custom: {{text: '%REQ(x-n)% {}'}}, path: {}}}", "x".repeat(4000), pipe.display());
    let mut shop = sidecar(app.address(), &mesh_config(&long)).start().await;
    // More than the pipe and the queue hold.
    ask(&shop, 2000).await;
    let (written, dropped) = eventually("lines are dropped", async || {
        let counted = counted(&shop).await;
        if counted.1 > 0.0 { Ok(counted) } else { Err(format!("{counted:?}")) }
    })
    .await;
    assert!(written < 100.0 && dropped > 100.0, "{written} {dropped}");
    // And nobody waits for it at the end.
    shop.proxy.process.terminate();
    assert!(shop.proxy.process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_followed_when_it_is_renamed_and_opened_anew_on_sigusr1() {
    let directory = tempdir().unwrap();
    let (file, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &json_into(&file)).start().await;
    ask(&shop, 3).await;
    wait_for_lines(&file, 3).await;
    std::fs::rename(&file, &old).unwrap();
    ask(&shop, 2).await;
    wait_for_lines(&file, 2).await;
    assert_eq!(super::lines(&old).len(), 3);
    // What logrotate does: it makes no request, and wants the new file.
    std::fs::remove_file(&old).unwrap();
    std::fs::rename(&file, &old).unwrap();
    shop.proxy.process.signal("USR1");
    eventually("the file is there again", async || file.exists().then_some(()).ok_or_else(String::new)).await;
    ask(&shop, 1).await;
    wait_for_lines(&file, 1).await;
    eventually("all six are counted", async || match counted(&shop).await {
        (6.0, 0.0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_served_before_the_end_is_in_the_log() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = origin("shop").await;
    let mut shop = sidecar(app.address(), &json_into(&file)).workers(4).start().await;
    ask(&shop, 200).await;
    shop.proxy.process.terminate();
    shop.proxy.process.ended().await;
    assert_eq!(super::lines(&file).len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_path_lines_go_to_standard_output() {
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &mesh_config("{}")).start().await;
    ask(&shop, 1).await;
    eventually("the line in Envoy's text", async || {
        let log = shop.log();
        log.contains("] \"GET /0 HTTP/1.1\" 200 - via_upstream - \"-\" 0 4 ").then_some(()).ok_or(log)
    })
    .await;
}
