//! The way from an operator to this proxy's admin interface when the operator is not on this machine.
//!
//! The admin interface listens on loopback, and should: what it tells (configuration, peers, taps) is for whoever may
//! sit on this machine. But an operator who runs `leno stat` or `leno tap` sits elsewhere, and nobody can reach
//! loopback in another network namespace. So the proxy opens a stream to the control plane, which it knows and trusts
//! already, and the control plane passes questions on and answers back:
//!
//! ```text
//! leno stat ──HTTP──▶ control plane ◀══ stream, opened by the proxy ══ proxy
//!                          │   ask {GET /figures} ───────────▶  answers from its admin interface
//!                          ◀─────────── head, chunks, end ────
//! ```
//!
//! **Why not what Envoy has.** LRS reports loads per cluster at an interval that the server sets: no latencies per route,
//! no peers, no identities, and nothing of the inbound side. CSDS is asked *of* a proxy, on a port of the proxy, which is
//! what is missing here. Neither carries a tap. One small service that relays what the admin interface answers anyway has
//! no second vocabulary and needs no change when the admin interface learns something.
//!
//! **What it may ask.** Reading (`GET`) and the level of the log (`POST /logging`). A control plane may change the rules
//! of a proxy by xDS, but it cannot end, drain or reset it from afar: a mistake there would take down all proxies at once.
//!
//! **Which connection.** The one that xDS runs on, as one more HTTP/2 stream of it. So a proxy costs the control plane no
//! second connection (which would double what an idle proxy takes there), credentials are checked by the very same rules,
//! and when xDS moves to a new connection, with a newer credential or after a loss, this stream moves along. A proxy in
//! file mode has no control plane, and no stream.
//!
//! **Bounds.** [`wire::CONCURRENT`] questions at a time, chunks of [`wire::LARGEST_CHUNK`], [`wire::WINDOW`] unread bytes
//! per answer. All of it runs on the control thread; no request ever waits for it.

mod answer;
mod stream;
pub mod wire;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body::Body;
use leno_config::node::Node;
use tokio::sync::watch;
use tokio::time::sleep;

use self::stream::Lost;
use crate::admin::{self, AdminBody, Face, Shared};
use crate::control_plane::Link;
use crate::xds::Backoff;

/// First and longest ceiling between two streams on the same connection. A new connection is tried at once: the wait
/// before it was that of xDS.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Until a control plane that does not know the service is asked again: it may have been replaced behind its address.
const UNKNOWN: Duration = Duration::from_secs(600);

/// The admin interface, without a socket.
pub trait Admin: Clone + 'static {
    /// What it answers with.
    type Body: Body<Data = Bytes, Error = Infallible> + 'static;

    /// Answers a question; `target` is path and query. The body of some answers (a tap) does not end by itself; dropping
    /// it ends it.
    fn answer(&self, method: &Method, target: &str) -> impl Future<Output = Response<Self::Body>>;
}

impl Admin for Arc<Shared> {
    type Body = AdminBody;

    async fn answer(&self, method: &Method, target: &str) -> Response<AdminBody> {
        admin::respond(self, Face::Relay, method, target).await
    }
}

/// Keeps a stream open wherever there is a connection to the control plane, until `stop` turns true or its sender or that
/// of the connections is gone. Wants a runtime that can spawn local tasks.
pub async fn run(
    mut links: watch::Receiver<Option<Link>>,
    node: Node,
    admin: impl Admin,
    random: fn() -> u64,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        () = keep_open(&mut links, &node, &admin, random) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn keep_open(links: &mut watch::Receiver<Option<Link>>, node: &Node, admin: &impl Admin, random: fn() -> u64) {
    let mut knows = true;
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let link = match links.wait_for(Option::is_some).await {
            Ok(link) => link.clone(),
            Err(_) => return,
        };
        let Some(link) = link else { continue };
        let lost = tokio::select! {
            lost = stream::serve(link, node, admin) => lost,
            // The connection is not to be used any more.
            changed = links.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let delay = match &lost {
            Lost::Unknown => {
                // Once, not for each attempt.
                if std::mem::replace(&mut knows, false) {
                    tracing::info!("{lost}: `leno stat` and `leno tap` do not see this proxy from afar");
                }
                UNKNOWN
            }
            // Where the connection is lost, xDS says so.
            Lost::Ended { .. } | Lost::Closed | Lost::HeadDeadline => {
                tracing::debug!("{lost}; trying again");
                backoff.next(random())
            }
        };
        tokio::select! {
            () = sleep(delay) => {}
            changed = links.changed() => match changed {
                Ok(()) => backoff = Backoff::new(BACKOFF.0, BACKOFF.1),
                Err(_) => return,
            },
        }
    }
}
