//! What a pod's annotations decide about its sidecar, checked.
//!
//! For each matter our own name counts more than Istio's, an annotation of its own more than a key of
//! `proxy.istio.io/config`, and that more than what the operator decided. All values that mean nothing are told at once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::marks::{Mark, Marks, Place};
use super::names::{self, ISTIO_CONFIG, Knob};
use super::problem::Problem;
use super::settings::{Resources, Settings, Sidecar};

/// What holds for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Knobs {
    pub(super) image: String,
    pub(super) resources: Resources,
    /// As `LENO_LOG`.
    pub(super) log: String,
    pub(super) rewrite_probes: bool,
    pub(super) merge_metrics: bool,
    /// Whether the app waits for the sidecar; only asked where the sidecar is a plain container.
    pub(super) hold_application: bool,
    pub(super) sidecar: Sidecar,
    /// `None`: nothing is redirected, the app calls the proxy itself.
    pub(super) capture: Option<Capture>,
    /// As `LENO_WORKERS`; `None`: as many as the container may use CPUs.
    pub(super) workers: Option<u32>,
    /// As `LENO_DRAIN`; `None`: the proxy's default.
    pub(super) drain: Option<String>,
    /// Volumes for the sidecar alone, beside ours.
    pub(super) volumes: Vec<Value>,
    /// Where the sidecar has them, or others of the pod.
    pub(super) volume_mounts: Vec<Value>,
}

/// Which traffic is redirected; lists as the flags of `leno-proxy redirect` take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capture {
    pub(super) include_inbound_ports: String,
    pub(super) exclude_inbound_ports: String,
    pub(super) include_outbound_ports: String,
    pub(super) exclude_outbound_ports: String,
    pub(super) include_outbound_ranges: String,
    pub(super) exclude_outbound_ranges: String,
}

/// Ports of the sidecar itself that nothing redirects: merged metrics, readiness, its own metrics.
const OWN_PORTS: &str = "15020,15021,15090";

/// Reads annotations one after the other, and keeps what is wrong with them.
struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
    warnings: &'a mut Vec<String>,
}

impl Knobs {
    /// What the annotations in `marks` make of `settings`. What deserves a word but hinders nothing goes to `warnings`.
    pub(super) fn read(marks: &Marks, settings: &Settings, warnings: &mut Vec<String>) -> Result<Self, Vec<Problem>> {
        warnings.extend(names::unknown(marks.annotations.keys(), "annotation"));
        warnings.extend(names::unknown(marks.labels.keys(), "label"));
        let mut reader = Reader { annotations: &marks.annotations, problems: Vec::new(), warnings };
        let config = reader.config();
        let knobs = Self {
            image: reader.image().unwrap_or_else(|| settings.image.clone()),
            resources: reader.resources(&settings.resources),
            log: reader.read(Knob::LogLevel, level).unwrap_or_else(|| settings.log_level.clone()),
            rewrite_probes: reader.read(Knob::RewriteProbes, truth).unwrap_or(settings.rewrite_probes),
            merge_metrics: reader.read(Knob::MergeMetrics, truth).unwrap_or(settings.merge_metrics),
            hold_application: reader
                .read(Knob::HoldApplication, truth)
                .or(config.hold_application)
                .unwrap_or(settings.hold_application),
            sidecar: reader.read(Knob::NativeSidecar, truth).map_or(settings.sidecar, |native| match native {
                true => Sidecar::Native,
                false => Sidecar::Container,
            }),
            capture: reader.capture(),
            workers: reader.read(Knob::Workers, workers).or(config.workers).filter(|workers| *workers > 0),
            drain: reader.read(Knob::Drain, duration).or(config.drain),
            volumes: reader.read(Knob::Volumes, volumes).unwrap_or_default(),
            volume_mounts: reader.read(Knob::VolumeMounts, volume_mounts).unwrap_or_default(),
        };
        match reader.problems.is_empty() {
            true => Ok(knobs),
            false => Err(reader.problems),
        }
    }
}

