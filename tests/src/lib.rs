//! The harness of the end-to-end suites: real programs, real sockets, and peers that remember what they saw.
//!
//! A test reads as prose:
//!
//! ```no_run
//! # use leno_tests::*;
//! # async fn test() {
//! let v1 = origin("v1").await;
//! let v2 = origin("v2").await;
//! let mesh = mesh().service("reviews", &[("v1", v1.address()), ("v2", v2.address())]).start().await;
//! let reply = mesh.get("http://reviews/").await;
//! assert_eq!(reply.status, 200);
//! # }
//! ```
//!
//! * [`mesh()`] starts a control plane and sidecars, as processes, on ports of their own; [`Mesh`] edits rules, kills and
//!   restarts them.
//! * [`sidecar()`] starts a sidecar alone in front of an app, and [`pki::Authority`] gives it and its callers certificates.
//! * [`origin()`] is the app behind a service; [`raw`] is one that speaks bytes.
//! * [`scripted`] has servers that fail on demand, and [`relay`] lines that are slow or cut.
//! * [`prometheus`] scrapes a running mesh; [`promql`] and [`exposition`] read what dashboards ask and programs emit.
//! * [`otlp`] has a collector of spans.
//! * [`scene`] is a mesh in which things happen while [`numbered`] requests flow, none of which may be lost; [`drills`] are
//!   what happens.
//! * [`api_server`] is a Kubernetes API server.
//! * [`Call`] is a request that is never retried.
//! * [`eventually`] waits for a condition, not for a time: no test sleeps to be safe.
//!
//! Every helper panics with a sentence where a test cannot go on, and a process that was started prints its log when
//! the test fails. What a test needs beyond Rust is set up below `target/`; where that is impossible, [`skip`] says so.

mod admin;
mod anybody;
pub mod api_server;
mod client;
pub mod drills;
pub mod exposition;
pub mod frames;
mod mesh;
mod node;
pub mod numbered;
mod origin;
pub mod otlp;
pub mod pki;
mod ports;
mod process;
mod program;
pub mod prometheus;
pub mod promql;
mod python;
mod random;
pub mod raw;
pub mod relay;
pub mod scene;
pub mod scripted;
mod sidecar;
pub mod tls;
pub mod under_way;
mod wait;

pub use admin::{ConfigDump, metric};
pub use client::{Body, Call, Connection, Protocol, Reply, empty, full, get, stream};
pub use mesh::{ControlPlane, Mesh, MeshBuilder, Proxy, mesh};
pub use node::{Node, node};
pub use origin::{Origin, Recorded, origin, slow_app};
pub use ports::free_port;
pub use process::Process;
pub use program::{Outcome, feed, leno, leno_proxy, run_leno, workspace};
pub use python::{Python, python, python_with_kubernetes, python_with_manifests, python_with_xds, skip};
pub use random::Random;
pub use sidecar::{Sidecar, SidecarBuilder, Speaks, sidecar};
pub use wait::{PATIENCE, eventually, eventually_within};
