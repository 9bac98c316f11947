//! What the servers of a fleet saw.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version};

use super::script::{Script, Step};
use super::{RUN, SCRIPT};

/// One attempt at a request, as a server saw it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The server, which is also the version it stands for.
    pub server: String,
    /// Which of the server's connections it came on, from 0.
    pub connection: usize,
    /// Which run it belongs to; empty for a request without a number.
    pub run: String,
    /// Which attempt of the run it is, from 0.
    pub number: usize,
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Host`, or `:authority` in HTTP/2.
    pub host: String,
    /// What was spoken.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as far as it was read.
    pub body: Bytes,
    /// When its head had come.
    pub at: Instant,
}

impl Attempt {
    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }
}

/// All attempts at a fleet's servers.
#[derive(Debug, Default)]
pub(super) struct Book {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    attempts: Vec<Attempt>,
    /// Attempts of each run.
    runs: HashMap<String, usize>,
}

/// Where an attempt stands in the book.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry(usize);

impl Book {
    /// Writes an attempt down and says what is to become of it.
    pub(super) fn begin(&self, server: &str, connection: usize, head: &Request<()>) -> (Entry, Result<Step, String>) {
        let header = |name: &str| head.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let run = header(RUN).to_owned();
        let script = Some(header(SCRIPT)).filter(|text| !text.is_empty()).unwrap_or("200").parse::<Script>();
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = pages.runs.entry(run.clone()).or_default();
        let number = *counted;
        *counted += 1;
        let authority = head.uri().authority().map(ToString::to_string);
        pages.attempts.push(Attempt {
            server: server.to_owned(),
            connection,
            run,
            number,
            method: head.method().clone(),
            path: head.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            host: authority.unwrap_or_else(|| header("host").to_owned()),
            version: head.version(),
            headers: head.headers().clone(),
            body: Bytes::new(),
            at: Instant::now(),
        });
        (Entry(pages.attempts.len() - 1), script.map(|script| script.step(number).clone()))
    }

    /// Adds the body, once it is there.
    pub(super) fn body(&self, entry: Entry, body: Bytes) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = pages.attempts.get_mut(entry.0) {
            attempt.body = body;
        }
    }

    /// How many attempts at a run have begun.
    pub(super) fn count(&self, run: &str) -> usize {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).runs.get(run).copied().unwrap_or_default()
    }

    pub(super) fn attempts(&self, wanted: impl Fn(&Attempt) -> bool) -> Vec<Attempt> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.attempts.iter().filter(|attempt| wanted(attempt)).cloned().collect()
    }
}
