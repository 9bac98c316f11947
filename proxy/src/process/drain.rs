//! Ends well: all of the process after SIGTERM, or its listeners while it stays.
//!
//! A pod that is to end still gets requests, since nobody takes it off everybody's list in the same instant, and its app
//! may have requests of its own to send until it is done. So the process, told to end by SIGTERM or `/quitquitquit`,
//!
//! 1. fails its readiness at once;
//! 2. keeps all listeners open, and both directions going: new connections are taken, the configuration is kept up to date
//!    (a peer's endpoints change while this one ends), certificates are renewed. Each answer on HTTP/1.1 says `connection:
//!    close`, HTTP/2 gets a GOAWAY that still lets in what is on its way; a connection that rests is left alone, because
//!    closing it would lose the request that its caller is about to send. Bytes go on: nobody can be asked in TCP;
//! 3. closes its listeners when the first of these is so:
//!    * the app is gone for a second: it holds no connection to this proxy, and each of its ports refuses connections. A
//!      native sidecar gets its SIGTERM when the app's containers have ended, so there this is what happens. Peers that
//!      still come are refused by the system then, which is always safe to try elsewhere, where a 503 is not;
//!    * nothing was under way for five seconds, in either direction; a request, a tunnel and a TCP connection are. Not
//!      before, even if it is idle at once: an idle proxy may be one whose peers have not heard yet;
//!    * the drain time (`drain`, 30 s) is over;
//! 4. closes what rests, waits for what is still under way until the drain time is over, and exits.
//!
//! Istio waits for its five seconds in any case and then, by default, exits whatever is under way; here they are counted
//! from the last sign of life, and skipped where there is no app to serve. A person at a terminal (SIGINT) has no peers
//! that have not heard, and waits a quarter of a second instead of five; a second SIGINT ends the waiting.

use std::time::{Duration, Instant};

use leno_config::ir::Direction;
use tokio::sync::oneshot;

use crate::admin::{Closing, ListenerDrain};
use crate::downstream::accept::Door;
use crate::stage::Stage;
use crate::worker::{Census, Command};

use super::Proxy;
use super::ending::{Ending, QUIET, Reason};

/// How often workers are asked whether they have ended what was cut.
const SOON: Duration = Duration::from_millis(10);
/// How often the end of draining is looked for.
pub(super) const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// How long workers may take to count what they do.
const COUNT: Duration = Duration::from_secs(1);
/// How long the end waits for the last lines of access logs, at each step.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// How long callers may take to hear that their resting connections are closed.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long nothing has to be under way where nobody is expected.
const AT_A_TERMINAL: Duration = Duration::from_millis(250);

/// Who wants the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whoever runs it: SIGTERM, or `/quitquitquit`.
    ByTheSystem,
    /// A person: SIGINT.
    AtATerminal,
}

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

    /// Readiness fails, connections hear that they should go, and the end is looked for. An error where this process was
    /// to take over from another one, which then goes on.
    pub(super) fn begin_to_end(&mut self, asked: Asked) -> anyhow::Result<()> {
        if self.succession.is_to_come() {
            anyhow::bail!("told to end before it had taken over; the running proxy goes on");
        }
        if let Some(ending) = &mut self.ending {
            // After an upgrade there was more time than whoever runs the process wants to give it now.
            ending.latest = ending.latest.min(Instant::now() + self.bootstrap.drain);
            return Ok(());
        }
        let quiet = match asked {
            Asked::ByTheSystem => QUIET,
            Asked::AtATerminal => AT_A_TERMINAL,
        };
        tracing::info!(limit = ?self.bootstrap.drain, "draining");
        self.shared.telemetry.drains();
        self.stage.send_replace(Stage::Draining);
        self.ending = Some(Ending::new(Instant::now(), self.bootstrap.drain, quiet));
        self.looks = Some(tokio::time::Instant::now());
        Ok(())
    }

    /// Looks whether it is time; the reason, once it is.
    pub(super) async fn look_for_the_end(&mut self) -> Option<Reason> {
        let census = self.census().await;
        if self.succession.is_over() && self.shared.telemetry.connections_active() == 0 {
            return Some(Reason::Empty);
        }
        // The next process has the app's new connections; that the app is gone says nothing of those that are here.
        let is_alone = !self.succession.is_over() && census.is_some_and(|census| census.from_app == 0);
        let refused = is_alone && self.app.refuses(&self.snapshot).await;
        self.looks = Some(tokio::time::Instant::now() + DRAIN_LOOK);
        let now = Instant::now();
        match (self.ending.as_mut()?, census) {
            (ending, Some(census)) => ending.look(now, census, refused),
            // Too busy to count is as far from quiet as can be.
            (ending, None) => (now >= ending.latest).then_some(Reason::TimeOver),
        }
    }

    /// What all workers have to do; `None`: one is too busy to say.
    async fn census(&self) -> Option<Census> {
        let count = async {
            let mut whole = Census::default();
            for worker in &self.workers {
                let (say, said) = oneshot::channel();
                // An error means that the worker's thread has ended, which the process does not outlive.
                if worker.commands.send(Command::Count(say)).await.is_ok() {
                    whole = whole.and(said.await.unwrap_or_default());
                }
            }
            whole
        };
        tokio::time::timeout(COUNT, count).await.ok()
    }

    /// Takes no more connections, closes those that rest, and ends when the others have, or at once where it has no time.
    pub(super) async fn close_down(&mut self, reason: Option<Reason>) {
        tracing::info!(?reason, "closing down");
        let begun = Instant::now();
        // Without a reason somebody has lost patience.
        let latest = self.ending.as_ref().filter(|_| reason.is_some()).map_or(begun, |ending| ending.latest);
        for door in self.bound.keys() {
            self.close(door.clone()).await;
        }
        self.stage.send_replace(Stage::Closing);
        let left = loop {
            let under_way = self.census().await.map_or(1, |census| census.under_way);
            let (now, open) = (Instant::now(), self.shared.telemetry.connections_active());
            if under_way == 0 && (open == 0 || now >= latest.min(begun + LAST_WORDS)) || now >= latest {
                break under_way;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        };
        if left > 0 {
            tracing::warn!(connections = left, "the drain time is over; these connections are cut");
            self.give_up().await;
        }
        self.stop_source.send_replace(true);
        self.exporter.flush(LAST_SPANS).await;
        self.flush_logs().await;
    }

    /// Ends what is under way, so that it leaves its lines in logs, traces and figures.
    async fn give_up(&self) {
        for worker in &self.workers {
            // An error means that the worker's thread has ended, and everything with it.
            let _ = worker.commands.send(Command::GiveUp).await;
        }
        let end = Instant::now() + LAST_LINES;
        while Instant::now() < end && self.census().await.is_some_and(|census| census.under_way > 0) {
            tokio::time::sleep(SOON).await;
        }
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
