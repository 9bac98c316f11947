//! How the API server is reached: by a kubeconfig file, or from inside the cluster.
//!
//! `kubectl` reads a kubeconfig first and so do we, where somebody names one (`--kubeconfig`, `--context`,
//! `KUBECONFIG`). Where nobody does, a pod's own service account goes before a file in the home directory: an image may
//! carry one by accident, and then `leno serve` in a pod would speak to another cluster.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// A single question to the API server is answered within so long, or it has failed. Watches have a deadline of their
/// own (kube-runtime's, 295 s without a word).
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// How Leno calls itself where the API server asks who owns a field.
pub(crate) const FIELD_MANAGER: &str = "leno";

/// Longer than any watch is silent, so that this only ever ends connections that are dead.
const READ_TIMEOUT: Duration = Duration::from_secs(330);

/// Which cluster is meant. Commands that talk to one have these flags, named as `kubectl` names them.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ClusterArguments {
    /// Kubeconfig file by which the cluster is reached (default: $KUBECONFIG, inside a pod its service account, else
    /// ~/.kube/config)
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use instead of its current one
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// There is no way to the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kubeconfig does not say how.
    #[error("the kubeconfig `{path}` does not lead to a cluster; `kubectl config view` shows what it says")]
    Kubeconfig {
        path: String,
        #[source]
        cause: KubeconfigError,
    },
    /// Nobody named a cluster and this is not a pod.
    #[error(
        "no cluster is known: set KUBECONFIG or --kubeconfig, or run in a pod whose service account token is mounted"
    )]
    Nowhere(#[source] Box<InferConfigError>),
    /// This is a pod without what a pod has.
    #[error("this is a pod, but its service account cannot be used; is `automountServiceAccountToken` false?")]
    InCluster(#[source] InClusterError),
    /// What the configuration names cannot be used, a certificate for example.
    #[error("the client of the API server cannot be made")]
    Client(#[source] kube::Error),
}

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The API server is not heard of.
    #[error("the API server did not answer within {} s", ANSWERS_WITHIN.as_secs())]
    Late,
    /// It says no, or the connection failed.
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

impl CallError {
    /// The HTTP status that the API server answered with; `None`: it did not.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            Self::Kube(_) | Self::Late => None,
        }
    }
}

impl ClusterArguments {
    /// Whether somebody said which cluster is meant, or this is a pod of one: then not reaching it is worth a word.
    pub(crate) fn is_given(&self) -> bool {
        let named = self.kubeconfig.is_some() || self.context.is_some();
        named || set("KUBECONFIG").is_some() || set("KUBERNETES_SERVICE_HOST").is_some()
    }

    /// A client. It connects when it is first used, so that this does not wait for the API server.
    pub(crate) async fn connect(&self) -> Result<Client, ConnectError> {
        let mut config = self.config().await?;
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        Client::try_from(config).map_err(ConnectError::Client)
    }

    async fn config(&self) -> Result<Config, ConnectError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let read = Kubeconfig::read_from(path).map_err(|cause| unusable(path, cause))?;
            return Config::from_custom_kubeconfig(read, &options).await.map_err(|cause| unusable(path, cause));
        }
        if self.context.is_some() || set("KUBECONFIG").is_some() {
            let path = set("KUBECONFIG").unwrap_or_else(|| "~/.kube/config".into());
            return Config::from_kubeconfig(&options).await.map_err(|cause| unusable(&path, cause));
        }
        if set("KUBERNETES_SERVICE_HOST").is_some() {
            return Config::incluster().map_err(ConnectError::InCluster);
        }
        Config::infer().await.map_err(|cause| ConnectError::Nowhere(Box::new(cause)))
    }
}

/// Waits for an answer, and not for ever.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(ANSWERS_WITHIN, call).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(CallError::Late),
    }
}

fn set(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn unusable(path: &Path, cause: KubeconfigError) -> ConnectError {
    ConnectError::Kubeconfig { path: path.display().to_string(), cause }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: one, cluster: {server: 'https://127.0.0.1:6443', insecure-skip-tls-verify: true}}
- {name: two, cluster: {server: 'https://127.0.0.2:6443', insecure-skip-tls-verify: true}}
contexts:
- {name: one, context: {cluster: one, user: me, namespace: shop}}
- {name: two, context: {cluster: two, user: me}}
users:
- {name: me, user: {token: secret}}
";

    fn arguments(text: &str, context: Option<&str>) -> (tempfile::TempDir, ClusterArguments) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, text).unwrap();
        let arguments = ClusterArguments { kubeconfig: Some(path), context: context.map(str::to_owned) };
        (directory, arguments)
    }

    #[tokio::test]
    async fn the_context_that_is_named_goes_before_the_current_one() {
        for (context, host) in [(None, "127.0.0.1"), (Some("two"), "127.0.0.2")] {
            let (_directory, arguments) = arguments(KUBECONFIG, context);
            assert!(arguments.is_given());
            let config = arguments.config().await.unwrap();
            assert_eq!(config.cluster_url.host(), Some(host), "{context:?}");
            arguments.connect().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_leads_nowhere_is_named_with_its_cause() {
        for (text, context) in [(KUBECONFIG, Some("three")), ("clusters: {", None)] {
            let (_directory, arguments) = arguments(text, context);
            let error = arguments.connect().await.err().unwrap();
            assert!(error.to_string().contains("/config` does not lead to a cluster"), "{error}");
            assert!(error.source().is_some());
        }
        let nowhere = ClusterArguments { kubeconfig: Some("/nowhere/config".into()), context: None };
        assert!(nowhere.connect().await.is_err());
    }
}
