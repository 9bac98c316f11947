//! Roots that all control planes share, each in a Secret of the control plane's namespace.
//!
//! | Secret | what | changed by |
//! |---|---|---|
//! | `leno-ca` | the mesh's root ([`CA`]) | `leno ca rotate` |
//! | `leno-webhook` | whom the API server believes when it calls webhooks ([`WEBHOOK`]) | the leader, in time |
//!
//! The first leader creates them, everybody reads them and follows their changes, and only the leader changes them: over
//! the version that it has read, so that a leader of a moment ago changes nothing. A Secret that somebody else made
//! (`kubectl create secret generic leno-ca --from-file=tls.crt --from-file=tls.key`, cert-manager) is used as it is, and
//! is not ours to change. Ours is the one with the label `app.kubernetes.io/managed-by: leno`.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tracing::{debug, info, warn};

use super::client::{CallError, FIELD_MANAGER, answer};
use super::leader::Leadership;
use crate::ca::issuer::{IssuerError, ROOT_LIFE};
use crate::ca::kept::{Kept, KeptError, Names, Shared, SharedError};

/// What a Secret with roots is called, and what is in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    names: Names,
    /// In the name of the certificate, for people.
    pub(crate) purpose: &'static str,
    /// How long a root is good.
    pub(crate) life: Duration,
}

/// The mesh's root.
pub(crate) const CA: Kind = Kind {
    name: "leno-ca",
    names: Names { certificate: "tls.crt", key: "tls.key", bundle: "root-cert.pem" },
    purpose: "root",
    life: ROOT_LIFE,
};

/// The root of the webhooks' certificates. A year, because it is replaced by itself.
pub(crate) const WEBHOOK: Kind = Kind {
    name: "leno-webhook",
    names: Names { certificate: "ca.crt", key: "ca.key", bundle: "ca-bundle.crt" },
    purpose: "webhooks",
    life: Duration::from_secs(365 * 24 * 60 * 60),
};

/// Says whose an object is (Kubernetes' recommended labels).
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "leno");

