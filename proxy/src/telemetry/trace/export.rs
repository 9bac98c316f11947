//! The task on the control thread that makes spans of requests and sends them.
//!
//! ```text
//! queue ─▶ spans ─▶ batch (512, or a second old) ─▶ export ─▶ taken
//!                                                     │ it may pass: wait, again, three times in all
//!                                                     └▶ lost, counted
//! ```
//!
//! One export at a time: while a collector is slow the queue fills, and what does not fit there is dropped at the worker.
//! So a dead collector costs no request anything and no more memory than the queue.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use leno_config::ir::{Collector, Tracing, TracingProvider};
use leno_config::node::Node;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::random::Random;
use crate::state::snapshot::{Listener, Snapshot};
use crate::tls::Sessions;

use super::collector::{ExportError, Line, Taken};
use super::figures::{Lost, SpanFigures};
use super::otlp;
use super::spans::{Finished, Spans};

/// Spans that go together.
const BATCH: usize = 512;
/// So long a span waits for others.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Before the second and the third try, and up to half as long again.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Requests that are taken out of the queue at once.
const AT_ONCE: usize = 64;

/// How the rest of a process talks to the task.
#[derive(Debug)]
pub struct Exporter {
    flush: mpsc::Sender<oneshot::Sender<()>>,
}

/// What the task needs.
#[derive(Debug)]
pub struct Setting {
    /// Whose spans they are.
    pub node: Node,
    /// Where collectors are.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// For a collector in the mesh.
    pub tls: Rc<Sessions>,
    /// Chooses endpoints, and how long to wait.
    pub random: Rc<Random>,
}

impl Exporter {
    /// Starts the task, which ends with this; on the control thread, once.
    pub fn start(spans: &Spans, setting: Setting) -> Self {
        let (flush, asked) = mpsc::channel(1);
        if let Some(inbox) = spans.inbox() {
            let figures = Arc::clone(&spans.figures);
            let task = Task { setting, figures, batches: Vec::new(), failing: false };
            tokio::task::spawn_local(task.run(inbox, asked));
        }
        Self { flush }
    }

    /// Sends what is there, before the process leaves; waits no longer than `limit`.
    pub async fn flush(&self, limit: Duration) {
        let flushed = async {
            let (done, over) = oneshot::channel();
            if self.flush.send(done).await.is_ok() {
                // An error means that the task has ended.
                let _ = over.await;
            }
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::warn!("the last spans could not be sent in time");
        }
    }
}

/// Spans for one collector. There are as few as the configuration names, and no two for the same.
#[derive(Debug)]
struct Batch {
    collector: Collector,
    line: Line,
    spans: Vec<Span>,
    /// When the first one came.
    since: Instant,
}

