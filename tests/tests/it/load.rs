//! Steady traffic beside whatever a test does: numbered requests, each sent once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use leno_tests::{Call, Connection, Protocol};
use tokio::task::JoinSet;

/// The header with a request's number.
pub(crate) const NUMBER: &str = "x-number";

/// Traffic that flows until it is told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    callers: JoinSet<Totals>,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Requests answered with 200, by body.
    pub(crate) by_body: BTreeMap<String, usize>,
    /// The numbers of those.
    pub(crate) numbers: Vec<usize>,
    /// What went wrong with the others.
    pub(crate) failures: Vec<String>,
}

impl Totals {
    /// Fails the test unless every request was answered with 200.
    pub(crate) fn must_be_flawless(&self) {
        let first: Vec<_> = self.failures.iter().take(5).collect();
        assert!(self.failures.is_empty(), "{} requests failed; the first: {first:#?}", self.failures.len());
        assert!(!self.numbers.is_empty(), "no request was sent at all");
    }
}

impl Load {
    /// `GET`s of `url` by this many callers, each on a connection of its own: HTTP/1.1 and HTTP/2 in turn.
    pub(crate) fn start(through: SocketAddr, url: &str, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let mut set = JoinSet::new();
        for caller in 0..callers {
            let protocol = Protocol::ALL[caller % 2];
            set.spawn(call(through, url.to_owned(), protocol, Arc::clone(&stop), Arc::clone(&sent)));
        }
        Self { stop, sent, callers: set }
    }

    /// How many requests were sent until now.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests were sent, so that what the test just did was under load. They may take their
    /// time, as long as there is always a next one.
    pub(crate) async fn flows(&self, more: usize) {
        let goal = self.sent() + more;
        loop {
            let before = self.sent();
            if before >= goal {
                return;
            }
            leno_tests::eventually("traffic flows", async || {
                let sent = self.sent();
                if sent > before { Ok(()) } else { Err(format!("{sent} of {goal} requests")) }
            })
            .await;
        }
    }

    /// Ends every caller after its current request.
    pub(crate) async fn stop(mut self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        let mut totals = Totals::default();
        while let Some(caller) = self.callers.join_next().await {
            let caller = caller.expect("a caller does not panic");
            totals.numbers.extend(caller.numbers);
            totals.failures.extend(caller.failures);
            for (body, count) in caller.by_body {
                *totals.by_body.entry(body).or_default() += count;
            }
        }
        totals
    }
}

async fn call(
    through: SocketAddr,
    url: String,
    protocol: Protocol,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
) -> Totals {
    let mut totals = Totals::default();
    let mut connection = Connection::open(through, protocol).await;
    while !stop.load(Ordering::Relaxed) {
        if !connection.is_open() {
            connection = Connection::open(through, protocol).await;
        }
        let number = sent.fetch_add(1, Ordering::Relaxed);
        let call = Call::get(&url).header(NUMBER, &number.to_string());
        match connection.try_send(call).await {
            Ok(reply) if reply.status == 200 => {
                totals.numbers.push(number);
                *totals.by_body.entry(reply.text()).or_default() += 1;
            }
            Ok(reply) => totals.failures.push(format!(
                "request {number} ({protocol:?}): {} {} {}",
                reply.status,
                reply.header("x-leno-error"),
                reply.text()
            )),
            Err(why) => totals.failures.push(format!("request {number} ({protocol:?}): {why}")),
        }
    }
    totals
}
