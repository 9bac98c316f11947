//! One of several control planes of a cluster: what it does beside serving proxies.
//!
//! ```text
//! join ── election ──▶ leads? ──▶ the Secrets' first contents, caBundle, the webhooks' root, the root in namespaces
//!   │                                (and statuses of rules, which others write by `is_leader`)
//!   ├─▶ authority: the roots of the Secret leno-ca, as they change
//!   └─▶ webhooks: every replica answers the API server, with a certificate of its own
//! ```
//!
//! Everything here outlives an API server that does not answer: proxies are served, and certificates are renewed, from
//! what was read before.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codegen::tokio_stream::StreamExt as _;
use tracing::{error, info};

use super::counts::Counts;
use super::leader::{Candidate, Leadership};
use super::namespaces::{self, Namespaces};
use super::others;
use super::roots;
use super::secrets::{CA, RootSecret, SecretError, WEBHOOK};
use super::token_review::Reviews;
use super::webhook::bundle;
use super::webhook::certificate::{self, CertificateError, Serving};
use super::webhook::injector::injector;
use super::webhook::server::{self, Injector, Webhooks};
use crate::ca::attest::Attestor;
use crate::ca::issuer::ServerName;
use crate::ca::kept::Shared;
use crate::ca::metrics::CaMetrics;
use crate::ca::{Authority, OpenError, Settings};
use crate::inject::{self, Others};
use crate::source::kubernetes::Cluster;

/// Who a replica is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Of the control plane.
    pub(crate) namespace: String,
    /// The pod's name, or the machine's.
    pub(crate) pod: String,
}

/// Why a replica cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    /// The roots of the mesh or of the webhooks.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] OpenError),
    /// The webhooks' certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS.
    #[error("TLS cannot be set up for the webhooks: {0}")]
    Tls(#[from] rustls::Error),
}

