//! The running demo: control plane, sidecars and services as processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::processes::{Family, Obituary};
use super::topology::{self, Credentials, PAGE, SidecarPorts, WORKLOADS, Workload};
use super::{expectation, load};
use crate::ca::token::TokenKey;

/// Everything listens and holds its configuration by then.
const START: Duration = Duration::from_secs(30);
/// Between two looks at something that is starting.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A sidecar's token has done its duty when the first certificate is there.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// The control plane's name among the children.
pub(super) const CONTROL_PLANE: &str = "control plane";

/// All processes and where they are. Dropping it ends them.
pub(super) struct Bookshop {
    family: Family,
    /// The control plane.
    pub(super) control_plane: ControlPlane,
    /// In the order of [`WORKLOADS`]: productpage first.
    pub(super) workloads: Vec<Running>,
    /// Where the demo's own requests go in: the outbound listener of the customers' sidecar, so that everybody in the mesh
    /// is known; where the rules do not declare productpage, straight to its sidecar.
    pub(super) entry: SocketAddr,
    /// What `serve` reads: the user's rules and where the processes are.
    pub(super) rules: Vec<PathBuf>,
    /// Logs, states and bootstraps.
    pub(super) scratch: PathBuf,
}

/// The control plane as a process.
pub(super) struct ControlPlane {
    /// Its process id.
    pub(super) pid: u32,
    /// Where proxies without an identity connect, in clear text.
    pub(super) xds: SocketAddr,
    /// Where sidecars connect, with TLS.
    pub(super) tls: SocketAddr,
    /// Its state: root, keys, accepted rules.
    state: PathBuf,
    /// Metrics and status.
    pub(super) http: SocketAddr,
    /// How it was started, and can be again; ports are the ones it has.
    pub(super) arguments: Vec<String>,
}

/// One workload: its app and its sidecar.
pub(super) struct Running {
    /// What it is.
    pub(super) workload: Workload,
    /// Process id of the app.
    pub(super) app_pid: u32,
    /// Process id of the sidecar.
    pub(super) sidecar_pid: u32,
    /// The sidecar's listeners.
    pub(super) ports: SidecarPorts,
    /// The sidecar's admin address.
    pub(super) admin: SocketAddr,
    /// The SPIFFE ID of its certificate.
    pub(super) identity: String,
}

/// `serve.json` of the control plane's state.
#[derive(Deserialize)]
struct Served {
    xds: SocketAddr,
    tls: SocketAddr,
    http: SocketAddr,
}

/// `ports.json` of a proxy's state.
#[derive(Deserialize)]
struct Ports {
    admin: SocketAddr,
    #[serde(default)]
    listeners: BTreeMap<String, SocketAddr>,
}

/// The line that an app prints.
#[derive(Deserialize)]
struct Announced {
    port: u16,
}

impl Bookshop {
    /// The SPIFFE ID of each workload's certificate, by the workload.
    pub(super) fn identities(&self) -> serde_json::Value {
        self.workloads.iter().map(|running| (running.workload.name(), running.identity.as_str())).collect()
    }

    /// Starts everything, with the user's rules, and waits until every sidecar is ready.
    pub(super) async fn open(user_rules: PathBuf, scratch: &Path) -> anyhow::Result<Self> {
        let mut family = Family::default();
        let free = topology::free_ports(2 * WORKLOADS.len(), std::process::id())?;
        let ports: Vec<SidecarPorts> = free
            .chunks_exact(2)
            .filter_map(|pair| Some(SidecarPorts { inbound: *pair.first()?, outbound: *pair.last()? }))
            .collect();
        let logs = directory(scratch, "logs")?;
        let own_rules = directory(scratch, "workloads")?;
        let rules = vec![user_rules, own_rules.clone()];

        let mut apps = Vec::new();
        for (workload, ports) in WORKLOADS.iter().zip(&ports) {
            apps.push(start_app(&mut family, &logs, workload, *ports)?);
        }
        let documents: Vec<String> = WORKLOADS
            .iter()
            .zip(&ports)
            .zip(&apps)
            .map(|((workload, ports), app)| topology::documents(workload, *ports, app.port))
            .collect();
        let file = own_rules.join("workloads.yaml");
        fs::write(&file, documents.join("---\n")).with_context(|| format!("cannot write {}", file.display()))?;

        let control_plane = start_control_plane(&mut family, &logs, &rules, scratch).await?;
        let mut sidecars = Vec::new();
        for workload in &WORKLOADS {
            sidecars.push(start_sidecar(&mut family, &logs, workload, &control_plane, scratch)?);
        }
        let mut workloads = Vec::new();
        for (((workload, ports), app), sidecar) in WORKLOADS.into_iter().zip(ports).zip(apps).zip(sidecars) {
            let admin = sidecar.ready(&mut family, ports).await?;
            let identity = identity(admin).await?;
            workloads.push(Running { workload, app_pid: app.pid, sidecar_pid: sidecar.pid, ports, admin, identity });
        }
        let entry = entry(&workloads, &rules);
        Ok(Self { family, control_plane, workloads, entry, rules, scratch: scratch.to_owned() })
    }

    /// Who calls: productpage.
    pub(super) fn caller(&self) -> &Running {
        self.workloads.first().expect("invariant: the bookshop has a productpage")
    }

    /// Who died since the last call.
    pub(super) fn newly_dead(&mut self) -> Vec<Obituary> {
        self.family.newly_dead()
    }
}

