//! One canonical request, or a refusal: every class of malformed input, to the byte, through a sidecar to an origin that
//! records bytes.
//!
//! A row names its class, what is sent and what has to become of it. Whatever reaches the origin is compared to the byte
//! with the one canonical form (less the fields that proxies add, and the order of fields of different names).

mod answers;
mod class;
mod h2frames;
mod http1;
mod http2;
mod origin;
mod peers;
mod safe;
mod wire;

use std::collections::BTreeSet;

use leno_tests::{Sidecar, sidecar};

use class::Class;
use origin::Origin;
use wire::LONG;

/// Tokens are looked at, so that bad ones are refused, and nobody needs one.
const RULES: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec:
  selector: {matchLabels: {app: shop}}
  jwtRules:
    - issuer: test
      jwks: '{"keys": [{"kty": "RSA", "kid": "one", "e": "AQAB", "n": "xAE7eB6qugXyCAG3yhh7pkDkT65pHymX-P7KfIupjf59vsdo91bSP9C8H07pSAGQO1MV_xFj9VswgsCg4R6otmg5PV2He95lZdHtOcU5DXIg_pbhLdKXbi66GlVeK6ABZOUW3WYtnNHD-91gVuoeJT_DwtGGcp4ignkgXfkiEm4sw-4sfb4qdt5oLbyVpmW6x9cfa7vs2WTfURiCrBoUqgBo_-4WTiULmmHSGZHOjzwa8WtrtOQGsAFjIbno85jp6MnGGGZPYZbDAa_b3y5u-YpW7ypZrvD8BgtKVjgtQgZhLAGezMt0ua3DRrWnKqTZ0BJ_EyxOGuHJrLsn00fnMQ"}]}'
"#;

async fn started() -> (Origin, Sidecar) {
    let origin = Origin::start().await;
    let proxy = sidecar(origin.address(), RULES).start().await;
    (origin, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_of_http1_is_refused_or_becomes_one_canonical_request() {
    let (origin, proxy) = started().await;
    let mut wrong = Vec::new();
    for (class, input, expect) in http1::rows() {
        let came = wire::ask(proxy.address(), &origin, &input.bytes(), LONG).await;
        let is_right = match expect {
            http1::Expect::Refused(status) => came.status == Some(status) && came.seen.is_empty() && !came.reusable,
            http1::Expect::Denied(status) => came.status == Some(status) && came.seen.is_empty(),
            http1::Expect::Is(canonical) => came.status == Some(200) && came.seen == [canonical] && came.reusable,
            http1::Expect::Closes(canonical) => came.status == Some(200) && came.seen == [canonical] && !came.reusable,
            http1::Expect::Broken => {
                came.status.is_none_or(|status| status == 400) && came.seen.is_empty() && !came.reusable
            }
        };
        if !is_right {
            wrong.push(format!("{class:?} {:?}\n    has to be {expect:?}\n    and is {came:?}", input));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_of_http2_is_refused_or_becomes_one_canonical_request_of_http1() {
    let (origin, proxy) = started().await;
    let mut wrong = Vec::new();
    for (class, input, expect) in http2::ROWS {
        let came = h2frames::ask(proxy.address(), &origin, &input.parts(), LONG).await;
        let is_right = match expect {
            http2::Expect::Refused(status) => came.status == Some(*status) && came.seen.is_empty(),
            http2::Expect::RefusedLate(status, canonical) => came.status == Some(*status) && came.seen == [*canonical],
            http2::Expect::Reset => came.status.is_none() && came.seen.is_empty(),
            http2::Expect::Is(canonical) => came.status == Some(200) && came.seen == [*canonical],
        };
        if !is_right {
            wrong.push(format!("{class:?} {input:?}\n    has to be {expect:?}\n    and is {came:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_class_has_rows_and_there_are_enough_of_them() {
    let http1: Vec<Class> = http1::rows().map(|(class, ..)| class).collect();
    let http2: Vec<Class> = http2::ROWS.iter().map(|(class, ..)| *class).collect();
    println!("{} inputs of HTTP/1, {} of HTTP/2 for HTTP/1, {} classes", http1.len(), http2.len(), Class::ALL.len());
    assert!(http1.len() >= 200 && http2.len() >= 80, "{} and {}", http1.len(), http2.len());
    let present: BTreeSet<Class> = http1.into_iter().chain(http2).collect();
    let missing: Vec<_> = Class::ALL.iter().filter(|class| !present.contains(class)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}
