//! Asking the proxies: slowly while nobody is interested, faster while somebody is, and at once when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use leno_proxy::telemetry::figures::{DURATION_BOUNDS_MS, Figures};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tracing::debug;

use super::history::{History, SPAN_MS};
use super::view::View;
use crate::relay::line::Line;
use crate::relay::switchboard::Switchboard;

/// Between two looks at a proxy while nobody is interested.
const SLOW: Duration = Duration::from_secs(60);
/// The same while somebody is, …
const FAST: Duration = Duration::from_secs(10);
/// … which is for so long after he asked.
const INTEREST: Duration = Duration::from_secs(300);
/// What is younger is not asked for again.
const FRESH: Duration = Duration::from_millis(200);
/// For one proxy's answer, and for all of them when somebody waits.
const DEADLINE: Duration = Duration::from_secs(5);
/// Proxies that are asked at a time.
const AT_A_TIME: usize = 64;
/// Largest answer that is read: some ten thousand rows.
const LARGEST: usize = 32 << 20;
/// A proxy that is gone may come back; its history is kept for so long.
const KEPT: Duration = Duration::from_millis(SPAN_MS);

/// What is known of all proxies.
#[derive(Debug)]
pub(crate) struct Gatherer {
    switchboard: Arc<Switchboard>,
    /// By node id.
    known: Mutex<BTreeMap<String, Known>>,
    asked: Mutex<Option<Instant>>,
    /// Somebody asks after a long time.
    roused: Notify,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    history: History,
    /// When it was last asked with success.
    looked: Option<Instant>,
    /// Why it was not, the last time.
    problem: Option<String>,
}

impl Gatherer {
    pub(crate) fn new(switchboard: Arc<Switchboard>) -> Arc<Self> {
        Arc::new(Self {
            switchboard,
            known: Mutex::default(),
            asked: Mutex::default(),
            roused: Notify::new(),
            room: Arc::new(Semaphore::new(AT_A_TIME)),
        })
    }

    /// Looks at all proxies again and again, evenly spread over the pace, until it is dropped.
    pub(crate) async fn keep_looking(self: Arc<Self>) {
        loop {
            let lines = self.switchboard.all();
            let pause = self.pace() / u32::try_from(lines.len().max(1)).unwrap_or(u32::MAX);
            let mut looks = JoinSet::new();
            for line in lines {
                looks.spawn(Arc::clone(&self).look(line, self.pace() / 2));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // The rest was looked at by who asked, and the pace is another one now.
                    () = self.roused.notified() => break,
                }
            }
            if looks.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(pause.min(FAST)) => {}
                    () = self.roused.notified() => {}
                }
            }
            while looks.join_next().await.is_some() {}
            self.forget_gone(Instant::now());
        }
    }

    /// What all connected proxies have counted in a while that ends now.
    pub(crate) async fn view(self: &Arc<Self>, window: Duration) -> View {
        let before = lock(&self.asked).replace(Instant::now());
        if before.is_none_or(|before| before.elapsed() > INTEREST) {
            self.roused.notify_one();
        }
        let lines = self.switchboard.all();
        let mut looks = JoinSet::new();
        for line in &lines {
            looks.spawn(Arc::clone(self).look(Arc::clone(line), FRESH));
        }
        // Whoever is later is told of with what is known.
        let _ = tokio::time::timeout(DEADLINE, async { while looks.join_next().await.is_some() {} }).await;
        let mut view = View::new(window, DURATION_BOUNDS_MS.to_vec());
        let known = self.known();
        for line in &lines {
            let found = known.get(&line.id);
            let problem = found.and_then(|known| known.problem.as_deref());
            view.add(&line.node, found.map(|known| &known.history), problem);
        }
        drop(known);
        view.finish();
        view
    }

    fn pace(&self) -> Duration {
        let asked = *lock(&self.asked);
        if asked.is_some_and(|asked| asked.elapsed() < INTEREST) { FAST } else { SLOW }
    }

    /// Asks one proxy, unless that was done just now.
    async fn look(self: Arc<Self>, line: Arc<Line>, fresh: Duration) {
        let looked = self.known().get(&line.id).and_then(|known| known.looked);
        if looked.is_some_and(|looked| looked.elapsed() < fresh) {
            return;
        }
        // Never closed.
        let Ok(_place) = self.room.acquire().await else { return };
        let figures = match tokio::time::timeout(DEADLINE, figures(&line)).await {
            Ok(figures) => figures,
            Err(_) => Err(format!("the proxy did not answer within {} s", DEADLINE.as_secs())),
        };
        let mut known = self.known();
        let known = known.entry(line.id.clone()).or_default();
        match figures {
            Ok(figures) => {
                known.history.take(&figures);
                (known.looked, known.problem) = (Some(Instant::now()), None);
            }
            Err(problem) => {
                debug!(node = line.id, "its figures cannot be read: {problem}");
                known.problem = Some(problem);
            }
        }
    }

    fn forget_gone(&self, now: Instant) {
        let is_kept = |known: &Known| known.looked.is_some_and(|looked| now.duration_since(looked) < KEPT);
        self.known().retain(|id, known| self.switchboard.has(id) || is_kept(known));
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        lock(&self.known)
    }
}

async fn figures(line: &Arc<Line>) -> Result<Figures, String> {
    let (head, answer) = line.ask("GET", "/figures").await.map_err(|error| error.to_string())?;
    let body = Limited::new(answer, LARGEST).collect().await.map_err(|error| error.to_string())?.to_bytes();
    if head.status != u32::from(StatusCode::OK.as_u16()) {
        return Err(format!("the proxy answered {}; is it older than this control plane?", head.status));
    }
    serde_json::from_slice(&body).map_err(|error| format!("the proxy's figures are not understood: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
