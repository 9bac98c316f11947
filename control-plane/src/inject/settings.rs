//! What an operator decides about injection, once for a mesh.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::others::Others;

/// What an operator decides about injection. Every field has a default; annotations of a pod override what is about pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Image of the sidecar; its program is `leno-proxy`, found by `PATH`. Nothing else need be in it.
    pub(crate) image: String,
    /// Image of the set-up container: the same program, beside `nft` or `iptables`, which it calls.
    pub(crate) init_image: String,
    /// `imagePullPolicy` of both; `None`: Kubernetes' default.
    pub(crate) image_pull_policy: Option<String>,
    /// How the sidecar runs beside the app.
    pub(crate) sidecar: Sidecar,
    /// What it means where neither the pod nor its namespace says anything.
    pub(crate) default: Default,
    /// Who answers to `istio-injection` and `sidecar.istio.io/inject`.
    pub(crate) istio_names: IstioNames,
    /// Other meshes' injectors in the cluster, as it says itself; nobody writes it down.
    #[serde(skip)]
    pub(crate) others: Others,
    /// What `istio.io/rev` has to be to mean this control plane.
    pub(crate) revision: String,
    /// Namespace of the control plane, which is never injected.
    pub(crate) own_namespace: String,
    /// Further namespaces that are never injected.
    pub(crate) ignored_namespaces: BTreeSet<String>,
    /// Where the control plane is, as the sidecar's `LENO_CONTROL_PLANE_ADDRESS`.
    pub(crate) control_plane: String,
    /// ConfigMap with the root certificates under `root-cert.pem`, in every injected namespace.
    pub(crate) root_config_map: String,
    /// Audience of the sidecar's token.
    pub(crate) token_audience: String,
    /// Seconds for which a token holds, at least 600 (Kubernetes' own minimum); the kubelet renews it at 80 %.
    pub(crate) token_seconds: u32,
    /// CPU and memory of the sidecar.
    pub(crate) resources: Resources,
    /// What the sidecar logs, as `LENO_LOG`.
    pub(crate) log_level: String,
    /// Whether probes go through the proxy, so that they work where only mTLS is let in.
    pub(crate) rewrite_probes: bool,
    /// Whether one scrape of 15020 gets the app's metrics and the proxy's.
    pub(crate) merge_metrics: bool,
    /// Whether the app starts only when the sidecar is ready. Native sidecars always do it this way.
    pub(crate) hold_application: bool,
}

/// How the sidecar runs beside the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sidecar {
    /// As an init container with `restartPolicy: Always` (Kubernetes 1.29): ready before the app's init containers start,
    /// stopped after the app, and a Job ends without asking it
    Native,
    /// As a container like the app's, the first one: for older clusters
    Container,
}

/// What it means where neither the pod nor its namespace says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Default {
    /// A sidecar, as `istioctl kube-inject` does: who pipes a file through `leno inject` wants one.
    Inject,
    /// None: opt-in, as in a cluster.
    Skip,
}

/// Who answers to Istio's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IstioNames {
    /// This injector: there is no other.
    Ours,
    /// Istio's own injector, which is in the cluster as well: what asks for it is refused here.
    Istios,
}

/// Amounts as Kubernetes writes them; `None`: not said.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Resources {
    /// `requests.cpu`.
    pub(crate) cpu: Option<String>,
    /// `requests.memory`.
    pub(crate) memory: Option<String>,
    /// `limits.cpu`.
    pub(crate) cpu_limit: Option<String>,
    /// `limits.memory`.
    pub(crate) memory_limit: Option<String>,
}

impl std::default::Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("leno-proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            init_image: concat!("leno-init:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: None,
            sidecar: Sidecar::Native,
            default: Default::Skip,
            istio_names: IstioNames::Ours,
            others: Others::default(),
            revision: "default".to_owned(),
            own_namespace: "leno-system".to_owned(),
            ignored_namespaces: ["kube-system", "kube-public", "kube-node-lease"].map(str::to_owned).into(),
            control_plane: "https://leno.leno-system.svc:15012".to_owned(),
            root_config_map: "leno-ca-root-cert".to_owned(),
            token_audience: "istio-ca".to_owned(),
            token_seconds: 43_200,
            resources: Resources::default(),
            log_level: "info".to_owned(),
            rewrite_probes: true,
            merge_metrics: true,
            hold_application: true,
        }
    }
}

/// Istio's limits, so that nothing that ran before is throttled or killed; a sidecar of ours asks for less memory.
impl std::default::Default for Resources {
    fn default() -> Self {
        Self {
            cpu: Some("100m".to_owned()),
            memory: Some("64Mi".to_owned()),
            cpu_limit: Some("2".to_owned()),
            memory_limit: Some("1Gi".to_owned()),
        }
    }
}