/// Between two looks for a Secret that is not there yet, or cannot be had.
const LOOK: Duration = Duration::from_secs(1);

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// What is in it.
    #[error(
        "the Secret `{name}` cannot be used: {reason}; repair it, or remove it while no control plane runs to begin with new roots"
    )]
    Unusable { name: &'static str, reason: KeptError },
    /// The library.
    #[error("no root could be made for the Secret `{name}`: {reason}")]
    Make { name: &'static str, reason: IssuerError },
    /// The API server.
    #[error("the Secret `{name}` cannot be had: {reason}")]
    Call { name: &'static str, reason: CallError },
}

/// One Secret with roots. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RootSecret {
    kind: Kind,
    api: Api<Secret>,
    leadership: Leadership,
    runtime: Handle,
}

impl RootSecret {
    /// In the control plane's namespace. Belongs to the runtime that this is called in.
    pub(crate) fn new(kind: Kind, client: Client, namespace: &str, leadership: Leadership) -> Self {
        Self { kind, api: Api::namespaced(client, namespace), leadership, runtime: Handle::current() }
    }

    /// The roots, as soon as there are any: the first leader makes them. An API server that does not answer is waited
    /// for, roots that cannot be used are not.
    pub(crate) async fn open(&self) -> Result<Kept, SecretError> {
        let name = self.kind.name;
        let mut leads = self.leadership.is_leader();
        let mut has_complained = false;
        loop {
            match self.look_or_create().await {
                Ok(Some(kept)) => return Ok(kept),
                Ok(None) => debug!("waiting for a leader to make the Secret `{name}`"),
                Err(error @ SecretError::Call { .. }) if !has_complained => {
                    has_complained = true;
                    warn!("{error}; this control plane serves nobody until it can");
                }
                Err(error @ SecretError::Call { .. }) => debug!("{error}"),
                Err(error @ (SecretError::Unusable { .. } | SecretError::Make { .. })) => return Err(error),
            }
            let _ = timeout(LOOK, leads.changed()).await;
        }
    }

    async fn look_or_create(&self) -> Result<Option<Kept>, SecretError> {
        let name = self.kind.name;
        let call = |reason| SecretError::Call { name, reason };
        if let Some(secret) = answer(self.api.get_opt(name)).await.map_err(call)? {
            return self.read(&secret).map(Some);
        }
        if !self.leadership.leads() {
            return Ok(None);
        }
        let made = Kept::create(self.kind.purpose, self.kind.life, SystemTime::now());
        let made = made.map_err(|reason| SecretError::Make { name, reason })?;
        let secret = self.written(Secret::default(), &made);
        match answer(self.api.create(&parameters(), &secret)).await {
            Ok(_) => {
                info!("made a root and put it into the Secret `{name}`");
                Ok(Some(made))
            }
            // Somebody was faster; the next look finds it.
            Err(error) if error.status() == Some(409) => Ok(None),
            Err(error) => Err(call(error)),
        }
    }

    /// The roots whenever they change. What cannot be used is logged, and passed over.
    pub(crate) fn changes(&self) -> impl Stream<Item = Kept> + Send + use<> {
        let own = self.clone();
        watch_object(self.api.clone(), self.kind.name).default_backoff().filter_map(move |change| match change {
            Ok(Some(secret)) => own.read(&secret).inspect_err(|error| warn!("{error}; the present roots stay")).ok(),
            Ok(None) => {
                warn!(
                    "the Secret `{}` is gone; the present roots stay in force as long as a control plane runs, and one \
                     that starts now makes new ones that no proxy knows: put it back from a backup",
                    own.kind.name
                );
                None
            }
            Err(error) => {
                debug!("the Secret `{}` cannot be watched: {error}", own.kind.name);
                None
            }
        })
    }

    /// Puts `after` in the place of `before`, if this control plane leads and `before` is still there.
    pub(crate) async fn replace(&self, before: &Kept, after: &Kept) -> Result<(), SharedError> {
        let name = self.kind.name;
        let write = |reason: String| SharedError::Write { place: format!("the Secret `{name}`"), reason };
        let call = |error: CallError| match error.status() {
            Some(409) => SharedError::Conflict,
            Some(_) | None => write(error.to_string()),
        };
        let mut leads = self.leadership.is_leader();
        if !*leads.borrow_and_update() {
            return Err(SharedError::NotLeader(self.leadership.leader()));
        }
        let work = async {
            let present = answer(self.api.get(name)).await.map_err(call)?;
            let is_as_before = self.read(&present).is_ok_and(|kept| kept == *before);
            if !is_as_before {
                return Err(SharedError::Conflict);
            }
            let secret = self.written(present, after);
            answer(self.api.replace(name, &parameters(), &secret)).await.map_err(call).map(drop)
        };
        tokio::select! {
            written = work => written,
            _ = leads.wait_for(|leads| !*leads) => Err(SharedError::NotLeader(self.leadership.leader())),
        }
    }

    fn read(&self, secret: &Secret) -> Result<Kept, SecretError> {
        let labels = secret.metadata.labels.as_ref();
        let is_ours = labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1);
        let entry = |name: &str| secret.data.as_ref()?.get(name).map(|bytes| bytes.0.clone());
        Kept::read(self.kind.names, entry, !is_ours)
            .map_err(|reason| SecretError::Unusable { name: self.kind.name, reason })
    }

    /// The Secret with these roots, over the version that it is made of.
    fn written(&self, over: Secret, kept: &Kept) -> Secret {
        let entries = kept.entries(self.kind.names).into_iter();
        let mut labels = over.metadata.labels.unwrap_or_default();
        labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        Secret {
            metadata: ObjectMeta {
                name: Some(self.kind.name.to_owned()),
                labels: Some(labels),
                managed_fields: None,
                ..over.metadata
            },
            data: Some(entries.map(|(name, bytes)| (name.to_owned(), ByteString(bytes))).collect()),
            ..over
        }
    }
}

/// For a thread that may wait.
impl Shared for RootSecret {
    fn replace(&self, before: &Kept, after: &Kept) -> Result<(), SharedError> {
        self.runtime.block_on(RootSecret::replace(self, before, after))
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
