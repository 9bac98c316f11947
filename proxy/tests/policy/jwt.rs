//! Tokens: every algorithm with keys of our own, and every way around them that is known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderName, StatusCode, Uri};
use jsonwebtoken::{Algorithm, EncodingKey};
use leno_config::ir::{
    ClaimHeader, HeaderMatch, Jwks, JwtAuthentication, JwtHeader, JwtProvider, JwtRequirement, JwtRule, PathMatch,
    RemoteJwks, RouteMatch,
};
use leno_proxy::policy::jwt::{Authenticator, FetchedKeys, JwtError, KeySet, TokenCache};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::issuer::*;
use crate::support::{head, header, view};

#[test]
fn every_algorithm_is_verified_and_no_key_serves_another_one() {
    let ed = {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let key = EncodingKey::from_ed_der(&pair.serialize_der());
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair.public_key_raw())});
        Signer { algorithm: Algorithm::EdDSA, name: "EdDSA", key, public }
    };
    let rsa = |algorithm, name| {
        let Signer { key, public, .. } = rsa();
        Signer { algorithm, name, key: key.clone(), public: public.clone() }
    };
    let signers = [
        rsa(Algorithm::RS256, "RS256"),
        rsa(Algorithm::RS384, "RS384"),
        rsa(Algorithm::RS512, "RS512"),
        rsa(Algorithm::PS256, "PS256"),
        rsa(Algorithm::PS384, "PS384"),
        rsa(Algorithm::PS512, "PS512"),
        ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ec(Algorithm::ES384, "ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ed,
    ];
    for signer in &signers {
        let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
        let ours = authenticator(&rules(vec![provider("a", &keys)], optional("a")));
        let cache = TokenCache::default();
        let token = signer.token(&payload());
        assert_eq!(ask(&ours, &mut bearer(&token), &cache, NOW), Ok(Some("eve".to_owned())), "{}", signer.name);
        for other in &signers {
            let said = signer.sign(&json!({"alg": other.name, "kid": "one"}), &payload());
            let found = ask(&ours, &mut bearer(&said), &TokenCache::default(), NOW);
            let same_key = signer.public["kty"] == other.public["kty"] && signer.public["crv"] == other.public["crv"];
            let expected = match (signer.name == other.name, same_key) {
                (true, _) => Ok(Some("eve".to_owned())),
                (false, true) => Err(JwtError::Signature),
                (false, false) => Err(JwtError::NoKey),
            };
            assert_eq!(found, expected, "a signature by {} that says it is {}", signer.name, other.name);
        }
    }
}

