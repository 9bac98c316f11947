//! The aggregated discovery service: what proxies are told, over one stream each.
//!
//! ```text
//!   proxy ──▶ service ──▶ wire ──▶ (world) ──▶ session ──▶ (world) ──▶ wire ──▶ service ──▶ proxy
//!             (HTTP/2)  (messages)                │ ▲               (bytes)
//!                                             order push ◀── new snapshots
//! ```
//!
//! * [`session`]: the state of one stream, without sockets or clock. It speaks of *changes*, which is what the delta
//!   variant of the protocol carries.
//! * [`world`]: the state-of-the-world variant, which translates to the same words; [`variant`]: either of them.
//! * [`order`]: which part of a change goes first.
//! * [`wire`]: Envoy's messages ⇄ the session's words.
//! * [`push`]: who is connected, and how a new snapshot reaches them.
//! * [`edits`]: how long a change takes to be in force everywhere.
//! * [`service`]: the gRPC methods.
//! * [`credentials`]: who may open a stream, as what, and for how long.
//! * [`status`]: what `leno status` says about it; [`csds`]: the same in Envoy's words, for other tools.

pub(crate) mod credentials;
pub(crate) mod csds;
pub(crate) mod edits;
#[cfg(test)]
mod model;
pub(crate) mod order;
pub(crate) mod push;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod status;
pub(crate) mod variant;
pub(crate) mod wire;
pub(crate) mod world;
