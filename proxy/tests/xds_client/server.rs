//! A model of a delta ADS server: enough of one to be right, without any IO.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use leno_config::xds::Kind;
use leno_proxy::state::accepted::Incoming;

use crate::build::Wire;

/// What it serves, and what it knows of its only client.
#[derive(Debug, Default)]
pub(crate) struct Server {
    resources: BTreeMap<Kind, BTreeMap<String, Incoming>>,
    streams: BTreeMap<Kind, OfKind>,
    nonces: u64,
    /// Texts of the NACKs that came, oldest first.
    pub(crate) nacks: Vec<String>,
    /// Node ids, one for each stream.
    pub(crate) nodes: Vec<String>,
    /// `initial_resource_versions` of the current stream.
    pub(crate) initial: BTreeMap<Kind, BTreeMap<String, String>>,
}

/// One kind on the current stream.
#[derive(Debug, Default)]
struct OfKind {
    is_wildcard: bool,
    is_greeted: bool,
    names: BTreeSet<String>,
    /// What the client has, as far as the server knows.
    client: BTreeMap<String, String>,
    /// To be answered even if the client has them.
    asked_anew: BTreeSet<String>,
    unanswered: BTreeSet<String>,
}

impl Server {
    /// Adds or replaces a resource.
    pub(crate) fn put<T: Wire>(&mut self, resource: T, version: &str) {
        self.put_raw(T::KIND, resource.at(version));
    }

    /// Adds or replaces what may be no resource at all.
    pub(crate) fn put_raw(&mut self, kind: Kind, resource: Incoming) {
        self.resources.entry(kind).or_default().insert(resource.name.clone(), resource);
    }

    pub(crate) fn remove(&mut self, kind: Kind, name: &str) {
        self.resources.entry(kind).or_default().remove(name);
    }

    pub(crate) fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        let of_kind = self.resources.get(&kind).into_iter().flatten();
        of_kind.map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
    }

    pub(crate) fn subscribed(&self, kind: Kind) -> BTreeSet<String> {
        self.streams.get(&kind).map(|it| it.names.clone()).unwrap_or_default()
    }

    /// Nonces that were neither acknowledged nor refused.
    pub(crate) fn unanswered(&self) -> usize {
        self.streams.values().map(|it| it.unanswered.len()).sum()
    }

    /// The stream broke.
    pub(crate) fn disconnect(&mut self) {
        self.streams.clear();
        self.initial.clear();
    }

    /// A request came.
    pub(crate) fn request(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(node) = request.node {
            self.nodes.push(node.id);
        }
        let kind = Kind::from_url(&request.type_url).expect("the client asks for kinds that exist");
        let is_first = !self.streams.contains_key(&kind);
        let state = self.streams.entry(kind).or_default();
        if is_first {
            state.is_wildcard = request.resource_names_subscribe.is_empty();
            let versions: BTreeMap<_, _> = request.initial_resource_versions.into_iter().collect();
            state.client.clone_from(&versions);
            self.initial.insert(kind, versions);
        } else {
            assert!(request.initial_resource_versions.is_empty(), "versions belong to the first request of a kind");
        }
        for name in request.resource_names_unsubscribe {
            assert!(state.names.remove(&name), "{name} was not subscribed");
            state.client.remove(&name);
            state.asked_anew.remove(&name);
        }
        for name in request.resource_names_subscribe {
            assert!(state.names.insert(name.clone()), "{name} was subscribed already");
            // With its version in the first request, it is asked for like everything else.
            if !is_first || !state.client.contains_key(&name) {
                state.asked_anew.insert(name);
            }
        }
        if !request.response_nonce.is_empty() {
            assert!(state.unanswered.remove(&request.response_nonce), "each response is answered once");
        }
        if let Some(error) = request.error_detail {
            assert_eq!(error.code, 3, "INVALID_ARGUMENT");
            self.nacks.push(error.message);
        }
    }

    /// What there is to say of a kind, if anything.
    pub(crate) fn response(&mut self, kind: Kind) -> Option<DeltaDiscoveryResponse> {
        let resources = self.resources.entry(kind).or_default();
        let state = self.streams.get_mut(&kind)?;
        let wanted = |name: &String| state.is_wildcard || state.names.contains(name);
        let new = resources
            .values()
            .filter(|it| wanted(&it.name))
            .filter(|it| state.client.get(&it.name) != Some(&it.version) || state.asked_anew.contains(&it.name));
        let new: Vec<Resource> = new.map(wire).collect();
        let gone = state.client.keys().chain(&state.asked_anew).filter(|name| !resources.contains_key(*name));
        let removed: BTreeSet<String> = gone.cloned().collect();
        let greets = state.is_wildcard && !std::mem::replace(&mut state.is_greeted, true) && state.client.is_empty();
        if new.is_empty() && removed.is_empty() && !greets {
            return None;
        }
        state.client.retain(|name, _| !removed.contains(name));
        state.client.extend(new.iter().map(|it| (it.name.clone(), it.version.clone())));
        state.asked_anew.clear();
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        state.unanswered.insert(nonce.clone());
        Some(DeltaDiscoveryResponse {
            resources: new,
            type_url: kind.url().to_owned(),
            removed_resources: removed.into_iter().collect(),
            nonce,
            ..Default::default()
        })
    }
}

/// A resource in a response.
pub(crate) fn wire(incoming: &Incoming) -> Resource {
    let Incoming { name, version, any, .. } = incoming.clone();
    Resource { name, version, resource: any, ..Default::default() }
}
