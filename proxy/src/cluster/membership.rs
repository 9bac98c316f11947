//! Who belongs to a cluster: endpoints by priority and locality, with what was learnt about each.
//!
//! All of them are members, also those that the control plane calls unhealthy: they count when it is asked how much of a
//! priority is left, and are called when there is panic. Which of them get requests is [`super::balance`]'s business.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use leno_config::ir;

use super::{EndpointSecurity, EndpointState};

/// One endpoint as a cluster has it.
#[derive(Debug, Clone)]
pub struct Member {
    /// What all workers know of it.
    pub state: Arc<EndpointState>,
    /// Share among the members of its locality, at least 1.
    pub weight: u32,
    /// What the control plane says of it.
    pub health: ir::Health,
}

impl Member {
    /// A member that the control plane says nothing about.
    pub fn new(state: Arc<EndpointState>, weight: u32) -> Self {
        Self { state, weight: weight.max(1), health: ir::Health::Unknown }
    }
}

/// The members of a cluster in the order of their priority.
#[derive(Debug, Clone)]
pub struct Membership {
    /// All of them; those of a group stand together.
    pub members: Vec<Member>,
    /// In the order of their priority, within it in the order of the wire.
    pub groups: Vec<Group>,
    /// How much of a priority's healthy share counts as enough, in percent.
    pub overprovisioning: u32,
}

/// The members of one locality at one priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// 0 is used first. Without gaps.
    pub priority: usize,
    /// Share among the localities of the priority; `None`: not said.
    pub weight: Option<u32>,
    /// Where its members stand.
    pub members: Range<usize>,
    /// Where they run.
    pub locality: ir::Locality,
}

/// Endpoint states by address and security: those of the snapshot before, to be carried over. Who has another identity is
/// another endpoint.
pub type KnownEndpoints = HashMap<(SocketAddr, EndpointSecurity), Arc<EndpointState>>;

impl Membership {
    /// Those of `endpoints` that have an address, with the states of those that are `known`; new ones become known.
    pub fn of(endpoints: &ir::Endpoints, known: &mut KnownEndpoints) -> Self {
        let mut localities: Vec<&ir::LocalityEndpoints> = endpoints.localities.iter().collect();
        localities.sort_by_key(|locality| locality.priority);
        let mut membership =
            Self { members: Vec::new(), groups: Vec::new(), overprovisioning: endpoints.overprovisioning };
        let mut last = None;
        let mut priority = 0;
        for locality in localities {
            if last.is_some_and(|last| last != locality.priority) {
                priority += 1;
            }
            last = Some(locality.priority);
            let first = membership.members.len();
            membership.members.extend(locality.endpoints.iter().filter_map(|endpoint| member(endpoint, known)));
            let members = first..membership.members.len();
            membership.groups.push(Group {
                priority,
                weight: locality.weight,
                members,
                locality: locality.locality.clone(),
            });
        }
        membership
    }

    /// Members of one locality.
    pub fn flat(members: Vec<Member>) -> Self {
        let group = Group { priority: 0, weight: None, members: 0..members.len(), locality: ir::Locality::default() };
        Self { members, groups: vec![group], overprovisioning: ir::Endpoints::OVERPROVISIONING }
    }

    /// The members of a group.
    pub fn of_group(&self, group: &Group) -> &[Member] {
        self.members.get(group.members.clone()).unwrap_or_default()
    }
}

fn member(endpoint: &ir::Endpoint, known: &mut KnownEndpoints) -> Option<Member> {
    let ir::Address::Socket(address) = &endpoint.address else { return None };
    let (address, security) = (*address, EndpointSecurity::of(endpoint));
    let state =
        known.entry((address, security.clone())).or_insert_with(|| Arc::new(EndpointState::secured(address, security)));
    Some(Member { state: Arc::clone(state), weight: endpoint.weight.max(1), health: endpoint.health })
}
