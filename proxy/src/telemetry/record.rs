//! One request, counted when its body ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use leno_config::ir::Direction;
use tokio::time::Instant;

use crate::downstream::{Connection, Flow};
use crate::error::{Flag, Flags, ProxyError};
use crate::policy::grant::Grant;

use super::detail::Detail;
use super::grpc::{self, Messages};
use super::labels::RouteNames;
use super::names;
use super::observe::{self, Ended};
use super::requests::{Form, Request, RequestKey, Spoken};
use super::tcp::Traffic;

/// Adds where nobody else writes: cheaper than a locked instruction.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// A request under way. Counted when it is dropped: with its last byte, or when somebody gave up on it.
#[derive(Debug)]
pub struct RequestRecord {
    connection: Rc<Connection>,
    started: Instant,
    /// What it is counted under, as far as it is known.
    key: RequestKey,
    complete: bool,
    /// Somebody else counts it.
    handed_over: bool,
    /// It may go on until this is revoked; `None`: nobody would ask again.
    grant: Option<Rc<Grant>>,
    /// Bytes of its body; `None`: it has none.
    request_body: Option<Rc<Meter>>,
    /// Bytes of the body of its answer, so far.
    response_bytes: u64,
    /// Messages of gRPC among them.
    response_messages: Messages,
    /// What passes after it has become a tunnel.
    tunnel: Option<Rc<Traffic>>,
    /// What is told of it, where somebody wants to know.
    detail: Option<Box<Detail>>,
}

/// What passes of a request's body.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: Cell<u64>,
    /// When it ended, where somebody wants to know.
    ended: Cell<Option<Instant>>,
    is_timed: bool,
    /// There is no more of it.
    over: Cell<bool>,
    /// No more of it may pass.
    cut: Cell<bool>,
    /// Who waits for more of it.
    waits: RefCell<Option<Waker>>,
    /// Messages of gRPC among them; `None`: it is not spoken.
    messages: Option<Cell<Messages>>,
}

impl Meter {
    /// Ends it: whoever waits for more of it hears that there is none, and lets go of it. Its caller hears then that the rest
    /// is not wanted (RST_STREAM with NO_ERROR, RFC 9113 §8.1).
    pub fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waits.take() {
            waker.wake();
        }
    }

    /// Whether it was ended: the endpoint has answered, or nobody wants the answer any more.
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Nothing is here, and somebody wants it.
    pub fn waits(&self, context: &Context<'_>) {
        let mut waits = self.waits.borrow_mut();
        if !waits.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waits = Some(context.waker().clone());
        }
    }

    /// Some bytes have passed.
    pub fn passed(&self, bytes: &[u8]) {
        self.bytes.set(self.bytes.get() + bytes.len() as u64);
        if let Some(messages) = &self.messages {
            let mut counted = messages.get();
            counted.passed(bytes);
            messages.set(counted);
        }
    }

    /// All messages of gRPC that have begun.
    pub fn messages(&self) -> u64 {
        self.messages.as_ref().map_or(0, |messages| messages.get().count())
    }

    /// All of it has come.
    pub fn ended(&self) {
        self.over.set(true);
        if self.is_timed {
            self.ended.set(Some(Instant::now()));
        }
    }

    /// From `started` to its end, if it has ended.
    fn took(&self, started: Instant) -> Option<Duration> {
        self.ended.get().map(|ended| ended.saturating_duration_since(started))
    }

    /// All that has passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

impl RequestRecord {
    /// A request begins on a listener of some direction; `detail` where somebody wants to know of it. On the heap: it
    /// travels with the answer through half a dozen moves, which together cost more than an allocation.
    pub fn begin(connection: Rc<Connection>, direction: Direction, detail: Option<Box<Detail>>) -> Box<Self> {
        add(&connection.life.stats.requests_active, 1);
        connection.life.begin();
        let key = RequestKey {
            direction,
            link: connection.link().id(),
            target: connection.worker.meters.labels().home(direction),
            route: names::UNKNOWN,
            code: 0,
            flags: Flags::default(),
            grpc: None,
            spoken: Spoken::default(),
            form: Form::default(),
        };
        Box::new(Self {
            connection,
            started: Instant::now(),
            key,
            complete: false,
            handed_over: false,
            grant: None,
            request_body: None,
            response_bytes: 0,
            response_messages: Messages::default(),
            tunnel: None,
            detail,
        })
    }

