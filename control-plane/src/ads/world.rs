//! The state-of-the-world variant of the protocol, in front of a session that speaks of changes.
//!
//! Here a client does not say what it wants besides: every request lists all the names it wants of a kind. And a
//! response does not say what is gone: a cluster or listener is gone when a response does not hold it, and endpoints,
//! routes and secrets never are. [`World`] knows the last list and what was sent, and turns both into differences:
//!
//! ```text
//!   names ──▶ (added, dropped) ──▶ Session ──▶ (changed, removed) ──▶ everything, or what changed
//! ```
//!
//! Order, patience, refusals and what `leno status` tells are the session's, and so the same for both variants. What is
//! this variant's own:
//!
//! * **A nonce says what a request is about.** The last one: an acknowledgement or a refusal, and the names beside it
//!   count. An older one: the client has not read the newest response yet and will say all of it again, so the request
//!   means nothing (a refusal is still noted). None, or any before something was sent: every name is answered, also one
//!   that was answered before. gRPC sends a second such request before it has heard the answer to the first, and waits
//!   for what only the second asks for.
//! * **Dropped names are not answered**, added ones are.
//! * **No names** mean everything, for clusters and listeners and as long as the client has never named any; from then
//!   on they mean nothing, and `*` means everything.
//! * **Clusters and listeners go out all together**, those among them that are to go away too until nothing uses them
//!   any more. Of the other kinds only what changed is sent, and what is not there is not spoken of: the client gives up
//!   waiting by itself (15 s).
//! * **A version that the client brings along** decides nothing. It is that of the last response that was accepted as a
//!   whole, and clients apply the valid part of one that they refuse; so a client may hold more than its version says,
//!   and only an answer puts that right. (Envoy leaves alone what an answer does not change.) What else it holds from
//!   an earlier stream it cannot say: where rules changed in between, a cluster may go before the route that used it.
//!   The delta variant is better at that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use leno_config::xds::Kind;

use super::session::{self, MAX_RESPONSE, Received, Session, TooManyNames, WILDCARD, has_wildcard};
use crate::snapshot::{Resource, Set};

/// What a client says about one kind of resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// All that it wants.
    pub(crate) names: Vec<String>,
    /// Of the last response that it read on this stream.
    pub(crate) nonce: Option<String>,
    /// Why it refuses that response; `None`: it accepts it.
    pub(crate) error: Option<String>,
}

/// What a client is told about one kind of resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) kind: Kind,
    /// Unique on the stream.
    pub(crate) nonce: String,
    /// For clusters and listeners: of exactly these resources. Else of the set that the response leads to.
    pub(crate) version: Arc<str>,
    /// All clusters or listeners that the client is to hold, or what changed of another kind.
    pub(crate) resources: Vec<Arc<Resource>>,
    /// What the client asked for and is not sent, with the reason (gRFC A88). Names that are not there for no reason are
    /// not among them.
    pub(crate) errors: Vec<(Arc<str>, String)>,
}

/// More than the variant can say.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "all {} together are {bytes} bytes, more than the {MAX_RESPONSE} of one message; scope them with a Sidecar, or let the client use the delta variant (api_type: DELTA_GRPC)",
    kind.label()
)]
pub(crate) struct TooLarge {
    kind: Kind,
    bytes: usize,
}

/// What a stream of this variant remembers besides its session.
#[derive(Debug, Default)]
pub(crate) struct World {
    kinds: BTreeMap<Kind, KindState>,
}

#[derive(Debug, Default)]
struct KindState {
    /// The session is subscribed to everything.
    everything: bool,
    /// Names that the session is subscribed to. While it is to everything, also some that the client has dropped.
    subscribed: BTreeSet<String>,
    /// The client has named something once.
    has_named: bool,
    /// Of the last response.
    nonce: Option<String>,
    /// Clusters or listeners that the client holds.
    held: BTreeMap<Arc<str>, Arc<Resource>>,
}

/// What the nonce of a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// It is about the last response.
    Reply,
    /// It begins anew.
    Question,
    /// It is about a response that has been superseded.
    Nothing,
}