/// See the module. Its tasks end when it is dropped; [`Replica::leave`] also gives the Lease back.
pub(crate) struct Replica {
    client: Client,
    identity: Identity,
    leadership: Leadership,
    namespaces: watch::Receiver<Namespaces>,
    with_sidecars: watch::Receiver<Arc<BTreeSet<String>>>,
    others: watch::Receiver<Others>,
    stop: watch::Sender<bool>,
    election: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl Replica {
    /// Begins to stand for election, and to follow other meshes' injectors. Namespaces and pods are watched by discovery.
    pub(crate) fn join(client: Client, identity: Identity, cluster: &Cluster, counts: Counts) -> Self {
        let (namespaces, with_sidecars) = (cluster.namespaces(), cluster.with_sidecars());
        let random = || RandomState::new().hash_one(0);
        let (candidate, leadership) = Candidate::new(client.clone(), &identity.namespace, &identity.pod, random);
        let (stop, mut stopped) = watch::channel(false);
        let (mut election, mut tasks) = (JoinSet::new(), JoinSet::new());
        election.spawn(candidate.stand(async move {
            // Whoever is gone without a word wants it stopped too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        tasks.spawn(tell(leadership.is_leader(), counts));
        let (sender, others) = watch::channel(Others::default());
        tasks.spawn(others::follow(client.clone(), sender));
        Self { client, identity, leadership, namespaces, with_sidecars, others, stop, election, tasks }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.identity.pod
    }

    /// Who leads.
    pub(crate) fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Decides about pods, as these settings and their namespaces say.
    pub(crate) fn injector(&self, settings: inject::Settings) -> Injector {
        injector(self.client.clone(), self.namespaces.clone(), self.others.clone(), settings)
    }

    /// Believes tokens of service accounts.
    pub(crate) fn reviews(&self) -> Box<dyn Attestor> {
        Box::new(Reviews::new(self.client.clone()))
    }

    /// The authority of all replicas, as soon as there are roots. An operator's files come first, as they do elsewhere:
    /// then every replica has to be given the same.
    pub(crate) async fn authority(
        &mut self,
        settings: Settings,
        metrics: CaMetrics,
    ) -> Result<Arc<Authority>, ReplicaError> {
        let authority = match settings.operator {
            Some(_) => Authority::open(settings, metrics, SystemTime::now())?,
            None => {
                let secret = self.secret(CA);
                let kept = secret.open().await?;
                let store: Box<dyn Shared> = Box::new(secret.clone());
                let authority = Authority::join(settings, (store, kept), metrics, SystemTime::now())?;
                self.tasks.spawn(follow(secret, Arc::clone(&authority)));
                authority
            }
        };
        self.distribute(&authority);
        Ok(authority)
    }

    /// While this replica leads, the roots are in all namespaces that want them.
    fn distribute(&mut self, authority: &Arc<Authority>) {
        let (client, authority) = (self.client.clone(), Arc::clone(authority));
        let (namespaces, with_sidecars) = (self.namespaces.clone(), self.with_sidecars.clone());
        self.tasks.spawn(self.leadership.clone().while_leading(move || {
            let (client, authority) = (client.clone(), Arc::clone(&authority));
            let (namespaces, with_sidecars) = (namespaces.clone(), with_sidecars.clone());
            async move {
                let wanted = watch::Sender::new(Arc::<BTreeSet<String>>::default());
                let keep = roots::keep(client, authority, wanted.subscribe());
                tokio::join!(namespaces::wanted(namespaces, with_sidecars, &wanted), keep);
            }
        }));
    }

    /// Answers the API server at this listener until [`Replica::leave`].
    pub(crate) async fn serve_webhooks(
        &mut self,
        listener: TcpListener,
        webhooks: Webhooks,
    ) -> Result<(), ReplicaError> {
        let secret = self.secret(WEBHOOK);
        let kept = secret.open().await?;
        let serving = Serving::new(self.names(), kept, SystemTime::now())?;
        let config = Arc::new(serving.config()?);
        let mut stopped = self.stop.subscribe();
        self.election.spawn(server::serve(listener, config, webhooks, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        self.tasks.spawn(Arc::clone(&serving).keep(secret.clone()));
        let client = self.client.clone();
        self.tasks.spawn(self.leadership.clone().while_leading(move || {
            let (client, secret, serving) = (client.clone(), secret.clone(), Arc::clone(&serving));
            async move {
                let distributed = watch::Sender::new(None);
                let since = distributed.subscribe();
                let keep = bundle::keep(client, Arc::clone(&serving), &distributed);
                tokio::join!(keep, certificate::rotate(&serving, &secret, since));
            }
        }));
        Ok(())
    }

    /// Gives the Lease back, and ends.
    pub(crate) async fn leave(mut self) {
        self.tasks.shutdown().await;
        self.stop.send_replace(true);
        while self.election.join_next().await.is_some() {}
    }

    fn secret(&self, kind: super::secrets::Kind) -> RootSecret {
        RootSecret::new(kind, self.client.clone(), &self.identity.namespace, self.leadership.clone())
    }

    /// By which the API server calls: those of the Service, and this machine where the webhooks are registered by URL.
    fn names(&self) -> Vec<ServerName> {
        let namespace = &self.identity.namespace;
        let service = format!("leno.{namespace}.svc");
        let names = [service.clone(), format!("{service}.cluster.local"), "localhost".to_owned()];
        let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        names.into_iter().map(ServerName::Dns).chain(here.map(ServerName::Address)).collect()
    }
}

/// Says in the metrics who leads. Returns when the election is over.
async fn tell(mut leads: watch::Receiver<bool>, counts: Counts) {
    loop {
        counts.leads(*leads.borrow_and_update());
        if leads.changed().await.is_err() {
            return;
        }
    }
}

/// The roots as they change. Does not return.
async fn follow(secret: RootSecret, authority: Arc<Authority>) {
    let mut changes = std::pin::pin!(secret.changes());
    while let Some(newest) = changes.next().await {
        let before = authority.own_bundle();
        match authority.adopt(newest, SystemTime::now()) {
            Ok(()) if authority.own_bundle() != before => info!("the roots of the mesh have changed"),
            Ok(()) => {}
            Err(reason) => error!("the Secret `{}` cannot be used, and the present roots stay: {reason}", CA.name),
        }
    }
}
