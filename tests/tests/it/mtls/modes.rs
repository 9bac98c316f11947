//! PeerAuthentication: who may come in clear text.

use leno_tests::pki::Leaf;
use leno_tests::{Call, eventually, origin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Caller, PEER, Scene, Stage, mode};

async fn plain(stage: &Stage) -> Result<u16, String> {
    Call::get("http://shop/").try_send(stage.inbound).await.map(|reply| reply.status)
}

#[tokio::test]
async fn the_mode_says_who_comes_in_and_follows_an_edit() {
    let app = origin("app").await;
    let stage = Scene::new(app.address(), "").start().await;
    let good = stage.root.issue(&Leaf::of(PEER));
    let tls = Caller::with(&good);
    // (mode, clear text comes in, TLS comes in)
    for (name, clear, encrypted) in [("PERMISSIVE", true, true), ("STRICT", false, true), ("DISABLE", true, false)] {
        std::fs::write(stage.directory.path().join("rules/rules.yaml"), mode(name)).expect("written");
        eventually(&format!("the mode is {name}"), async || {
            let (plain, tls) = (plain(&stage).await, tls.asks(stage.inbound).await);
            let told = |answer: &Result<String, String>| answer.as_ref().is_ok_and(|answer| answer.contains(" 200 "));
            match (plain == Ok(200), told(&tls)) == (clear, encrypted) {
                true => Ok(()),
                false => Err(format!("clear text: {plain:?}, TLS: {tls:?}")),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_open_connection_in_clear_text_ends_when_the_mode_becomes_strict() {
    let app = origin("app").await;
    let stage = Scene::new(app.address(), &mode("PERMISSIVE")).start().await;
    let mut idle = TcpStream::connect(stage.inbound).await.expect("connected");
    idle.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.expect("written");
    let mut answer = [0; 1024];
    assert!(idle.read(&mut answer).await.expect("answered") > 0);
    std::fs::write(stage.directory.path().join("rules/rules.yaml"), mode("STRICT")).expect("written");
    let end = tokio::time::timeout(leno_tests::PATIENCE, async {
        loop {
            match idle.read(&mut answer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    end.await.expect("the connection is ended from the other side");
}

/// An app that greets before it is asked.
async fn greeter() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"hello\n").await.ok()?;
                let mut said = [0; 64];
                let length = stream.read(&mut said).await.ok()?;
                stream.write_all(said.get(..length)?).await.ok()
            });
        }
    });
    address
}

async fn exchange(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, speak_first: bool) -> String {
    let mut heard = [0; 64];
    if speak_first {
        stream.write_all(b"me too\n").await.expect("written");
    }
    let mut all = String::new();
    while all.len() < 13 {
        let length = stream.read(&mut heard).await.expect("read");
        assert!(length > 0, "ended after `{all}`");
        all.push_str(std::str::from_utf8(&heard[..length]).expect("text"));
        if !speak_first && all == "hello\n" {
            stream.write_all(b"me too\n").await.expect("written");
        }
    }
    all
}

#[tokio::test]
async fn a_tcp_port_takes_both_and_does_not_keep_an_app_waiting_that_speaks_first() {
    let app = greeter().await;
    let stage = Scene { protocol: "TCP", ..Scene::new(app, &mode("PERMISSIVE")) }.start().await;
    for speak_first in [false, true] {
        let stream = TcpStream::connect(stage.inbound).await.expect("connected");
        assert_eq!(exchange(stream, speak_first).await, "hello\nme too\n");
        let good = stage.root.issue(&Leaf::of(PEER));
        let caller = Caller { alpn: &[b"istio"], ..Caller::with(&good) };
        let stream = caller.connect(stage.inbound).await.expect("let in");
        assert_eq!(exchange(stream, speak_first).await, "hello\nme too\n");
    }
}

#[tokio::test]
async fn a_strict_tcp_port_takes_certificates_alone_and_a_permissive_one_passes_the_apps_own_tls_on() {
    let app = greeter().await;
    let stage = Scene { protocol: "TCP", ..Scene::new(app, &mode("STRICT")) }.start().await;
    let good = stage.root.issue(&Leaf::of(PEER));
    let stream = Caller { alpn: &[], ..Caller::with(&good) }.connect(stage.inbound).await.expect("let in");
    assert_eq!(exchange(stream, true).await, "hello\nme too\n");
    let mut plain = TcpStream::connect(stage.inbound).await.expect("connected");
    plain.write_all(b"me too\n").await.expect("written");
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard).await;
    assert_eq!(heard, b"", "nothing of the app is heard in clear text");

    let stage = Scene { protocol: "TCP", ..Scene::new(app, &mode("PERMISSIVE")) }.start().await;
    let foreign = Caller { identity: None, alpn: &[b"postgresql"], ..Caller::with(&good) };
    let refused =
        foreign.connect(stage.inbound).await.expect_err("the app is no TLS server, and it is the app that heard it");
    assert!(refused.contains("corrupt message"), "the greeting, not an alert of the proxy: {refused}");
}
