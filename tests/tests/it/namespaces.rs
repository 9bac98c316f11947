//! A proxy in a network namespace of its own, as in a pod: nobody outside reaches its admin interface, and `leno stat`
//! and `leno tap` show it all the same, from where the control plane is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use leno_tests::{Call, Process, eventually, free_port, leno, leno_proxy, run_leno};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::mtls::document;

/// Addresses of this machine and of the namespace, on a network that nobody routes (RFC 5737's TEST-NET-2).
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";

/// A network namespace with one line to this machine; both end with the value.
struct Namespace {
    name: String,
}

impl Namespace {
    /// Why there can be none, where that is so.
    fn new() -> Result<Self, String> {
        let id = std::process::id();
        let name = format!("leno-test-{id}");
        let (here, there) = (format!("lt{id}a"), format!("lt{id}b"));
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        let name = &namespace.name;
        ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name])?;
        ip(&["address", "add", &format!("{HERE}/30"), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{THERE}/30"), "dev", &there])?;
        ip(&["-n", name, "link", "set", &there, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A command that runs a program in it.
    fn runs(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The line goes with its end in there.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The control plane here, and a sidecar with its app there.
struct Stage {
    http: String,
    /// The sidecar's inbound port.
    port: u16,
    state: PathBuf,
    _processes: Vec<Process>,
    // After the processes.
    _namespace: Namespace,
    _directory: TempDir,
}

async fn file(path: &Path) -> Value {
    eventually(&format!("{} is written", path.display()), async || {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    })
    .await
}

impl Stage {
    async fn start(namespace: Namespace) -> Self {
        let directory = TempDir::with_prefix("leno-test-").unwrap();
        let path = |name: &str| directory.path().join(name);
        let (port, app) = (free_port(), free_port());
        std::fs::create_dir_all(path("rules")).unwrap();
        std::fs::write(path("rules/shop.yaml"), listeners(port, app).to_string()).unwrap();
        let plane = path("plane");
        std::fs::create_dir_all(&plane).unwrap();
        let mut serve = Command::new(leno());
        serve.arg("serve").arg("--rules").arg(path("rules")).arg("--state").arg(&plane);
        serve.args(["--xds-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--tls-san", HERE]);
        serve.args(["--tls-address", &format!("{HERE}:0")]);
        let serve = Process::start("control plane", &mut serve, &path("plane.log"));
        let addresses = file(&plane.join("serve.json")).await;
        let token = path("token").display().to_string();
        let (of, account) = (plane.display().to_string(), ["--namespace", "default", "--service-account", "shop"]);
        let made = run_leno(&[&["token", "create", "--state", &of, "-o", &token], &account[..]].concat(), "");
        assert_eq!(made.code, 0, "{}", made.stderr);

        let state = path("proxy");
        std::fs::create_dir_all(&state).unwrap();
        let bootstrap = json!({
            "node": {
                "name": "shop-1", "ip": THERE, "namespace": "default", "service_account": "shop", "workload": "shop",
                "labels": {"app": "shop"},
            },
            "interception": "none",
            "control_plane": {
                "address": format!("https://{}", addresses["tls"].as_str().unwrap()),
                "root": plane.join("root.pem"),
                "token": token,
            },
            "state": state,
            "admin": format!("127.0.0.1:{}", free_port()),
            "workers": 1,
            "drain": "1s",
        });
        std::fs::write(path("bootstrap.yaml"), bootstrap.to_string()).unwrap();
        let mut echo = namespace.runs(leno());
        echo.args(["echo", "--name", "shop", "--port", &app.to_string()]);
        let echo = Process::start("app", &mut echo, &path("app.log"));
        let mut proxy = namespace.runs(leno_proxy());
        proxy.arg("run").arg("--config").arg(path("bootstrap.yaml"));
        let proxy = Process::start("proxy", &mut proxy, &path("proxy.log"));
        let http = format!("http://{}", addresses["http"].as_str().unwrap());
        let processes = vec![serve, echo, proxy];
        Self { http, port, state, _processes: processes, _namespace: namespace, _directory: directory }
    }

    /// Waits until the sidecar listens: where its admin interface is.
    async fn admin(&self) -> std::net::SocketAddr {
        let port = format!(":{}", self.port);
        eventually("the sidecar listens", async || {
            let ports = file(&self.state.join("ports.json")).await;
            let listeners = ports["listeners"].as_object().cloned().unwrap_or_default();
            let listens = listeners.values().any(|address| address.as_str().is_some_and(|it| it.ends_with(&port)));
            let admin = ports["admin"].as_str().and_then(|admin| admin.parse().ok());
            admin.filter(|_| listens).ok_or_else(|| ports.to_string())
        })
        .await
    }

    /// A request to the sidecar, from outside.
    async fn ask(&self) -> Result<u16, String> {
        let sidecar = format!("{THERE}:{}", self.port).parse().unwrap();
        Ok(Call::get("http://shop/from-outside").try_send(sidecar).await?.status)
    }

    fn leno(&self, arguments: &[&str]) -> String {
        let outcome = run_leno(&[arguments, &["--address", &self.http]].concat(), "");
        assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
        outcome.stdout
    }
}

fn listeners(port: u16, app: u16) -> Value {
    let ingress = json!([{
        "port": {"number": port, "protocol": "HTTP", "name": "http"},
        "bind": "0.0.0.0",
        "defaultEndpoint": format!("127.0.0.1:{app}"),
    }]);
    let egress = json!([{
        "port": {"number": free_port(), "protocol": "HTTP", "name": "http"},
        "bind": "127.0.0.1",
        "captureMode": "NONE",
        "hosts": ["./*"],
    }]);
    let selector = json!({"labels": {"app": "shop"}});
    document("Sidecar", "shop", json!({"workloadSelector": selector, "ingress": ingress, "egress": egress}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_another_network_is_shown_without_anybody_reaching_its_admin_port() {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => return leno_tests::skip("a proxy in another network namespace", &why),
    };
    let stage = Stage::start(namespace).await;
    let admin = stage.admin().await;
    let asked = async || match stage.ask().await {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("the sidecar serves", asked).await;

    assert!(admin.ip().is_loopback());
    for address in [admin, (THERE.parse::<std::net::IpAddr>().unwrap(), admin.port()).into()] {
        assert!(TcpStream::connect(address).await.is_err(), "{address} can be reached from here");
    }

    eventually("stat shows the workload", async || {
        let text = stage.leno(&["stat", "deploy/shop", "--window", "10m", "-o", "json"]);
        let rows: Vec<Value> = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let requests = rows.first().and_then(|row| row["requests"].as_u64());
        if requests > Some(0) { Ok(()) } else { Err(text) }
    })
    .await;

    let mut tap = Command::new(leno());
    tap.args(["tap", "shop", "--max", "2", "-o", "json", "--address", &stage.http]);
    let mut tap = tap.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the tap has seen two requests", async || {
        asked().await?;
        tap.try_wait().ok().flatten().map(|_| ()).ok_or_else(|| "it looks on".to_owned())
    })
    .await;
    let text = String::from_utf8(tap.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("/from-outside")).count(), 2, "{text}");
}
