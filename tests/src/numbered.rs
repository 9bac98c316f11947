//! Numbered requests from callers that never try again, and the book of the apps that served them.
//!
//! What counts as lost: a request that was sent and not answered with 200. A caller heeds what its protocol tells it
//! (`connection: close`, GOAWAY) and moves to a new connection; a request that its own library hands back *unsent*, or of
//! which GOAWAY says that nobody has looked at it, goes there under its number. Those are counted as well.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Body, Protocol, Reply, empty, full, in_origin_form, read};
use crate::wait::{PATIENCE, eventually};

/// The header with a request's number.
pub const NUMBER: &str = "x-number";
/// How often one request may be handed back unsent.
const HANDED_BACK: usize = 20;

/// The numbers that apps have served, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Book(Arc<Mutex<Vec<usize>>>);

impl Book {
    /// Writes down a request that has come.
    pub fn write(&self, number: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    }

    /// How often each number has come.
    pub fn times(&self) -> BTreeMap<usize, usize> {
        let mut times = BTreeMap::new();
        for number in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *times.entry(*number).or_default() += 1;
        }
        times
    }
}

/// What is wrong with a reply that is a 200.
pub type Judge = fn(&Reply) -> Option<String>;

/// How a caller goes about it.
#[derive(Debug, Clone, Copy)]
struct Manner {
    protocol: Protocol,
    posts: bool,
    keeps: bool,
}

const MANNERS: [Manner; 5] = [
    Manner { protocol: Protocol::Http1, posts: false, keeps: true },
    Manner { protocol: Protocol::Http1, posts: true, keeps: true },
    Manner { protocol: Protocol::Http1, posts: false, keeps: false },
    Manner { protocol: Protocol::Http2, posts: false, keeps: true },
    Manner { protocol: Protocol::Http2, posts: true, keeps: true },
];

/// Callers that go on until they are told to stop.
pub struct Callers {
    stop: Arc<AtomicBool>,
    next: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<Outcome>,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Numbers that were answered with 200.
    pub answered: Vec<usize>,
    /// Numbers that were not, and why.
    pub failed: Vec<String>,
    /// Replies that were wrong, and why.
    pub wrong: Vec<String>,
    /// How often one was handed back unsent and went on another connection.
    pub unsent: usize,
}

impl Callers {
    /// So many, HTTP/1.1 and HTTP/2, GET and POST, with and without keep-alive in turn.
    pub fn start(through: SocketAddr, url: &str, callers: usize, judge: Judge) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (next, answered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for manner in MANNERS.iter().cycle().take(callers) {
            let (stop, next, answered) = (Arc::clone(&stop), Arc::clone(&next), Arc::clone(&answered));
            let mut caller = Caller { through, manner: *manner, url: url.to_owned(), line: None };
            tasks.spawn(async move {
                let mut outcome = Outcome::default();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    caller.ask(number, judge, &mut outcome).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                outcome
            });
        }
        Self { stop, next, answered, tasks }
    }

    /// How many requests were made until now.
    pub fn made(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been answered, so that what was just done was done under load.
    pub async fn flow(&self, more: usize) {
        self.reach(self.answered.load(Ordering::Relaxed) + more).await;
    }

    /// Waits until so many have been answered in all.
    pub async fn reach(&self, goal: usize) {
        loop {
            let before = self.answered.load(Ordering::Relaxed);
            if before >= goal {
                return;
            }
            eventually("requests go on", async || match self.answered.load(Ordering::Relaxed) {
                now if now > before => Ok(()),
                now => Err(format!("{now} of {goal}")),
            })
            .await;
        }
    }

    /// Ends each caller after its request.
    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut whole = Outcome::default();
        while let Some(one) = self.tasks.join_next().await {
            let one = one.expect("a caller does not panic");
            whole.answered.extend(one.answered);
            whole.failed.extend(one.failed);
            whole.wrong.extend(one.wrong);
            whole.unsent += one.unsent;
        }
        whole
    }
}

impl Outcome {
    /// Everything that is wrong: what failed, what was lost, doubled or never made, by the book of the apps.
    pub fn complaints(&self, book: &Book) -> Vec<String> {
        let times = book.times();
        let mut complaints: Vec<String> = self.failed.iter().chain(&self.wrong).cloned().collect();
        let lost = self.answered.iter().filter(|number| !times.contains_key(number));
        complaints.extend(lost.map(|number| format!("request {number}: answered, and no app has it in its book")));
        let doubled = times.iter().filter(|(_, times)| **times > 1);
        complaints.extend(doubled.map(|(number, times)| format!("request {number}: came {times} times")));
        complaints
    }

