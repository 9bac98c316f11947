//! The access log: one line per request or TCP connection, written when it ends.
//!
//! ```text
//! observe::ended ─▶ filter ─▶ line, in the worker's own buffer ─▶ every 25 ms or 32 KiB ─▶ the sink's thread
//! ```
//!
//! A listener without a log pays one branch per request. With one, a request pays for a line of its own worker's buffer: no lock, no
//! system call, no allocation but the [`Detail`](super::detail::Detail) that it takes along. Where lines go may be full, slow
//! or gone: lines are dropped and counted then, and no request notices.
//!
//! * [`filter`]: which requests get a line.
//! * [`facts`]: what there is to say, operator by operator.
//! * [`render`]: a format filled with facts; [`escape`], [`decimal`] and [`time`] are what it writes
//!   with.
//! * [`desk`]: what a worker has not handed over yet; [`writer`]: where lines leave the process.
//! * [`metrics`]: how many were written and dropped.

mod decimal;
mod desk;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod escape;
pub mod facts;
pub mod filter;
mod metrics;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod render;
mod time;
mod writer;

use std::rc::Rc;

use leno_config::ir::AccessLog;

use crate::random::Random;
use crate::worker::ListenerView;

use super::observe::{ConnectionEnded, Ended};

pub use desk::{Desk, Desks};
pub use metrics::LogMetrics;
pub use writer::Hub;

use facts::{Facts, Subject};

/// The desks of a listener's logs, one each in their order; empty: nothing is logged.
pub type OpenLogs = Box<[Rc<Desk>]>;

/// Opens the logs of a listener.
pub fn open(desks: &Desks, logs: &[AccessLog]) -> OpenLogs {
    logs.iter().map(|log| desks.at(&log.sink)).collect()
}

/// A request has ended.
pub fn request(ended: &Ended) {
    let worker = &ended.connection.worker;
    tell(&ended.detail.view, Subject::Request(ended), &worker.random, worker.logs.hostname());
}

/// A TCP connection has ended.
pub fn connection(ended: &ConnectionEnded) {
    let worker = &ended.connection.worker;
    tell(&ended.view, Subject::Connection(ended), &worker.random, worker.logs.hostname());
}

fn tell(view: &ListenerView, subject: Subject<'_>, random: &Random, hostname: &str) {
    let configured = &view.listener.config.access_logs.logs;
    for (log, desk) in configured.iter().zip(&view.logs) {
        if filter::holds(&log.filter, subject.figures(), random) {
            let facts = Facts { subject, sensitive: log.sensitive, hostname };
            desk.write(|out| render::line(out, &log.format, &facts));
        }
    }
}