#[test]
fn no_known_way_leads_around_a_signature() {
    let signer = rsa();
    let other = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"})), other.published(&json!({"kid": "two"}))]);
    let ours = authenticator(&rules(vec![provider("a", &keys)], optional("a")));
    let good = signer.token(&payload());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (good_header, good_payload) = message.split_once('.').expect("three parts");
    let hs256 = |secret: &[u8]| {
        let key = EncodingKey::from_secret(secret);
        let message = format!("{}.{}", encoded(&json!({"alg": "HS256", "kid": "one"})), encoded(&payload()));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature");
        format!("{message}.{signature}")
    };
    let modulus = signer.public["n"].as_str().expect("text");
    let header = |fields: Value| signer.sign(&fields, &payload());
    let unsigned = |fields: Value| format!("{}.{good_payload}.", encoded(&fields));
    let own_key = p256().public.clone();
    let rows: Vec<(&str, String, JwtError)> = vec![
        ("none", unsigned(json!({"alg": "none"})), JwtError::AlgorithmUnsupported),
        ("None", unsigned(json!({"alg": "None"})), JwtError::AlgorithmUnsupported),
        ("nOnE with a signature", header(json!({"alg": "nOnE"})), JwtError::AlgorithmUnsupported),
        ("no algorithm", header(json!({"kid": "one"})), JwtError::Algorithm),
        ("an algorithm that is a list", header(json!({"alg": ["RS256"]})), JwtError::Algorithm),
        ("the public key as a secret", hs256(modulus.as_bytes()), JwtError::AlgorithmUnsupported),
        (
            "the modulus as a secret",
            hs256(&URL_SAFE_NO_PAD.decode(modulus).expect("base64")),
            JwtError::AlgorithmUnsupported,
        ),
        ("an empty secret", hs256(b""), JwtError::AlgorithmUnsupported),
        ("no signature", format!("{message}."), JwtError::Form),
        ("two parts", message.to_owned(), JwtError::Form),
        ("four parts", format!("{good}.x"), JwtError::Form),
        ("nothing", ".".to_owned(), JwtError::Form),
        ("an empty header", format!(".{good_payload}.{signature}"), JwtError::Form),
        ("an empty payload", format!("{good_header}..{signature}"), JwtError::Form),
        ("no token at all", "x".to_owned(), JwtError::Form),
        (
            "another payload",
            format!("{good_header}.{}.{signature}", encoded(&with(json!({"sub": "root"})))),
            JwtError::Signature,
        ),
        (
            "another header",
            format!("{}.{good_payload}.{signature}", encoded(&json!({"alg": "RS256"}))),
            JwtError::Signature,
        ),
        ("half a signature", format!("{message}.{}", &signature[..signature.len() / 8 * 4]), JwtError::Signature),
        ("a signature of another length", format!("{message}.AAAA"), JwtError::Signature),
        ("padding", format!("{message}.{signature}=="), JwtError::SignatureBase64),
        (
            "base64 that is not base64url",
            format!("{good_header}.{good_payload}.+/{signature}"),
            JwtError::SignatureBase64,
        ),
        (
            "a header in base64 with padding",
            format!("{}.{good_payload}.{signature}", STANDARD.encode("{\"alg\":\"RS256\" }")),
            JwtError::HeaderBase64,
        ),
        ("bits after the end", format!("{message}.{}B", &signature[..signature.len() - 1]), JwtError::SignatureBase64),
        ("crit", header(json!({"alg": "RS256", "crit": ["exp"], "kid": "one"})), JwtError::Critical),
        ("crit of nothing", header(json!({"alg": "RS256", "crit": [], "kid": "one"})), JwtError::Critical),
        ("b64", header(json!({"alg": "RS256", "crit": ["b64"], "b64": false, "kid": "one"})), JwtError::Critical),
        ("an unknown kid", header(json!({"alg": "RS256", "kid": "three"})), JwtError::NoKey),
        ("another key's kid", header(json!({"alg": "RS256", "kid": "two"})), JwtError::NoKey),
        ("a kid that is a path", header(json!({"alg": "RS256", "kid": "../../../dev/null"})), JwtError::NoKey),
        ("a kid that is SQL", header(json!({"alg": "RS256", "kid": "x' UNION SELECT 'key"})), JwtError::NoKey),
        ("a kid that is no text", header(json!({"alg": "RS256", "kid": 1})), JwtError::KeyId),
        ("a kid with a NUL", header(json!({"alg": "RS256", "kid": "one\u{0}"})), JwtError::NoKey),
        (
            "its own key",
            ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256)
                .sign(&json!({"alg": "ES256", "kid": "two", "jwk": own_key}), &payload()),
            JwtError::Signature,
        ),
        (
            "an array as header",
            format!("{}.{good_payload}.{signature}", encoded(&json!(["RS256"]))),
            JwtError::HeaderJson,
        ),
        (
            "a bottomless header",
            format!("{}.{good_payload}.{signature}", URL_SAFE_NO_PAD.encode("[".repeat(9000))),
            JwtError::HeaderJson,
        ),
        (
            "a bottomless payload",
            format!("{good_header}.{}.{signature}", URL_SAFE_NO_PAD.encode(format!("{{\"a\":{}", "[".repeat(9000)))),
            JwtError::PayloadJson,
        ),
        ("an endless token", format!("{message}.{}", "A".repeat(20_000)), JwtError::TooLong),
        (
            "JSON in place of base64",
            format!("{{\"alg\":\"RS256\"}}.{good_payload}.{signature}"),
            JwtError::HeaderBase64,
        ),
    ];
    for (what, token, expected) in rows {
        let cache = TokenCache::default();
        assert_eq!(ask(&ours, &mut bearer(&token), &cache, NOW), Err(expected), "{what}: {token:.80}");
        assert_eq!(expected.status(), StatusCode::UNAUTHORIZED, "{what}");
    }
    assert_eq!(ask(&ours, &mut bearer(&good), &TokenCache::default(), NOW), Ok(Some("eve".to_owned())));
}

