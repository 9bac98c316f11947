//! Against answers that a real API server gave, and some that it might give.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// Reviews whose API server always answers this, and how often it was asked.
fn reviews(status: StatusCode, answer: &Value) -> (Reviews, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, answer) = (Arc::clone(&asked), answer.to_string());
    let service = tower::service_fn(move |request: Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        let answer = answer.clone();
        async move {
            assert_eq!(request.uri().path(), "/apis/authentication.k8s.io/v1/tokenreviews");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let question: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(question["spec"]["audiences"], json!(["istio-ca"]));
            let response = Response::builder().status(status).body(Body::from(answer.into_bytes()));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    (Reviews::new(Client::new(service, "leno-system")), asked)
}

/// As kube-apiserver 1.36 answers, for this audience.
fn good(user: &str, audience: &str, pod: Option<&str>) -> Value {
    let mut extra = json!({ "authentication.kubernetes.io/credential-id": ["JTI=bd19a152"] });
    if let Some(pod) = pod {
        extra[POD_NAME] = json!([pod]);
        extra["authentication.kubernetes.io/pod-uid"] = json!(["5f1e"]);
    }
    json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
        "spec": { "token": "<token>", "audiences": [audience] },
        "status": {
            "authenticated": true, "audiences": [audience],
            "user": { "username": user, "uid": "d492", "groups": ["system:serviceaccounts"], "extra": extra },
        },
    })
}

fn bad(error: &str) -> Value {
    json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": { "token": "x.y.z" },
        "status": { "user": {}, "error": error },
    })
}

fn jwt(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

async fn attest(reviews: &Reviews, token: &str) -> Option<Result<Attested, Refusal>> {
    let shown = Shown { bearer: Some(Bearer::from_token(token)), ..Shown::default() };
    reviews.attest(&shown, SystemTime::UNIX_EPOCH).await
}

#[tokio::test]
async fn an_identity_is_what_the_api_server_says_in_so_many_words() {
    let web = "system:serviceaccount:demo:web";
    let not_authenticated = |reason: &str| ReviewRefusal::NotAuthenticated(reason.to_owned());
    let rows = [
        ("a good token", good(web, "istio-ca", None), Ok(None)),
        ("one of a pod", good(web, "istio-ca", Some("web-7d4b9")), Ok(Some("web-7d4b9"))),
        ("garbage", bad("invalid bearer token"), Err(not_authenticated("invalid bearer token"))),
        ("nothing said", bad(""), Err(not_authenticated("it is not valid, or its pod or service account is gone"))),
        ("another audience", good(web, "mesh-ca", None), Err(ReviewRefusal::Audience)),
        ("a person", good("admin", "istio-ca", None), Err(ReviewRefusal::NotAServiceAccount("admin".to_owned()))),
        (
            "a name that no identity can have",
            good("system:serviceaccount:demo:we/b", "istio-ca", None),
            Err(ReviewRefusal::NotAServiceAccount("system:serviceaccount:demo:we/b".to_owned())),
        ),
    ];
    for (what, answer, expected) in rows {
        let (reviews, _) = reviews(StatusCode::CREATED, &answer);
        let attested = attest(&reviews, "opaque").await.unwrap();
        let expected = expected.map(|pod: Option<&str>| Attested {
            namespace: "demo".to_owned(),
            service_account: "web".to_owned(),
            pod: pod.map(str::to_owned),
            until: SystemTime::UNIX_EPOCH + UNSAID,
            by: Means::Token,
        });
        assert_eq!(attested, expected.map_err(Refusal::Review), "{what}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_audiences_vouches_for_nothing() {
    let mut answer = good("system:serviceaccount:demo:web", "istio-ca", None);
    answer["status"].as_object_mut().unwrap().remove("audiences");
    let (reviews, _) = reviews(StatusCode::CREATED, &answer);
    assert_eq!(attest(&reviews, "opaque").await, Some(Err(Refusal::Review(ReviewRefusal::Audience))));
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_a_failure_again() {
    let good = good("system:serviceaccount:demo:web", "istio-ca", None);
    let failure = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "message": "etcd" });
    for (status, answer, twice, two_tokens) in [
        (StatusCode::CREATED, good, 1, 2),
        (StatusCode::CREATED, bad("invalid bearer token"), 1, 2),
        (StatusCode::SERVICE_UNAVAILABLE, failure, 2, 3),
    ] {
        let (reviews, asked) = reviews(status, &answer);
        let first = attest(&reviews, "one").await;
        assert_eq!(attest(&reviews, "one").await, first);
        assert_eq!(asked.load(Ordering::Relaxed), twice, "{first:?}");
        attest(&reviews, "another").await;
        assert_eq!(asked.load(Ordering::Relaxed), two_tokens, "{first:?}");
        let is_unanswered = matches!(first, Some(Err(Refusal::Review(ReviewRefusal::Unanswered(_)))));
        assert_eq!(is_unanswered, status == StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn a_proof_ends_with_the_token_and_our_own_tokens_are_not_asked_about() {
    let (reviews, asked) = reviews(StatusCode::CREATED, &good("system:serviceaccount:demo:web", "istio-ca", None));
    let attested = attest(&reviews, &jwt(&json!({ "iss": "https://kubernetes", "exp": 1234 }))).await.unwrap().unwrap();
    assert_eq!(attested.until, SystemTime::UNIX_EPOCH + Duration::from_secs(1234));
    assert_eq!(attest(&reviews, &jwt(&json!({ "iss": "leno", "exp": 1234 }))).await, None);
    assert_eq!(reviews.attest(&Shown::default(), SystemTime::UNIX_EPOCH).await, None);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_api_server_that_is_silent_lets_nobody_in() {
    let service = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let mut reviews = Reviews::new(Client::new(service, "leno-system"));
    reviews.patience = Duration::from_millis(10);
    let refused = attest(&reviews, "opaque").await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), "api_server");
    assert!(refused.to_string().contains("no answer within 10ms"), "{refused}");
}

#[test]
fn answers_are_remembered_for_a_moment_and_not_without_end() {
    let mut known = Known::default();
    let start = Instant::now();
    let refused = || Err(ReviewRefusal::Audience);
    known.remember("one", refused(), start);
    assert_eq!(known.find("one", start + REMEMBERED / 2), Some(refused()));
    assert_eq!(known.find("one", start + REMEMBERED), None);
    for token in 0..2 * ANSWERS {
        known.remember(&token.to_string(), refused(), start);
    }
    assert_eq!(known.answers.len(), ANSWERS);
    known.remember("later", refused(), start + REMEMBERED);
    assert_eq!((known.answers.len(), known.find("later", start + REMEMBERED)), (1, Some(refused())));
}