impl World {
    /// Takes what the client says about a kind. Call [`World::poll`] afterwards.
    pub(crate) fn on_request(
        &mut self,
        session: &mut Session,
        kind: Kind,
        request: Request,
    ) -> Result<Received, TooManyNames> {
        let Request { names, nonce, error } = request;
        let state = self.kinds.entry(kind).or_default();
        let means = match (&nonce, &state.nonce) {
            (Some(said), Some(last)) if said == last => Means::Reply,
            (Some(_), Some(_)) => Means::Nothing,
            (None, _) | (Some(_), None) => Means::Question,
        };
        let changes = match (means, &error) {
            (Means::Nothing, None) => return Ok(Received::Subscription),
            (Means::Nothing, Some(_)) => session::Request::default(),
            (Means::Reply | Means::Question, _) => state.changes(kind, names, means),
        };
        session.on_request(kind, session::Request { nonce, error, ..changes })
    }

    /// The next response that may be sent, if there is one; to be called as [`Session::poll`] is.
    pub(crate) fn poll(&mut self, session: &mut Session, now: Instant) -> Result<Option<Response>, TooLarge> {
        while let Some(response) = session.poll(now) {
            let (kind, nonce) = (response.kind, response.nonce.clone());
            let state = self.kinds.entry(kind).or_default();
            let reason = |name: &Arc<str>| Some((Arc::clone(name), session.refusal(kind, name)?));
            let errors = response.removed.iter().filter_map(reason).collect();
            let said = match has_wildcard(kind) {
                true => state.everything_with(response, errors)?,
                false => changed(response, errors),
            };
            if has_wildcard(kind) || !said.resources.is_empty() || !said.errors.is_empty() {
                state.nonce = Some(nonce);
                return Ok(Some(said));
            }
            // What is not there is nothing that this variant could speak of.
            let settled = session::Request { nonce: Some(nonce), ..session::Request::default() };
            let _accepted = session.on_request(kind, settled);
        }
        Ok(None)
    }
}

impl KindState {
    /// What is new in a list of names.
    fn changes(&mut self, kind: Kind, names: Vec<String>, means: Means) -> session::Request {
        let mut names = names.into_iter().collect::<BTreeSet<_>>();
        let implied = has_wildcard(kind) && names.is_empty() && !self.has_named;
        self.has_named |= !names.is_empty();
        let everything = implied || (has_wildcard(kind) && names.remove(WILDCARD));
        let again = means == Means::Question;
        let added = names.iter().filter(|name| again || !self.subscribed.contains(*name)).cloned();
        let mut subscribe = added.collect::<Vec<_>>();
        let mut unsubscribe = Vec::new();
        if everything && (again || !self.everything) {
            subscribe.push(WILDCARD.to_owned());
        }
        if everything {
            // A dropped name is covered still. To the session that would be worth an answer, so it is not told.
            self.subscribed.append(&mut names);
        } else {
            unsubscribe.extend(self.everything.then(|| WILDCARD.to_owned()));
            unsubscribe.extend(self.subscribed.difference(&names).cloned());
            self.held.retain(|name, _| names.contains(&**name));
            self.subscribed = names;
        }
        self.everything = everything;
        session::Request { subscribe, unsubscribe, ..session::Request::default() }
    }

    /// A change of clusters or listeners, and all others that the client is to keep.
    fn everything_with(
        &mut self,
        change: session::Response,
        errors: Vec<(Arc<str>, String)>,
    ) -> Result<Response, TooLarge> {
        let session::Response { kind, nonce, version: _, resources, removed } = change;
        for name in &removed {
            self.held.remove(name);
        }
        self.held.extend(resources.into_iter().map(|resource| (Arc::clone(&resource.name), resource)));
        let version = Set::version_of(self.held.values());
        let bytes = self.held.values().map(|resource| resource.state.len()).sum::<usize>();
        if bytes > MAX_RESPONSE {
            return Err(TooLarge { kind, bytes });
        }
        Ok(Response { kind, nonce, version, resources: self.held.values().cloned().collect(), errors })
    }
}

fn changed(change: session::Response, errors: Vec<(Arc<str>, String)>) -> Response {
    let session::Response { kind, nonce, version, resources, removed: _ } = change;
    Response { kind, nonce, version, resources, errors }
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
