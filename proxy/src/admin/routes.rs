//! Which page answers which request.
//!
//! One table says everything of a page but what it answers: its paths, whether it changes something, what its query may
//! hold, and the line of the help. A page that only reads takes GET and HEAD, one that changes something POST alone, so
//! that no link and no crawler drains a proxy (Envoy).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};

use crate::cluster::Cluster;
use crate::identity;
use crate::telemetry::figures::{Figures, RetryRow};

use super::answer::{Answer, json, ok, text};
use super::query::{Query, QueryError, did_you_mean};
use super::{Face, Shared, clusters, drain, dump, explain, logging, process, stats, tap};

/// What there is to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Help,
    Ready,
    ServerInfo,
    ConfigDump,
    Clusters,
    Listeners,
    Certs,
    Stats,
    Prometheus,
    Figures,
    Explain,
    Memory,
    Tap,
    Logging,
    DrainListeners,
    HealthFail,
    HealthOk,
    ResetCounters,
    Quit,
}

/// What is counted of requests, and what the clusters in force know of retries.
fn figures(shared: &Shared) -> Figures {
    let mut figures = shared.telemetry.figures(SystemTime::now());
    let snapshot = shared.snapshot();
    let row = |cluster: &Arc<Cluster>| {
        let [begun, unsent, saved] =
            [&cluster.stats.retries.begun, &cluster.stats.unsent_retries, &cluster.stats.retries.succeeded]
                .map(|count| count.load(Ordering::Relaxed));
        RetryRow { cluster: cluster.config.name.to_string(), begun: begun + unsent, saved }
    };
    figures.retries = snapshot.clusters.iter().map(row).filter(|row| row.begun > 0).collect();
    figures
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// It only looks.
    Read,
    /// It changes something.
    Change,
}

/// Which acts a page knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acts {
    Reads,
    Changes,
    Both,
}

struct Entry {
    page: Page,
    /// The first is the one that the help names.
    paths: &'static [&'static str],
    acts: Acts,
    /// Parameters that the query may hold.
    parameters: &'static [&'static str],
    help: &'static str,
}

/// Names of modules are parameters of `/logging`, and nobody can list them: the page looks for itself.
const ANY: &[&str] = &["…"];