impl Reader<'_> {
    /// What `parse` makes of a knob's annotation; `None` where there is none, or one that is wrong.
    fn read<T>(&mut self, knob: Knob, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let (name, value) = names::value(self.annotations, knob)?;
        match parse(value.trim()) {
            Ok(read) => Some(read),
            Err(reason) => {
                self.wrong(name, value, &reason);
                None
            }
        }
    }

    fn wrong(&mut self, name: &str, value: &str, reason: &str) {
        let mark = Mark { place: Place::PodAnnotation, key: name.to_owned(), value: value.to_owned() };
        self.problems.push(Problem::value(&mark, reason));
    }

    /// Istio's own image is not used: pods that came from Istio name it, and it is another program.
    fn image(&mut self) -> Option<String> {
        let image = self.read(Knob::Image, image)?;
        let name = image.rsplit('/').next().unwrap_or(&image);
        if name.starts_with("proxyv2") {
            let told = format!("the pod's annotation asks for `{image}`, which is Istio's proxy; it gets Leno's");
            self.warnings.push(told);
            return None;
        }
        Some(image)
    }

    /// As Istio does it: where a pod says anything about its sidecar's CPU or memory, only that holds. A request above the
    /// operator's limit would make a pod that Kubernetes refuses.
    fn resources(&mut self, defaults: &Resources) -> Resources {
        let said = Resources {
            cpu: self.read(Knob::Cpu, quantity),
            memory: self.read(Knob::Memory, quantity),
            cpu_limit: self.read(Knob::CpuLimit, quantity),
            memory_limit: self.read(Knob::MemoryLimit, quantity),
        };
        let silent = Resources { cpu: None, memory: None, cpu_limit: None, memory_limit: None };
        if said == silent { defaults.clone() } else { said }
    }

    fn capture(&mut self) -> Option<Capture> {
        let redirects = self.read(Knob::Interception, interception).unwrap_or(true);
        let excluded = self.read(Knob::ExcludeInboundPorts, ports).filter(|ports| !ports.is_empty());
        let every = || "*".to_owned();
        let capture = Capture {
            include_inbound_ports: self.read(Knob::IncludeInboundPorts, ports_or_all).unwrap_or_else(every),
            exclude_inbound_ports: excluded.map_or(OWN_PORTS.to_owned(), |ports| format!("{OWN_PORTS},{ports}")),
            include_outbound_ports: self.read(Knob::IncludeOutboundPorts, ports).unwrap_or_default(),
            exclude_outbound_ports: self.read(Knob::ExcludeOutboundPorts, ports).unwrap_or_default(),
            include_outbound_ranges: self.read(Knob::IncludeOutboundRanges, ranges_or_all).unwrap_or_else(every),
            exclude_outbound_ranges: self.read(Knob::ExcludeOutboundRanges, ranges).unwrap_or_default(),
        };
        redirects.then_some(capture)
    }

    /// `proxy.istio.io/config`: what a sidecar of ours can do of it.
    fn config(&mut self) -> Config {
        let Some(text) = self.annotations.get(ISTIO_CONFIG).cloned() else { return Config::default() };
        let read = serde_yaml::from_str::<Value>(&text).map_err(|error| error.to_string());
        let entries = match read {
            Ok(Value::Object(entries)) => entries,
            Ok(Value::Null) => return Config::default(),
            Ok(_) => {
                self.wrong(ISTIO_CONFIG, &text, "is not a mapping such as `concurrency: 2`");
                return Config::default();
            }
            Err(error) => {
                self.wrong(ISTIO_CONFIG, &text, &format!("is not YAML: {error}"));
                return Config::default();
            }
        };
        let mut config = Config::default();
        for (key, value) in &entries {
            if let Err(reason) = config.take(key, value, self.warnings) {
                self.wrong(ISTIO_CONFIG, &text, &format!("is not valid: `{key}` {reason}"));
            }
        }
        config
    }
}

/// Of Istio's `ProxyConfig`.
#[derive(Debug, Default)]
struct Config {
    hold_application: Option<bool>,
    workers: Option<u32>,
    drain: Option<String>,
}

impl Config {
    fn take(&mut self, key: &str, value: &Value, warnings: &mut Vec<String>) -> Result<(), String> {
        match key {
            "holdApplicationUntilProxyStarts" => {
                self.hold_application = Some(value.as_bool().ok_or("is neither true nor false")?);
            }
            "concurrency" => {
                let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|count| *count <= 256);
                self.workers = Some(count.ok_or("is not a number from 0 to 256")?);
            }
            "terminationDrainDuration" => {
                self.drain = Some(duration(value.as_str().ok_or("is not a duration such as 30s")?)?);
            }
            other => warnings.push(format!(
                "`{other}` in the pod's annotation `{ISTIO_CONFIG}` is not honoured; `concurrency`, `holdApplicationUntilProxyStarts` and `terminationDrainDuration` are"
            )),
        }
        Ok(())
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err("is neither `true` nor `false`".to_owned()),
    }
}