/// `jku` and `x5u` would make the proxy ask whom the caller names. Nothing listens there: that the token is judged by the
/// provider's keys alone is what is seen.
#[test]
fn a_token_cannot_say_where_its_keys_are() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let ours = authenticator(&rules(vec![provider("a", &keys)], optional("a")));
    let fields = json!({"alg": "ES256", "kid": "one", "jku": "http://127.0.0.1:1/", "x5u": "file:///etc/passwd", "x5c": ["AA=="]});
    let token = signer.sign(&fields, &payload());
    assert_eq!(ask(&ours, &mut bearer(&token), &TokenCache::default(), NOW), Ok(Some("eve".to_owned())));
    let stranger = ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256).sign(&fields, &payload());
    assert_eq!(ask(&ours, &mut bearer(&stranger), &TokenCache::default(), NOW), Err(JwtError::Signature));
}

#[test]
fn what_a_token_claims_has_to_be_for_us_and_now() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let ours = authenticator(&rules(vec![provider("a", &keys)], optional("a")));
    let eve = || Ok(Some("eve".to_owned()));
    let rows = [
        (json!({}), eve()),
        (json!({"exp": null}), Err(JwtError::NoExpiry)),
        (json!({"exp": NOW - 60}), eve()),
        (json!({"exp": NOW - 61}), Err(JwtError::Expired)),
        (json!({"exp": 0}), Err(JwtError::Expired)),
        (json!({"exp": -1}), Err(JwtError::ExpiryNumber)),
        (json!({"exp": "9999999999"}), Err(JwtError::ExpiryNumber)),
        (json!({"exp": [9_999_999_999_u64]}), Err(JwtError::ExpiryNumber)),
        (json!({"exp": 1e300}), Err(JwtError::ExpiryNumber)),
        (json!({"exp": u64::MAX}), eve()),
        (json!({"exp": 1_893_456_600.5}), eve()),
        (json!({"nbf": NOW + 60}), eve()),
        (json!({"nbf": NOW + 61}), Err(JwtError::NotYetValid)),
        (json!({"nbf": "0"}), Err(JwtError::NotBeforeNumber)),
        (json!({"iss": "https://evil.example"}), Err(JwtError::Issuer)),
        (json!({"iss": "https://issuer.example/"}), Err(JwtError::Issuer)),
        (json!({"iss": "HTTPS://ISSUER.EXAMPLE"}), Err(JwtError::Issuer)),
        (json!({"iss": null}), Err(JwtError::Issuer)),
        (json!({"iss": [ISSUER]}), Err(JwtError::IssuerText)),
        (json!({"sub": 7}), Err(JwtError::SubjectText)),
        (json!({"aud": null}), Err(JwtError::Audience)),
        (json!({"aud": "other"}), Err(JwtError::Audience)),
        (json!({"aud": "shop2"}), Err(JwtError::Audience)),
        (json!({"aud": []}), Err(JwtError::Audience)),
        (json!({"aud": ["other", "shop"]}), eve()),
        (json!({"aud": ["other", 1]}), Err(JwtError::AudienceText)),
        (json!({"aud": {"shop": true}}), Err(JwtError::AudienceText)),
    ];
    for (claims, expected) in rows {
        let token = signer.token(&with(claims.clone()));
        assert_eq!(ask(&ours, &mut bearer(&token), &TokenCache::default(), NOW), expected, "{claims}");
    }
    assert_eq!(
        JwtError::Audience.status(),
        StatusCode::FORBIDDEN,
        "Envoy's answer to a token that is for somebody else"
    );
}

#[test]
fn keys_are_chosen_by_name_and_all_are_tried_where_there_is_none() {
    let (one, two) = (p256(), ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256));
    let sets = [
        ("both named", vec![one.published(&json!({"kid": "one"})), two.published(&json!({"kid": "two"}))]),
        ("second without a name", vec![one.published(&json!({"kid": "one"})), two.public.clone()]),
    ];
    let eve = Ok(Some("eve".to_owned()));
    for (what, keys) in sets {
        let ours = authenticator(&rules(vec![provider("a", &key_set(&keys))], optional("a")));
        let asked = |signer: &Signer, fields| {
            ask(&ours, &mut bearer(&signer.sign(&fields, &payload())), &TokenCache::default(), NOW)
        };
        assert_eq!(asked(&two, json!({"alg": "ES256"})), eve, "{what}");
        assert_eq!(asked(one, json!({"alg": "ES256"})), eve, "{what}");
        assert_eq!(asked(&two, json!({"alg": "ES256", "kid": "two"})), eve, "{what}");
        assert_eq!(asked(&two, json!({"alg": "ES256", "kid": "one"})).is_ok(), what == "second without a name");
    }
}

