//! What the programs log on stderr, for programs: one JSON object a line, as much as is wanted at the moment.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use leno_tests::{Call, Process, eventually, free_port, get, leno, leno_proxy, origin, raw};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Starts a program whose log is all that the process keeps: what it writes on stdout goes nowhere.
fn start(name: &str, program: &Path, words: &[&str], directory: &Path) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$@" > /dev/null"#, "sh"]).arg(program).args(words).args(["--log-format", "json"]);
    Process::start(name, &mut command, &directory.join(format!("{name}.log")))
}

/// Every whole line, each of which has to be an object with a time, a level, a place and words.
fn lines(process: &Process) -> Vec<Value> {
    let text = process.log();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| -> Value {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let time = line["timestamp"].as_str().unwrap_or_default();
        assert!(time.len() > "2026-01-01T00:00:00Z".len() && time.contains('T') && time.ends_with('Z'), "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].iter().any(|level| line["level"] == *level), "{line}");
        assert!(line["target"].as_str().is_some_and(|target| !target.is_empty()), "{line}");
        assert!(line["fields"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{line}");
        line
    };
    whole.lines().map(line).collect()
}

/// How many are of a level.
fn count(lines: &[Value], level: &str) -> usize {
    lines.iter().filter(|line| line["level"] == level).count()
}

/// `POST /logging`, and the lines up to the one that tells of it.
async fn change(process: &Process, address: SocketAddr, query: &str) -> usize {
    let before = lines(process).len();
    let call = Call::new(Method::POST, &format!("http://localhost/logging?{query}"));
    let reply = call.send(address).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    eventually("the change is in the log", async || {
        let told =
            |line: &Value| line["fields"]["message"].as_str().is_some_and(|message| message.contains("POST /logging"));
        lines(process).iter().skip(before).position(told).map(|at| before + at + 1).ok_or_else(|| process.log())
    })
    .await
}

/// Where a program says that it listens.
async fn written(file: &Path, key: &str) -> SocketAddr {
    eventually(&format!("{key} is in {}", file.display()), async || {
        let text = std::fs::read(file).map_err(|error| error.to_string())?;
        let json: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        json[key].as_str().and_then(|address| address.parse().ok()).ok_or_else(|| json.to_string())
    })
    .await
}

/// What is brought about while it is to be logged, and while it is not.
const OFTEN: usize = 10;

/// Lines of a level come while a level is asked for that has them, and no longer when another one is.
async fn follows_its_level(
    process: &Process,
    address: SocketAddr,
    (lines_of, loud, quiet): (&str, &str, &str),
    happens: impl AsyncFn(),
) {
    let from = change(process, address, &format!("level={loud}")).await;
    eventually("what happens is logged", async || {
        happens().await;
        match count(lines(process).get(from..).unwrap_or_default(), lines_of) {
            few if few < OFTEN => Err(format!("{few} lines")),
            _ => Ok(()),
        }
    })
    .await;
    let from = change(process, address, &format!("level={quiet}")).await;
    for _ in 0..OFTEN {
        happens().await;
    }
    let to = change(process, address, "level=info").await;
    // What another thread was about to write when the level changed may come behind that line.
    let silence = lines(process).get(from..to).map(<[Value]>::to_vec).unwrap_or_default();
    assert!(count(&silence, lines_of) < OFTEN / 2, "{silence:#?}");
    let wrong = Call::new(Method::POST, "http://localhost/logging?level=loud").send(address).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_proxy_is_json_and_its_level_can_be_changed() {
    let (directory, app, port) = (TempDir::new().unwrap(), origin("app").await, free_port());
    let sidecar = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"ingress": [{
            "port": {"number": port, "protocol": "HTTP", "name": "http"},
            "bind": "127.0.0.1",
            "defaultEndpoint": app.address().to_string(),
        }]},
    });
    let (rules, state) = (directory.path().join("rules.yaml"), directory.path().join("state"));
    std::fs::write(&rules, sidecar.to_string()).unwrap();
    let bootstrap = json!({
        "node": {"name": "shop", "ip": "127.0.0.1", "namespace": "default"},
        "interception": "none", "rules": [rules], "state": state, "admin": "127.0.0.1:0", "workers": 1, "drain": "1s",
    });
    let file = directory.path().join("bootstrap.yaml");
    std::fs::write(&file, bootstrap.to_string()).unwrap();
    let words = ["run", "--config", file.to_str().unwrap()];
    let mut proxy = start("proxy", leno_proxy(), &words, directory.path());
    let admin = written(&state.join("ports.json"), "admin").await;
    let port = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the proxy serves", async || match Call::get("http://shop/").try_send(port).await {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // What is no HTTP is a detail that nobody needs to hear of.
    let nonsense = async || drop(raw::exchange(port, b"\x00\x01 this is no HTTP\r\n\r\n").await);
    nonsense().await;
    follows_its_level(&proxy, admin, ("DEBUG", "debug", "info"), nonsense).await;
    // Bad rules are a warning, with their own words in one line.
    std::fs::write(&rules, "spec: [\n").unwrap();
    eventually("the error is told", async || {
        let told = lines(&proxy).iter().any(|line| line.to_string().contains("rules.yaml") && line["level"] != "INFO");
        if told { Ok(()) } else { Err(proxy.log()) }
    })
    .await;
    proxy.terminate();
    assert!(proxy.ended().await.0.success());
    assert!(lines(&proxy).iter().any(|line| line["fields"]["message"] == "draining"), "{}", proxy.log());
}

/// The version of the rules that a control plane has in force.
async fn in_force(http: SocketAddr) -> Value {
    let reply = get(http, "http://localhost/debug/status").await;
    let status: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.text()));
    status["rules"]["version"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_control_plane_is_json_and_its_level_can_be_changed() {
    let directory = TempDir::new().unwrap();
    let (rules, state) = (directory.path().join("rules"), directory.path().join("state"));
    std::fs::create_dir_all(&rules).unwrap();
    let own = || format!("127.0.0.1:{}", free_port());
    let (xds, tls, http) = (own(), own(), own());
    let file = rules.clone();
    let (rules, place) = (rules.to_str().unwrap(), state.to_str().unwrap());
    let words = ["serve", "--rules", rules, "--state", place, "--xds-address", &xds, "--tls-address", &tls];
    let words = [&words[..], &["--http-address", &http]].concat();
    let mut control_plane = start("control-plane", leno(), &words, directory.path());
    let http = written(&state.join("serve.json"), "http").await;
    let edits = AtomicUsize::new(0);
    let edit = async || {
        let port = 1000 + edits.fetch_add(1, Ordering::Relaxed);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
            "spec": {"ports": [{"name": "http", "port": port}]},
        });
        let before = in_force(http).await;
        std::fs::write(file.join("rules.yaml"), service.to_string()).unwrap();
        eventually("the edit is in force", async || {
            let now = in_force(http).await;
            if now == before { Err(now.to_string()) } else { Ok(()) }
        })
        .await;
    };
    follows_its_level(&control_plane, http, ("INFO", "info", "warn"), edit).await;
    control_plane.terminate();
    assert!(control_plane.ended().await.0.success());
    let _ = lines(&control_plane);
}
