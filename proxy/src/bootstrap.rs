//! What a proxy has to know before it knows anything: who it is, where its rules come from, which ports are its own.
//!
//! A YAML file, flags and `LENO_…` variables say the same things under the same names; a flag wins over a variable, a
//! variable over the file. What is wrong is said with its place.

mod limits;
mod pod;
mod schema;
mod security;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use leno_config::ir::Locality;
use leno_config::node::{Interception, Node};
use serde::Deserialize;

use crate::control_plane::ControlPlane;
use crate::identity::IdentityFiles;
use crate::overload::Limits;
use crate::pod::{Pod, WrittenProbe};
use crate::telemetry::Dialect;

use limits::FileLimits;
pub use limits::LimitFlags;
pub use pod::PodFlags;
pub use schema::schema;
pub use security::SecurityFlags;
use security::{FileControlPlane, FileIdentity};

/// Where secrets are mounted unless somebody says otherwise.
const CREDENTIALS: &str = "/etc/leno/credentials";

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("cannot read the bootstrap file {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is not what it should be.
    #[error("the bootstrap file {path} is not valid: {reason}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line, column and what is wrong.
        reason: String,
    },
    /// A value makes no sense.
    #[error("{key}: {reason}")]
    Value {
        /// Name of the key.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Everything, checked.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Who it is.
    pub node: Node,
    /// Where its rules come from.
    pub source: Source,
    /// Its certificate, where it does not come from the control plane.
    pub identity: Option<IdentityFiles>,
    /// Directory of the Kubernetes secrets that rules name (`credentialName`), each mounted as a directory of its name.
    pub credentials: PathBuf,
    /// Whether the system may write the process's memory, with its keys, to disk or show it to a debugger.
    pub dumpable: bool,
    /// Where state is kept; `None`: nowhere.
    pub state: Option<PathBuf>,
    /// Admin address.
    pub admin: SocketAddr,
    /// Address for `/stats/prometheus` alone.
    pub metrics: Option<SocketAddr>,
    /// Whose names metrics of requests have.
    pub metrics_dialect: Dialect,
    /// Address for `/ready` alone.
    pub ready: Option<SocketAddr>,
    /// What the kubelet, scrapers and the pod's own containers may ask.
    pub pod: Pod,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// How long the process may go on after SIGTERM.
    pub drain: Duration,
    /// How long it may go on after another process has taken over from it.
    pub drain_after_upgrade: Duration,
    /// What is taken on at once.
    pub limits: Limits,
    /// Where the random numbers of splits and balancing begin; `None`: elsewhere in every process.
    pub seed: Option<u64>,
}

/// Where rules come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A control plane.
    ControlPlane(ControlPlane),
    /// Files and directories.
    Rules(Vec<PathBuf>),
}

