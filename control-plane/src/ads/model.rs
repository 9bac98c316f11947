//! What the models of clients have in common, for the properties that hold in both variants: what a mesh looks like, and
//! what a client holds and refuses of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leno_config::xds::Kind;
use proptest::prelude::*;

use crate::snapshot::Snapshot;
use crate::snapshot::tests::snapshot;

/// Services by number, with the version of their cluster and endpoints; and listeners, with a route table each.
#[derive(Debug, Clone)]
pub(super) struct Mesh {
    pub(super) services: BTreeMap<u8, (u8, u8)>,
    pub(super) tables: BTreeSet<u8>,
    pub(super) revision: u32,
}

impl Mesh {
    /// The version of a route table names the clusters that it uses, so that a model can check them.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let uses = self.services.keys().map(|service| format!("c{service}")).collect::<Vec<_>>().join(",");
        let mut resources = Vec::new();
        for (service, (cluster, endpoints)) in &self.services {
            resources.push((Kind::Cluster, format!("c{service}"), format!("{cluster}.{}", self.revision / 8)));
            resources.push((Kind::Endpoints, format!("c{service}"), endpoints.to_string()));
        }
        for table in &self.tables {
            resources.push((Kind::Listener, format!("t{table}"), format!("{}", self.revision / 4)));
            resources.push((Kind::Route, format!("t{table}"), format!("{}|{uses}", self.revision)));
        }
        snapshot(&resources.iter().map(|(kind, name, version)| (*kind, &**name, &**version)).collect::<Vec<_>>())
    }
}

/// Any mesh of at most five services and three listeners.
pub(super) fn mesh() -> impl Strategy<Value = Mesh> {
    let services = prop::collection::btree_map(0..5_u8, (0..3_u8, 0..3_u8), 0..5);
    (services, prop::collection::btree_set(0..3_u8, 0..3), any::<u16>()).prop_map(|(services, tables, revision)| Mesh {
        services,
        tables,
        revision: revision.into(),
    })
}

/// What a client holds, by kind and name its version, and what it will not have.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) held: BTreeMap<Kind, BTreeMap<String, String>>,
    /// Every so many-th new version is refused; 0: none.
    pub(super) refuse: u8,
    met: u8,
    /// Refused once, refused always.
    verdicts: BTreeMap<(Kind, String, String), bool>,
}

impl Holdings {
    /// Whether it refuses a version that it meets.
    pub(super) fn refuses(&mut self, kind: Kind, name: &str, version: &str) -> bool {
        let (refuse, met) = (self.refuse, &mut self.met);
        *self.verdicts.entry((kind, name.to_owned(), version.to_owned())).or_insert_with(|| {
            *met = met.wrapping_add(1);
            refuse != 0 && met.is_multiple_of(refuse)
        })
    }

    /// Whether it has refused any version.
    pub(super) fn has_refused(&self, kind: Kind, name: &str) -> bool {
        self.verdicts.iter().any(|((of, refused, _), verdict)| *of == kind && refused == name && *verdict)
    }

    /// Clusters that a route table in force uses and that are neither there nor refused by the client itself.
    pub(super) fn dangling(&self) -> Vec<String> {
        let empty = BTreeMap::new();
        let clusters = self.held.get(&Kind::Cluster).unwrap_or(&empty);
        let tables = self.held.get(&Kind::Route).unwrap_or(&empty);
        let uses = tables.values().filter_map(|version| version.split_once('|')).flat_map(|(_, uses)| uses.split(','));
        let missing = |name: &&str| !clusters.contains_key(*name) && !self.has_refused(Kind::Cluster, name);
        uses.filter(|name| !name.is_empty()).filter(missing).map(Into::into).collect()
    }

    /// What it holds of a kind and what it should, without what it has refused: versions of endpoints repeat, so a refused
    /// one may come again and leave the older in force.
    pub(super) fn beside(&self, newest: &Snapshot, kind: Kind) -> [BTreeMap<String, String>; 2] {
        let is_fine = |name: &str, version: &str| {
            !self.verdicts.get(&(kind, name.to_owned(), version.to_owned())).copied().unwrap_or_default()
        };
        let resources = &newest.set(kind).resources;
        let held = self.held.get(&kind).cloned().unwrap_or_default().into_iter();
        let held = held
            .filter(|(name, _)| resources.get(name.as_str()).is_none_or(|resource| is_fine(name, &resource.version)));
        let expected = resources.values().filter(|resource| is_fine(&resource.name, &resource.version));
        let expected = expected.map(|resource| (resource.name.to_string(), resource.version.to_string()));
        [held.collect(), expected.collect()]
    }
}