    /// Fails the test unless every request was answered well and came once.
    pub fn must_be_flawless(&self, book: &Book) {
        let complaints = self.complaints(book);
        let first: Vec<_> = complaints.iter().take(5).collect();
        let all = self.answered.len() + self.failed.len();
        assert!(complaints.is_empty(), "{} of {all} requests; the first: {first:#?}", complaints.len());
        assert!(!self.answered.is_empty(), "no request was made at all");
    }
}

struct Caller {
    through: SocketAddr,
    manner: Manner,
    url: String,
    line: Option<Line>,
}

enum Line {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

/// Why there is no reply.
enum Missing {
    /// Nothing of it was sent.
    Unsent,
    /// It was, or may have been.
    Lost(String),
}

impl Caller {
    async fn ask(&mut self, number: usize, judge: Judge, outcome: &mut Outcome) {
        let manner = self.manner;
        for _ in 0..HANDED_BACK {
            let said = match tokio::time::timeout(PATIENCE, self.send(number)).await {
                Ok(said) => said,
                Err(_) => Err(Missing::Lost(format!("no answer within {PATIENCE:?}"))),
            };
            match said {
                Ok(reply) if reply.status == 200 => {
                    outcome.wrong.extend(judge(&reply).map(|why| format!("request {number} ({manner:?}): {why}")));
                    outcome.answered.push(number);
                    return;
                }
                Ok(reply) => {
                    let (status, flag) = (reply.status, reply.header("x-leno-error"));
                    outcome.failed.push(format!("request {number} ({manner:?}): {status} {flag} {}", reply.text()));
                    return;
                }
                Err(Missing::Lost(why)) => {
                    outcome.failed.push(format!("request {number} ({manner:?}): {why}"));
                    self.line = None;
                    return;
                }
                Err(Missing::Unsent) => {
                    outcome.unsent += 1;
                    self.line = None;
                }
            }
        }
        outcome.failed.push(format!("request {number} ({manner:?}): handed back {HANDED_BACK} times"));
    }

    async fn send(&mut self, number: usize) -> Result<Reply, Missing> {
        let Manner { protocol, posts, keeps } = self.manner;
        let mut line = match self.line.take() {
            Some(line) if keeps => line,
            Some(_) | None => Line::open(self.through, protocol).await.map_err(Missing::Lost)?,
        };
        let request = self.request(number, posts);
        let response = match &mut line {
            Line::Http1(sender) => {
                sender.ready().await.map_err(|_| Missing::Unsent)?;
                sender.try_send_request(in_origin_form(request)).await.map_err(missing)?
            }
            Line::Http2(sender) => {
                sender.ready().await.map_err(|_| Missing::Unsent)?;
                sender.try_send_request(request).await.map_err(missing)?
            }
        };
        let reply = read(response).await.map_err(Missing::Lost)?;
        if reply.header("connection") != "close" {
            self.line = Some(line);
        }
        Ok(reply)
    }

    fn request(&self, number: usize, posts: bool) -> Request<Body> {
        let (method, body) = if posts { (Method::POST, full(number.to_string())) } else { (Method::GET, empty()) };
        let request = Request::builder().method(method).uri(&self.url).header(NUMBER, number).body(body);
        request.expect("the test's request is valid")
    }
}

/// hyper hands a request back only if GOAWAY was there before it was looked at. One that it was about to send when GOAWAY came
/// is gone with an error that says so, and nothing of it was sent either; the same error says of one that was that its
/// stream is above GOAWAY's last, so that nobody has looked at it (RFC 9113 §6.8). Should one of them have come all the same,
/// the book has it twice.
fn missing(mut error: hyper::client::conn::TrySendError<Request<Body>>) -> Missing {
    if error.take_message().is_some() {
        return Missing::Unsent;
    }
    let h2 = std::error::Error::source(error.error()).and_then(|source| source.downcast_ref::<h2::Error>());
    match h2.is_some_and(|h2| h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR)) {
        true => Missing::Unsent,
        false => Missing::Lost(crate::client::chain(error.error())),
    }
}

impl Line {
    async fn open(to: SocketAddr, protocol: Protocol) -> Result<Self, String> {
        let stream = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(to)).await;
        let stream = stream.map_err(|_| format!("{to} does not accept"))?.map_err(|error| format!("{to}: {error}"))?;
        let io = TokioIo::new(stream);
        match protocol {
            Protocol::Http1 => {
                let opened = hyper::client::conn::http1::handshake(io).await;
                let (sender, connection) = opened.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Protocol::Http2 => {
                let opened = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = opened.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Self::Http2(sender))
            }
        }
    }
}