/// Flags and variables; each is also a key of the file.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Bootstrap file (YAML)
    #[arg(long, value_name = "FILE", env = "LENO_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name of this instance of the workload
    #[arg(long, env = "LENO_NODE_NAME")]
    pub node_name: Option<String>,
    /// Its address
    #[arg(long, env = "LENO_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// Its namespace
    #[arg(long, env = "LENO_NODE_NAMESPACE")]
    pub node_namespace: Option<String>,
    /// Its service account
    #[arg(long, env = "LENO_NODE_SERVICE_ACCOUNT")]
    pub node_service_account: Option<String>,
    /// Name of the workload
    #[arg(long, env = "LENO_NODE_WORKLOAD")]
    pub node_workload: Option<String>,
    /// Its labels, as app=reviews,version=v1
    #[arg(long, value_delimiter = ',', env = "LENO_NODE_LABELS")]
    pub node_labels: Vec<String>,
    /// Where it runs, as region/zone/subzone
    #[arg(long, env = "LENO_NODE_LOCALITY")]
    pub node_locality: Option<String>,
    /// How traffic reaches the proxy: `none`, the app calls its listeners; `redirect`, the rules of `leno-proxy redirect`
    /// send it the pod's connections [default: none]
    #[arg(long, env = "LENO_INTERCEPTION")]
    pub interception: Option<String>,
    /// Whom to believe, and how to prove who one is.
    #[command(flatten)]
    pub security: SecurityFlags,
    /// Rule file or directory, instead of a control plane; may be given several times
    #[arg(long, value_name = "PATH", env = "LENO_RULES", value_delimiter = ',')]
    pub rules: Vec<PathBuf>,
    /// Directory for state that survives a restart
    #[arg(long, value_name = "DIR", env = "LENO_STATE")]
    pub state: Option<PathBuf>,
    /// Directory of mounted Kubernetes secrets, which rules name by `credentialName` [default: /etc/leno/credentials]
    #[arg(long, value_name = "DIR", env = "LENO_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
    /// Admin address [default: 127.0.0.1:15000]
    #[arg(long, env = "LENO_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// One more address for /stats/prometheus alone
    #[arg(long, env = "LENO_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Whose names metrics of requests have: istio, otel, both or none [default: istio]
    #[arg(long, env = "LENO_METRICS_DIALECT")]
    pub metrics_dialect: Option<String>,
    /// One more address for /ready alone
    #[arg(long, env = "LENO_READY")]
    pub ready: Option<SocketAddr>,
    /// What is asked of it in a pod.
    #[command(flatten)]
    pub pod: PodFlags,
    /// Worker threads, or auto: as many as the process may use CPUs [default: auto]
    #[arg(long, env = "LENO_WORKERS")]
    pub workers: Option<String>,
    /// How long work under way may take after SIGTERM, as 30s [default: 30s]
    #[arg(long, env = "LENO_DRAIN")]
    pub drain: Option<String>,
    /// How long work under way may take after another process has taken over, as 10m [default: 10m]
    #[arg(long, env = "LENO_DRAIN_AFTER_UPGRADE")]
    pub drain_after_upgrade: Option<String>,
    /// Where the random numbers of splits and balancing begin, so that a test can be repeated
    #[arg(long, hide = true, env = "LENO_SEED")]
    pub seed: Option<u64>,
    /// What it takes on at once.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Let debuggers and core dumps see the process's memory, in which its keys are
    #[arg(long, env = "LENO_DUMPABLE")]
    pub dumpable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    node: FileNode,
    interception: Option<String>,
    control_plane: Option<FileControlPlane>,
    identity: Option<FileIdentity>,
    credentials: Option<PathBuf>,
    rules: Vec<PathBuf>,
    state: Option<PathBuf>,
    admin: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    metrics_dialect: Option<String>,
    ready: Option<SocketAddr>,
    merged: Option<SocketAddr>,
    app_metrics: Option<String>,
    app_probes: BTreeMap<String, WrittenProbe>,
    workers: Option<Workers>,
    limits: Option<FileLimits>,
    drain: Option<String>,
    drain_after_upgrade: Option<String>,
    seed: Option<u64>,
    dumpable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileNode {
    name: Option<String>,
    ip: Option<IpAddr>,
    namespace: Option<String>,
    service_account: Option<String>,
    workload: Option<String>,
    labels: BTreeMap<String, String>,
    locality: FileLocality,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileLocality {
    region: String,
    zone: String,
    subzone: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Workers {
    Count(usize),
    Word(String),
}

impl Bootstrap {
    /// Reads the file, if one is named, and lays flags and variables over it.
    pub fn load(flags: Flags) -> Result<Self, BootstrapError> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        Self::merge(flags, file)
    }

    fn merge(flags: Flags, file: File) -> Result<Self, BootstrapError> {
        let identity = security::identity(&flags.security, file.identity)?;
        let plane = security::control_plane(&flags.security, file.control_plane, identity.as_ref())?;
        let rules = if flags.rules.is_empty() { file.rules } else { flags.rules.clone() };
        let source = match (plane, rules.is_empty()) {
            (Some(plane), true) => Source::ControlPlane(plane),
            (None, false) => Source::Rules(rules),
            (Some(_), false) => {
                let reason = "a proxy gets its rules from a control plane or from files, not from both".to_owned();
                return Err(BootstrapError::Value { key: "rules", reason });
            }
            (None, true) => {
                let reason = "say where the rules come from: control_plane.address or rules".to_owned();
                return Err(BootstrapError::Value { key: "control_plane.address", reason });
            }
        };
        let workers = flags.workers.clone().map(Workers::Word).or(file.workers);
        let drain = flags.drain.clone().or(file.drain).unwrap_or_else(|| "30s".to_owned());
        let upgrade = flags.drain_after_upgrade.clone().or(file.drain_after_upgrade);
        let upgrade = upgrade.unwrap_or_else(|| "10m".to_owned());
        Ok(Self {
            node: node(&flags, file.node, file.interception)?,
            source,
            identity,
            credentials: flags.credentials.or(file.credentials).unwrap_or_else(|| CREDENTIALS.into()),
            dumpable: flags.dumpable || file.dumpable,
            state: flags.state.or(file.state),
            admin: flags.admin.or(file.admin).unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 15000))),
            metrics: flags.metrics.or(file.metrics),
            metrics_dialect: dialect(flags.metrics_dialect.or(file.metrics_dialect).as_deref())?,
            ready: flags.ready.or(file.ready),
            pod: pod::read(&flags.pod, (file.merged, file.app_metrics, file.app_probes))?,
            workers: count(workers)?,
            drain: duration("drain", &drain)?,
            drain_after_upgrade: duration("drain_after_upgrade", &upgrade)?,
            limits: limits::read(&flags.limits, file.limits.unwrap_or_default())?,
            seed: flags.seed.or(file.seed),
        })
    }
}

