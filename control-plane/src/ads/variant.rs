//! The two variants of the protocol, to the service that speaks them: what differs is in the messages and in what a
//! request means, and nothing else.

use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use leno_config::xds::Kind;

use super::session::{self, Received, Session, TooManyNames};
use super::wire;
use super::world::{self, TooLarge, World};

/// Which variant a stream speaks, for people and programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Changes.
    Delta,
    /// Everything, each time.
    World,
}

impl Protocol {
    /// In the words of the protocol's documents.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::World => "sotw",
        }
    }

    /// The session of a stream that has just been opened.
    pub(crate) fn session(self, now: Instant) -> Session {
        match self {
            Self::Delta => Session::new(now),
            Self::World => Session::undivided(now),
        }
    }
}

/// One response, ready to be sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) kind: Kind,
    /// How many resources it holds.
    pub(crate) resources: usize,
    /// How many names it removes.
    pub(crate) removed: usize,
    /// One message of gRPC.
    pub(crate) pieces: Vec<Bytes>,
}

/// What a variant does with a stream's session.
pub(crate) trait Variant: Default + Send + Sync + 'static {
    const PROTOCOL: Protocol;
    /// What a client sends.
    type Message: prost::Message + Default + 'static;
    /// What it means by that, for one kind of resource.
    type Request: Send;

    fn read(message: Self::Message) -> wire::Received<Self::Request>;

    /// Takes what the client says about a kind. Call [`Variant::poll`] afterwards.
    fn on_request(
        &mut self,
        session: &mut Session,
        kind: Kind,
        request: Self::Request,
    ) -> Result<Received, TooManyNames>;

    /// The next response that may be sent, if there is one.
    fn poll(&mut self, session: &mut Session, now: Instant) -> Result<Option<Sent>, TooLarge>;
}

/// The session's own words.
#[derive(Debug, Default)]
pub(crate) struct Delta;

impl Variant for Delta {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Message = discovery::DeltaDiscoveryRequest;
    type Request = session::Request;

    fn read(message: Self::Message) -> wire::Received<Self::Request> {
        message.into()
    }

    fn on_request(
        &mut self,
        session: &mut Session,
        kind: Kind,
        request: Self::Request,
    ) -> Result<Received, TooManyNames> {
        session.on_request(kind, request)
    }

    fn poll(&mut self, session: &mut Session, now: Instant) -> Result<Option<Sent>, TooLarge> {
        Ok(session.poll(now).map(|response| Sent {
            kind: response.kind,
            resources: response.resources.len(),
            removed: response.removed.len(),
            pieces: wire::pieces(&response, CONTROL_PLANE),
        }))
    }
}

impl Variant for World {
    const PROTOCOL: Protocol = Protocol::World;
    type Message = discovery::DiscoveryRequest;
    type Request = world::Request;

    fn read(message: Self::Message) -> wire::Received<Self::Request> {
        message.into()
    }

    fn on_request(
        &mut self,
        session: &mut Session,
        kind: Kind,
        request: Self::Request,
    ) -> Result<Received, TooManyNames> {
        World::on_request(self, session, kind, request)
    }

    fn poll(&mut self, session: &mut Session, now: Instant) -> Result<Option<Sent>, TooLarge> {
        Ok(World::poll(self, session, now)?.map(|response| Sent {
            kind: response.kind,
            resources: response.resources.len(),
            removed: 0,
            pieces: wire::world_pieces(&response, CONTROL_PLANE),
        }))
    }
}

/// Who answers.
const CONTROL_PLANE: &str = concat!("leno ", env!("CARGO_PKG_VERSION"));
