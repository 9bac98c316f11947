//! The whole: two pods whose connections real rules redirect to real proxies, with mTLS between them, over IPv4 and IPv6.
//!
//! ```text
//! app in a ─▶ a's proxy (15001) ══ mTLS ══▶ b's proxy (15006) ─▶ app in b
//! ```
//!
//! Nobody here calls a proxy: apps call services and each other by the addresses that they know, and what arrives is what
//! is looked at.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Process, eventually, leno_proxy, skip};
use serde_json::json;
use tempfile::TempDir;

use super::network::{self, Network, PROXY, Pod, Server, Who, finish};
use super::{SERVICE_V4, SERVICE_V6, Version};

/// What every proxy of the mesh knows: a web app, a port of which nobody says what it is, and mTLS for whoever can.
const SERVICES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.shop.svc.cluster.local]
  addresses: [10.96.0.10, 'fd00:96::10']
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, targetPort: 8080, name: http, protocol: HTTP}
  - {number: 7000, name: any}
  - {number: 6379, name: cache}
  - {number: 5432, name: database}
  - {number: 3306, name: store}
  - {number: 3307, name: other-store}
  workloadSelector: {labels: {app: web}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: b, namespace: shop}
spec: {address: 10.244.1.2, labels: {app: web, security.istio.io/tlsMode: istio}, serviceAccount: web}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: PERMISSIVE}}
";

const ONLY_KNOWN: &str = "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";

/// A pod with its rules and its proxy.
pub(super) struct Meshed {
    pub(super) pod: Pod,
    pub(super) proxy: Process,
    pub(super) directory: TempDir,
}

impl Meshed {
    fn start(pod: Pod, labels: &str, account: &str, authority: &Authority, rules: &str, redirect: &[&str]) -> Self {
        let directory = TempDir::with_prefix("leno-whole-").unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, owner) in [("rules", 0), ("state", PROXY)] {
            std::fs::create_dir(path.join(name)).unwrap();
            chown(path.join(name), Some(owner), Some(owner)).unwrap();
        }
        std::fs::write(path.join("rules/rules.yaml"), rules).unwrap();
        let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let (certificate, key) = authority.issue(&Leaf::of(&id)).write(path, "svid");
        std::fs::write(path.join("roots.pem"), authority.pem()).unwrap();
        let bootstrap = json!({
            "node": {
                "name": pod.name(), "ip": pod.v4(), "namespace": "shop", "service_account": account,
                "workload": account, "labels": {"app": labels},
            },
            "interception": "redirect",
            "rules": [path.join("rules")],
            "state": path.join("state"),
            "identity": {"certificate": certificate, "key": key, "roots": path.join("roots.pem")},
            "workers": 2,
            "drain": "1s",
        });
        std::fs::write(path.join("bootstrap.yaml"), format!("{bootstrap:#}\n")).unwrap();
        // The proxy's user may not look into the directory where programs are built.
        let program = path.join("leno-proxy");
        std::fs::hard_link(leno_proxy(), &program)
            .or_else(|_| std::fs::copy(leno_proxy(), &program).map(|_| ()))
            .unwrap();
        let applied = pod.redirect(&[&["apply"][..], redirect].concat());
        assert_eq!(applied.code, 0, "{}", applied.stderr);
        let mut command = pod.command(Path::new("setpriv"));
        command.args([
            "--clear-groups",
            "--bounding-set=-all",
            &format!("--reuid={PROXY}"),
            &format!("--regid={PROXY}"),
        ]);
        command.arg(&program).arg("run").arg("--config").arg(path.join("bootstrap.yaml"));
        let proxy = Process::start(pod.name(), &mut command, &path.join("log"));
        Self { pod, proxy, directory }
    }

    async fn ready(&self) {
        eventually("the proxy is ready", async || {
            let ready = self.admin("/ready");
            if ready.contains("LIVE") { Ok(()) } else { Err(format!("{ready}\n{}", self.proxy.log())) }
        })
        .await;
    }

    /// A page of its proxy's.
    fn admin(&self, page: &str) -> String {
        let url = format!("http://127.0.0.1:15000{page}");
        finish(self.pod.command(Path::new("curl")).args(["-s", "-m", "10", &url])).stdout
    }

    /// The sum of a metric's series that contain all of these.
    pub(super) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.admin("/stats/prometheus");
        let series =
            page.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// What curl says, as an app of the pod: the status and the body.
    fn curl(&self, arguments: &[&str]) -> String {
        let user = ["--reuid=1999", "--regid=1999", "--clear-groups", "curl", "-sS", "-m", "20", "-w", " %{http_code}"];
        let outcome = finish(self.pod.command(Path::new("setpriv")).args(user).args(arguments));
        format!("{}{}", outcome.stdout, outcome.stderr)
    }

    fn edit(&self, rules: &str) {
        let path = self.directory.path().join("rules");
        std::fs::write(path.join(".new"), rules).unwrap();
        std::fs::rename(path.join(".new"), path.join("rules.yaml")).unwrap();
    }
}