impl ControlPlane {
    /// Writes the token by which a workload's sidecar gets its first certificate.
    fn write_token(&self, workload: &Workload, file: &Path) -> anyhow::Result<()> {
        let key = TokenKey::open(&self.state).context("the control plane has no key for tokens")?;
        let token = key.create(topology::NAMESPACE, workload.service, TOKEN_LIFE, SystemTime::now())?;
        let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
        let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, token.as_bytes()));
        written.with_context(|| format!("cannot write {}", file.display()))
    }
}

fn entry(workloads: &[Running], rules: &[PathBuf]) -> SocketAddr {
    let [productpage, .., customers] = workloads else { unreachable!("invariant: there are seven workloads") };
    let declared = expectation::read(rules, &customers.workload.node(), PAGE).is_ok_and(|it| !it.services.is_empty());
    let port = if declared { customers.ports.outbound } else { productpage.ports.inbound };
    ([127, 0, 0, 1], port).into()
}

struct App {
    pid: u32,
    port: u16,
}

fn start_app(family: &mut Family, logs: &Path, workload: &Workload, ports: SidecarPorts) -> anyhow::Result<App> {
    let mut arguments: Vec<String> =
        ["echo", "--name", workload.service, "--version", workload.version].map(str::to_owned).to_vec();
    for url in workload.urls() {
        arguments.extend(["--call".to_owned(), url]);
    }
    if !workload.calls.is_empty() {
        arguments.extend(["--proxy".to_owned(), format!("127.0.0.1:{}", ports.outbound)]);
    }
    let child = family.start(&workload.name(), logs, &arguments)?;
    let line = child.first_line()?;
    let announced: Announced =
        serde_json::from_str(&line).with_context(|| format!("{} said `{}`", workload.name(), line.trim()))?;
    Ok(App { pid: child.pid(), port: announced.port })
}

async fn start_control_plane(
    family: &mut Family,
    logs: &Path,
    rules: &[PathBuf],
    scratch: &Path,
) -> anyhow::Result<ControlPlane> {
    let state = directory(scratch, "control-plane")?;
    let arguments = |xds: &str, tls: &str, http: &str| {
        let mut arguments = vec!["serve".to_owned()];
        for directory in rules {
            arguments.extend(["--rules".to_owned(), directory.display().to_string()]);
        }
        arguments.extend(["--state".to_owned(), state.display().to_string()]);
        arguments.extend(["--xds-address", xds, "--tls-address", tls, "--http-address", http].map(str::to_owned));
        arguments
    };
    let pid = family.start(CONTROL_PLANE, logs, &arguments("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"))?.pid();
    let served: Served = written(&state.join("serve.json"), family, CONTROL_PLANE).await?;
    let Served { xds, tls, http } = served;
    let arguments = arguments(&xds.to_string(), &tls.to_string(), &http.to_string());
    Ok(ControlPlane { pid, xds, tls, http, state, arguments })
}

struct Sidecar {
    name: String,
    pid: u32,
    state: PathBuf,
}

fn start_sidecar(
    family: &mut Family,
    logs: &Path,
    workload: &Workload,
    control_plane: &ControlPlane,
    scratch: &Path,
) -> anyhow::Result<Sidecar> {
    let name = format!("{}-sidecar", workload.name());
    let state = directory(scratch, &name)?;
    let bootstrap = state.join("bootstrap.yaml");
    let token = state.join("token");
    control_plane.write_token(workload, &token)?;
    let root = control_plane.state.join("root.pem");
    let credentials = Credentials { address: control_plane.tls, root: &root, token: &token };
    fs::write(&bootstrap, topology::bootstrap(workload, credentials, &state))
        .with_context(|| format!("cannot write {}", bootstrap.display()))?;
    let arguments = ["proxy", "run", "--config", &bootstrap.display().to_string()].map(str::to_owned);
    let pid = family.start(&name, logs, &arguments)?.pid();
    Ok(Sidecar { name, pid, state })
}

impl Sidecar {
    /// Waits until it holds its configuration and listens on both ports; returns its admin address.
    async fn ready(&self, family: &mut Family, ports: SidecarPorts) -> anyhow::Result<SocketAddr> {
        let started = Instant::now();
        loop {
            let found: Ports = written(&self.state.join("ports.json"), family, &self.name).await?;
            let listens = |port| found.listeners.values().any(|address| address.port() == port);
            let missing = if listens(ports.inbound) && listens(ports.outbound) {
                match load::status_of(found.admin, "/ready").await {
                    Ok(status) if status.is_success() => return Ok(found.admin),
                    Ok(status) => format!("/ready answers {status}"),
                    Err(error) => format!("{error:#}"),
                }
            } else {
                format!("it listens on {:?} only", found.listeners)
            };
            family.all_alive()?;
            anyhow::ensure!(
                started.elapsed() < START,
                "{} is not ready after {} s: {missing}",
                self.name,
                START.as_secs()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Who a sidecar's certificate says it is.
async fn identity(admin: SocketAddr) -> anyhow::Result<String> {
    let certificates: serde_json::Value = serde_json::from_str(&load::text_of(admin, "/certs").await?)?;
    Ok(certificates["certificate"]["id"].as_str().unwrap_or("none").to_owned())
}

/// Reads a JSON file that a child writes when it has bound its sockets.
async fn written<T: DeserializeOwned>(file: &Path, family: &mut Family, writer: &str) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Ok(text) = fs::read(file) {
            return serde_json::from_slice(&text).with_context(|| format!("{writer} wrote a wrong {}", file.display()));
        }
        family.all_alive()?;
        let waited = started.elapsed();
        anyhow::ensure!(waited < START, "{writer} has not written {} in {} s", file.display(), START.as_secs());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn directory(parent: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = parent.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
