//! Ends well: all of the process after SIGTERM, or its listeners while it stays.

use std::time::{Duration, Instant};

use leno_config::ir::Direction;
use tokio::sync::oneshot;

use crate::admin::{Closing, ListenerDrain};
use crate::downstream::accept::Door;
use crate::worker::Command;

use super::Proxy;

/// How often the end of draining is looked for.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long the end waits for the last lines of access logs, at each step.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// How long listeners stay open after the drain began, so that callers that have not heard of it are not refused.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// What was drained by `POST /drain_listeners`.
#[derive(Debug, Default)]
pub(super) struct Drained {
    asked: ListenerDrain,
    inbound_closed: bool,
    outbound_closed: bool,
    /// When the listeners close that are still open; `None`: there are none.
    pub(super) due: Option<tokio::time::Instant>,
}

impl Drained {
    /// Whether listeners of this direction are closed, and stay so whatever the configuration says.
    pub(super) fn is_closed(&self, direction: Direction) -> bool {
        match direction {
            Direction::Inbound => self.inbound_closed,
            Direction::Outbound => self.outbound_closed,
        }
    }

    fn close(&mut self, direction: Direction) {
        match direction {
            Direction::Inbound => self.inbound_closed = true,
            Direction::Outbound => self.outbound_closed = true,
        }
    }
}

impl Proxy {
    /// Connections are asked to end with their next answer; listeners close now, or when their callers have had time to
    /// hear of it.
    pub(super) async fn drain_listeners(&mut self, asked: ListenerDrain) {
        tracing::warn!(?asked, "draining listeners: POST /drain_listeners was asked");
        self.drained.asked = asked;
        for worker in &self.workers {
            // An error means that the worker's thread has ended, which the process does not outlive.
            let _ = worker.commands.send(Command::Drain(asked)).await;
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            match asked.of(direction) {
                Some(Closing::Now) => self.close_all(direction).await,
                Some(Closing::Later) if !self.drained.is_closed(direction) => {
                    let due = tokio::time::Instant::now() + self.bootstrap.drain;
                    self.drained.due.get_or_insert(due);
                }
                Some(Closing::Later) | None => {}
            }
        }
        self.write_ports();
    }

    /// The drain time of `graceful` is over.
    pub(super) async fn close_drained(&mut self) {
        self.drained.due = None;
        for direction in [Direction::Inbound, Direction::Outbound] {
            if self.drained.asked.of(direction).is_some() {
                self.close_all(direction).await;
            }
        }
        self.write_ports();
    }

    async fn close_all(&mut self, direction: Direction) {
        self.drained.close(direction);
        let listeners = &self.snapshot.listeners;
        let is_meant = |(name, _): &Door| listeners.get(&**name).is_some_and(|one| one.config.direction == direction);
        let doors: Vec<Door> = self.bound.keys().filter(|door| is_meant(door)).cloned().collect();
        for door in doors {
            self.bound.remove(&door);
            self.close(door).await;
        }
    }

    /// Readiness fails first; then connections are asked to end, and what is under way does. Listeners stay open for a
    /// moment: a caller that has not heard yet gets an answer and `connection: close`.
    pub(super) async fn drain(&mut self) {
        tracing::info!(limit = ?self.bootstrap.drain, "draining");
        let end = Instant::now() + self.bootstrap.drain;
        self.shared.set_draining();
        self.drain.send_replace(true);
        self.stop_source.send_replace(true);
        tokio::time::sleep(DRAIN_GRACE.min(self.bootstrap.drain)).await;
        for door in self.bound.keys() {
            self.close(door.clone()).await;
        }
        while self.shared.telemetry.connections_active() > 0 && Instant::now() < end {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let left = self.shared.telemetry.connections_active();
        if left > 0 {
            tracing::warn!(connections = left, "the drain time is over; these connections are cut");
        }
        self.exporter.flush(LAST_SPANS).await;
        self.flush_logs().await;
    }

    /// Lines of the access log that are on their way get a moment to arrive.
    async fn flush_logs(&self) {
        let handed_over = async {
            for worker in &self.workers {
                let (done, handed_over) = oneshot::channel();
                // An error means that the worker's thread has ended, and its lines with it.
                if worker.commands.send(Command::HandOverLogs(done)).await.is_ok() {
                    let _ = handed_over.await;
                }
            }
        };
        if tokio::time::timeout(LAST_LINES, handed_over).await.is_err() {
            tracing::warn!("a worker is too busy to hand over its last lines of the access log");
        }
        self.shared.telemetry.logs.flush(LAST_LINES).await;
    }
}
