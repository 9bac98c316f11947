//! MySQL's greeting through captured connections: the server speaks first, its client says nothing until it has, and
//! nobody has declared the port.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use leno_tests::{Process, eventually, workspace};
use serde_json::Value;

use super::Version;
use super::network::finish;
use super::whole::{BOTH, Whole};

/// MySQL's own, of which everybody knows that the server speaks first; and one of which nobody knows anything.
const PORTS: [u16; 2] = [3306, 3307];
/// Connections of each caller.
const TIMES: usize = 5;
/// A proxy that waits for the caller's first bytes gives up after 5 s (Istio's default) or 10 s (Leno's limit for a port
/// that is declared), and every connection is as late as that. A busy machine delays one or another.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The proxy's user, whose connections are not captured: so calls somebody without a sidecar.
const NO_SIDECAR: u32 = super::network::PROXY;
/// An app's user: the connection goes through both sidecars.
const APP: u32 = 1999;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_mysql_hears_the_greeting_at_once_with_mtls_and_in_clear_text() {
    let Some(whole) = Whole::start("MySQL's greeting").await else { return };
    let (client, server) = (&whole.a, &whole.b);
    let script = workspace().join("tests/python/mysql_like.py");
    let servers = PORTS.map(|port| {
        let mut serve = server.pod.command(Path::new("python3"));
        serve.arg("-B").arg(&script).args(["serve", &port.to_string()]);
        Process::start("mysql", &mut serve, &server.directory.path().join(format!("mysql-{port}.log")))
    });
    let ask = |user: u32, address: SocketAddr, times: usize| {
        let to = [user.to_string(), address.ip().to_string(), address.port().to_string(), times.to_string()];
        let outcome = finish(client.pod.command(Path::new("python3")).arg("-B").arg(&script).arg("ask").args(to));
        match outcome.code {
            0 => Ok(serde_json::from_str::<Value>(&outcome.stdout).unwrap()),
            _ => Err(outcome.stderr),
        }
    };
    for port in PORTS {
        let address = whole.peer(Version::Four, port);
        eventually("the server is up", async || ask(NO_SIDECAR, address, 1)).await;
    }
    for (version, port) in BOTH.into_iter().flat_map(|version| PORTS.map(|port| (version, port))) {
        for (who, user, address) in [
            ("through both sidecars", APP, Whole::service(version, port)),
            ("in clear text", NO_SIDECAR, whole.peer(version, port)),
        ] {
            let who = format!("{version:?}, port {port}, {who}");
            let heard = ask(user, address, TIMES)
                .unwrap_or_else(|why| panic!("{who}: {why} {}{}", client.proxy.log(), server.proxy.log()));
            assert_eq!(heard["versions"], serde_json::json!(["8.0.36-leno-test"]), "{who}");
            let seconds: Vec<f64> = heard["seconds"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
            let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            println!("{who}: the greeting after {seconds:.3?} s");
            assert_eq!(seconds.len(), TIMES);
            assert!(fastest < AT_ONCE.as_secs_f64(), "{who}: nobody heard it at once: {seconds:?}");
        }
    }
    let of = |policy: &str| format!(r#"connection_security_policy="{policy}""#);
    let wanted = 2.0 * TIMES as f64;
    let every = PORTS.len() as f64 * wanted;
    eventually("both ways were counted as what they are", async || {
        let opened = "istio_tcp_connections_opened_total{";
        let counted = ["mutual_tls", "none"].map(|policy| server.metric(opened, &[&of(policy)]));
        // Of the port that everybody knows nothing has to be detected.
        let greeted = server.metric("leno_protocol_detected_total{", &[r#"protocol="server_first""#]);
        let enough = counted.iter().all(|count| *count >= every) && greeted >= 2.0 * wanted;
        if enough { Ok(()) } else { Err(format!("{counted:?} {greeted}")) }
    })
    .await;
    drop(servers);
}