#[test]
fn one_token_is_taken_out_and_what_it_says_is_written_where_nobody_else_can() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let name = |name: &'static str| HeaderName::from_static(name);
    let claim_header = |header, claim: &str| ClaimHeader { name: name(header), claim: claim.to_owned() };
    let with_headers = |forward| JwtProvider {
        forward,
        payload_header: Some(name("x-payload")),
        claim_headers: vec![
            claim_header("x-sub", "sub"),
            claim_header("x-age", "age"),
            claim_header("x-admin", "admin"),
            claim_header("x-role", "realm.role"),
            claim_header("x-groups", "groups"),
            claim_header("x-line", "line"),
            claim_header("x-missing", "missing"),
        ],
        ..provider("a", &keys)
    };
    let payload =
        with(json!({"age": 7, "admin": false, "realm": {"role": "dev"}, "groups": ["a"], "line": "a\r\nx-sub: root"}));
    let token = signer.token(&payload);
    let spoofed = [
        ("x-sub", "root"),
        ("x-payload", "e30"),
        ("x-missing", "here"),
        ("X-Line", "1"),
        ("x_sub", "root"),
        ("x_payload", "e30"),
        ("x-own", "kept"),
    ];
    for forward in [false, true] {
        let ours = authenticator(&rules(vec![with_headers(forward)], optional("a")));
        let bearer = format!("Bearer {token}");
        let mut parts = head("GET http://shop/a?x=1", &[spoofed.as_slice(), &[("authorization", &bearer)]].concat());
        assert_eq!(ask(&ours, &mut parts, &TokenCache::default(), NOW), Ok(Some("eve".to_owned())));
        let found: HashMap<_, _> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        let groups = URL_SAFE_NO_PAD.encode("[\"a\"]");
        let mut expected = HashMap::from([
            ("x-sub", "eve"),
            ("x-age", "7"),
            ("x-admin", "false"),
            ("x-role", "dev"),
            ("x-groups", groups.as_str()),
            ("x-payload", token.split('.').nth(1).expect("a payload")),
            ("x-own", "kept"),
        ]);
        if forward {
            expected.insert("authorization", &bearer);
        }
        assert_eq!(found, expected);

        let mut without = head("GET http://shop/a", &spoofed);
        assert_eq!(ask(&ours, &mut without, &TokenCache::default(), NOW), Ok(None));
        assert_eq!(
            without.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-own"],
            "and without a token too"
        );
    }
}

#[test]
fn a_token_may_be_where_the_provider_says_and_nowhere_else() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let elsewhere = JwtProvider {
        from_headers: vec![JwtHeader { name: HeaderName::from_static("x-jwt"), prefix: "Token ".to_owned() }],
        from_params: vec!["jwt".to_owned()],
        from_cookies: vec!["jwt".to_owned()],
        ..provider("a", &keys)
    };
    let ours = authenticator(&rules(vec![elsewhere], optional("a")));
    let token = signer.token(&payload());
    let eve = || Ok(Some("eve".to_owned()));
    let (line, prefixed, cookie) =
        (format!("GET http://shop/a?jwt={token}&b=1"), format!("Token {token}"), format!("a=1; jwt={token}"));
    let bearer = format!("Bearer {token}");
    let rows = [
        (line.as_str(), vec![], eve(), "/a?b=1"),
        ("GET http://shop/a", vec![("x-jwt", prefixed.as_str())], eve(), "/a"),
        ("GET http://shop/a", vec![("cookie", cookie.as_str())], eve(), "/a"),
        ("GET http://shop/a", vec![("authorization", bearer.as_str())], Ok(None), "/a"),
        ("GET http://shop/a?access_token=x", vec![], Ok(None), "/a?access_token=x"),
        (line.as_str(), vec![("x-jwt", prefixed.as_str())], Err(JwtError::Several), ""),
        ("GET http://shop/a", vec![("x-jwt", prefixed.as_str()), ("x-jwt", "Token x")], Err(JwtError::Several), ""),
        ("GET http://shop/a", vec![("cookie", cookie.as_str()), ("cookie", "jwt=x")], Err(JwtError::Several), ""),
    ];
    for (line, headers, expected, target) in rows {
        let mut parts = head(line, &headers);
        let found = ask(&ours, &mut parts, &TokenCache::default(), NOW);
        assert_eq!(found, expected, "{headers:?}");
        if let Ok(Some(_)) = found {
            assert_eq!(parts.uri.path_and_query().map(|target| target.as_str()), Some(target));
            assert!(!format!("{:?}", parts.headers).contains(&token), "the token is taken out: {:?}", parts.headers);
        }
    }
}

