//! Copies of requests to somewhere else (Envoy's request mirroring): fire and forget.
//!
//! A copy leaves with its request: after faults and with everything that the rules did to the head, its host with
//! `-shadow` behind the name. From then on the two have nothing in common but the frames of the body ([`tee`]). The copy
//! has a task of its own, a deadline of its own that starts at the end of the request, and counts against the limits of
//! the cluster it goes to; it is not retried, its answer is read and thrown away. Requests for an upgrade are not copied:
//! what follows them is no request.
//!
//! Nothing of this can hold up or fail the request. So many copies may be under way and no more ([`MAX_COPIES`]); the
//! next ones are left out and counted.

pub mod tee;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Version};
use http_body_util::BodyExt as _;
use leno_config::ir::{Action, Fraction, Mirror, Route};

use crate::attempt::plan::RetryPlan;
use crate::attempt::{Answer, Attempts, Protocol};
use crate::body::{Body, RequestBody, UpstreamBody};
use crate::cluster::Members;
use crate::downstream::Connection;
use crate::sanitize;
use crate::telemetry::add;
use crate::worker::{View, Worker, WorkerCluster};

use tee::{Buffer, Tee};

/// Copies that one worker may have under way.
const MAX_COPIES: u32 = 1024;
/// For the answer, where the route has no timeout: Envoy's default of a route, since a copy that hangs is worth nothing.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The copies of a worker that are under way.
#[derive(Debug, Default)]
pub struct Copies {
    count: Rc<Cell<u32>>,
    /// Bytes that they lag behind.
    held: Rc<Cell<usize>>,
}

/// One copy under way; ends with the guard.
#[derive(Debug)]
struct UnderWay(Rc<Cell<u32>>);

/// Sends the copies that the route asks for, and gives the request a body that feeds them. A route without mirrors pays a
/// branch.
#[inline]
pub fn send_copies(
    connection: &Connection,
    view: &Rc<View>,
    route: &Route,
    outgoing: &mut Option<Request<RequestBody>>,
) {
    if let Action::Forward(forward) = &route.action
        && !forward.mirrors.is_empty()
    {
        send_some(&connection.worker, view, &forward.mirrors, forward.timeout.unwrap_or(TIMEOUT), outgoing);
    }
}

#[cold]
fn send_some(
    worker: &Rc<Worker>,
    view: &Rc<View>,
    mirrors: &[Mirror],
    timeout: Duration,
    outgoing: &mut Option<Request<RequestBody>>,
) {
    let Some((parts, body)) = outgoing.take().map(Request::into_parts) else { return };
    let hits = |share: Fraction| worker.random.below(Fraction::ALL.millionths()) < share.millionths();
    let mut shadows: Vec<Shadow> = mirrors
        .iter()
        .filter(|mirror| hits(mirror.share))
        .filter_map(|mirror| Shadow::new(worker, view, mirror, &parts, timeout))
        .collect();
    let body = match body {
        RequestBody::Empty => RequestBody::Empty,
        body if shadows.is_empty() => body,
        body => {
            let (tee, copies) = Tee::new(body, shadows.len(), &worker.policy.copies().held);
            for (shadow, copy) in shadows.iter_mut().zip(copies) {
                shadow.buffer = Some(copy.buffer());
                shadow.body = RequestBody::Copy(Box::new(copy));
            }
            RequestBody::Teed(Box::new(tee))
        }
    };
    *outgoing = Some(Request::from_parts(parts, body));
    for shadow in shadows {
        tokio::task::spawn_local(shadow.run());
    }
}

/// A copy to be sent.
struct Shadow {
    worker: Rc<Worker>,
    view: Rc<View>,
    cluster: Rc<WorkerCluster>,
    protocol: Protocol,
    /// The request's host, where the cluster goes by it.
    host: Option<String>,
    head: Parts,
    body: RequestBody,
    /// What the body is fed through; `None`: there is no body.
    buffer: Option<Rc<Buffer>>,
    timeout: Duration,
    _under_way: UnderWay,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was answered, with whatever status.
    Answered,
    /// It was not answered, or could not be sent.
    Failed,
    /// It lagged behind the request.
    GivenUp,
    /// Too many were under way.
    LeftOut,
}

impl Shadow {
    /// `None` where it cannot be sent; that is counted.
    fn new(worker: &Rc<Worker>, view: &Rc<View>, mirror: &Mirror, parts: &Parts, timeout: Duration) -> Option<Self> {
        let cluster = view.shared.index_of(mirror.cluster.as_str()).and_then(|index| view.clusters.get(index));
        let Some(cluster) = cluster else {
            count(worker, Outcome::Failed);
            return None;
        };
        let Some(under_way) = worker.policy.copies().begin() else {
            count(worker, Outcome::LeftOut);
            return None;
        };
        let protocol = Protocol::of(cluster.shared.config.protocol, parts.version == Version::HTTP_2, false);
        let Some(head) = head(parts, protocol) else {
            count(worker, Outcome::Failed);
            return None;
        };
        let by_host = matches!(cluster.shared.members, Members::RequestHost) || cluster.follows_host();
        Some(Self {
            worker: Rc::clone(worker),
            view: Rc::clone(view),
            cluster: Rc::clone(cluster),
            protocol,
            host: by_host.then(|| sanitize::authority(parts).to_owned()),
            head,
            body: RequestBody::Empty,
            buffer: None,
            timeout,
            _under_way: under_way,
        })
    }

