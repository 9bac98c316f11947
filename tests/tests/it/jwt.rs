//! RequestAuthentication at a workload's door, with an issuer of the test's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use jsonwebtoken::{Algorithm, EncodingKey};
use leno_tests::{
    Call, Connection, Origin, PATIENCE, Protocol, Reply, Sidecar, eventually, full, metric, origin, raw, sidecar,
    stream,
};
use rcgen::KeyPair;
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example";

/// Somebody who signs (Ed25519).
struct Issuer {
    key: EncodingKey,
    public: Value,
}

impl Issuer {
    fn new(kid: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let public = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
        Self { key: EncodingKey::from_ed_der(&pair.serialize_der()), public }
    }

    fn keys(&self) -> String {
        json!({"keys": [self.public]}).to_string()
    }

    /// A token with these claims besides issuer and an end in ten minutes.
    fn token(&self, claims: Value) -> String {
        let mut payload = json!({"iss": ISSUER, "exp": seconds() + 600});
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        payload.as_object_mut().expect("an object").extend(claims);
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(&json!({"alg": "EdDSA", "kid": self.public["kid"]})), encoded(&payload));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::EdDSA).expect("a signature");
        format!("{message}.{signature}")
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A RequestAuthentication with one rule; `more` are further fields of it, in YAML's flow style.
fn authentication(keys: &str, more: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: users, namespace: default}}\n\
         spec: {{jwtRules: [{{issuer: '{ISSUER}', {keys}{more}}}]}}\n---\n"
    )
}

fn inline(issuer: &Issuer) -> String {
    format!("jwks: '{}'", issuer.keys())
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: rules, namespace: default}}\nspec: {spec}\n---\n"
    )
}

async fn ask(shop: &Sidecar, path: &str, token: Option<&str>) -> Reply {
    let call = Call::get(&format!("http://shop{path}"));
    let call = match token {
        Some(token) => call.header("authorization", &format!("Bearer {token}")),
        None => call,
    };
    call.send(shop.address()).await
}

#[tokio::test]
async fn a_good_token_or_none_passes_and_a_bad_one_is_refused() {
    let (app, issuer, stranger) = (origin("shop").await, Issuer::new("one"), Issuer::new("one"));
    for workers in [1, 4] {
        app.forget();
        let shop = sidecar(app.address(), &authentication(&inline(&issuer), ", audiences: [shop]"))
            .workers(workers)
            .start()
            .await;
        let good = issuer.token(json!({"aud": "shop", "sub": "eve"}));
        for _ in 0..3 {
            assert_eq!(ask(&shop, "/a", Some(&good)).await.status, 200);
        }
        assert_eq!(app.last().header("authorization"), "", "the token is not for the app");
        assert_eq!(ask(&shop, "/a", None).await.status, 200);
        let seen = app.count();
        let rows = [
            (stranger.token(json!({"aud": "shop"})), 401, "Jwt verification fails"),
            (issuer.token(json!({"aud": "shop", "exp": seconds() - 61})), 401, "Jwt is expired"),
            (issuer.token(json!({"aud": "shop", "iss": "https://evil.example"})), 401, "Jwt issuer is not configured"),
            (issuer.token(json!({"aud": "bank"})), 403, "Audiences in Jwt are not allowed"),
            (
                "nonsense".to_owned(),
                401,
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            ),
        ];
        for (token, status, body) in rows {
            let reply = ask(&shop, "/a?secret=1", Some(&token)).await;
            assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (status, body, "UAEX"));
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"http://shop/a\", error=\"invalid_token\"");
            assert!(!reply.header("x-leno-error").contains(&token));
        }
        let grpc =
            Call::get("http://shop/a").header("authorization", "Bearer x").header("content-type", "application/grpc");
        assert_eq!(grpc.send(shop.address()).await.header("grpc-status"), "16");
        assert_eq!(app.count(), seen, "no bad token reaches the app");
        assert_eq!(metric(&shop.proxy.metrics().await, "leno_jwt_refused_total", &[]), 6.0);
        assert!(!shop.log().contains(good.rsplit('.').next().expect("a signature")), "tokens are not logged");
    }
}

#[tokio::test]
async fn policies_and_headers_go_by_what_a_verified_token_says() {
    let (app, issuer) = (origin("shop").await, Issuer::new("one"));
    let more = ", outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: sub}], forwardOriginalToken: true";
    let rules = authentication(&inline(&issuer), more)
        + &policy(&format!(
            "{{rules: [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/eve']}}}}]}}, \
             {{to: [{{operation: {{paths: [/ops]}}}}], when: [{{key: 'request.auth.claims[groups]', values: [ops]}}]}}]}}"
        ));
    let shop = sidecar(app.address(), &rules).start().await;
    let (eve, bob) =
        (issuer.token(json!({"sub": "eve"})), issuer.token(json!({"sub": "bob", "groups": ["dev", "ops"]})));
    let rows = [
        ("/a", Some(&eve), 200),
        ("/a", Some(&bob), 403),
        ("/ops", Some(&bob), 200),
        ("/a", None, 403),
        ("/ops", None, 403),
    ];
    for (path, token, status) in rows {
        assert_eq!(ask(&shop, path, token.map(String::as_str)).await.status, status, "{path} {token:?}");
    }
    let (log, who) = (shop.log(), format!("{ISSUER}/bob"));
    let denied = |line: &&str| line.contains("denied by an authorization policy") && line.contains(&who);
    assert_eq!(log.lines().filter(denied).count(), 1, "the line says of whom the token speaks: {log}");
    let spoofed = format!(
        "GET /a HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nauthorization: Bearer {eve}\r\nx-sub: root\r\nX-Sub: admin\r\nx-payload: e30\r\n\r\n"
    );
    assert!(raw::exchange(shop.address(), spoofed.as_bytes()).await.starts_with("HTTP/1.1 200"));
    let seen = app.last();
    assert_eq!(seen.headers.get_all("x-sub").iter().collect::<Vec<_>>(), ["eve"]);
    assert_eq!(seen.header("x-payload"), eve.split('.').nth(1).expect("a payload"));
    assert_eq!(seen.header("authorization"), format!("Bearer {eve}"));
}

