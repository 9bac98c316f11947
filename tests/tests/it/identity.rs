//! Where a proxy's certificate comes from, with real programs: the control plane, the last run, files; and `leno agent`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leno_tests::pki::{Authority, Leaf};
use leno_tests::{ControlPlane, Process, Proxy, eventually, eventually_within, free_port, leno, metric};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A renewal of a certificate that is good for a minute, with all jitter and delays.
const RENEWAL: Duration = Duration::from_secs(90);

const CART: &str = "spiffe://cluster.local/ns/default/sa/cart";

/// A control plane with a rule file, and where everything is.
struct World {
    control_plane: ControlPlane,
    port: u16,
    // Last: the processes write into it until they end.
    directory: TempDir,
}

impl World {
    async fn new(flags: &[&str]) -> Self {
        let directory = TempDir::with_prefix("leno-test-").unwrap();
        let port = free_port();
        let rules = rules(directory.path(), port);
        Self { control_plane: ControlPlane::start(directory.path(), &rules, flags).await, port, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The bootstrap's `control_plane`, with a fresh token.
    fn way(&self) -> Value {
        let token = self.path("token");
        self.control_plane.write_token("cart", &token);
        json!({
            "address": format!("https://{}", self.control_plane.tls()),
            "root": self.control_plane.state().join("root.pem"),
            "token": token,
        })
    }

    fn cart(&self, way: Value) -> Proxy {
        Proxy::with(self.directory.path(), "cart", &[("control_plane", way)])
    }
}

/// A rule file with a listener for app `cart`.
fn rules(directory: &Path, port: u16) -> PathBuf {
    let rules = directory.join("rules");
    std::fs::create_dir_all(&rules).unwrap();
    let sidecar = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "cart", "namespace": "default"},
        "spec": {
            "workloadSelector": {"labels": {"app": "cart"}},
            "egress": [{
                "port": {"number": port, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": ["*/*"],
            }],
        },
    });
    std::fs::write(rules.join("mesh.yaml"), format!("{sidecar:#}\n")).unwrap();
    rules
}

/// Waits for a certificate that is not `before`, and says its serial number.
async fn serial(proxy: &Proxy, before: Option<&str>, limit: Duration) -> String {
    eventually_within(limit, "the proxy has a (new) certificate", async || {
        let certs = proxy.certs().await?;
        let serial = certs["certificate"]["serial"].as_str().filter(|serial| Some(*serial) != before);
        serial.map(str::to_owned).ok_or_else(|| certs.to_string())
    })
    .await
}

async fn complains(proxy: &Proxy, words: &[&str]) {
    eventually("the proxy says what is wrong in its log, /certs and /ready", async || {
        let certs = proxy.certs().await?;
        let error = certs["renewals"]["error"]["text"].as_str().unwrap_or_default().to_owned();
        let places = [error, proxy.process.log(), proxy.why_not_ready().await?];
        match places.iter().find(|place| !words.iter().all(|word| place.contains(word))) {
            Some(place) => Err(place.clone()),
            None => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_asked_for_at_the_start_and_serves_a_restart_without_control_plane() {
    let mut world = World::new(&[]).await;
    let mut proxy = world.cart(world.way());
    proxy.ready(world.port).await;
    let certs = proxy.certs().await.unwrap();
    assert_eq!(certs["origin"], "control_plane");
    assert_eq!(certs["certificate"]["id"], CART);
    assert_eq!(certs["trust_domains"][0]["trust_domain"], "cluster.local");
    assert!(certs["certificate"]["days_left"].as_f64().unwrap() > 0.9, "{certs}");
    let metrics = proxy.metrics().await;
    assert_eq!(metric(&metrics, "leno_certificate_renewals_total", &["result=\"ok\""]), 1.0);
    assert!(metric(&metrics, "leno_certificate_expires_seconds", &[]) > 86_000.0);
    let file = proxy.state().join("svid.pem");
    // It is in force before it is on disk.
    let metadata = eventually("the certificate is kept", async || file.metadata().map_err(|why| why.to_string())).await;
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let key = std::fs::read_to_string(&file).unwrap();
    let key = key.lines().skip_while(|line| !line.contains("BEGIN PRIVATE KEY")).nth(1).unwrap().to_owned();
    for text in [certs.to_string(), proxy.process.log(), proxy.config_dump().await.0.to_string()] {
        assert!(!text.contains(&key), "the key is shown nowhere");
    }

    let before = serial(&proxy, None, Duration::from_secs(30)).await;
    eventually("what is in force is on disk", async || match proxy.state().join("snapshot.bin").exists() {
        true => Ok(()),
        false => Err(proxy.process.log()),
    })
    .await;
    world.control_plane.kill();
    proxy.restart();
    proxy.ready(world.port).await;
    assert_eq!(serial(&proxy, None, Duration::from_secs(30)).await, before, "the one of the last run");
    assert!(proxy.process.log().contains("using the certificate of the last run"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_certificate_is_renewed_by_itself_after_the_token_is_gone_and_the_control_plane_was() {
    let mut world = World::new(&["--certificate-ttl", "60s"]).await;
    let proxy = world.cart(world.way());
    proxy.ready(world.port).await;
    let first = serial(&proxy, None, Duration::from_secs(30)).await;
    std::fs::remove_file(world.path("token")).unwrap();
    let second = serial(&proxy, Some(&first), RENEWAL).await;
    assert!(!proxy.process.log().contains("cannot be renewed"), "{}", proxy.process.log());

    world.control_plane.kill();
    eventually_within(RENEWAL, "the renewal fails", async || {
        let certs = proxy.certs().await?;
        let error = certs["renewals"]["error"]["text"].as_str().unwrap_or_default().to_owned();
        if error.contains("cannot connect to the control plane") { Ok(()) } else { Err(certs.to_string()) }
    })
    .await;
    assert_eq!(proxy.readiness().await, Ok(200), "what it has is still good");
    world.control_plane.restart().await;
    serial(&proxy, Some(&second), RENEWAL).await;
    let certs = proxy.certs().await.unwrap();
    assert!(certs["renewals"]["error"].is_null() && certs["renewals"]["failed"].as_u64() > Some(0), "{certs}");
    proxy.ready(world.port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_root_and_a_wrong_token_are_refused_in_words() {
    let world = World::new(&[]).await;
    let good = world.way();
    let foreign = Authority::new("another mesh");
    std::fs::write(world.path("other.pem"), foreign.pem()).unwrap();
    let mut way = good.clone();
    way["root"] = json!(world.path("other.pem"));
    let proxy = world.cart(way);
    complains(&proxy, &["is of another CA", "other.pem", "control_plane.root"]).await;
    drop(proxy);

    // A token of another control plane, one for another account, and none at all.
    let other = World::new(&[]).await;
    let token = world.path("token");
    other.control_plane.write_token("cart", &token);
    let proxy = world.cart(good.clone());
    complains(&proxy, &["refused the token in", "leno token create"]).await;
    world.control_plane.write_token("web", &token);
    complains(&proxy, &["sa/web", "service account `cart`"]).await;
    std::fs::remove_file(&token).unwrap();
    complains(&proxy, &["cannot be read", "leno token create"]).await;
    world.control_plane.write_token("cart", &token);
    proxy.ready(world.port).await;
    assert_eq!(proxy.certs().await.unwrap()["certificate"]["id"], CART);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_an_identity_too_and_are_followed() {
    let directory = TempDir::with_prefix("leno-test-").unwrap();
    let port = free_port();
    let rules = rules(directory.path(), port);
    let authority = Authority::new("root");
    let path = |name: &str| directory.path().join(name);
    let issue = |serial: u64| authority.issue(&Leaf { serial, ..Leaf::of(CART) }).write(directory.path(), "own");
    let (certificate, key) = issue(1);
    std::fs::write(path("roots.pem"), authority.pem()).unwrap();
    let identity = json!({"certificate": certificate, "key": key, "roots": path("roots.pem")});
    let proxy = Proxy::with(directory.path(), "cart", &[("rules", json!([rules])), ("identity", identity)]);
    proxy.ready(port).await;
    let first = serial(&proxy, None, Duration::from_secs(30)).await;
    issue(2);
    let second = serial(&proxy, Some(&first), Duration::from_secs(30)).await;
    std::fs::write(path("own.key"), "no key").unwrap();
    eventually("the proxy says what is wrong with the file", async || {
        let certs = proxy.certs().await?;
        let error = certs["renewals"]["error"]["text"].as_str().unwrap_or_default().to_owned();
        if error.contains("own.key") { Ok(()) } else { Err(certs.to_string()) }
    })
    .await;
    assert_eq!(serial(&proxy, None, Duration::from_secs(30)).await, second, "what was good stays");
    assert_eq!(proxy.certs().await.unwrap()["origin"], "files");
    assert!(!proxy.state().join("svid.pem").exists(), "files are not copied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_writes_what_an_envoy_needs_and_follows_the_roots() {
    let world = World::new(&[]).await;
    let config = json!({
        "node": {"name": "cart-1", "namespace": "default", "service_account": "cart", "labels": {"app": "cart"}},
        "state": world.path("agent"),
        "control_plane": world.way(),
    });
    let (bootstrap, sds) = (world.path("agent.yaml"), world.path("sds"));
    std::fs::write(&bootstrap, config.to_string()).unwrap();
    let mut command = Command::new(leno());
    command.arg("agent").arg("--config").arg(&bootstrap).arg("--sds").arg(&sds);
    let mut agent = Process::start("agent", &mut command, &world.path("agent.log"));
    let text = |name: &str| std::fs::read_to_string(sds.join(name)).unwrap_or_default();
    eventually("both files are there", async || match text("default.yaml").contains("PRIVATE KEY") {
        true => Ok(()),
        false => Err(agent.log()),
    })
    .await;
    assert!(text("ROOTCA.yaml").contains("trusted_ca"), "{}", text("ROOTCA.yaml"));
    let mode = sds.join("default.yaml").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let roots = || text("ROOTCA.yaml").matches("BEGIN CERTIFICATE").count();
    assert_eq!(roots(), 1);
    let state = world.control_plane.state().display().to_string();
    let rotated = leno_tests::run_leno(&["ca", "rotate", "--state", &state], "");
    assert_eq!(rotated.code, 0, "{} {}", rotated.stdout, rotated.stderr);
    eventually("the new root is believed before anybody uses it", async || match roots() {
        2 => Ok(()),
        other => Err(format!("{other} roots; {}", agent.log())),
    })
    .await;
    agent.terminate();
    assert!(agent.ended().await.0.success());

    let plain = json!({
        "node": {"name": "cart-1"},
        "control_plane": {"address": format!("http://{}", world.control_plane.xds())},
    });
    std::fs::write(&bootstrap, plain.to_string()).unwrap();
    let refused = leno_tests::run_leno(
        &["agent", "--config", &bootstrap.display().to_string(), "--sds", &sds.display().to_string()],
        "",
    );
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("https://"), "{}", refused.stderr);
}