#[test]
fn a_verified_token_is_remembered_and_its_times_are_looked_at_again() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let (ours, cache) = (authenticator(&rules(vec![provider("a", &keys)], optional("a"))), TokenCache::default());
    let token = signer.token(&with(json!({"nbf": NOW, "exp": NOW + 600})));
    let asked = |authenticator: &Authenticator, at| ask(authenticator, &mut bearer(&token), &cache, at);
    for _ in 0..3 {
        assert_eq!(asked(&ours, NOW), Ok(Some("eve".to_owned())));
    }
    assert_eq!(asked(&ours, NOW + 661), Err(JwtError::Expired));
    assert_eq!(asked(&ours, NOW - 61), Err(JwtError::NotYetValid), "the clock went back");
    assert_eq!(asked(&ours, NOW), Ok(Some("eve".to_owned())));

    let others = ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256);
    let rotated = key_set(&[others.published(&json!({"kid": "one"}))]);
    let rotated = authenticator(&rules(vec![provider("a", &rotated)], optional("a")));
    assert_eq!(asked(&rotated, NOW), Err(JwtError::Signature), "other keys, other answers");
    let stricter = JwtProvider { audiences: vec!["bank".to_owned()], ..provider("a", &keys) };
    let stricter = authenticator(&rules(vec![stricter], optional("a")));
    assert_eq!(asked(&stricter, NOW), Err(JwtError::Audience), "other rules, other answers");
    assert_eq!(asked(&ours, NOW), Ok(Some("eve".to_owned())));
}

#[test]
fn many_tokens_do_not_fill_the_memory_of_a_worker() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let (ours, cache) = (authenticator(&rules(vec![provider("a", &keys)], optional("a"))), TokenCache::default());
    for number in 0..1100 {
        let token = signer.token(&with(json!({"sub": number.to_string()})));
        assert_eq!(ask(&ours, &mut bearer(&token), &cache, NOW), Ok(Some(number.to_string())));
    }
    assert!(cache.len() <= 1024, "{}", cache.len());
}

#[test]
fn requirements_say_what_is_needed_and_of_several_reasons_the_best_is_given() {
    let (a, b) = (p256(), ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256));
    let providers = || {
        let second = JwtProvider {
            issuer: Some("https://b.example".to_owned()),
            ..provider("b", &key_set(&[b.published(&json!({"kid": "one"}))]))
        };
        vec![provider("a", &key_set(&[a.published(&json!({"kid": "one"}))])), second]
    };
    let named = |name: &str| JwtRequirement::Provider(name.to_owned());
    let any = |parts: &[JwtRequirement]| JwtRequirement::Any(parts.to_vec());
    let (of_a, of_b) = (a.token(&payload()), b.token(&with(json!({"iss": "https://b.example", "sub": "bob"}))));
    let (expired, foreign) =
        (b.token(&with(json!({"iss": "https://b.example", "exp": 1}))), a.token(&with(json!({"iss": "x"}))));
    let (eve, bob) = (|| Ok(Some("eve".to_owned())), || Ok(Some("bob".to_owned())));
    let both = any(&[named("a"), named("b"), JwtRequirement::AllowMissing]);
    let rows = [
        (named("a"), None, Err(JwtError::Missing)),
        (named("a"), Some(&of_a), eve()),
        (named("a"), Some(&of_b), Err(JwtError::Issuer)),
        (named("c"), Some(&of_a), Err(JwtError::Provider)),
        (both.clone(), None, Ok(None)),
        (both.clone(), Some(&of_a), eve()),
        (both.clone(), Some(&of_b), bob()),
        (both.clone(), Some(&expired), Err(JwtError::Expired)),
        (both, Some(&foreign), Err(JwtError::Issuer)),
        (any(&[named("a"), named("b")]), None, Err(JwtError::Missing)),
        (any(&[JwtRequirement::AllowMissing, named("b")]), Some(&of_a), Err(JwtError::Issuer)),
        (any(&[named("a"), JwtRequirement::AllowMissingOrFailed]), Some(&expired), Ok(None)),
        (JwtRequirement::AllowMissing, None, Ok(None)),
        (JwtRequirement::AllowMissing, Some(&of_b), bob()),
        (JwtRequirement::AllowMissing, Some(&expired), Err(JwtError::Expired)),
        (JwtRequirement::AllowMissingOrFailed, Some(&expired), Ok(None)),
        (JwtRequirement::AllowMissingOrFailed, Some(&of_b), bob()),
        (JwtRequirement::All(vec![named("a"), named("b")]), Some(&of_a), Err(JwtError::Missing)),
        (JwtRequirement::All(vec![named("a"), optional("b")]), Some(&of_a), eve()),
        (any(&[]), None, Err(JwtError::Missing)),
        (JwtRequirement::All(vec![]), None, Ok(None)),
    ];
    for (requirement, token, expected) in rows {
        let ours = authenticator(&rules(providers(), requirement.clone()));
        let mut parts = token.map_or_else(|| head("GET http://shop/a", &[]), |token| bearer(token));
        assert_eq!(ask(&ours, &mut parts, &TokenCache::default(), NOW), expected, "{requirement:?} {token:?}");
    }
}

