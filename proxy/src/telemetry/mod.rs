//! What the proxy counts.
//!
//! The request path must not lock, allocate, format or share cache lines between workers. So whatever series carry as labels
//! is a number there, found once per connection, cluster and route ([`names`], [`labels`], [`place`]): what a request adds is
//! one small key ([`requests`], [`connections`]), looked up in a table of the worker's own, and a few additions to a block that
//! nobody else writes ([`series`], [`meters`]). A scrape sums the blocks of all workers and only then makes texts of the
//! numbers: one reading of the same series becomes `istio_*` ([`istio`]), OpenTelemetry's names ([`otel`]), some of Envoy's ([`envoy`]), the figures by
//! route ([`routes`]) and those that programs read ([`figures`], [`rows`]).
//!
//! ```text
//!  connection ─▶ link ┐                          worker 0: key ─▶ block ┐
//!  cluster ─▶ target  ├─ key ─▶ count at the end                        ├─▶ book ─▶ istio_*, http_*, /figures
//!  route ─▶ name      ┘                          worker 1: key ─▶ block ┘
//! ```
//!
//! Who is at the other end is never read from a header: see [`party`]. All of it is bounded: names, series, and hosts outside the
//! mesh; what is too much is counted as `other`, and what is idle for half an hour goes.
//!
//! * [`record`]: one request, counted when its body ends; [`tcp`]: one TCP connection, and the bytes of tunnels.
//! * [`grpc`]: messages and statuses of gRPC.
//! * [`detail`], [`observe`]: what logs, taps and traces are told.
//! * [`log`]: the access log; [`redact`]: what neither it nor a tap should show.
//! * [`tap`]: live traffic for who wants to look.
//! * [`quiet`]: lines that strangers can cause, kept few.
//! * [`mod@trace`]: which requests become spans, and what the next one is told of its trace.
//! * [`registry`]: everything that is counted apart from series, and the Prometheus collector over all of it; [`clusters`]: what
//!   is shown of clusters.

mod clusters;
pub mod connections;
pub mod detail;
pub mod dialect;
mod envoy;
pub mod figures;
pub mod grpc;
mod istio;
pub mod labels;
pub mod log;
pub mod meters;
pub mod names;
pub mod observe;
mod otel;
pub mod party;
pub mod place;
mod quiet;
mod record;
pub mod redact;
mod registry;
pub mod requests;
mod routes;
mod rows;
pub mod series;
pub mod tap;
pub mod tcp;
#[cfg(test)]
mod tests;
mod text;
pub mod trace;

pub use clusters::ClusterMetrics;
pub use dialect::Dialect;
pub use figures::Figures;
pub use labels::{LinkName, RouteNames, TargetName};
pub use meters::Meters;
pub use quiet::Quiet;
pub(crate) use record::add;
pub use record::{Meter, RequestRecord};
pub use registry::{Telemetry, WorkerStats, build_info};
pub use requests::{Form, Spoken};