const PAGES: &[Entry] = &[
    Entry { page: Page::Help, paths: &["/", "/help"], acts: Acts::Reads, parameters: &[], help: "this" },
    Entry {
        page: Page::Ready,
        paths: &["/ready", "/healthz/ready"],
        acts: Acts::Reads,
        parameters: &[],
        help: "200 when it can serve, 503 with the reason when it cannot",
    },
    Entry {
        page: Page::ServerInfo,
        paths: &["/server_info"],
        acts: Acts::Reads,
        parameters: &[],
        help: "version, state, uptime, node, command line (JSON)",
    },
    Entry {
        page: Page::ConfigDump,
        paths: &["/config_dump"],
        acts: Acts::Reads,
        parameters: dump::PARAMETERS,
        help: "what is in force, with versions and what is not enforced (JSON)",
    },
    Entry {
        page: Page::Clusters,
        paths: &["/clusters"],
        acts: Acts::Reads,
        parameters: &["format"],
        help: "clusters, their limits and endpoints, breakers and health",
    },
    Entry {
        page: Page::Listeners,
        paths: &["/listeners"],
        acts: Acts::Reads,
        parameters: &["format"],
        help: "listeners and their addresses",
    },
    Entry {
        page: Page::Certs,
        paths: &["/certs"],
        acts: Acts::Reads,
        parameters: &[],
        help: "own certificate, trusted roots, renewals (JSON)",
    },
    Entry {
        page: Page::Stats,
        paths: &["/stats"],
        acts: Acts::Reads,
        parameters: stats::PARAMETERS,
        help: "all figures, one a line",
    },
    Entry {
        page: Page::Prometheus,
        paths: &["/stats/prometheus", "/metrics"],
        acts: Acts::Reads,
        parameters: &[],
        help: "metrics in Prometheus' format",
    },
    Entry {
        page: Page::Figures,
        paths: &["/figures"],
        acts: Acts::Reads,
        parameters: &[],
        help: "counters of requests and connections since the start (JSON)",
    },
    Entry {
        page: Page::Explain,
        paths: &["/explain"],
        acts: Acts::Reads,
        parameters: explain::PARAMETERS,
        help: "where a request would go, and by which rule (JSON)",
    },
    Entry {
        page: Page::Memory,
        paths: &["/memory"],
        acts: Acts::Reads,
        parameters: &[],
        help: "memory of the process (JSON)",
    },
    Entry {
        page: Page::Tap,
        paths: &["/tap"],
        acts: Acts::Reads,
        parameters: tap::PARAMETERS,
        help: "requests and connections as they end, one JSON object a line",
    },
    Entry {
        page: Page::Logging,
        paths: &["/logging"],
        acts: Acts::Both,
        parameters: ANY,
        help: "how much is logged; POST ?level=LEVEL or ?MODULE=LEVEL changes it",
    },
    Entry {
        page: Page::DrainListeners,
        paths: &["/drain_listeners"],
        acts: Acts::Changes,
        parameters: drain::PARAMETERS,
        help: "take no more connections; what is under way ends well",
    },
    Entry {
        page: Page::HealthFail,
        paths: &["/healthcheck/fail"],
        acts: Acts::Changes,
        parameters: &[],
        help: "let /ready fail",
    },
    Entry {
        page: Page::HealthOk,
        paths: &["/healthcheck/ok"],
        acts: Acts::Changes,
        parameters: &[],
        help: "take that back",
    },
    Entry {
        page: Page::ResetCounters,
        paths: &["/reset_counters"],
        acts: Acts::Changes,
        parameters: &[],
        help: "let /stats count from now on; /stats/prometheus goes on",
    },
    Entry { page: Page::Quit, paths: &["/quitquitquit"], acts: Acts::Changes, parameters: &[], help: "drain and exit" },
];

/// Answers a request, as it came through `face`; `target` is its path and query. Never fails: what is wrong with a request
/// is said in the answer.
///
/// The caller has looked at where the request comes from; see [`Face`] for what each of them may ask. What takes long to
/// write is written on a thread of its own, one text at a time: signals and pushes do not wait for it.
pub async fn respond(shared: &Arc<Shared>, face: Face, method: &Method, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (page, act, query) = match routed(face, method, path, query) {
        Ok(routed) => routed,
        Err(refusal) => return *refusal,
    };
    if !page.is_long() {
        return page.answer(shared, act, &query);
    }
    // An error would mean that somebody has closed it, and nobody does.
    let _turn = shared.writing.acquire().await;
    let shared = Arc::clone(shared);
    match tokio::task::spawn_blocking(move || page.answer(&shared, act, &query)).await {
        Ok(answer) => answer,
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be made: {error}\n")),
    }
}

/// What a request changes, as far as its method and path say.
pub(super) fn act(method: &Method) -> Act {
    match *method {
        Method::GET | Method::HEAD => Act::Read,
        _ => Act::Change,
    }
}

fn routed(face: Face, method: &Method, path: &str, query: &str) -> Result<(Page, Act, Query), Box<Answer>> {
    let seen = || PAGES.iter().filter(|entry| face.shows(entry.page));
    let Some(entry) = seen().find(|entry| entry.paths.contains(&path)) else {
        let hint = did_you_mean(path, seen().flat_map(|entry| entry.paths).copied());
        let path: String = path.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(text(StatusCode::NOT_FOUND, format!("there is no {path}{hint}\n\n{}", help(face))).into());
    };
    let act = match (entry.acts, act(method)) {
        (Acts::Reads | Acts::Both, Act::Read) => Act::Read,
        (Acts::Changes | Acts::Both, Act::Change) if method == Method::POST => Act::Change,
        (Acts::Both, _) => return Err(not_allowed("GET, HEAD, POST", "use GET to look, POST to change\n".to_owned())),
        (Acts::Changes, _) => return Err(not_allowed("POST", format!("use POST: {path} changes something\n"))),
        (Acts::Reads, _) => return Err(not_allowed("GET, HEAD", format!("use GET: {path} changes nothing\n"))),
    };
    if act == Act::Change && !face.may_change(entry.page) {
        let says = format!("{path} is for the proxy's own machine; ask its admin address there\n");
        return Err(text(StatusCode::FORBIDDEN, says).into());
    }
    let query = if entry.parameters == ANY { Query::parse(query) } else { Query::of(query, entry.parameters) };
    let query = query.map_err(Answer::from)?;
    Ok((entry.page, act, query))
}

