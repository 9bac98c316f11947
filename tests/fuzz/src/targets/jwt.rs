//! Tokens of end users. Byte 0 says what the rest is: changes to a good token, a whole token, or header and payload (a line
//! each) that the issuer signs.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderValue, Request, header};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use leno_config::ir::{Jwks, JwtAuthentication, JwtProvider, JwtRequirement, JwtRule, RouteMatch};
use leno_proxy::policy::jwt::{Authenticator, FetchedKeys, TokenCache};
use leno_proxy::route::RequestView;
use serde_json::{Map, Value, json};

use crate::Target;
use crate::input::Input;

/// 2030-01-01, in seconds.
const NOW: u64 = 1_893_456_000;
const SKEW: u64 = 60;
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "shop";
/// An Ed25519 key (PKCS #8, RFC 8410 §7) whose secret is no secret, so that every run signs the same.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const SEED: [u8; 32] = [7; 32];

pub(crate) const TARGET: Target = Target {
    name: "jwt",
    property: "a token is taken only as its issuer signed it, and only if issuer, audience and times are right when read \
               a second time",
    check,
    words: &[
        r#""alg":"EdDSA""#,
        r#""alg":"none""#,
        r#""alg":"HS256""#,
        r#""kid":"one""#,
        r#""crit":["exp"]"#,
        r#""iss":"https://issuer.example""#,
        r#""aud":"shop""#,
        r#""aud":["a","shop"]"#,
        r#""exp":1893456600"#,
        r#""exp":1e10"#,
        r#""nbf":1893456000"#,
        "\n",
        ".",
        "=",
    ],
};

thread_local! {
    static ISSUED: Issued = Issued::new();
}

struct Issued {
    key: EncodingKey,
    good: String,
    ours: Authenticator,
}

impl Issued {
    fn new() -> Self {
        let key = EncodingKey::from_ed_der(&[PKCS8.as_slice(), &SEED].concat());
        let public = Jwk::from_encoding_key(&key, Algorithm::EdDSA).expect("a public key");
        let provider = JwtProvider {
            name: "issuer".to_owned(),
            issuer: Some(ISSUER.to_owned()),
            audiences: vec![AUDIENCE.to_owned()],
            jwks: Jwks::Inline(json!({"keys": [public]}).to_string()),
            from_headers: Vec::new(),
            from_params: Vec::new(),
            from_cookies: Vec::new(),
            forward: false,
            payload_header: None,
            claim_headers: Vec::new(),
            clock_skew: Duration::from_secs(SKEW),
        };
        let requirement = JwtRequirement::Provider("issuer".to_owned());
        let rules = vec![JwtRule { matcher: RouteMatch::any(), requirement }];
        let rules = JwtAuthentication { providers: vec![provider], rules };
        let ours = Authenticator::new(&rules, &FetchedKeys::new()).expect("there are rules");
        let payload = json!({"iss": ISSUER, "sub": "eve", "aud": AUDIENCE, "exp": NOW + 600}).to_string();
        let good = sign(&key, json!({"alg": "EdDSA"}).to_string().as_bytes(), payload.as_bytes());
        Self { key, good, ours }
    }

    /// Whether a request with this token is let in.
    fn takes(&self, token: &[u8]) -> bool {
        let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else { return false };
        let request = Request::builder().uri("http://shop/").header(header::AUTHORIZATION, value).body(());
        let (mut parts, ()) = request.expect("a request").into_parts();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        matches!(self.ours.authenticate(&mut parts, look, &TokenCache::default(), now), Ok(Some(_)))
    }
}

/// The rule takes every request.
fn look(parts: &Parts) -> RequestView<'_> {
    RequestView {
        method: &parts.method,
        scheme: "http",
        authority: "shop",
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        claims: None,
    }
}

fn sign(key: &EncodingKey, header: &[u8], payload: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, Algorithm::EdDSA).expect("a signature");
    format!("{message}.{signature}")
}

fn check(data: &[u8]) {
    let mut input = Input(data);
    ISSUED.with(|issued| match input.byte() % 3 {
        0 => nobody_else_signs(issued, &changed(issued.good.as_bytes(), input)),
        1 => nobody_else_signs(issued, input.0),
        _ => what_is_signed_is_read_as_it_is_written(issued, input),
    });
}

/// Ed25519 has one signature for a message, and base64url without padding one text for some bytes. The space between scheme
/// and token is no part of it.
fn nobody_else_signs(issued: &Issued, token: &[u8]) {
    let is_good = token.trim_ascii() == issued.good.as_bytes();
    // What cannot stand in a header cannot be asked about.
    assert!(is_good || !issued.takes(token), "{}", String::from_utf8_lossy(token));
    assert!(issued.takes(issued.good.as_bytes()), "what the issuer signed is taken");
}

/// The token with some bytes set, taken out or put in.
fn changed(token: &[u8], mut input: Input<'_>) -> Vec<u8> {
    let mut token = token.to_vec();
    while !input.0.is_empty() {
        let at = input.below(token.len());
        let (what, byte) = (input.byte(), input.byte());
        match (what % 3, token.get_mut(at)) {
            (0, Some(there)) => *there = byte,
            (1, Some(_)) => drop(token.remove(at)),
            _ => token.insert(at, byte),
        }
    }
    token
}

fn what_is_signed_is_read_as_it_is_written(issued: &Issued, input: Input<'_>) {
    let mut lines = input.lines();
    let (header, payload) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let token = sign(&issued.key, header, payload);
    if issued.takes(token.as_bytes()) {
        let (header, payload) = (object(header), object(payload));
        assert!(header.get("alg") == Some(&json!("EdDSA")) && !header.contains_key("crit"), "{header:?}");
        assert_eq!(payload.get("iss"), Some(&json!(ISSUER)), "{payload:?}");
        let audiences = payload.get("aud").cloned().unwrap_or_default();
        let meant =
            audiences == json!(AUDIENCE) || audiences.as_array().is_some_and(|all| all.contains(&json!(AUDIENCE)));
        assert!(meant, "{payload:?}");
        let time = |name| payload.get(name).and_then(Value::as_f64);
        // As numbers with a fraction, which are exact to the second for some million years.
        let (soonest, latest) = ((NOW - SKEW) as f64, (NOW + SKEW + 1) as f64);
        assert!(time("exp").is_some_and(|expires| expires >= soonest), "{payload:?}");
        assert!(time("nbf").is_none_or(|begins| begins <= latest), "{payload:?}");
    }
}

fn object(json: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(json).expect("what was taken is an object")
}