fn read(path: &Path) -> Result<File, BootstrapError> {
    let text = std::fs::read_to_string(path).map_err(|error| BootstrapError::Read(path.to_owned(), error))?;
    serde_saphyr::from_str(&text).map_err(|error| BootstrapError::Parse {
        path: path.to_owned(),
        reason: error.to_string().replace("<input>", &path.display().to_string()),
    })
}

fn node(flags: &Flags, file: FileNode, interception: Option<String>) -> Result<Node, BootstrapError> {
    let required = |key: &'static str, value: Option<String>| {
        let reason = "is missing: a proxy has to say which workload it stands beside".to_owned();
        value.filter(|value| !value.is_empty()).ok_or(BootstrapError::Value { key, reason })
    };
    let name = required("node.name", flags.node_name.clone().or(file.name))?;
    let mut labels = file.labels;
    for pair in &flags.node_labels {
        let (key, value) = pair.split_once('=').ok_or_else(|| BootstrapError::Value {
            key: "node.labels",
            reason: format!("`{pair}` is not KEY=VALUE"),
        })?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    let FileLocality { region, zone, subzone } = file.locality;
    let locality = match &flags.node_locality {
        Some(text) => Locality::parse(text),
        None => Locality { region, zone, subzone },
    };
    let interception = match flags.interception.clone().or(interception).as_deref() {
        None | Some("none") => Interception::None,
        Some("redirect") => Interception::Redirect,
        Some(other) => {
            let reason = format!("`{other}` is neither `none` nor `redirect`");
            return Err(BootstrapError::Value { key: "interception", reason });
        }
    };
    Ok(Node {
        ip: flags.node_ip.or(file.ip).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        namespace: flags.node_namespace.clone().or(file.namespace).unwrap_or_else(|| "default".to_owned()),
        service_account: flags
            .node_service_account
            .clone()
            .or(file.service_account)
            .unwrap_or_else(|| "default".to_owned()),
        workload: flags.node_workload.clone().or(file.workload).unwrap_or_else(|| name.clone()),
        name,
        labels,
        locality,
        interception,
    })
}

fn dialect(name: Option<&str>) -> Result<Dialect, BootstrapError> {
    let wrong = |reason| BootstrapError::Value { key: "metrics_dialect", reason };
    name.map_or(Ok(Dialect::default()), |name| name.parse().map_err(wrong))
}