    /// What it is: gRPC or not, and what else metrics may tell apart.
    pub fn speaks(&mut self, spoken: Spoken, form: Form) {
        (self.key.spoken, self.key.form) = (spoken, form);
    }

    /// What is told of it, where somebody wants to know.
    pub fn detail(&mut self) -> Option<&mut Detail> {
        self.detail.as_deref_mut()
    }

    /// It has a body, and what of it passes is to be counted there.
    pub fn has_body(&mut self) -> Rc<Meter> {
        let (is_timed, ended) = (self.detail.is_some(), Cell::default());
        let messages = (self.key.spoken == Spoken::Grpc).then(Cell::default);
        let new = || {
            Rc::new(Meter {
                bytes: Cell::new(0),
                ended,
                is_timed,
                over: Cell::default(),
                cut: Cell::default(),
                waits: RefCell::default(),
                messages,
            })
        };
        Rc::clone(self.request_body.get_or_insert_with(new))
    }

    /// Whether all of it has passed, body and all.
    pub fn request_is_over(&self) -> bool {
        self.request_body.as_ref().is_none_or(|body| body.over.get())
    }

    /// Some bytes of the body of its answer have passed.
    pub fn answered(&mut self, bytes: &[u8]) {
        self.response_bytes += bytes.len() as u64;
        if self.key.spoken == Spoken::Grpc {
            self.response_messages.passed(bytes);
        }
    }

    /// The trailers of its answer have passed.
    pub fn trailed(&mut self, trailers: &HeaderMap) {
        if self.key.spoken == Spoken::Grpc {
            self.key.grpc = grpc::status(trailers).or(self.key.grpc);
        }
        if let Some(detail) = &mut self.detail {
            detail.trailers = trailers.clone();
        }
    }

    /// It has become a tunnel, whose bytes count as those of its body and of its answer's.
    pub fn tunnels(&mut self) -> Rc<Traffic> {
        Rc::clone(self.tunnel.get_or_insert_default())
    }

    /// For a body of it or of its answer, which may have to wait for the caller.
    pub fn flow(&self) -> Flow {
        Flow::new(Rc::clone(&self.connection.life), self.key.spoken == Spoken::Grpc)
    }

    /// For an answer that waits for room from its first byte on, as it may in HTTP/2; `None`: it does not, or may for ever.
    pub fn stream_flow(&self) -> Option<Flow> {
        let may_wait = self.connection.life.is_multiplexed() && self.key.spoken != Spoken::Grpc;
        may_wait.then(|| {
            let mut flow = self.flow();
            flow.hands(0);
            flow
        })
    }

    /// Policies have let it in.
    pub fn granted(&mut self, grant: Option<Rc<Grant>>) {
        self.grant = grant;
    }

    /// Its permission, where it can be revoked.
    pub fn grant(&self) -> Option<&Rc<Grant>> {
        self.grant.as_ref()
    }

    /// Its route is known, and with it what is called, unless a cluster says so better.
    pub fn route(&mut self, route: (usize, usize), names: &RouteNames) {
        self.key.route = names.route.id();
        if self.key.direction == Direction::Outbound {
            self.key.target = names.target.id();
        }
        if let Some(detail) = &mut self.detail {
            detail.route = Some(route);
        }
    }

    /// What is called: the number of a target.
    pub fn calls(&mut self, target: u32) {
        self.key.target = target;
    }

    /// Whom it has reached, or has not: the number of a link. Who came in stays the other side of what comes in.
    pub fn reached(&mut self, link: u32) {
        if self.key.direction == Direction::Outbound {
            self.key.link = link;
        }
    }