#[test]
fn the_first_rule_that_takes_a_request_decides_and_without_one_no_token_is_looked_at() {
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({"kid": "one"}))]);
    let on = |path: &str| RouteMatch {
        path: PathMatch::Prefix { value: path.to_owned(), ignore_case: false },
        headers: vec![HeaderMatch { ..header("x-skip", None) }]
            .into_iter()
            .map(|skip| HeaderMatch { invert: true, ..skip })
            .collect(),
        ..RouteMatch::any()
    };
    let rules = JwtAuthentication {
        providers: vec![provider("a", &keys)],
        rules: vec![
            JwtRule { matcher: on("/open"), requirement: JwtRequirement::AllowMissingOrFailed },
            JwtRule { matcher: on("/closed"), requirement: JwtRequirement::Provider("a".to_owned()) },
        ],
    };
    let ours = authenticator(&rules);
    let rows = [
        ("GET http://shop/open", &[("authorization", "Bearer x")][..], Ok(None)),
        ("GET http://shop/closed", &[("authorization", "Bearer x")], Err(JwtError::Form)),
        ("GET http://shop/closed", &[("authorization", "Bearer x"), ("x-skip", "1")], Ok(None)),
        ("GET http://shop/other", &[("authorization", "Bearer x")], Ok(None)),
    ];
    for (line, headers, expected) in rows {
        assert_eq!(ask(&ours, &mut head(line, headers), &TokenCache::default(), NOW), expected, "{line} {headers:?}");
    }
    assert!(Authenticator::new(&JwtAuthentication::default(), &FetchedKeys::new()).is_none());
}

