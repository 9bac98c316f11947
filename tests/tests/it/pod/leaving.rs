//! A sidecar that is told to end: it serves while anybody may still send, and goes when its app has gone.

use std::time::{Duration, Instant};

use leno_tests::{Call, Connection, Origin, Protocol, Sidecar, eventually, free_port, mesh, origin, sidecar, slow_app};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A sidecar whose drain time is longer than any test.
async fn patient(app: &Origin, rules: &str, workers: usize) -> Sidecar {
    sidecar(app.address(), rules).workers(workers).bootstrap("drain", json!("10m")).start().await
}

async fn begins_to_end(sidecar: &Sidecar) {
    sidecar.proxy.process.terminate();
    eventually("the proxy says that it is not ready", async || match sidecar.proxy.readiness().await {
        Ok(503) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_served_until_the_app_is_gone() {
    for workers in [1, 4] {
        let app = origin("app").await;
        let mut pod = patient(&app, "", workers).await;
        let mut rests = Connection::open(pod.address(), Protocol::Http1).await;
        assert_eq!(rests.send(Call::get("http://shop/")).await.status, 200);
        begins_to_end(&pod).await;
        for (protocol, _) in Protocol::ALL.iter().cycle().zip(0..20) {
            let reply = Call::get("http://shop/").over(*protocol).send(pod.address()).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "app"), "{protocol:?}");
            let says = if *protocol == Protocol::Http1 { "close" } else { "" };
            assert_eq!(reply.header("connection"), says, "{protocol:?}");
        }
        // Whoever rests may still ask, and hears then.
        let reply = rests.send(Call::get("http://shop/")).await;
        assert_eq!((reply.status, reply.header("connection")), (200, "close"));
        pod.proxy.process.must_be_running();
        drop(app);
        let (status, _) = pod.proxy.process.ended().await;
        assert!(status.success(), "{status}");
        assert!(pod.log().contains("reason=Some(AppGone)"), "{}", pod.log());
        assert!(!pod.log().contains("are cut"), "{}", pod.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_takes_nothing_more_still_calls_others() {
    let (app, other) = (origin("app").await, origin("other").await);
    let rules = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: other, namespace: default}}\n\
         spec: {{hosts: [other], location: MESH_INTERNAL, resolution: STATIC, \
         ports: [{{number: 80, name: http, protocol: HTTP}}], \
         endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]}}\n",
        other.address().port()
    );
    let mut pod = patient(&app, &rules, 1).await;
    let mut calls = Connection::open(pod.outbound(), Protocol::Http2).await;
    assert_eq!(calls.send(Call::get("http://other/")).await.text(), "other");
    let mut held = raw_call(&pod).await;
    begins_to_end(&pod).await;
    // Its port is closed, as servers do first when they shut down; one connection to its proxy says that it is there.
    drop(app);
    eventually("the look at the app's port is over", async || {
        // Three looks, each of which would have found it gone.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(())
    })
    .await;
    pod.proxy.process.must_be_running();
    assert_eq!(Call::get("http://other/").send(pod.outbound()).await.text(), "other");
    held.write_all(b"GET /last HTTP/1.1\r\nhost: other\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    held.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(other.last().path, "/last");
    drop((held, calls));
    let (status, _) = pod.proxy.process.ended().await;
    assert!(status.success(), "{status}");
    assert!(pod.log().contains("reason=Some(AppGone)"), "{}", pod.log());
}

/// A connection of the app to its proxy that rests after a first answer.
async fn raw_call(pod: &Sidecar) -> tokio::net::TcpStream {
    let mut stream = leno_tests::raw::connect(pod.outbound()).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: other\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nother") {
        answer.push(stream.read_u8().await.expect("answered"));
    }
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_nobody_uses_goes_though_its_app_stays() {
    let app = origin("app").await;
    let mut pod = patient(&app, "", 1).await;
    let begun = Instant::now();
    begins_to_end(&pod).await;
    let (status, _) = pod.proxy.process.ended().await;
    let took = begun.elapsed();
    assert!(status.success(), "{status}");
    assert!(took >= Duration::from_secs(3), "peers that have not heard yet had {took:?}");
    assert!(pod.log().contains("reason=Some(Quiet)"), "{}", pod.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_at_a_terminal_waits_less_and_with_a_second_signal_not_at_all() {
    let app = origin("app").await;
    let mut pod = patient(&app, "", 1).await;
    pod.proxy.process.signal("INT");
    let (status, _) = pod.proxy.process.ended().await;
    assert!(status.success() && pod.log().contains("reason=Some(Quiet)"), "{status} {}", pod.log());

    let (_finish, done) = watch::channel(false);
    let (app, mut starts) = slow_app(done).await;
    let mut pod = patient(&app, "", 1).await;
    let mut connection = Connection::open(pod.address(), Protocol::Http1).await;
    let answer = connection.begin(Call::get("http://shop/slow")).await.expect("it begins");
    starts.recv().await.expect("the app is there");
    pod.proxy.process.signal("INT");
    eventually("the proxy drains", async || match pod.log().contains("draining") {
        true => Ok(()),
        false => Err(pod.log()),
    })
    .await;
    pod.proxy.process.signal("INT");
    let (status, _) = pod.proxy.process.ended().await;
    assert!(status.success(), "{status}");
    assert!(pod.log().contains("reason=None"), "{}", pod.log());
    drop(answer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_leaves_its_line_in_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("access.log");
    let log = format!("{{format: json, path: {}}}", file.display());
    let rules = format!(
        "apiVersion: leno.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{access_log: {log}}}\n"
    );
    for workers in [1, 4] {
        let app = Origin::scripted(|_| std::future::pending()).await;
        let mut pod = sidecar(app.address(), &rules).workers(workers).start().await;
        let through = pod.address();
        let calls = Protocol::ALL.map(|protocol| {
            tokio::spawn(async move { Call::get("http://shop/").over(protocol).try_send(through).await })
        });
        eventually("both requests are at the app", async || match app.count() {
            2 => Ok(()),
            count => Err(format!("{count} are")),
        })
        .await;
        pod.proxy.process.terminate();
        let (status, _) = pod.proxy.process.ended().await;
        assert!(status.success(), "{status}");
        for call in calls {
            assert!(call.await.expect("a caller does not panic").is_err());
        }
        let text = std::fs::read_to_string(&file).expect("there is a log");
        let flags: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["response_flags"].clone())
            .collect();
        assert_eq!(flags, ["LR", "LR"], "{text}");
        std::fs::remove_file(&file).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_may_move_while_the_caller_ends() {
    let (before, after) = (origin("before").await, origin("after").await);
    let rules = |subset: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: app}}\n\
             spec: {{hosts: [app], http: [{{route: [{{destination: {{host: app, subset: {subset}}}}}]}}]}}\n"
        )
    };
    let instances = [("v1", before.address()), ("v2", after.address())];
    let mut mesh = mesh().service("app", &instances).rules(&rules("v1")).drain("10m").start().await;
    mesh.answers("http://app/", "before").await;
    let held = Connection::open(mesh.outbound(), Protocol::Http1).await;
    mesh.client.process.terminate();
    eventually("the proxy says that it is not ready", async || match mesh.client.readiness().await {
        Ok(503) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    mesh.edit(&rules("v2"));
    mesh.answers("http://app/", "after").await;
    drop(held);
    let (status, _) = mesh.client.process.ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_until_both_ends_have_what_they_want() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let app = listener.local_addr().expect("an address");
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        let (mut reads, mut writes) = stream.split();
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
        drop(listener);
    });
    let port = free_port();
    let builder = sidecar(app, "").speaks(leno_tests::Speaks::Tcp).outbound(port);
    let mut pod = builder.bootstrap("drain", json!("10m")).start().await;
    let mut stream = leno_tests::raw::connect(pod.address()).await;
    let mut said = [0; 5];
    stream.write_all(b"first").await.expect("written");
    stream.read_exact(&mut said).await.expect("echoed");
    begins_to_end(&pod).await;
    // Longer than anything that is quiet is waited for.
    tokio::time::sleep(Duration::from_secs(7)).await;
    pod.proxy.process.must_be_running();
    stream.write_all(b"after").await.expect("written");
    stream.read_exact(&mut said).await.expect("echoed");
    assert_eq!(&said, b"after");
    drop(stream);
    let (status, _) = pod.proxy.process.ended().await;
    assert!(status.success(), "{status}");
    echo.await.expect("the app does not panic");
}