struct Task {
    setting: Setting,
    figures: Arc<SpanFigures>,
    batches: Vec<Batch>,
    /// The last export failed, and the log has said so.
    failing: bool,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Box<Finished>>, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut came = Vec::with_capacity(AT_ONCE);
        loop {
            let due = self.batches.iter().filter(|batch| !batch.spans.is_empty()).map(Batch::due).min();
            tokio::select! {
                count = inbox.recv_many(&mut came, AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    came.drain(..).for_each(|finished| self.take(&finished));
                    self.export(|batch| batch.spans.len() >= BATCH).await;
                }
                () = until(due) => {
                    let now = Instant::now();
                    self.export(|batch| batch.due() <= now).await;
                }
                flush = asked.recv() => {
                    let Some(done) = flush else { return };
                    while let Ok(finished) = inbox.try_recv() {
                        self.take(&finished);
                    }
                    self.export(|_| true).await;
                    // An error means that nobody waits any more.
                    let _ = done.send(());
                }
            }
        }
    }

    fn take(&mut self, finished: &Finished) {
        let Some((tracing, collector)) = traced(&finished.listener) else { return };
        let at = self.batches.iter().position(|batch| batch.collector == *collector).unwrap_or_else(|| {
            let (collector, line) = (collector.clone(), Line::default());
            self.batches.push(Batch { collector, line, spans: Vec::new(), since: Instant::now() });
            self.batches.len() - 1
        });
        let Some(batch) = self.batches.get_mut(at) else { return };
        if batch.spans.is_empty() {
            batch.since = Instant::now();
        }
        batch.spans.extend(otlp::spans(finished, tracing));
    }

    /// Exports the batches that are due, and forgets those whose collector is no longer configured.
    async fn export(&mut self, is_due: impl Fn(&Batch) -> bool) {
        for mut batch in std::mem::take(&mut self.batches) {
            if !batch.spans.is_empty() && is_due(&batch) {
                let spans = std::mem::take(&mut batch.spans);
                self.send(&mut batch, spans).await;
            }
            if !batch.spans.is_empty() || self.is_configured(&batch.collector) {
                self.batches.push(batch);
            }
        }
    }

    async fn send(&mut self, batch: &mut Batch, spans: Vec<Span>) {
        let count = spans.len();
        let resource_spans = vec![otlp::export(&self.setting.node, &batch.collector.service, spans)];
        match self.persist(batch, &ExportTraceServiceRequest { resource_spans }).await {
            Ok(Taken { rejected, reason }) => {
                self.figures.exported(count.saturating_sub(rejected));
                self.figures.lost(Lost::Rejected, rejected.min(count));
                if rejected > 0 {
                    tracing::warn!(rejected, reason, "the collector did not want some of the spans");
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                let reason = match &error {
                    ExportError::NoEndpoint(_) => Lost::NoCollector,
                    ExportError::Refused(_) => Lost::Rejected,
                    ExportError::Connect(_)
                    | ExportError::Broken(_)
                    | ExportError::TimedOut(_)
                    | ExportError::Busy(_)
                    | ExportError::Request(_)
                    | ExportError::Answer(_) => Lost::ExportFailed,
                };
                self.figures.lost(reason, count);
                // Once: a collector may be away for days, and the counter says how many.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, spans = count, "spans are lost; leno_spans_dropped_total counts on");
                }
            }
        }
    }

    /// As often as it makes sense.
    async fn persist(&self, batch: &mut Batch, message: &ExportTraceServiceRequest) -> Result<Taken, ExportError> {
        let mut waits = BACKOFF.into_iter();
        loop {
            let error = match self.once(batch, message).await {
                Err(error) if error.is_passing() => error,
                done => return done,
            };
            let Some(wait) = waits.next() else { return Err(error) };
            let more = u64::try_from(wait.as_millis() / 2).unwrap_or_default();
            let more = self.setting.random.below(u32::try_from(more).unwrap_or(u32::MAX));
            tokio::time::sleep(wait + Duration::from_millis(more.into())).await;
        }
    }

    async fn once(&self, batch: &mut Batch, message: &ExportTraceServiceRequest) -> Result<Taken, ExportError> {
        let snapshot = Arc::clone(&self.setting.snapshots.borrow());
        let Batch { collector, line, .. } = batch;
        let cluster = snapshot.cluster_named(&collector.cluster);
        let cluster = cluster.ok_or_else(|| ExportError::NoEndpoint(collector.cluster.clone()))?;
        line.export((collector, cluster), message, (&self.setting.tls, &self.setting.random)).await
    }

    fn is_configured(&self, collector: &Collector) -> bool {
        let snapshot = self.setting.snapshots.borrow();
        snapshot.listeners.values().any(|listener| traced(listener).is_some_and(|(_, other)| other == collector))
    }
}

impl Batch {
    fn due(&self) -> Instant {
        self.since + LONGEST_WAIT
    }
}

/// How a listener traces, and where to.
pub fn traced(listener: &Listener) -> Option<(&Tracing, &Collector)> {
    let tracing = listener.config.protocol.http()?.tracing.as_deref()?;
    match &tracing.provider {
        TracingProvider::OpenTelemetry(collector) => Some((tracing, collector)),
        TracingProvider::Foreign(_) => None,
    }
}

/// Ready at that time; never without one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
