//! One accepted state of the rules, and what each proxy is to hold because of it.
//!
//! Snapshots are compiled when the first proxy of a scope asks for one, off the threads that serve, and kept for all
//! others of that scope for as long as the generation lasts.
//!
//! Rules change when somebody edits them; endpoints change all day, and nobody waits for a compilation of everything
//! because one of ten thousand pods was restarted. So a generation that differs from the one before in endpoints alone
//! ([`Generation::with_discovered`]) keeps its index of the rules and its snapshots, and compiles of each only the clusters
//! of the services in question ([`Revision`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leno_config::compile::{Scope, compile, compile_clusters, scope};
use leno_config::diagnostic::Place;
use leno_config::ir;
use leno_config::ir::Port;
use leno_config::mesh::{Change, Discovered, Key, Mesh};
use leno_config::node::{Interception, Node};
use leno_config::rules::{Document, Rule};
use leno_config::xds::{self, Dialect, Flavour, Kind, grpc};
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::Xxh3;

use crate::ads::status::ClearText;
use crate::ca::bundle::{Bundles, Domains};
use crate::snapshot::{Shelf, Size, Snapshot};

/// Most scopes whose snapshots are kept. Labels come from proxies, so their number is not ours to decide; beyond it,
/// snapshots that nobody holds any more make room.
const MAX_SCOPES: usize = 4096;

/// One accepted state of the rules, and whom proxies are to believe.
#[derive(Debug)]
pub(crate) struct Generation {
    mesh: Arc<Mesh>,
    version: String,
    /// The trust bundle, which is the same for every proxy. No other secret ever travels.
    roots: Option<Arc<ir::Secret>>,
    documents: usize,
    contents: Contents,
    number: u64,
    scopes: Mutex<BTreeMap<(Scope, Dialect), Arc<Slot>>>,
    shelf: Arc<Mutex<Shelf>>,
}

/// How much of what dashboards ask for is in force.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Contents {
    /// Hosts of Services and ServiceEntries.
    pub(crate) services: usize,
    pub(crate) virtual_services: usize,
}

/// What a proxy is to hold, and what it cost.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) snapshot: Arc<Snapshot>,
    /// How long the compilation took, for the one that asked first.
    pub(crate) took: Option<Duration>,
}

/// Of the next generation of this process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// What the proxies of one scope are to hold.
#[derive(Debug, Default)]
struct Slot {
    /// Filled once, however many ask at the same time.
    snapshot: OnceCell<Arc<Snapshot>>,
    /// `None`: all is compiled.
    revision: Option<Revision>,
}

/// A snapshot of an earlier generation, and what of it is older than this one.
#[derive(Debug, Clone)]
struct Revision {
    base: Arc<Snapshot>,
    /// Hosts whose endpoints are others now.
    hosts: BTreeSet<String>,
}