    async fn run(self) {
        let Self { worker, view, cluster, protocol, host, head, body, buffer, timeout, _under_way } = self;
        let mut outgoing = Some(Request::from_parts(head, body));
        let exchange = async {
            let host = host.as_deref();
            let plan = RetryPlan::default();
            let attempts = Attempts::new((&worker, &view), (&cluster, protocol, host), None, (&plan, None));
            let Answer { response, lease, in_flight, permit, attempt: _ } = attempts.send(&mut outgoing).await.ok()?;
            // Nobody waits for the answer, so its connection may wait for the end of the request.
            let body = UpstreamBody::new(response.into_body(), lease, (in_flight, permit), None, true);
            let mut body = Body::Upstream(body);
            while let Some(frame) = body.frame().await {
                frame.ok()?;
            }
            Some(())
        };
        let deadline = async {
            if let Some(buffer) = &buffer {
                buffer.over().await;
            }
            tokio::time::sleep(timeout).await;
        };
        let answered = tokio::select! {
            answered = exchange => answered.is_some(),
            () = deadline => false,
        };
        count(
            &worker,
            match answered {
                true => Outcome::Answered,
                false if buffer.is_some_and(|buffer| buffer.was_too_slow()) => Outcome::GivenUp,
                false => Outcome::Failed,
            },
        );
    }
}

impl Copies {
    fn begin(&self) -> Option<UnderWay> {
        let now = self.count.get();
        (now < MAX_COPIES).then(|| {
            self.count.set(now + 1);
            UnderWay(Rc::clone(&self.count))
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

fn count(worker: &Worker, outcome: Outcome) {
    let stats = &worker.stats;
    let counter = match outcome {
        Outcome::Answered => &stats.mirrors_answered,
        Outcome::Failed => &stats.mirrors_failed,
        Outcome::GivenUp => &stats.mirrors_given_up,
        Outcome::LeftOut => &stats.mirrors_left_out,
    };
    add(counter, 1);
}

/// The head of a copy; `None` where it cannot be said in the protocol.
fn head(parts: &Parts, protocol: Protocol) -> Option<Parts> {
    let mut head = Request::new(()).into_parts().0;
    head.method = parts.method.clone();
    head.uri = parts.uri.clone();
    head.version = parts.version;
    head.headers = parts.headers.clone();
    sanitize::set_host(&mut head, &shadow_of(sanitize::authority(parts))).ok()?;
    match protocol {
        Protocol::Http1 => sanitize::to_http1(&mut head).ok()?,
        Protocol::Http2 => sanitize::to_http2(&mut head).ok()?,
    }
    Some(head)
}

/// Envoy's name for the host of a copy, so that the logs of the servers behind tell the two apart. A literal IPv6 address
/// stays as it is: there is no such host as `[::1]-shadow`.
fn shadow_of(host: &str) -> String {
    match host.rsplit_once(':') {
        _ if host.starts_with('[') => host.to_owned(),
        Some((name, port)) => format!("{name}-shadow:{port}"),
        None => format!("{host}-shadow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_has_a_suffix_behind_its_name() {
        let rows = [
            ("shop", "shop-shadow"),
            ("shop.example.com:8080", "shop.example.com-shadow:8080"),
            ("10.0.0.1", "10.0.0.1-shadow"),
            ("10.0.0.1:80", "10.0.0.1-shadow:80"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]:80"),
        ];
        for (host, shadow) in rows {
            assert_eq!(shadow_of(host), shadow);
        }
    }

    #[test]
    fn a_copy_says_the_same_as_the_request_in_either_protocol() {
        let parts = Request::get("/a?b")
            .header("host", "shop:80")
            .header("x-own", "1")
            .body(())
            .expect("a request")
            .into_parts()
            .0;
        let one = head(&parts, Protocol::Http1).expect("a head");
        assert_eq!((one.uri.to_string().as_str(), sanitize::authority(&one)), ("/a?b", "shop-shadow:80"));
        let two = head(&parts, Protocol::Http2).expect("a head");
        assert_eq!(two.uri.to_string(), "http://shop-shadow:80/a?b");
        assert!(two.headers.contains_key("x-own") && !two.headers.contains_key("host"));
        assert_eq!(sanitize::authority(&parts), "shop:80", "the request keeps its own");
    }

    #[test]
    fn only_so_many_copies_are_under_way() {
        let copies = Copies::default();
        let mut under_way: Vec<_> = (0..MAX_COPIES).map(|_| copies.begin().expect("room")).collect();
        assert!(copies.begin().is_none());
        under_way.pop();
        assert!(copies.begin().is_some());
    }
}