/// Two pods of one mesh: in b stands the web app.
pub(super) struct Whole {
    pub(super) a: Meshed,
    pub(super) b: Meshed,
    _apps: Vec<App>,
    _servers: Vec<Server>,
    _network: Network,
}

/// A program beside a proxy; ended with the value.
struct App(#[allow(dead_code)] Process);

impl Whole {
    pub(super) async fn start(what: &str) -> Option<Self> {
        Self::with(what, &[]).await
    }

    /// With other arguments for the rules of pod a. `None` after saying why there can be none.
    async fn with(what: &str, redirect: &[&str]) -> Option<Self> {
        let missing = ["nft", "setpriv", "curl", "python3"].into_iter().find(|program| !network::has(program));
        let network = match (Network::new(), missing) {
            (Ok(network), None) => network,
            (Err(why), _) => {
                skip(what, &why);
                return None;
            }
            (Ok(_), Some(program)) => {
                skip(what, &format!("there is no program {program}"));
                return None;
            }
        };
        let authority = Authority::new("mesh");
        let (a, b) = (network.pod(0), network.pod(1));
        let servers =
            [("0.0.0.0:7000", "b any"), ("[::]:7000", "b any"), ("0.0.0.0:9000", "b other"), ("[::]:9000", "b other")];
        let servers = servers.into_iter().map(|(address, name)| b.serve(name, address.parse().unwrap())).collect();
        let b = Meshed::start(b, "web", "web", &authority, SERVICES, &[]);
        let a = Meshed::start(a, "client", "client", &authority, SERVICES, redirect);
        let web = b.directory.path().join("web");
        std::fs::create_dir(&web).unwrap();
        std::fs::write(web.join("index.html"), "the web app").unwrap();
        let mut python = b.pod.command(Path::new("python3"));
        python.args(["-m", "http.server", "8080", "--bind", "::", "-d"]).arg(&web);
        let app = App(Process::start("web", &mut python, &b.directory.path().join("web.log")));
        for meshed in [&a, &b] {
            meshed.ready().await;
        }
        let whole = Self { a, b, _apps: vec![app], _servers: servers, _network: network };
        eventually("the web app is up", async || {
            let answer = whole.b.pod.shell("curl -s -m 10 http://127.0.0.1:8080/ || true");
            if answer == "the web app" { Ok(()) } else { Err(answer) }
        })
        .await;
        Some(whole)
    }

    pub(super) fn service(version: Version, port: u16) -> SocketAddr {
        match version {
            Version::Four => (SERVICE_V4, port).into(),
            Version::Six => (SERVICE_V6, port).into(),
        }
    }

    pub(super) fn peer(&self, version: Version, port: u16) -> SocketAddr {
        let ip: IpAddr = match version {
            Version::Four => self.b.pod.v4().into(),
            Version::Six => self.b.pod.v6().into(),
        };
        (ip, port).into()
    }

    /// What an app in a hears at an address; nothing: the connection was closed.
    fn hears(&self, address: SocketAddr) -> String {
        self.a.pod.ask(Who::App, None, address).unwrap_or_else(|error| format!("{:?}", error.kind()))
    }
}

pub(super) const BOTH: [Version; 2] = [Version::Four, Version::Six];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_bytes_of_whoever_speaks_first_cross_two_proxies_with_mtls_on_both_versions() {
    let Some(whole) = Whole::start("the whole").await else { return };
    let Whole { a, b, .. } = &whole;
    for version in BOTH {
        let web = Whole::service(version, 80);
        let answer = a.curl(&["-H", "host: web.shop", &format!("http://{web}/")]);
        assert_eq!(answer, "the web app 200", "{version:?}: {}{}", a.proxy.log(), b.proxy.log());
        let greeting = whole.hears(Whole::service(version, 7000));
        assert!(greeting.starts_with("b any for "), "{version:?}: `{greeting}` {}", b.proxy.log());
    }
    let mutual = [
        r#"connection_security_policy="mutual_tls""#,
        r#"source_principal="spiffe://cluster.local/ns/shop/sa/client""#,
    ];
    eventually("b has counted them as encrypted", async || {
        let counted =
            (b.metric("istio_requests_total{", &mutual), b.metric("istio_tcp_connections_opened_total{", &mutual));
        if counted.0 >= 2.0 && counted.1 >= 2.0 { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
    // More than twice where a machine was so busy that the greeting came before the caller's TLS, who then calls again.
    eventually("the app spoke first on both ways", async || {
        let greeted = |meshed: &Meshed| meshed.metric("leno_protocol_detected_total{", &["server_first"]);
        let greeted = (greeted(a), greeted(b));
        if greeted.0 >= 2.0 && greeted.1 >= 2.0 { Ok(()) } else { Err(format!("{greeted:?}")) }
    })
    .await;
    assert_eq!(a.metric("leno_capture_refused_total{", &[]) + b.metric("leno_capture_refused_total{", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_in_clear_text_gets_the_greeting_and_his_answer_from_a_permissive_port() {
    let Some(whole) = Whole::start("a caller in clear text").await else { return };
    for version in BOTH {
        // What the proxy's user sends is not captured: so calls somebody without a sidecar.
        let greeting = whole.a.pod.ask(Who::Proxy, None, whole.peer(version, 7000)).unwrap();
        assert!(greeting.starts_with("b any for "), "{version:?}: `{greeting}`");
        let web = whole.peer(version, 8080);
        let curl =
            ["--reuid=1337", "--regid=1337", "--clear-groups", "curl", "-sS", "-m", "20", &format!("http://{web}/")];
        let outcome = finish(whole.a.pod.command(Path::new("setpriv")).args(curl));
        assert_eq!(outcome.stdout, "the web app", "{version:?}: {}", outcome.stderr);
    }
    let plain = [r#"reporter="destination""#, r#"connection_security_policy="none""#];
    eventually("b has counted them as clear text", async || {
        let counted = whole.b.metric("istio_requests_total{", &plain);
        if counted >= 2.0 { Ok(()) } else { Err(counted.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_declared_is_passed_on_unless_only_the_registry_counts() {
    let Some(whole) = Whole::start("pass-through").await else { return };
    let Whole { a, b, .. } = &whole;
    for version in BOTH {
        let heard = whole.hears(whole.peer(version, 9000));
        assert!(heard.starts_with("b other for "), "{version:?}: `{heard}` {}{}", a.proxy.log(), b.proxy.log());
        let unknown = a.curl(&["-H", "host: unknown.example.com", &format!("http://{}/", whole.peer(version, 80))]);
        assert!(unknown.ends_with("503"), "nobody listens there, and no other is called instead: {unknown}");
        let known = a.curl(&["-H", "host: unknown.example.com", &format!("http://{}/", whole.peer(version, 8080))]);
        assert_eq!(known, "the web app 200", "{version:?}");
    }
    let through = |cluster: &str| format!(r#"destination_service_name="{cluster}""#);
    // A request is counted when its last byte is through, which the caller may know before the proxy does.
    eventually("it was counted as passed on", async || {
        let opened = "istio_tcp_connections_opened_total{";
        let counted = [
            a.metric(opened, &[&through("PassthroughCluster")]),
            b.metric(opened, &[&through("InboundPassthroughCluster")]),
            a.metric("istio_requests_total{", &[&through("PassthroughCluster"), "unknown.example.com"]),
        ];
        if counted.iter().all(|count| *count >= 2.0) { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
    a.edit(&format!("{SERVICES}{ONLY_KNOWN}"));
    eventually("unknown hosts are refused", async || {
        let answer =
            a.curl(&["-H", "host: unknown.example.com", &format!("http://{}/", whole.peer(Version::Four, 80))]);
        if answer.ends_with("502") { Ok(()) } else { Err(answer) }
    })
    .await;
    for version in BOTH {
        assert_eq!(whole.hears(whole.peer(version, 9000)), "", "{version:?}: it was closed");
        let answer = a.curl(&["-H", "host: web.shop", &format!("http://{}/", Whole::service(version, 80))]);
        assert_eq!(answer, "the web app 200", "{version:?}");
    }
    eventually("it was counted as blocked", async || {
        let blocked = through("BlackHoleCluster");
        let counted = (
            a.metric("istio_requests_total{", &[&blocked]),
            a.metric("istio_tcp_connections_closed_total{", &[&blocked]),
        );
        if counted.0 >= 1.0 && counted.1 >= 2.0 { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_called_by_its_own_ports_or_by_itself_closes_the_connection_at_once() {
    // The rules spare somebody else: what the proxy sends comes back to it.
    let Some(whole) = Whole::with("the loop guard", &["--proxy-uid", "4242", "--proxy-gid", "4242"]).await else {
        return;
    };
    let Whole { a, b, .. } = &whole;
    let refused = |meshed: &Meshed, reason: &str| {
        meshed.metric("leno_capture_refused_total{", &[&format!(r#"reason="{reason}""#)])
    };
    for version in BOTH {
        assert_eq!(whole.hears(whole.peer(version, 9000)), "", "{version:?}: {}", a.proxy.log());
    }
    // Each in the first round: a loop that turns would be refused thousands of times.
    eventually("loops were refused and counted", async || {
        let loops = refused(a, "loop");
        if (2.0..20.0).contains(&loops) { Ok(()) } else { Err(format!("{loops} {}", a.proxy.log())) }
    })
    .await;
    for (address, port) in [("127.0.0.1", 15001), ("127.0.0.1", 15006), ("[::1]", 15001), ("[::1]", 15006)] {
        let address = format!("{address}:{port}").parse().unwrap();
        let heard = b.pod.ask(Who::App, None, address).unwrap_or_default();
        assert_eq!(heard, "", "{address}");
    }
    eventually("calls of the proxy's own ports were refused and counted", async || {
        let count = refused(b, "not_redirected");
        if count >= 4.0 { Ok(()) } else { Err(format!("{count} {}", b.proxy.log())) }
    })
    .await;
    for version in BOTH {
        for port in [15001, 15006] {
            let heard = a.pod.ask(Who::App, None, whole.peer(version, port)).unwrap_or_default();
            assert_eq!(heard, "", "{version:?}, {port} from elsewhere");
        }
    }
    assert!(b.admin("/ready").contains("LIVE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_served_through_a_port_that_nobody_has_declared() {
    let Some(whole) = Whole::start("Redis").await else { return };
    if !network::has("redis-server") || !network::has("redis-cli") {
        return skip("Redis", "there is no redis-server; Debian has it (apt-get install redis-server)");
    }
    let Whole { a, b, .. } = &whole;
    let mut redis = b.pod.command(Path::new("redis-server"));
    redis.args(["--port", "6379", "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", "", "--dir"]);
    let _redis = Process::start("redis", redis.arg(b.directory.path()), &b.directory.path().join("redis.log"));
    let cli = |address: SocketAddr, command: &[&str]| {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let user = ["--reuid=1999", "--regid=1999", "--clear-groups", "redis-cli", "-h", &host, "-p", &port];
        finish(a.pod.command(Path::new("setpriv")).args(user).args(command)).stdout
    };
    eventually("Redis answers", async || match cli(whole.peer(Version::Four, 6379), &["PING"]).trim() {
        "PONG" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    for version in BOTH {
        let redis = Whole::service(version, 6379);
        assert_eq!(cli(redis, &["SET", "key", "value"]).trim(), "OK", "{version:?}");
        assert_eq!(cli(redis, &["GET", "key"]).trim(), "value", "{version:?}");
    }
    is_counted_as_bytes_with_mtls(b, 4.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_served_through_a_port_that_nobody_has_declared() {
    let Some(whole) = Whole::start("PostgreSQL").await else { return };
    let (Some(programs), true) = (postgresql(), network::has("psql")) else {
        return skip("PostgreSQL", "there is no initdb or psql; Debian has them (apt-get install postgresql)");
    };
    let Whole { a, b, .. } = &whole;
    let data = TempDir::with_prefix("leno-postgresql-").unwrap();
    // PostgreSQL does not run as root, and wants its user to have a name.
    chown(data.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |program: &str| {
        let mut command = b.pod.command(Path::new("setpriv"));
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
        command.args(user).arg(programs.join(program)).arg("-D").arg(data.path().join("data")).current_dir(data.path());
        command
    };
    let made = finish(as_nobody("initdb").args(["-U", "app", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]));
    assert_eq!(made.code, 0, "{}{}", made.stdout, made.stderr);
    let rights = data.path().join("data/pg_hba.conf");
    std::fs::write(rights, "host all all all trust\n").unwrap();
    let mut postgres = as_nobody("postgres");
    let settings = ["listen_addresses=*", "unix_socket_directories=", "fsync=off"];
    postgres.args(settings.into_iter().flat_map(|setting| ["-c", setting])).args(["-p", "5432"]);
    let _postgres = Process::start("postgresql", &mut postgres, &b.directory.path().join("postgresql.log"));
    let ask = |address: SocketAddr, encryption: &str, question: &str| {
        let place = format!("host={} port={} user=app dbname=postgres", address.ip(), address.port());
        let place = format!("{place} sslmode={encryption} gssencmode=disable connect_timeout=20");
        let user = ["--reuid=1999", "--regid=1999", "--clear-groups", "psql", "-X", "-A", "-t", "-d", &place];
        let mut psql = a.pod.command(Path::new("setpriv"));
        let outcome = finish(psql.env("HOME", "/nonexistent").current_dir("/").args(user).args(["-c", question]));
        format!("{}{}", outcome.stdout.trim(), outcome.stderr.trim())
    };
    eventually("PostgreSQL answers", async || {
        match ask(whole.peer(Version::Four, 5432), "disable", "SELECT 1").as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    for version in BOTH {
        let service = Whole::service(version, 5432);
        // With `prefer` the first words ask for TLS in PostgreSQL's own way, and the server says no in one letter.
        for encryption in ["disable", "prefer"] {
            let rows = ask(service, encryption, "SELECT sum(n) FROM generate_series(1, 10000) AS n");
            assert_eq!(rows, "50005000", "{version:?} {encryption}: {}{}", a.proxy.log(), b.proxy.log());
        }
    }
    is_counted_as_bytes_with_mtls(b, 4.0).await;
}

/// A user that every machine has, and who may do nothing.
const NOBODY: u32 = 65534;

/// Where the programs of PostgreSQL's server are: in Debian not where others are.
fn postgresql() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let of_debian = versions.map(|version| version.path().join("bin"));
    let usual = ["/usr/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from);
    of_debian.chain(usual).find(|directory| directory.join("initdb").is_file() && directory.join("postgres").is_file())
}

/// The pod has seen so many connections, within mTLS, whose caller spoke first and was not speaking HTTP.
async fn is_counted_as_bytes_with_mtls(meshed: &Meshed, at_least: f64) {
    let mutual = [r#"connection_security_policy="mutual_tls""#];
    eventually("they were counted as bytes within mTLS", async || {
        let counted = (
            meshed.metric("istio_tcp_connections_opened_total{", &mutual),
            meshed.metric("leno_protocol_detected_total{", &[r#"protocol="tcp""#]),
        );
        if counted.0 >= at_least && counted.1 >= at_least { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
}
