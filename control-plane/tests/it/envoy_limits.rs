//! A real Envoy limits requests as the RateLimit says that Leno's own proxy follows.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::envoy::{Envoy, soon};
use crate::ports::free_port;
use crate::process::{Place, SOON};

/// Answers every request head with 200.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut read = [0; 4096];
                while matches!(socket.read(&mut read), Ok(length) if length > 0) {
                    if socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// The head of the answer.
fn ask(port: u16, path: &str, headers: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(SOON))?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: shop\r\n{headers}connection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_real_envoy_counts_by_path_and_by_header() {
    let Some(program) = crate::real_envoy::program("a real Envoy with rate limits") else { return };
    let place = Place::new();
    let (inbound, app) = (free_port(), app());
    place.write(
        "rules.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: shop}}
spec:
  ingress:
  - {{port: {{number: {inbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, defaultEndpoint: 127.0.0.1:{app}}}
  egress:
  - {{port: {{number: {}, protocol: HTTP, name: http}}, bind: 127.0.0.1, hosts: ['./*']}}
---
apiVersion: leno.mesh/v1alpha1
kind: RateLimit
metadata: {{name: shop}}
spec:
  limits:
  - {{requests: 2, per: 1h, match: {{path: {{exact: /one}}}}}}
  - {{requests: 2, per: 1h, burst: 1, by: {{header: x-key}}}}
",
            free_port()
        ),
    );
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    let _envoy = Envoy::start(&program, &place, serve.xds, "");
    let answers = || ask(inbound, "/", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    soon(answers, || format!("the app answers: {}", serve.status_json()));
    let rows: [(&str, &str, &[&str]); 4] = [
        ("/one?query=1", "", &["200", "200", "429", "429"]),
        ("/", "x-key: a\r\n", &["200", "200", "200", "429"]),
        ("/", "x-key: b\r\n", &["200"]),
        ("/one-more", "", &["200", "200", "200"]),
    ];
    for (path, headers, statuses) in rows {
        for status in statuses {
            let answer = ask(inbound, path, headers).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {headers}: {status}, not {answer}");
            if *status == "429" {
                assert!(answer.contains("retry-after: ") && answer.ends_with("local_rate_limited"), "{answer}");
                assert!(answer.contains("x-ratelimit-remaining: 0"), "{answer}");
            }
        }
    }
}
