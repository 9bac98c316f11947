//! TLS that is passed on by the server name it asks for (`tls` of a VirtualService).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leno_tests::pki::{Authority, Leaf};
use leno_tests::{free_port, origin, tls};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::Scene;
use super::outbound::Endpoint;

/// Two services behind one port, and a third name that a rule leads to the second.
fn rules(port: u16, [one, other]: [SocketAddr; 2]) -> String {
    let service = |name: &str, at: SocketAddr| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{hosts: [{name}.example.com], resolution: STATIC, location: MESH_EXTERNAL, \
             ports: [{{number: {port}, name: tls, protocol: TLS}}], \
             endpoints: [{{address: 127.0.0.1, ports: {{tls: {}}}}}]}}\n---\n",
            at.port()
        )
    };
    let to = |host: &str| format!("route: [{{destination: {{host: {host}.example.com, port: {{number: {port}}}}}}}]");
    format!(
        "{}{}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: one, namespace: default}}\n\
         spec:\n  hosts: [one.example.com, '*.moved.example.com']\n  tls:\n\
         \x20 - match: [{{sniHosts: [one.example.com, kept.moved.example.com]}}]\n    {}\n\
         \x20 - match: [{{sniHosts: ['*.moved.example.com'], port: {port}}}]\n    {}\n",
        service("one", one),
        service("other", other),
        to("one"),
        to("other")
    )
}

/// Whose certificate a caller sees that asks for `name`, `late` after it has connected.
async fn shown(to: SocketAddr, name: &str, late: Duration) -> Result<Vec<u8>, String> {
    let config = tls::caller(None, &rustls::version::TLS13, &[b"http/1.1"]);
    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    tokio::time::sleep(late).await;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = handshake.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default())
}

#[tokio::test]
async fn a_handshake_reaches_the_service_of_the_name_it_asks_for() {
    let (app, root) = (origin("app").await, Authority::new("web"));
    let (one, other) = (Endpoint::start().await, Endpoint::start().await);
    let certificate = |serial: u64| {
        let leaf =
            Leaf { uris: vec![], dns: vec!["any.example.com".to_owned()], serial, ..Leaf::of("spiffe://unused") };
        root.issue(&leaf)
    };
    let [first, second] = [certificate(1), certificate(2)];
    one.shows_and_wants(&first, None, true);
    other.shows_and_wants(&second, None, true);
    let port = free_port();
    let text = rules(port, [one.address, other.address]);
    let stage = Scene { tls_port: Some(port), ..Scene::new(app.address(), &text) }.start().await;
    stage.proxy.ready(port).await;
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let leaf = |identity: &leno_tests::pki::Identity| identity.chain[0].to_vec();
    let (at_once, slowly) = (Duration::ZERO, Duration::from_millis(700));
    for (name, late, expected) in [
        ("one.example.com", at_once, Some(&first)),
        ("ONE.example.com", at_once, Some(&first)),
        ("kept.moved.example.com", at_once, Some(&first)),
        ("a.moved.example.com", at_once, Some(&second)),
        ("a.b.moved.example.com", at_once, Some(&second)),
        ("other.example.com", at_once, Some(&second)),
        ("moved.example.com", at_once, None),
        ("nobody.example.com", at_once, None),
        // A caller that takes its time is not taken for somebody who says nothing.
        ("one.example.com", slowly, Some(&first)),
        ("a.moved.example.com", slowly, Some(&second)),
    ] {
        let found = shown(to, name, late).await;
        match expected {
            Some(expected) => assert_eq!(found.as_ref(), Ok(&leaf(expected)), "{name}"),
            None => assert!(found.is_err(), "{name} is passed on to nobody: {found:?}"),
        }
    }
}
