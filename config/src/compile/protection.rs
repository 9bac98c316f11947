//! What stands between a caller and a workload's port: how it comes in, who it may be, whose token it may bring.

use crate::ir::{Authorization, JwtAuthentication, Port};
use crate::mesh::{Mesh, PeerMode};
use crate::node::Node;

use super::authorization::{Traffic, authorization};
use super::tokens;

/// The protection of one port.
#[derive(Debug, Clone, PartialEq)]
pub struct Protection {
    /// How callers come in, and which PeerAuthentication says so.
    pub peer: PeerMode,
    /// Whose tokens are verified; nothing where the port carries bytes.
    pub tokens: JwtAuthentication,
    /// Who may do what.
    pub authorization: Authorization,
}

/// The protection of a port that the sidecar of `node` listens on: what [`super::compile`] puts into its inbound
/// listeners.
pub fn protection(mesh: &Mesh, node: &Node, port: Port, traffic: Traffic) -> Protection {
    let tokens = match traffic {
        Traffic::Http => tokens::inbound(mesh, node),
        Traffic::Tcp => JwtAuthentication::default(),
    };
    Protection { peer: mesh.peer_mode(node, port), tokens, authorization: authorization(mesh, node, traffic) }
}
