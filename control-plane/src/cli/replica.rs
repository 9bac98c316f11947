//! The flags of `leno serve --kubernetes` that are about being one of several control planes.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_yaml::{Mapping, Value};

use crate::inject::Settings;
use crate::kubernetes::replica::Identity;

/// Flags about replicas and webhooks.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReplicaArguments {
    /// Namespace of the control plane in the cluster, where its Lease and its Secrets are
    #[arg(long, value_name = "NAME", default_value = "leno-system", env = "LENO_NAMESPACE")]
    namespace: String,
    /// Name of this replica, as the Lease says who leads: the pod's (default: the host name)
    #[arg(long, value_name = "NAME", env = "LENO_POD_NAME")]
    pod_name: Option<String>,
    /// Where the API server calls the webhooks, with TLS (port 0: a free one)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15017", env = "LENO_WEBHOOK_ADDRESS")]
    pub(super) webhook_address: SocketAddr,
    /// What is injected into pods (YAML); what the file leaves out is as usual
    #[arg(long, value_name = "FILE", env = "LENO_INJECTION")]
    injection: Option<PathBuf>,
}

impl ReplicaArguments {
    /// Who this replica is.
    pub(super) fn identity(&self) -> Identity {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Identity { namespace: self.namespace.clone(), pod: self.pod_name.clone().unwrap_or_else(host) }
    }

    /// What an operator decides about injection.
    pub(super) fn injection(&self) -> anyhow::Result<Settings> {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read `{}` of --injection", path.display()))?;
            serde_yaml::from_str(&text)
                .with_context(|| format!("`{}` of --injection is no YAML mapping", path.display()))
        };
        let mut said: Mapping = self.injection.as_ref().map(read).transpose()?.unwrap_or_default();
        // What follows from where this control plane is.
        for (key, value) in [
            ("ownNamespace", self.namespace.clone()),
            ("controlPlane", format!("https://leno.{}.svc:15012", self.namespace)),
        ] {
            said.entry(key.into()).or_insert_with(|| value.into());
        }
        serde_yaml::from_value(Value::Mapping(said)).context("--injection cannot be used")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: ReplicaArguments,
    }

    #[test]
    fn injection_is_as_usual_but_for_what_the_file_says_and_where_the_control_plane_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("injection.yaml");
        let settings = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let line = ["serve", "--namespace", "mesh", "--injection", path.to_str().unwrap()];
            Line::try_parse_from(line).unwrap().arguments.injection()
        };
        let usual = Line::try_parse_from(["serve"]).unwrap().arguments.injection().unwrap();
        assert_eq!(usual, Settings::default());
        let said = settings("image: registry/leno-proxy:1\n").unwrap();
        assert_eq!((said.image.as_str(), said.own_namespace.as_str()), ("registry/leno-proxy:1", "mesh"));
        assert_eq!(said.control_plane, "https://leno.mesh.svc:15012");
        assert_eq!(settings("controlPlane: https://other:1\n").unwrap().control_plane, "https://other:1");
        for bad in ["imag: x\n", "- a\n", "{"] {
            assert!(settings(bad).is_err(), "{bad}");
        }
    }
}