/// The compiler gave up on a scope; that is a fault of the program, and the proxy keeps what it has.
#[derive(Debug, thiserror::Error)]
#[error(
    "the rules could not be compiled for this proxy, which keeps what it has; this is a fault in leno, please report it"
)]
pub(crate) struct CompileError(#[source] tokio::task::JoinError);

impl Generation {
    /// Takes the accepted documents, where services run beside what documents say, and the roots. Resources that are equal
    /// to those of earlier generations are taken off the shelf.
    pub(crate) fn new(
        documents: &[Document],
        discovered: Arc<Discovered>,
        bundles: &Bundles,
        shelf: Arc<Mutex<Shelf>>,
    ) -> Arc<Self> {
        let mesh = Arc::new(Mesh::over(documents, discovered));
        lock(&shelf).tidy();
        Arc::new(Self {
            roots: bundles.secret(&domains(&mesh)).map(Arc::new),
            mesh,
            version: version(documents),
            documents: documents.len(),
            contents: contents(documents),
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            scopes: Mutex::default(),
            shelf,
        })
    }

    /// The same rules with other roots; `None`: these are the ones that it has.
    pub(crate) fn with_roots(&self, bundles: &Bundles) -> Option<Arc<Self>> {
        let roots = bundles.secret(&self.domains());
        if roots.as_ref() == self.roots() {
            return None;
        }
        lock(&self.shelf).tidy();
        Some(Arc::new(Self {
            roots: roots.map(Arc::new),
            mesh: Arc::clone(&self.mesh),
            version: self.version.clone(),
            documents: self.documents,
            contents: self.contents,
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            scopes: Mutex::default(),
            shelf: Arc::clone(&self.shelf),
        }))
    }

    /// The same rules over a newer state of the cluster, in which these `services` and `pods` have changed; and what follows
    /// from that.
    #[allow(dead_code)] // Called by the watches of Kubernetes.
    pub(crate) fn with_discovered(
        &self,
        discovered: Arc<Discovered>,
        services: &BTreeSet<Key>,
        pods: &BTreeSet<Key>,
    ) -> (Arc<Self>, Change) {
        let (mesh, change) = self.mesh.with_discovered(discovered, services, pods);
        let revised = lock(&self.scopes)
            .iter()
            .filter_map(|(key, slot)| Some((key.clone(), Arc::new(slot.revised(&key.1, &change.hosts)?))))
            .collect();
        lock(&self.shelf).tidy();
        let newer = Self {
            roots: self.roots.clone(),
            mesh: Arc::new(mesh),
            version: self.version.clone(),
            documents: self.documents,
            contents: self.contents,
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            scopes: Mutex::new(revised),
            shelf: Arc::clone(&self.shelf),
        };
        (Arc::new(newer), change)
    }

    /// What the rules call the trust domain.
    pub(crate) fn domains(&self) -> Domains {
        domains(&self.mesh)
    }

    /// The trust bundle.
    pub(crate) fn roots(&self) -> Option<&ir::Secret> {
        self.roots.as_deref()
    }

    /// A hash over the documents: equal in every process for equal rules.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Services whose endpoints are called in clear text.
    pub(crate) fn in_clear_text(&self) -> BTreeMap<String, ClearText> {
        let services = self.mesh.in_clear_text().into_iter();
        services.map(|(host, (endpoints, of))| (host, ClearText { endpoints, of })).collect()
    }

    /// Where a rule stands.
    pub(crate) fn place_of(&self, origin: &ir::Origin) -> Option<Place> {
        self.mesh.place_of(origin)
    }

    /// How many documents are in force.
    pub(crate) fn documents(&self) -> usize {
        self.documents
    }

    /// Counts up from 1 in the order in which generations are made.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How much is in force.
    pub(crate) fn contents(&self) -> Contents {
        self.contents
    }

    /// How many different resources the snapshots hold, of this generation and of older ones that somebody still holds.
    pub(crate) fn size(&self) -> BTreeMap<Kind, Size> {
        lock(&self.shelf).size()
    }

    /// What a proxy is to hold, in the words that it understands.
    pub(crate) async fn snapshot(&self, node: &Node, dialect: &Dialect) -> Result<Compiled, CompileError> {
        let node = in_its_place(&self.mesh.seen(node), dialect);
        let slot = self.slot((scope(&self.mesh, &node), dialect.clone()));
        let mut took = None;
        let snapshot = slot.snapshot.get_or_try_init(|| async {
            let begun = Instant::now();
            let (mesh, shelf, revision) = (Arc::clone(&self.mesh), Arc::clone(&self.shelf), slot.revision.clone());
            let (dialect, roots) = (dialect.clone(), self.roots.clone());
            let work = move || match (revision, dialect) {
                (Some(revision), Dialect::Envoy(flavour)) => revision.snapshot(&mesh, &node, &flavour, &shelf),
                (_, dialect) => whole(&mesh, &node, &dialect, roots, &shelf),
            };
            let compiled = tokio::task::spawn_blocking(work).await.map_err(CompileError);
            took = Some(begun.elapsed());
            compiled
        });
        let snapshot = snapshot.await.map(Arc::clone)?;
        Ok(Compiled { snapshot, took })
    }

    fn slot(&self, scope: (Scope, Dialect)) -> Arc<Slot> {
        let mut scopes = lock(&self.scopes);
        if scopes.len() >= MAX_SCOPES && !scopes.contains_key(&scope) {
            let is_held = |snapshot: &Arc<Snapshot>| Arc::strong_count(snapshot) > 1;
            scopes.retain(|_, slot| slot.snapshot.get().is_none_or(is_held));
        }
        if scopes.len() >= MAX_SCOPES && !scopes.contains_key(&scope) {
            return Arc::default();
        }
        Arc::clone(scopes.entry(scope).or_default())
    }
}

impl Slot {
    /// The slot of the next generation, in which the endpoints of these hosts are others. `None`: it begins anew, because
    /// nobody asked for this one, or because the words of the client are not told resource by resource.
    #[allow(dead_code)] // As above.
    fn revised(&self, dialect: &Dialect, hosts: &BTreeSet<String>) -> Option<Self> {
        if *dialect == Dialect::Grpc {
            return None;
        }
        let revision = match (self.snapshot.get(), &self.revision) {
            (Some(snapshot), _) if hosts.is_empty() => {
                return Some(Self { snapshot: OnceCell::new_with(Some(Arc::clone(snapshot))), revision: None });
            }
            (Some(snapshot), _) => Revision { base: Arc::clone(snapshot), hosts: hosts.clone() },
            // Nobody asked in the meantime: both changes are made at once.
            (None, Some(older)) => {
                Revision { base: Arc::clone(&older.base), hosts: older.hosts.union(hosts).cloned().collect() }
            }
            (None, None) => return None,
        };
        Some(Self { snapshot: OnceCell::new(), revision: Some(revision) })
    }
}

impl Revision {
    /// The base with the clusters of these hosts as they are now.
    fn snapshot(&self, mesh: &Mesh, node: &Node, flavour: &Flavour, shelf: &Mutex<Shelf>) -> Arc<Snapshot> {
        let clusters = &self.base.set(Kind::Cluster).resources;
        let ports = clusters.keys().filter_map(|name| called(name)).filter(|(host, _)| self.hosts.contains(*host));
        let resources = compile_clusters(mesh, node, ports.collect::<BTreeSet<_>>());
        let encoded = xds::encode(&resources, flavour);
        Arc::new(self.base.with(encoded, &mut lock(shelf)))
    }
}

/// Host and port of `outbound|PORT|SUBSET|HOST`.
fn called(cluster: &str) -> Option<(&str, Port)> {
    let (port, rest) = cluster.strip_prefix("outbound|")?.split_once('|')?;
    let (_, host) = rest.split_once('|')?;
    Some((host, Port::new(port.parse().ok()?)?))
}

/// Everything.
fn whole(
    mesh: &Mesh,
    node: &Node,
    dialect: &Dialect,
    roots: Option<Arc<ir::Secret>>,
    shelf: &Mutex<Shelf>,
) -> Arc<Snapshot> {
    let mut resources = compile(mesh, node);
    resources.secrets.extend(roots.map(|roots| (roots.name.clone(), roots)));
    Arc::new(match dialect {
        Dialect::Envoy(flavour) => {
            let encoded = xds::encode(&resources, flavour);
            Snapshot::new(encoded, &mut lock(shelf))
        }
        Dialect::Grpc => {
            let grpc::Encoding { resources, remarks } = grpc::encode(&resources);
            Snapshot::new(resources, &mut lock(shelf)).with_remarks(remarks)
        }
    })
}

/// The sidecar that a client would have. Without one nothing is intercepted: it asks for what it wants by name.
fn in_its_place(node: &Node, dialect: &Dialect) -> Node {
    match dialect {
        Dialect::Envoy(_) => node.clone(),
        Dialect::Grpc => Node { interception: Interception::None, ..node.clone() },
    }
}

fn domains(mesh: &Mesh) -> Domains {
    let aliases = mesh.trust_domains().into_iter().skip(1).map(str::to_owned).collect();
    Domains { own: mesh.trust_domain().to_owned(), aliases }
}

fn contents(documents: &[Document]) -> Contents {
    let mut contents = Contents::default();
    for document in documents {
        match &document.rule {
            Rule::Service(_) => contents.services += 1,
            Rule::ServiceEntry(entry) => contents.services += entry.spec.hosts.len(),
            Rule::VirtualService(_) => contents.virtual_services += 1,
            Rule::DestinationRule(_)
            | Rule::WorkloadEntry(_)
            | Rule::Sidecar(_)
            | Rule::PeerAuthentication(_)
            | Rule::AuthorizationPolicy(_)
            | Rule::RequestAuthentication(_)
            | Rule::MeshConfig(_)
            | Rule::HealthCheck(_)
            | Rule::RateLimit(_)
            | Rule::EndpointSlice(_) => {}
        }
    }
    contents
}

fn version(documents: &[Document]) -> String {
    let mut hash = Xxh3::new();
    for document in documents {
        for text in [&document.id.to_string(), &*document.text] {
            hash.update(&text.len().to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    format!("{:032x}", hash.digest128())
}

/// What is behind these locks is whole between two statements, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
