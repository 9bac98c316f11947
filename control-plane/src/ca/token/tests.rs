use serde_json::json;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_845)
}

fn claims() -> serde_json::Value {
    let now = seconds(now());
    json!({"iss": "leno", "aud": ["istio-ca"], "sub": "system:serviceaccount:shop:cart", "iat": now, "exp": now + 60})
}

fn with(key: &str, value: serde_json::Value) -> serde_json::Value {
    let mut changed = claims();
    changed[key] = value;
    changed
}

fn without(key: &str) -> serde_json::Value {
    let mut changed = claims();
    changed.as_object_mut().unwrap().remove(key);
    changed
}

fn part(json: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn signed(key: &TokenKey, head: &serde_json::Value, claims: &serde_json::Value) -> String {
    let message = format!("{}.{}", part(head), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key.signing, Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

fn verified(key: &TokenKey, token: &str) -> Result<Said, TokenError> {
    key.verify(token, Audience::Mesh, now())
}

#[test]
fn a_token_says_who_its_holder_is() {
    let key = TokenKey::transient().unwrap();
    let token = key.create("shop", "cart", HOUR, now()).unwrap();
    let said = Said { namespace: "shop".to_owned(), service_account: "cart".to_owned(), expires: now() + HOUR };
    assert_eq!(verified(&key, &token), Ok(said));
    for (namespace, account) in [("", "a"), ("a", ""), ("a/b", "c"), ("a:b", "c"), ("a", "b:c"), ("..", "c")] {
        assert!(key.create(namespace, account, HOUR, now()).is_err(), "{namespace} {account}");
    }
}

#[test]
fn what_is_not_ours_or_not_for_us_or_over_is_refused() {
    let key = TokenKey::transient().unwrap();
    let other = TokenKey::transient().unwrap();
    let head = json!({"alg": "ES256", "typ": "JWT"});
    let ours = |claims: &serde_json::Value| signed(&key, &head, claims);
    let mesh = || Err(TokenError::Audience(Audience::Mesh));
    let rows = [
        ("nothing", String::new(), Err(TokenError::Malformed)),
        ("no JWT", "a.b".to_owned(), Err(TokenError::Malformed)),
        ("foreign key", signed(&other, &head, &claims()), Err(TokenError::Signature)),
        ("no signature", format!("{}.{}.", part(&head), part(&claims())), Err(TokenError::Signature)),
        ("one part more", format!("{}.x", ours(&claims())), Err(TokenError::Malformed)),
        (
            "critical header",
            signed(&key, &json!({"alg": "ES256", "crit": ["x"], "x": 1}), &claims()),
            Err(TokenError::Critical),
        ),
        ("other audience", ours(&with("aud", json!(["vault"]))), mesh()),
        ("audience of the operator", ours(&with("aud", json!(["leno-operator"]))), mesh()),
        ("part of the audience", ours(&with("aud", json!("istio"))), mesh()),
        ("no audience", ours(&without("aud")), Err(TokenError::Malformed)),
        ("expired", ours(&with("exp", json!(seconds(now()) - 1))), Err(TokenError::Expired)),
        ("expires now", ours(&with("exp", json!(seconds(now())))), Err(TokenError::Expired)),
        ("never expires", ours(&without("exp")), Err(TokenError::Malformed)),
        ("expires in words", ours(&with("exp", json!("later"))), Err(TokenError::Malformed)),
        ("expires after the end of time", ours(&with("exp", json!(u64::MAX))), Err(TokenError::Malformed)),
        ("other issuer", ours(&with("iss", json!("https://issuer.example"))), Err(TokenError::Issuer)),
        ("no account", ours(&with("sub", json!("system:serviceaccount:shop"))), Err(TokenError::Subject)),
        ("a user", ours(&with("sub", json!("system:user:shop:cart"))), Err(TokenError::Subject)),
        ("a part too many", ours(&with("sub", json!("system:serviceaccount:shop:cart:x"))), Err(TokenError::Subject)),
        ("a path", ours(&with("sub", json!("system:serviceaccount:shop/sa/x:cart"))), Err(TokenError::Subject)),
        ("too long", format!("{}{}", ours(&claims()), "x".repeat(MAX_TOKEN)), Err(TokenError::Malformed)),
    ];
    for (what, token, expected) in rows {
        assert_eq!(verified(&key, &token), expected, "{what}");
    }
    for audience in [json!("istio-ca"), json!(["other", "istio-ca"])] {
        assert!(verified(&key, &ours(&with("aud", audience))).is_ok());
    }
}

#[test]
fn the_algorithm_is_not_the_tokens_choice() {
    let key = TokenKey::transient().unwrap();
    let public = key.verifying.try_get_as_bytes().unwrap();
    for algorithm in ["none", "None", "HS256", "HS512", "ES384", "RS256", "es256", ""] {
        let message = format!("{}.{}", part(&json!({"alg": algorithm})), part(&claims()));
        // The classic confusion: a MAC whose secret is the public key.
        let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(public), Algorithm::HS256);
        for signature in ["".to_owned(), mac.unwrap()] {
            let token = format!("{message}.{signature}");
            assert_eq!(verified(&key, &token), Err(TokenError::Algorithm(algorithm.to_owned())), "{algorithm}");
        }
    }
}

#[test]
fn a_changed_claim_breaks_the_signature() {
    let key = TokenKey::transient().unwrap();
    let token = key.create("shop", "cart", HOUR, now()).unwrap();
    let [head, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let forged = format!("{head}.{}.{signature}", part(&with("sub", json!("system:serviceaccount:shop:admin"))));
    assert_eq!(verified(&key, &forged), Err(TokenError::Signature));
}

#[test]
fn commands_and_proxies_cannot_use_each_others_tokens() {
    let key = TokenKey::transient().unwrap();
    let (mesh, operator) = (key.create("a", "b", HOUR, now()).unwrap(), key.create_for_operator(HOUR, now()).unwrap());
    let rows = [
        (&mesh, Audience::Mesh, true),
        (&mesh, Audience::Operator, false),
        (&operator, Audience::Operator, true),
        (&operator, Audience::Mesh, false),
    ];
    for (token, audience, expected) in rows {
        assert_eq!(key.verify(token, audience, now()).is_ok(), expected, "{audience:?}");
    }
}

#[test]
fn the_key_is_made_once_and_only_its_owner_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (TokenKey::open(directory.path()).unwrap(), TokenKey::open(directory.path()).unwrap());
    let token = one.create("a", "b", HOUR, now()).unwrap();
    assert!(verified(&other, &token).is_ok());
    let path = directory.path().join("ca/token.key");
    assert!(!files::is_exposed(&path));
    std::fs::write(&path, "x").unwrap();
    assert!(TokenKey::open(directory.path()).is_err());
}
