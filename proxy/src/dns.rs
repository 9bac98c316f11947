//! Names outside the mesh.
//!
//! hickory keeps answers for their time to live, bounded in number; a look-up that hangs ends at our deadline.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use leno_config::ir;
use tokio::sync::watch;

use crate::state::snapshot::Resolved;

/// Names kept.
const CACHE: u64 = 4096;
/// For one look-up, all tries included.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The resolver's words.
    #[error("{0}")]
    Failed(String),
    /// Our deadline.
    #[error("no answer from DNS within {0:?}")]
    TimedOut(Duration),
    /// It does not exist, or has no address.
    #[error("DNS knows no address of it")]
    Empty,
}

/// The process's resolver.
#[derive(Debug)]
pub struct Dns {
    resolver: Option<TokioResolver>,
}

impl Dns {
    /// With the system's configuration; without one, only literals and `/etc/hosts` through the system resolve.
    pub fn from_system() -> Self {
        let built = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().cache_size = CACHE;
            builder.options_mut().timeout = Duration::from_secs(2);
            builder.build()
        });
        match built {
            Ok(resolver) => Self { resolver: Some(resolver) },
            Err(error) => {
                tracing::warn!(%error, "no DNS configuration: hosts outside the mesh resolve by /etc/hosts only");
                Self { resolver: None }
            }
        }
    }

    /// The addresses of a name; never empty.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = literal.parse() {
            return Ok(vec![ip]);
        }
        let found =
            tokio::time::timeout(DEADLINE, self.look_up(host)).await.map_err(|_| DnsError::TimedOut(DEADLINE))??;
        if found.is_empty() { Err(DnsError::Empty) } else { Ok(found) }
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        match &self.resolver {
            Some(resolver) => match resolver.lookup_ip(host).await {
                Ok(answer) => Ok(answer.iter().collect()),
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => Err(DnsError::Empty),
                Err(error) => Err(DnsError::Failed(error.to_string())),
            },
            None => {
                let answer =
                    tokio::net::lookup_host((host, 0)).await.map_err(|error| DnsError::Failed(error.to_string()))?;
                Ok(answer.map(|address| address.ip()).collect())
            }
        }
    }
}

/// How often names of services are resolved again (Envoy's default for STRICT_DNS).
const REFRESH: Duration = Duration::from_secs(5);

/// The names that services are resolved by, kept fresh on the control thread.
///
/// A name that stops resolving keeps its last addresses: DNS that is down must not take a service down that is up.
#[derive(Debug)]
pub struct Names {
    wanted: watch::Sender<BTreeSet<String>>,
    resolved: watch::Receiver<Resolved>,
}

impl Names {
    /// None yet. Looks up on a task of its own, which ends with this value.
    pub fn new(dns: Arc<Dns>) -> Self {
        let (wanted, names) = watch::channel(BTreeSet::new());
        let (found, resolved) = watch::channel(Resolved::new());
        tokio::task::spawn_local(refresh(dns, names, found));
        Self { wanted, resolved }
    }

    /// What is known now.
    pub fn resolved(&mut self) -> Resolved {
        self.resolved.borrow_and_update().clone()
    }

    /// From now on, the names of these resources; new ones are looked up at once.
    pub fn want(&self, resources: &ir::Resources) {
        let names = names_of(resources);
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != names;
            *wanted = names;
            differs
        });
    }

    /// Ready when a name has come to mean something else.
    pub async fn changed(&mut self) {
        if self.resolved.changed().await.is_err() {
            // The task ends only with the process.
            std::future::pending::<()>().await;
        }
    }
}

fn names_of(resources: &ir::Resources) -> BTreeSet<String> {
    resources
        .clusters
        .values()
        .filter_map(|cluster| match &cluster.discovery {
            ir::Discovery::Dns(endpoints) => Some(endpoints),
            ir::Discovery::Eds { .. }
            | ir::Discovery::Static(_)
            | ir::Discovery::OriginalDestination
            | ir::Discovery::RequestHost => None,
        })
        .flat_map(ir::Endpoints::iter)
        .filter_map(|endpoint| match &endpoint.address {
            ir::Address::Name { host, .. } => Some(host.clone()),
            ir::Address::Socket(_) => None,
        })
        .collect()
}

async fn refresh(dns: Arc<Dns>, mut names: watch::Receiver<BTreeSet<String>>, found: watch::Sender<Resolved>) {
    loop {
        let wanted = names.borrow_and_update().clone();
        let lookups: Vec<_> = wanted
            .iter()
            .cloned()
            .map(|name| {
                let dns = Arc::clone(&dns);
                tokio::task::spawn_local(async move { (dns.resolve(&name).await, name) })
            })
            .collect();
        let mut resolved = found.borrow().clone();
        resolved.retain(|name, _| wanted.contains(name));
        for lookup in lookups {
            match lookup.await {
                Ok((Ok(mut addresses), name)) => {
                    addresses.sort_unstable();
                    resolved.insert(name, addresses);
                }
                Ok((Err(error), name)) => tracing::warn!(%name, %error, "a service's name does not resolve"),
                Err(error) => tracing::error!(%error, "a look-up panicked"),
            }
        }
        found.send_if_modified(|known| {
            let differs = *known != resolved;
            *known = resolved;
            differs
        });
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REFRESH) => {}
        }
    }
}