#[test]
fn keys_that_are_fetched_are_waited_for_and_then_used() {
    let signer = p256();
    let uri = Uri::from_static("https://issuer.example/jwks");
    let remote = RemoteJwks {
        uri: uri.clone(),
        cluster: "issuer".to_owned(),
        timeout: Duration::from_secs(5),
        refresh: Duration::from_secs(1200),
    };
    let provider = JwtProvider { jwks: Jwks::Remote(remote), ..provider("a", "") };
    let rules = rules(vec![provider], optional("a"));
    let token = signer.token(&payload());
    let keys = |signer: &Signer| {
        let set = KeySet::parse(key_set(&[signer.published(&json!({"kid": "one"}))]).as_bytes()).expect("keys");
        FetchedKeys::from([(uri.clone(), Arc::new(set))])
    };
    let cache = TokenCache::default();
    let nothing = FetchedKeys::new();
    let before = Authenticator::new(&rules, &nothing).expect("rules");
    assert_eq!(ask(&before, &mut bearer(&token), &cache, NOW), Err(JwtError::NotFetched));
    assert_eq!(
        ask(&before, &mut head("GET http://shop/a", &[]), &cache, NOW),
        Ok(None),
        "who has no token needs no keys"
    );
    let fetched = keys(signer);
    assert!(before.is_made_of(&rules, &nothing) && !before.is_made_of(&rules, &fetched));
    let after = Authenticator::new(&rules, &fetched).expect("rules");
    assert_eq!(ask(&after, &mut bearer(&token), &cache, NOW), Ok(Some("eve".to_owned())));
    assert!(after.is_made_of(&rules, &fetched.clone()) && !after.is_made_of(&rules, &keys(signer)));
    let gone = Authenticator::new(&rules, &nothing).expect("rules");
    assert_eq!(
        ask(&gone, &mut bearer(&token), &cache, NOW),
        Err(JwtError::NotFetched),
        "a day after the last good fetch"
    );
    let unusable = JwtProvider { jwks: Jwks::Inline("{}".to_owned()), ..rules.providers[0].clone() };
    let unusable = JwtAuthentication { providers: vec![unusable], ..rules };
    let unusable = Authenticator::new(&unusable, &nothing).expect("rules");
    assert_eq!(ask(&unusable, &mut bearer(&token), &TokenCache::default(), NOW), Err(JwtError::NoKeys));
}

/// When the rules change, requests that are under way are looked at again: their tokens were verified and are gone.
#[test]
fn a_token_that_was_verified_is_good_for_as_long_as_somebody_takes_its_issuer_and_audience() {
    use JwtRequirement::{All, AllowMissing, AllowMissingOrFailed, Any, Provider};
    let signer = p256();
    let keys = key_set(&[signer.published(&json!({}))]);
    let before = authenticator(&rules(vec![provider("a", &keys)], optional("a")));
    let mut request = bearer(&signer.token(&payload()));
    let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let verified = before.authenticate(&mut request, |parts| view(parts, None), &TokenCache::default(), now);
    let verified = verified.expect("good").expect("a token");
    let named = |name: &str| Provider(name.to_owned());
    let of = |name: &str, edit: &dyn Fn(&mut JwtProvider)| {
        let mut provider = provider(name, &keys);
        edit(&mut provider);
        provider
    };
    let same = |name: &str| of(name, &|_| ());
    let stranger = of("b", &|provider| provider.issuer = Some("https://other.example".to_owned()));
    let bank = of("b", &|provider| provider.audiences = vec!["bank".to_owned()]);
    let rekeyed = of("a", &|provider| provider.jwks = Jwks::Inline(key_set(&[])));
    // With the token and without one: whether it counts, or why the request is refused.
    let rows = [
        ("the same", vec![same("a")], optional("a"), Ok(true), Ok(false)),
        ("other keys", vec![rekeyed], optional("a"), Ok(true), Ok(false)),
        ("any issuer", vec![of("a", &|it| it.issuer = None)], optional("a"), Ok(true), Ok(false)),
        ("another issuer", vec![stranger.clone()], optional("b"), Err(JwtError::Issuer), Ok(false)),
        ("another audience", vec![bank], optional("b"), Err(JwtError::Audience), Ok(false)),
        ("demanded now", vec![same("a")], named("a"), Ok(true), Err(JwtError::Missing)),
        ("unknown", vec![same("a")], named("b"), Err(JwtError::Provider), Err(JwtError::Provider)),
        (
            "one of two",
            vec![stranger.clone(), same("a")],
            Any(vec![named("b"), named("a")]),
            Ok(true),
            Err(JwtError::Missing),
        ),
        (
            "both of two",
            vec![stranger.clone(), same("a")],
            All(vec![named("b"), named("a")]),
            Ok(true),
            Err(JwtError::Missing),
        ),
        ("none at all", vec![same("a")], All(Vec::new()), Ok(false), Ok(false)),
        ("missing is fine", vec![stranger.clone()], AllowMissing, Err(JwtError::Issuer), Ok(false)),
        ("everything is fine", vec![stranger], AllowMissingOrFailed, Ok(false), Ok(false)),
    ];
    for (what, providers, requirement, with, without) in rows {
        let after = authenticator(&rules(providers, requirement));
        let counts = |token| after.would_take(&view(&request, None), token).map(|token| token.is_some());
        assert_eq!((counts(Some(&verified)), counts(None)), (with, without), "{what}");
    }
}
