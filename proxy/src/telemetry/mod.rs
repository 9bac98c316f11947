//! What the proxy counts.
//!
//! The request path must not lock, hash strings or share cache lines between workers. So every worker writes to blocks
//! of its own, by plain loads and stores of atomics that nobody else writes; a scrape sums them. A block is found once
//! per route and worker; within it the few pairs of status and flag that a route really answers with are a short list.
//!
//! * [`record`]: one request, counted when its body ends.
//! * [`tcp`]: one TCP connection, and the bytes of tunnels.
//! * [`figures`]: the counters as JSON, for `leno stat` and its like.
//! * [`quiet`]: lines that strangers can cause, kept few.
//! * [`mod@trace`]: which requests become spans, and what the next one is told of its trace.
//! * [`registry`]: all blocks of all workers, and the Prometheus collector over them.

mod clusters;
pub mod detail;
pub mod figures;
pub mod observe;
mod quiet;
mod record;
mod registry;
pub mod tcp;
pub mod trace;

pub use clusters::ClusterMetrics;
pub use figures::Figures;
pub use quiet::Quiet;
pub(crate) use record::add;
pub use record::{Meter, RequestRecord, RouteSlot};
pub use registry::{Direction, RouteKey, Telemetry, WorkerStats, build_info};