pub(super) fn not_allowed(methods: &'static str, says: String) -> Box<Answer> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, says);
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer.into()
}

impl Face {
    fn shows(self, page: Page) -> bool {
        match self {
            Self::All | Self::Relay => true,
            Self::Metrics => page == Page::Prometheus,
            Self::Ready => page == Page::Ready,
        }
    }

    fn may_change(self, page: Page) -> bool {
        match (self, page) {
            (Self::All, _) | (Self::Relay, Page::Logging) => true,
            (Self::Relay | Self::Metrics | Self::Ready, _) => false,
        }
    }
}

impl Page {
    /// Whether its text may be megabytes.
    fn is_long(self) -> bool {
        match self {
            Self::ConfigDump
            | Self::Clusters
            | Self::Stats
            | Self::Prometheus
            | Self::Figures
            | Self::Explain
            | Self::ResetCounters => true,
            Self::Help
            | Self::Ready
            | Self::ServerInfo
            | Self::Listeners
            | Self::Certs
            | Self::Memory
            | Self::Tap
            | Self::Logging
            | Self::DrainListeners
            | Self::HealthFail
            | Self::HealthOk
            | Self::Quit => false,
        }
    }

    fn answer(self, shared: &Arc<Shared>, act: Act, query: &Query) -> Answer {
        let answered: Result<Answer, QueryError> = match self {
            Self::Help => Ok(text(StatusCode::OK, help(Face::All))),
            Self::Ready => Ok(match shared.why_not_ready() {
                None => text(StatusCode::OK, "LIVE\n"),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            }),
            Self::ServerInfo => Ok(json(&process::server_info(shared))),
            Self::ConfigDump => dump::config(shared, query),
            Self::Clusters => clusters::answer(shared, query),
            Self::Listeners => process::listeners(shared, query),
            Self::Certs => Ok(json(&identity::certs(&shared.keyring, SystemTime::now()))),
            Self::Stats => stats::answer(shared, query),
            Self::Prometheus => Ok(stats::prometheus(shared)),
            Self::Figures => Ok(json(&figures(shared))),
            Self::Explain => explain::answer(shared, query),
            Self::Memory => Ok(process::memory()),
            Self::Tap => tap::answer(shared, query),
            Self::Logging => Ok(logging::page(act, query)),
            Self::DrainListeners => drain::answer(shared, query),
            Self::HealthFail => {
                shared.fail_health(true);
                Ok(ok())
            }
            Self::HealthOk => {
                shared.fail_health(false);
                Ok(ok())
            }
            Self::ResetCounters => Ok(stats::reset(shared)),
            Self::Quit => {
                shared.quit();
                Ok(ok())
            }
        };
        answered.unwrap_or_else(Answer::from)
    }
}

/// One line per page.
fn help(face: Face) -> String {
    let mut out = format!("{} of leno-proxy\n", face);
    for entry in PAGES.iter().filter(|entry| face.shows(entry.page)) {
        let method = match entry.acts {
            Acts::Reads | Acts::Both => "GET",
            Acts::Changes => "POST",
        };
        let path = entry.paths.first().copied().unwrap_or_default();
        // Writing to a String does not fail.
        let _ = write!(out, "  {method:<4} {path:<20} {}", entry.help);
        if !entry.parameters.is_empty() && entry.parameters != ANY {
            let _ = write!(out, " (?{})", entry.parameters.join("=, ?") + "=");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests;
