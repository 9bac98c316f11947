//! The names that injection reads, ours and Istio's, and what is said about names that nobody reads.

use std::collections::BTreeMap;

/// Opt in or out, on a pod or a namespace, as label or annotation.
pub(crate) const INJECT: &str = "leno.mesh/inject";
/// What was injected (JSON); written, never read as a wish.
pub(crate) const STATUS: &str = "leno.mesh/status";
/// Istio's opt-in of a pod.
pub(crate) const ISTIO_INJECT: &str = "sidecar.istio.io/inject";
/// Istio's opt-in of a namespace.
pub(crate) const ISTIO_NAMESPACE: &str = "istio-injection";
/// Istio's choice of a control plane.
pub(crate) const ISTIO_REVISION: &str = "istio.io/rev";
/// Istio's YAML of a proxy's settings.
pub(crate) const ISTIO_CONFIG: &str = "proxy.istio.io/config";
/// The prefix of all our names.
const OURS: &str = "leno.mesh/";
/// The prefixes of Istio's names that are about sidecars.
const ISTIOS: [&str; 7] = [
    "sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
    "proxy.istio.io/",
    "prometheus.istio.io/",
    "status.sidecar.istio.io/",
    "readiness.status.sidecar.istio.io/",
    "inject.istio.io/",
];

/// Something that an annotation of a pod decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knob {
    Image,
    Cpu,
    CpuLimit,
    Memory,
    MemoryLimit,
    LogLevel,
    RewriteProbes,
    MergeMetrics,
    HoldApplication,
    NativeSidecar,
    Interception,
    IncludeInboundPorts,
    ExcludeInboundPorts,
    IncludeOutboundPorts,
    ExcludeOutboundPorts,
    IncludeOutboundRanges,
    ExcludeOutboundRanges,
    Workers,
    Drain,
    Volumes,
    VolumeMounts,
}

/// Each with our name, which wins, and Istio's, where Istio has one.
pub(super) const KNOBS: [(Knob, &str, Option<&str>); 21] = [
    (Knob::Image, "leno.mesh/proxy-image", Some("sidecar.istio.io/proxyImage")),
    (Knob::Cpu, "leno.mesh/proxy-cpu", Some("sidecar.istio.io/proxyCPU")),
    (Knob::CpuLimit, "leno.mesh/proxy-cpu-limit", Some("sidecar.istio.io/proxyCPULimit")),
    (Knob::Memory, "leno.mesh/proxy-memory", Some("sidecar.istio.io/proxyMemory")),
    (Knob::MemoryLimit, "leno.mesh/proxy-memory-limit", Some("sidecar.istio.io/proxyMemoryLimit")),
    (Knob::LogLevel, "leno.mesh/log-level", Some("sidecar.istio.io/logLevel")),
    (Knob::RewriteProbes, "leno.mesh/rewrite-probes", Some("sidecar.istio.io/rewriteAppHTTPProbers")),
    (Knob::MergeMetrics, "leno.mesh/merge-metrics", Some("prometheus.istio.io/merge-metrics")),
    (Knob::HoldApplication, "leno.mesh/hold-application", None),
    (Knob::NativeSidecar, "leno.mesh/native-sidecar", Some("sidecar.istio.io/nativeSidecar")),
    (Knob::Interception, "leno.mesh/interception", Some("sidecar.istio.io/interceptionMode")),
    (
        Knob::IncludeInboundPorts,
        "leno.mesh/include-inbound-ports",
        Some("traffic.sidecar.istio.io/includeInboundPorts"),
    ),
    (
        Knob::ExcludeInboundPorts,
        "leno.mesh/exclude-inbound-ports",
        Some("traffic.sidecar.istio.io/excludeInboundPorts"),
    ),
    (
        Knob::IncludeOutboundPorts,
        "leno.mesh/include-outbound-ports",
        Some("traffic.sidecar.istio.io/includeOutboundPorts"),
    ),
    (
        Knob::ExcludeOutboundPorts,
        "leno.mesh/exclude-outbound-ports",
        Some("traffic.sidecar.istio.io/excludeOutboundPorts"),
    ),
    (
        Knob::IncludeOutboundRanges,
        "leno.mesh/include-outbound-ip-ranges",
        Some("traffic.sidecar.istio.io/includeOutboundIPRanges"),
    ),
    (
        Knob::ExcludeOutboundRanges,
        "leno.mesh/exclude-outbound-ip-ranges",
        Some("traffic.sidecar.istio.io/excludeOutboundIPRanges"),
    ),
    (Knob::Workers, "leno.mesh/workers", None),
    (Knob::Drain, "leno.mesh/drain", None),
    (Knob::Volumes, "leno.mesh/volumes", Some("sidecar.istio.io/userVolume")),
    (Knob::VolumeMounts, "leno.mesh/volume-mounts", Some("sidecar.istio.io/userVolumeMount")),
];

