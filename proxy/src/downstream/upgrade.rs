//! A request that becomes a byte stream: WebSocket and whatever else a listener allows.
//!
//! HTTP/1.1 asks with `Upgrade` and is answered with 101 (RFC 9110 §7.8); HTTP/2 asks with an extended CONNECT and is
//! answered with 200 (RFC 8441). Toward the endpoint it is always HTTP/1.1, and not a byte goes there before its 101.

use std::future::poll_fn;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::attempt::Answer;
use crate::body::Body;
use crate::error::{Flag, ProxyError};
use crate::policy::grant::Grant;
use crate::sanitize::Awaited;
use crate::telemetry::RequestRecord;

use super::Connection;
use super::tcp::{Broken, relay};

/// An upgrade that was asked for and is allowed.
#[derive(Debug)]
pub struct Upgrade {
    token: HeaderValue,
    downstream: OnUpgrade,
    extended_connect: bool,
}

impl Upgrade {
    /// What the caller asks for; `None` when it is an ordinary request. Refused with 403 when the listener does not allow
    /// it (Envoy). An upgrade to h2c is a switch of the HTTP version, which RFC 9113 has withdrawn: it is ignored, and the
    /// request is an ordinary one. An extended CONNECT never is: what asks for that way and gets no other is refused. With 400
    /// one whose request has a body: where that ends and the bytes of the other protocol begin is seen in two ways; behind an
    /// extended CONNECT, DATA is the other protocol.
    pub fn take(
        parts: &mut Parts,
        body: &impl http_body::Body,
        allowed: &[String],
    ) -> Result<Option<Self>, ProxyError> {
        let (token, extended_connect) = match parts.extensions.get::<hyper::ext::Protocol>() {
            Some(protocol) => (HeaderValue::from_str(protocol.as_str()).ok(), true),
            None if asks(parts) => (parts.headers.get(header::UPGRADE).cloned(), false),
            None => return Ok(None),
        };
        let token = token.filter(|token| !token.as_bytes().eq_ignore_ascii_case(b"h2c"));
        let refused =
            ProxyError::BadRequest { status: StatusCode::FORBIDDEN, reason: "this upgrade is not allowed here" };
        let Some(token) = token else { return if extended_connect { Err(refused) } else { Ok(None) } };
        if !allowed.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(token.as_bytes())) {
            return Err(refused);
        }
        if !extended_connect && !body.is_end_stream() {
            let reason = "a request for an upgrade has a body";
            return Err(ProxyError::BadRequest { status: StatusCode::BAD_REQUEST, reason });
        }
        let downstream = parts.extensions.remove::<OnUpgrade>();
        Ok(downstream.map(|downstream| Self { token, downstream, extended_connect }))
    }

    /// What its caller takes for a yes.
    pub fn awaits(&self) -> Awaited {
        if self.extended_connect { Awaited::Tunnel } else { Awaited::Upgrade }
    }

    /// Asks the endpoint.
    pub fn ask(&self, parts: &mut Parts) {
        if self.extended_connect {
            parts.method = Method::GET;
            parts.extensions.remove::<hyper::ext::Protocol>();
            if !parts.headers.contains_key(header::SEC_WEBSOCKET_KEY) {
                // HTTP/2 has no key; an HTTP/1.1 server demands one and nobody checks its answer here (RFC 8441 §5).
                let key = HeaderValue::from_static("bGVuby1oMi10by1oMS1rZQ==");
                parts.headers.insert(header::SEC_WEBSOCKET_KEY, key);
            }
        }
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, self.token.clone());
    }
}

/// `Connection` names `upgrade` and there is an `Upgrade`.
fn asks(parts: &Parts) -> bool {
    parts.headers.contains_key(header::UPGRADE)
        && parts.headers.get_all(header::CONNECTION).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("upgrade")))
        })
}

/// Passes the 101 on and then bytes both ways, until both ends have closed or the caller or the request is no longer
/// allowed.
pub fn tunnel(
    connection: &Rc<Connection>,
    upgrade: Upgrade,
    answer: Answer,
    record: &mut RequestRecord,
) -> Response<Body> {
    let Answer { mut response, lease, in_flight, permit, attempt: _ } = answer;
    let upstream = hyper::upgrade::on(&mut response);
    let mut record = record.hand_over(response.headers());
    let traffic = record.tunnels();
    let lease = Rc::new(lease);
    let held = Rc::clone(&lease);
    let (connection, extended_connect) = (Rc::clone(connection), upgrade.extended_connect);
    let tunnel = tokio::task::spawn_local(async move {
        let peer = connection.caller;
        let held = (held, in_flight, permit);
        match tokio::try_join!(upgrade.downstream, upstream) {
            Ok((downstream, upstream)) => {
                tokio::select! {
                    ended = relay(TokioIo::new(downstream), TokioIo::new(upstream), None, &traffic) => {
                        if let Err(Broken { error, .. }) = ended {
                            tracing::debug!(%peer, %error, "the tunnel ended");
                        }
                    }
                    // HTTP/1.1 has left the connection to us. HTTP/2 ends it with all its streams.
                    () = connection.life.overdue(), if !extended_connect => {}
                    () = revoked(record.grant()) => record.flag(Flag::UAEX),
                }
                record.complete();
            }
            Err(error) => tracing::debug!(%peer, %error, "the upgrade did not happen"),
        }
        drop(held);
    });
    lease.becomes(tunnel.abort_handle());
    let mut passed = Response::new(Body::Tunnel);
    *passed.headers_mut() = std::mem::take(response.headers_mut());
    let headers = passed.headers_mut();
    if upgrade.extended_connect {
        for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
            headers.remove(name);
        }
    } else {
        *passed.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    passed
}

async fn revoked(grant: Option<&Rc<Grant>>) {
    match grant {
        Some(grant) => poll_fn(|context| grant.poll_revoked(context)).await,
        None => std::future::pending().await,
    }
}
