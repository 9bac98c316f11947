//! What the endpoint sees differs from what the caller sent by this.

use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use leno_config::ir::{Forward, Route, WeightedCluster};

use crate::error::ProxyError;
use crate::headers::{self, name};
use crate::random::Random;
use crate::route::rewrite_path;
use crate::sanitize;

/// Takes from a request what was for the way here alone and what a caller may not say of itself. Before policies look at
/// it: what they see is what the app gets, and `Connection: x-role` cannot take a header away behind their back.
pub fn arrival(headers: &mut HeaderMap, caller: Option<&HeaderValue>) {
    headers::remove_hop_by_hop(headers);
    // Who called is said by this proxy alone (SANITIZE_SET): an app must not say who it is.
    match caller {
        Some(caller) => drop(headers.insert(name::CLIENT_CERT, caller.clone())),
        None => drop(headers.remove(name::CLIENT_CERT)),
    }
}

/// Edits a request for its way: Envoy's headers come, then what the rules say, the destination's before the route's
/// (Envoy's order, so that the route has the last word). `expected` is the time that the endpoint has.
pub fn request(
    parts: &mut Parts,
    route: &Route,
    forward: &Forward,
    share: &WeightedCluster,
    expected: Option<Duration>,
    grpc: bool,
    random: &Random,
) -> Result<(), ProxyError> {
    let fields = &mut parts.headers;
    fields.entry(name::REQUEST_ID).or_insert_with(|| headers::request_id(random));
    fields.entry(name::FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(limit) = expected {
        headers::set_expected_time(fields, limit, grpc);
    }
    headers::apply(&share.request_headers, fields);
    headers::apply(&route.request_headers, fields);
    if let Some(rewrite) = &forward.path_rewrite {
        let original = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        if let Ok(original) = HeaderValue::from_str(original) {
            parts.headers.insert(name::ORIGINAL_PATH, original);
        }
        let target = rewrite_path(rewrite, &route.matcher.path, parts.uri.path(), parts.uri.query());
        sanitize::set_target(parts, target)?;
    }
    match forward.host_rewrite.as_deref().or(share.host_rewrite.as_deref()) {
        Some(host) => {
            if let Ok(original) = HeaderValue::from_str(sanitize::authority(parts)) {
                parts.headers.insert(name::ORIGINAL_HOST, original);
            }
            sanitize::set_host(parts, host)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use leno_config::ir::{Action, ClusterName, HeaderOps, RouteMatch, Separators, WeightedClusters};

    use super::*;

    #[test]
    fn a_caller_cannot_say_who_it_is_and_the_rest_of_its_headers_arrive() {
        let forward = Forward {
            clusters: WeightedClusters::single(ClusterName::new("a")),
            path_rewrite: None,
            host_rewrite: None,
            timeout: None,
            retry: None,
            mirrors: Vec::new(),
            hash: Vec::new(),
        };
        let route = Route {
            name: String::new(),
            origin: None,
            matcher: RouteMatch::any(),
            action: Action::Forward(forward.clone()),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            cors: None,
            fault: None,
            authorization: None,
            refused_in_path: Separators::NONE,
        };
        let sent = http::Request::builder()
            .header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin")
            .header("x-request-id", "mine")
            .header("x-own", "kept");
        let mut parts = sent.body(()).expect("a request").into_parts().0;
        let share = forward.clusters.as_slice().first().expect("one share");
        arrival(&mut parts.headers, None);
        request(&mut parts, &route, &forward, share, None, false, &Random::seeded(1)).expect("valid");
        let named = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(named("x-forwarded-client-cert"), None);
        assert_eq!((named("x-request-id"), named("x-own")), (Some("mine"), Some("kept")));
    }
}