    /// The answer begins.
    pub fn answer<B>(&mut self, response: &Response<B>) {
        // Who has left gets no answer, and none is counted.
        self.key.code = if self.key.flags.is_left() { 0 } else { response.status().as_u16() };
        if self.key.spoken == Spoken::Grpc {
            self.key.grpc = grpc::status(response.headers());
        }
        if let Some(detail) = &mut self.detail {
            detail.response_headers = response.headers().clone();
        }
    }

    /// It is answered here because something went wrong.
    pub fn failed(&mut self, error: &ProxyError) {
        self.flag(error.reply().flag);
        if let Some(detail) = &mut self.detail {
            detail.failed(error);
        }
    }

    /// Something went wrong on the way; the first word stays.
    pub fn flag(&mut self, flag: Flag) {
        self.key.flags.add(flag);
    }

    /// Something else is to be said of the way.
    pub fn note(&mut self, notes: Flags) {
        self.key.flags.add_notes(notes);
    }

    /// All that has been said.
    pub fn flags(&self) -> Flags {
        self.key.flags
    }

    /// It is delayed on purpose.
    pub fn delayed(&mut self) {
        self.key.flags.add(Flag::DI);
    }

    /// All of it has passed.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// An answer made here is complete as soon as it is written.
    pub fn local(mut self: Box<Self>) -> Box<Self> {
        self.complete = true;
        self
    }

    /// The same request, counted from now on by somebody else: a tunnel outlives the exchange that opened it. What is
    /// left behind counts nothing. `answer` is the head that opens it.
    pub fn hand_over(&mut self, answer: &HeaderMap) -> Box<Self> {
        if let Some(detail) = &mut self.detail {
            detail.response_headers = answer.clone();
        }
        add(&self.connection.life.stats.requests_active, 1);
        self.connection.life.begin();
        self.handed_over = true;
        Box::new(Self {
            connection: Rc::clone(&self.connection),
            started: self.started,
            key: RequestKey { code: StatusCode::SWITCHING_PROTOCOLS.as_u16(), ..self.key },
            complete: false,
            handed_over: false,
            grant: self.grant.take(),
            request_body: self.request_body.take(),
            response_bytes: self.response_bytes,
            response_messages: self.response_messages,
            tunnel: None,
            detail: self.detail.take(),
        })
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.connection.life.end();
        let active = &self.connection.life.stats.requests_active;
        active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        if !self.complete {
            // The caller went away before the end, unless it was the proxy that had to.
            self.flag(if self.connection.life.is_given_up() { Flag::LR } else { Flag::DC });
        }
        if self.handed_over {
            return;
        }
        // The endpoint has answered before all of it had passed, or the caller has gone: what comes now might be taken for
        // another request.
        if let Some(body) = self.request_body.as_ref().filter(|body| !body.over.get()) {
            body.cut();
        }
        let duration = self.started.elapsed();
        let (received, sent) = self.tunnel.as_ref().map_or((0, 0), |tunnel| (tunnel.received(), tunnel.sent()));
        let request_bytes = received + self.request_body.as_ref().map_or(0, |meter| meter.bytes());
        let response_bytes = sent + self.response_bytes;
        let grpc = match self.key.spoken {
            Spoken::Grpc => self.key.grpc.or_else(|| grpc::status_of_http(self.key.code)),
            Spoken::Http => None,
        };
        let request = Request {
            micros: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            request_bytes,
            response_bytes,
            request_messages: self.request_body.as_ref().map_or(0, |meter| meter.messages()),
            response_messages: self.response_messages.count(),
        };
        let key = RequestKey { grpc, ..self.key };
        self.connection.worker.meters.request(key, &request);
        if let Some(mut detail) = self.detail.take() {
            detail.finish();
            observe::ended(Ended {
                detail,
                connection: Rc::clone(&self.connection),
                code: self.key.code,
                flags: self.key.flags,
                started: self.started,
                request_took: self.request_body.as_ref().map_or(Some(Duration::ZERO), |body| body.took(self.started)),
                duration,
                request_bytes,
                response_bytes,
            });
        }
    }
}