#[tokio::test]
async fn a_token_in_the_query_is_taken_out_and_two_tokens_are_refused() {
    let (app, issuer) = (origin("shop").await, Issuer::new("one"));
    let shop = sidecar(app.address(), &authentication(&inline(&issuer), "")).start().await;
    let token = issuer.token(json!({"sub": "eve"}));
    assert_eq!(ask(&shop, &format!("/a?x=1&access_token={token}&y=2"), None).await.status, 200);
    assert_eq!(app.last().path, "/a?x=1&y=2");
    let reply = ask(&shop, &format!("/a?access_token={token}"), Some(&token)).await;
    assert_eq!((reply.status, reply.text().as_str()), (401, "Found multiple Jwt tokens"));
}

/// An issuer's server: its keys, as long as it is up.
async fn published(keys: &Arc<Mutex<String>>, up: &Arc<AtomicBool>) -> Origin {
    let (keys, up) = (Arc::clone(keys), Arc::clone(up));
    Origin::answering(move |_| {
        let status = if up.load(Ordering::Relaxed) { 200 } else { 503 };
        let keys = keys.lock().expect("not poisoned").clone();
        Response::builder().status(status).body(full(keys)).expect("an answer")
    })
    .await
}

#[tokio::test]
async fn keys_are_fetched_and_without_them_only_requests_without_a_token_pass() {
    let (app, issuer) = (origin("shop").await, Issuer::new("one"));
    let (keys, up) = (Arc::new(Mutex::new(issuer.keys())), Arc::new(AtomicBool::new(false)));
    let server = published(&keys, &up).await;
    let uri = format!("jwksUri: 'http://{}/jwks'", server.address());
    let shop = sidecar(app.address(), &authentication(&uri, "")).start().await;
    let token = issuer.token(json!({"sub": "eve"}));
    let reply = ask(&shop, "/a", Some(&token)).await;
    assert_eq!((reply.status, reply.text().as_str()), (401, "Jwks remote fetch is failed"));
    assert_eq!(ask(&shop, "/a", None).await.status, 200);
    eventually("a fetch fails and is counted", async || {
        let failures = metric(&shop.proxy.metrics().await, "leno_jwks_fetch_failures_total", &[]);
        if failures >= 1.0 { Ok(()) } else { Err(failures.to_string()) }
    })
    .await;
    up.store(true, Ordering::Relaxed);
    eventually("the keys are fetched after all", async || {
        let reply = ask(&shop, "/a", Some(&token)).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    up.store(false, Ordering::Relaxed);
    assert_eq!(
        ask(&shop, "/a", Some(&issuer.token(json!({"sub": "bob"})))).await.status,
        200,
        "the last good keys stay"
    );
    assert!(server.requests().iter().all(|request| request.path == "/jwks"), "nothing else is ever asked");
}

/// An app whose answers begin and do not end.
async fn endless() -> Origin {
    Origin::scripted(|_| async {
        let (frames, body) = stream();
        tokio::spawn(async move {
            let _ = frames.send(Ok(Frame::data("begin".into()))).await;
            frames.closed().await;
        });
        Response::new(body)
    })
    .await
}

#[tokio::test]
async fn a_stream_outlives_the_keys_of_its_token_and_ends_with_the_rule_that_believed_its_issuer() {
    let (app, issuer, next) = (endless().await, Issuer::new("one"), Issuer::new("two"));
    let users =
        policy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}, {to: [{operation: {paths: [/open]}}]}]}");
    let shop = sidecar(app.address(), &format!("{}{users}", authentication(&inline(&issuer), ""))).start().await;
    let mut connection = Connection::open(shop.address(), Protocol::Http2).await;
    let call = |path: &str, issuer: &Issuer| {
        let token = format!("Bearer {}", issuer.token(json!({"sub": "eve"})));
        Call::get(&format!("http://shop{path}")).header("authorization", &token).over(Protocol::Http2)
    };
    let mut streams = Vec::new();
    for path in ["/closed", "/open"] {
        let mut stream = connection.begin(call(path, &issuer)).await.expect("an answer").into_body();
        stream.frame().await.expect("a frame").expect("it begins");
        streams.push(stream);
    }

    shop.edit(&format!("{}{users}", authentication(&inline(&next), "")));
    eventually("the new keys are in force", async || {
        let status = connection.begin(call("/closed", &next)).await?.status();
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert!(!shop.log().contains("ended a request"), "{}", shop.log());

    shop.edit(&users);
    let [closed, open] = streams.as_mut_slice() else { panic!("two streams") };
    let end = tokio::time::timeout(PATIENCE, closed.frame()).await.expect("it ends");
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    tokio::select! {
        biased;
        end = open.frame() => panic!("it is for everybody: {end:?}"),
        () = std::future::ready(()) => {}
    }
    assert!(
        !shop.log().lines().any(|line| line.contains("ended a request") && line.contains("/open")),
        "{}",
        shop.log()
    );
}