/// What Istio reads and this injector does not: said once per pod, so that nobody relies on it.
const NOT_HONOURED: [&str; 18] = [
    "sidecar.istio.io/agentLogLevel",
    "sidecar.istio.io/bootstrapOverride",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/discoveryAddress",
    "sidecar.istio.io/enableCoreDump",
    "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/proxyImageType",
    "sidecar.istio.io/statsCompression",
    "sidecar.istio.io/statsHistogramBuckets",
    "sidecar.istio.io/statsInclusionPrefixes",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "status.sidecar.istio.io/port",
    "readiness.status.sidecar.istio.io/applicationPorts",
    "readiness.status.sidecar.istio.io/failureThreshold",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "inject.istio.io/templates",
];

/// How alike two names are before one is taken for a slip of the pen (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.88;

/// Whether injection looks at this label or annotation.
pub(super) fn is_read(key: &str) -> bool {
    let others = [ISTIO_NAMESPACE, ISTIO_REVISION];
    key.starts_with(OURS)
        || key.starts_with("prometheus.io/")
        || others.contains(&key)
        || ISTIOS.iter().any(|prefix| key.starts_with(prefix))
}

/// One sentence for each name that looks as if it were for the injector and is not: a slip of the pen, or something of
/// Istio's that Leno does not do.
pub(super) fn unknown<'a>(keys: impl Iterator<Item = &'a String>, what: &str) -> Vec<String> {
    keys.filter_map(|key| {
        if known().any(|known| known == key) {
            return None;
        }
        if NOT_HONOURED.contains(&key.as_str()) {
            return Some(format!("the pod's {what} `{key}` is not honoured: this sidecar has nothing of the kind"));
        }
        let looks_meant = key.starts_with(OURS) || ISTIOS.iter().any(|prefix| key.starts_with(prefix));
        let meant = nearest(key);
        match (looks_meant, meant) {
            (_, Some(meant)) => {
                Some(format!("the pod's {what} `{key}` is unknown and does nothing; did you mean `{meant}`?"))
            }
            (true, None) => Some(format!("the pod's {what} `{key}` is unknown and does nothing")),
            (false, None) => None,
        }
    })
    .collect()
}

/// Annotations whose value a knob is read from, by name.
pub(super) fn value(annotations: &BTreeMap<String, String>, knob: Knob) -> Option<(&'static str, &str)> {
    let (_, own, istio) = KNOBS.iter().find(|(known, _, _)| *known == knob)?;
    [Some(*own), *istio]
        .into_iter()
        .flatten()
        .find_map(|name| annotations.get(name).map(|value| (name, value.as_str())))
}

fn known() -> impl Iterator<Item = &'static str> {
    let fixed = [INJECT, STATUS, ISTIO_INJECT, ISTIO_CONFIG, "sidecar.istio.io/status"];
    fixed.into_iter().chain(KNOBS.iter().flat_map(|(_, own, istio)| [Some(*own), *istio].into_iter().flatten()))
}

/// The known name that was meant, among those of the same or a similar prefix.
fn nearest(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/')?;
    let scored = known().chain(NOT_HONOURED).filter_map(|known| {
        let (known_prefix, known_name) = known.split_once('/')?;
        let prefixes = strsim::jaro_winkler(prefix, known_prefix);
        let names = strsim::jaro_winkler(&name.to_ascii_lowercase(), &known_name.to_ascii_lowercase());
        // A foreign prefix is somebody else's, however alike the names are.
        (prefixes > 0.95 && names > ALIKE).then_some((known, prefixes + names))
    });
    scored.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(known, _)| known)
}
