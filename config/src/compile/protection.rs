//! What stands between a caller and a workload's port: how it comes in, who it may be, whose token it may bring, how often it may
//! come.

use crate::ir::{Authorization, JwtAuthentication, Port, RateLimit};
use crate::mesh::{Mesh, PeerMode};
use crate::node::Node;

use super::authorization::{Traffic, authorization};
use super::{rate_limit, tokens};

/// The protection of one port.
#[derive(Debug, Clone, PartialEq)]
pub struct Protection {
    /// How callers come in, and which PeerAuthentication says so.
    pub peer: PeerMode,
    /// Whose tokens are verified; nothing where the port carries bytes.
    pub tokens: JwtAuthentication,
    /// Who may do what.
    pub authorization: Authorization,
    /// How often it may be asked; nothing where the port carries bytes.
    pub rate_limits: Vec<RateLimit>,
}

/// The protection of a port that the sidecar of `node` listens on: what [`super::compile`] puts into its inbound
/// listeners.
pub fn protection(mesh: &Mesh, node: &Node, port: Port, traffic: Traffic) -> Protection {
    let (tokens, rate_limits) = match traffic {
        Traffic::Http => (tokens::inbound(mesh, node), rate_limit::limits(mesh, node)),
        Traffic::Tcp => Default::default(),
    };
    let authorization = authorization(mesh, node, traffic);
    Protection { peer: mesh.peer_mode(node, port), tokens, authorization, rate_limits }
}