/// A JSON object of volumes by their names, as Istio takes it: `{"web": {"secret": {"secretName": "web"}}}`.
fn volumes(text: &str) -> Result<Vec<Value>, String> {
    by_name(text, "no volume is without a source, as in {\"web\": {\"secret\": {\"secretName\": \"web\"}}}", |volume| {
        volume.values().any(Value::is_object)
    })
}

/// The same for mounts: `{"web": {"mountPath": "/etc/leno/credentials/web", "readOnly": true}}`.
fn volume_mounts(text: &str) -> Result<Vec<Value>, String> {
    by_name(text, "each mount needs an absolute `mountPath`", |mount| {
        mount.get("mountPath").and_then(Value::as_str).is_some_and(|path| path.starts_with('/'))
    })
}

/// The entries of an object, each with its key as `name`.
fn by_name(text: &str, wanted: &str, is_whole: fn(&Map<String, Value>) -> bool) -> Result<Vec<Value>, String> {
    let not_an_object = || "is not a JSON object by names of volumes".to_owned();
    let entries = serde_json::from_str::<Map<String, Value>>(text).map_err(|_| not_an_object())?;
    let entry = |(name, entry): (String, Value)| match entry {
        Value::Object(mut entry) if is_whole(&entry) => {
            entry.insert("name".to_owned(), name.into());
            Ok(Value::Object(entry))
        }
        _ => Err(format!("is not whole: {wanted}")),
    };
    entries.into_iter().map(entry).collect()
}

fn image(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    is_plain.then(|| text.to_owned()).ok_or_else(|| "is not the name of an image".to_owned())
}

/// Istio's words for levels, and ours; a level or levels by module as `LENO_LOG` takes them.
fn level(text: &str) -> Result<String, String> {
    match text {
        "trace" | "debug" | "info" | "warn" | "error" | "off" => Ok(text.to_owned()),
        "warning" => Ok("warn".to_owned()),
        "critical" => Ok("error".to_owned()),
        _ => Err("is not a level; levels are trace, debug, info, warn, error and off".to_owned()),
    }
}

/// `2`, `0.5`, `100m`, `64Mi`, `1e3`: Kubernetes' quantities that are not negative.
fn quantity(text: &str) -> Result<String, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let units = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let exponent = unit.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i8>().is_ok());
    let is_amount = amount.parse::<f64>().is_ok() && amount.starts_with(|letter: char| letter.is_ascii_digit());
    match is_amount && (units.contains(&unit) || exponent) {
        true => Ok(text.to_owned()),
        false => Err("is not an amount as Kubernetes writes it, such as 100m or 128Mi".to_owned()),
    }
}

fn interception(text: &str) -> Result<bool, String> {
    match text.to_ascii_uppercase().as_str() {
        "REDIRECT" => Ok(true),
        "NONE" => Ok(false),
        "TPROXY" => Err("is not supported; REDIRECT and NONE are".to_owned()),
        _ => Err("is neither REDIRECT nor NONE".to_owned()),
    }
}

/// Ports behind commas, without spaces; nothing is an empty list.
fn ports(text: &str) -> Result<String, String> {
    list(text, |port| port.parse::<u16>().is_ok_and(|port| port > 0), "is not a port from 1 to 65535")
}

fn ports_or_all(text: &str) -> Result<String, String> {
    if text == "*" { Ok(text.to_owned()) } else { ports(text) }
}

fn ranges(text: &str) -> Result<String, String> {
    list(text, is_range, "is not a range of addresses such as 10.0.0.0/8")
}

fn ranges_or_all(text: &str) -> Result<String, String> {
    if text == "*" { Ok(text.to_owned()) } else { ranges(text) }
}

fn list(text: &str, is_right: fn(&str) -> bool, what: &str) -> Result<String, String> {
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    match entries.iter().find(|entry| !is_right(entry)) {
        Some(wrong) => Err(format!("is not a list behind commas: `{wrong}` {what}")),
        None => Ok(entries.join(",")),
    }
}

/// An address, or an address and the length of its prefix.
fn is_range(text: &str) -> bool {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= most))
}

fn workers(text: &str) -> Result<u32, String> {
    let count = text.parse::<u32>().ok().filter(|count| *count <= 256);
    count.ok_or_else(|| "is not a number of threads from 1 to 256, or 0 for as many as there are CPUs".to_owned())
}

/// What `LENO_DRAIN` takes.
fn duration(text: &str) -> Result<String, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    match amount.parse::<u32>().is_ok() && ["ms", "s", "m", "h"].contains(&unit) {
        true => Ok(text.to_owned()),
        false => Err("is not a duration such as 30s or 500ms".to_owned()),
    }
}