fn count(workers: Option<Workers>) -> Result<usize, BootstrapError> {
    let wrong = |reason: String| BootstrapError::Value { key: "workers", reason };
    let count = match workers {
        None => None,
        Some(Workers::Count(count)) => Some(count),
        Some(Workers::Word(word)) if word == "auto" => None,
        Some(Workers::Word(word)) => {
            Some(word.parse().map_err(|_| wrong(format!("`{word}` is neither a number nor `auto`")))?)
        }
    };
    match count {
        // Affinity and cgroup quotas are looked at by the standard library.
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(count @ 1..=256) => Ok(count),
        Some(other) => Err(wrong(format!("{other} is not between 1 and 256"))),
    }
}

/// `30s`, `500ms`, `2m`, `1h`.
pub(crate) fn duration(key: &'static str, text: &str) -> Result<Duration, BootstrapError> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    amount
        .parse::<u64>()
        .ok()
        .zip(scale)
        .and_then(|(amount, scale)| amount.checked_mul(scale))
        .map(Duration::from_millis)
        .ok_or_else(|| BootstrapError::Value { key, reason: format!("`{text}` is not a duration like 30s or 500ms") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, flags: Flags) -> Result<Bootstrap, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bootstrap.yaml");
        std::fs::write(&path, yaml).expect("written");
        Bootstrap::load(Flags { config: Some(path), ..flags }).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let yaml = "node: {name: a, labels: {app: x}}\nrules: [r]\nadmin: 127.0.0.1:1\nworkers: 3\ndrain: 5s\n";
        let flags = Flags { node_name: Some("b".to_owned()), workers: Some("1".to_owned()), ..Flags::default() };
        let bootstrap = load(yaml, flags).expect("valid");
        assert_eq!((bootstrap.node.name.as_str(), bootstrap.workers), ("b", 1));
        assert_eq!(bootstrap.admin.port(), 1);
        assert_eq!(bootstrap.drain, Duration::from_secs(5));
        assert_eq!(bootstrap.node.labels.get("app").map(String::as_str), Some("x"));
    }

    #[test]
    fn the_control_plane_and_the_identity_come_with_what_they_need() {
        let rows = [
            ("control_plane: {address: 'https://10.0.0.1:15012', root: r, token: t}", true, false),
            ("control_plane: {address: 'https://leno:15012', root: r, certificate: c, key: k}", true, false),
            (
                "control_plane: {address: 'https://leno:15012', root: r}\nidentity: {certificate: c, key: k, roots: r}",
                true,
                true,
            ),
            ("control_plane: {address: 'http://127.0.0.1:15010'}", false, false),
            ("control_plane: {address: 'http://127.0.0.1:15010, http://127.0.0.1:15020'}", false, false),
            (
                "control_plane: {address: 'http://[::1]:15010'}\nidentity: {certificate: c, key: k, roots: r, revoked: l}",
                false,
                true,
            ),
            ("rules: [r]\nidentity: {certificate: c, key: k, roots: r}", false, true),
        ];
        for (yaml, has_tls, has_identity) in rows {
            let bootstrap = load(&format!("node: {{name: a}}\n{yaml}\n"), Flags::default()).expect(yaml);
            let tls = matches!(&bootstrap.source, Source::ControlPlane(plane) if plane.tls.is_some());
            assert_eq!((tls, bootstrap.identity.is_some()), (has_tls, has_identity), "{yaml}");
        }
        let security = SecurityFlags { control_plane_token: Some("mine".into()), ..SecurityFlags::default() };
        let yaml = "node: {name: a}\ncontrol_plane: {address: 'https://leno:15012', root: r, token: t}\n";
        let Source::ControlPlane(plane) = load(yaml, Flags { security, ..Flags::default() }).expect("valid").source
        else {
            panic!("it has a control plane");
        };
        assert_eq!(plane.tls.and_then(|tls| tls.token), Some("mine".into()), "a flag wins");
    }

    #[test]
    fn what_is_wrong_with_credentials_is_named_with_the_remedy() {
        let rows = [
            ("control_plane: {address: 'https://leno:15012', token: t}", "control_plane.root", "root.pem"),
            ("control_plane: {address: 'https://leno:15012', root: r}", "control_plane.token", "leno token create"),
            (
                "control_plane: {address: 'https://leno:15012', root: r, token: t, certificate: c, key: k}",
                "control_plane.token",
                "not by both",
            ),
            ("control_plane: {address: 'https://leno:15012', root: r, certificate: c}", "control_plane.key", "its key"),
            (
                "control_plane: {address: 'https://leno:15012', root: r, key: k}",
                "control_plane.certificate",
                "certificate",
            ),
            ("control_plane: {address: 'https://leno', root: r, token: t}", "control_plane.address", "HOST:PORT"),
            ("control_plane: {root: r}", "control_plane.address", "missing"),
            ("control_plane: {address: 'https://a:1,http://127.0.0.1:1'}", "control_plane.address", "mixes"),
            ("control_plane: {address: 'https://a:1,'}", "control_plane.address", "HOST:PORT"),
            ("control_plane: {address: 'http://127.0.0.1:1', token: t}", "control_plane.token", "clear text"),
            ("control_plane: {address: 'http://127.0.0.1:1', root: r}", "control_plane.root", "https://"),
            (
                "control_plane: {address: 'http://127.0.0.1:1', certificate: c, key: k}",
                "control_plane.certificate",
                "https://",
            ),
            ("rules: [r]\nidentity: {certificate: c, key: k}", "identity.roots", "missing"),
            ("rules: [r]\nidentity: {certificate: c, roots: r}", "identity.key", "missing"),
            ("rules: [r]\nidentity: {key: k, roots: r}", "identity.certificate", "missing"),
            ("rules: [r]\nidentity: {roots: r}", "identity.certificate", "missing"),
            ("rules: [r]\nidentity: {certificat: c}", "certificat", "unknown"),
        ];
        for (yaml, key, remedy) in rows {
            let error = load(&format!("node: {{name: a}}\n{yaml}\n"), Flags::default()).expect_err(yaml);
            assert!(error.contains(key) && error.contains(remedy), "{yaml}: {error}");
        }
    }

    #[test]
    fn connections_are_redirected_where_the_file_or_a_flag_says_so() {
        let flag = |value: Option<&str>| Flags { interception: value.map(str::to_owned), ..Flags::default() };
        let rows = [
            ("", None, Interception::None),
            ("interception: none\n", None, Interception::None),
            ("interception: redirect\n", None, Interception::Redirect),
            ("interception: redirect\n", Some("none"), Interception::None),
            ("", Some("redirect"), Interception::Redirect),
        ];
        for (line, value, expected) in rows {
            let bootstrap = load(&format!("node: {{name: a}}\nrules: [r]\n{line}"), flag(value)).expect(line);
            assert_eq!(bootstrap.node.interception, expected, "{line:?} {value:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            ("rules: [r]\n", "node.name"),
            ("node: {name: a}\n", "control_plane.address"),
            ("node: {name: a}\nrules: [r]\ncontrol_plane: {address: 'http://127.0.0.1:1'}\n", "not from both"),
            ("node: {name: a}\ncontrol_plane: {address: 'http://10.0.0.1:1'}\n", "loopback"),
            ("node: {name: a}\nrules: [r]\nworkers: many\n", "workers"),
            ("node: {name: a}\nrules: [r]\ndrain: soon\n", "drain"),
            ("node: {name: a}\nrules: [r]\nmetrics_dialect: latin\n", "metrics_dialect"),
            ("node: {name: a}\nrules: [r]\ninterception: magic\n", "neither `none` nor `redirect`"),
            ("node: {name: a}\nrules: [r]\ninterception: tproxy\n", "neither `none` nor `redirect`"),
            ("node: {name: a}\nrules: [r]\nadmn: 1\n", "admn"),
            ("node: {name: a}\nrules: [r]\nlimits: {x: '1'}\n", "unknown field"),
        ];
        for (yaml, expected) in rows {
            let error = load(yaml, Flags::default()).expect_err(yaml);
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }
}
