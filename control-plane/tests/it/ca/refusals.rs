//! Who is nobody: each row a real request or handshake against the running control plane.

use std::time::SystemTime;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{DistinguishedName, ExtendedKeyUsagePurpose, Issuer, SanType};
use serde_json::{Value, json};
use tonic::Code;

use super::*;

/// A token like those of the control plane, with something changed, signed with the key of `state`.
fn forged(place: &Place, change: impl FnOnce(&mut Value), header: &Header, key: Option<EncodingKey>) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({
        "iss": "leno", "aud": ["istio-ca"], "sub": "system:serviceaccount:shop:cart", "iat": now, "exp": now + 600,
    });
    change(&mut claims);
    let pem = std::fs::read(place.state().join("ca/token.key")).unwrap();
    let key = key.unwrap_or_else(|| EncodingKey::from_ec_pem(&pem).unwrap());
    jsonwebtoken::encode(header, &claims, &key).unwrap()
}

/// What `one` says, with the signature of `other`.
fn swapped(one: &str, other: &str) -> String {
    format!("{}.{}", one.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1)
}

fn unsigned(place: &Place) -> String {
    use base64::Engine as _;
    let token = forged(place, |_| {}, &Header::new(Algorithm::ES256), None);
    let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
    format!("{head}.{}.", token.split('.').nth(1).unwrap())
}

#[tokio::test]
async fn without_a_good_credential_there_is_no_certificate() {
    let (place, mut serve) = plane();
    let channel = connected(&place, &serve).await;
    let (csr, _) = request();
    let es256 = Header::new(Algorithm::ES256);
    let token_key = std::fs::read_to_string(place.state().join("ca/token.key")).unwrap();
    let public = KeyPair::from_pem(&token_key).unwrap().public_key_pem();
    let foreign = EncodingKey::from_ec_pem(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    let hmac = EncodingKey::from_secret(public.as_bytes());
    let bearer = |token: String| Some(format!("Bearer {token}"));
    let good = forged(&place, |_| {}, &es256, None);
    assert!(create(&channel, bearer(good.clone()).as_deref(), &csr, 0).await.is_ok(), "the table forges well");
    let other = forged(&place, |claims| claims["sub"] = json!("system:serviceaccount:shop:admin"), &es256, None);
    let changed = |key: &'static str, value: Value| forged(&place, move |claims| claims[key] = value, &es256, None);
    let rows = [
        ("no credential", None, "no_credential", "no credential was shown"),
        ("another scheme", Some(format!("Basic {good}")), "malformed", "not of the form `Bearer TOKEN`"),
        ("no token", Some("Bearer x".to_owned()), "malformed", "not a JWT"),
        ("another audience", bearer(changed("aud", json!(["vault"]))), "audience", "another audience"),
        ("expired", bearer(changed("exp", json!(1_000_000_000))), "expired", "has expired"),
        ("another issuer", bearer(changed("iss", json!("me"))), "issuer", "another issuer"),
        ("a user", bearer(changed("sub", json!("system:user:admin"))), "malformed", "subject"),
        ("a foreign key", bearer(forged(&place, |_| {}, &es256, Some(foreign))), "signature", "not signed by this"),
        ("no algorithm", bearer(unsigned(&place)), "algorithm", "only ES256"),
        (
            "the public key as a secret",
            bearer(forged(&place, |_| {}, &Header::new(Algorithm::HS256), Some(hmac))),
            "algorithm",
            "only ES256",
        ),
        ("the signature of another token", bearer(swapped(&good, &other)), "signature", "not signed by this"),
    ];
    for (what, authorization, reason, words) in rows {
        let series = format!("leno_ca_refused_total{{reason=\"{reason}\"}}");
        let before = metric(&serve, &series);
        let status = create(&channel, authorization.as_deref(), &csr, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
        assert!(status.message().contains(words), "{what}: {status}");
        assert_eq!(metric(&serve, &series), before + 1, "{what}");
        let line = serve.waits_for("a certificate refused");
        assert!(line.contains(words) && line.contains(reason) && line.contains("WARN"), "{what}: {line}");
        assert!(!line.contains(&good[..20]), "no token in the log: {line}");
    }
}

#[tokio::test]
async fn a_request_that_proves_nothing_or_wants_too_much_is_refused() {
    let (place, serve) = plane();
    let channel = connected(&place, &serve).await;
    let bearer = format!("Bearer {}", token(&place, "shop", "cart", "1h"));
    let (csr, _) = request();
    let huge = format!("{csr}{}", "x".repeat(20 << 10));
    let rows = [
        ("no request", "", 0, "not PEM"),
        ("too long", huge.as_str(), 0, "longer than"),
        ("a second", csr.as_str(), 1, "at least 60 s"),
        ("a negative time", csr.as_str(), -1, "negative"),
    ];
    for (what, csr, seconds, words) in rows {
        let status = create(&channel, Some(&bearer), csr, seconds).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(status.message().contains(words), "{what}: {status}");
    }
}

/// A client's certificate, made with the mesh's own key where it says so.
fn client(place: &Place, own_root: bool, change: impl FnOnce(&mut CertificateParams)) -> Credential {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.not_before = (SystemTime::now() - Duration::from_secs(600)).into();
    parameters.not_after = (SystemTime::now() + Duration::from_secs(600)).into();
    parameters.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/cart")];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut parameters);
    let ca = place.state().join("ca");
    let root_key = match own_root {
        true => KeyPair::from_pem(&std::fs::read_to_string(ca.join("root.key")).unwrap()).unwrap(),
        false => KeyPair::generate().unwrap(),
    };
    // The foreign one has the name of the real one.
    let root = std::fs::read_to_string(ca.join("root.pem")).unwrap();
    let key = KeyPair::generate().unwrap();
    let chain = parameters.signed_by(&key, &Issuer::from_ca_cert_pem(&root, root_key).unwrap()).unwrap().pem();
    Credential { chain, key: key.serialize_pem() }
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

#[tokio::test]
async fn a_handshake_with_a_certificate_that_is_not_of_the_mesh_fails() {
    let (place, mut serve) = plane();
    let root = place.state().join("root.pem");
    let (csr, _) = request();
    let good = client(&place, true, |_| {});
    let channel = connect(serve.tls, &root, "localhost", Some(&good)).await.unwrap();
    assert!(create(&channel, None, &csr, 0).await.is_ok(), "the table makes good certificates");
    let minute = Duration::from_secs(60);
    let rows = [
        ("foreign root of the same name", client(&place, false, |_| {})),
        ("expired", client(&place, true, |it| it.not_after = (SystemTime::now() - minute).into())),
        ("not yet valid", client(&place, true, |it| it.not_before = (SystemTime::now() + minute).into())),
        ("no name", client(&place, true, |it| it.subject_alt_names = Vec::new())),
        (
            "a host name alone",
            client(&place, true, |it| {
                it.subject_alt_names = vec![SanType::DnsName("cart".try_into().unwrap())];
            }),
        ),
        (
            "two URI names",
            client(&place, true, |it| it.subject_alt_names.push(uri("spiffe://cluster.local/ns/a/sa/b"))),
        ),
        (
            "no SPIFFE ID",
            client(&place, true, |it| it.subject_alt_names = vec![uri("https://cluster.local/ns/a/sa/b")]),
        ),
        (
            "for servers alone",
            client(&place, true, |it| {
                it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
    ];
    let bearer = format!("Bearer {}", token(&place, "shop", "cart", "1h"));
    for (what, credential) in rows {
        // In TLS 1.3 a client learns of it with its first answer, so a good token beside it must not help.
        let answer = match connect(serve.tls, &root, "localhost", Some(&credential)).await {
            Ok(channel) => create(&channel, Some(&bearer), &csr, 0).await.map_err(|status| status.to_string()),
            Err(error) => Err(error),
        };
        assert!(answer.is_err(), "{what}");
        let line = serve.waits_for("a connection refused");
        assert!(line.contains("not one of this mesh"), "{what}: {line}");
    }
    // At least once each; the client tries again by itself.
    assert!(metric(&serve, "leno_ca_refused_total{reason=\"certificate\"}") >= 8);
    let foreign = client(&place, true, |it| it.subject_alt_names = vec![uri("spiffe://other/ns/shop/sa/cart")]);
    let channel = connect(serve.tls, &root, "localhost", Some(&foreign)).await.unwrap();
    let status = create(&channel, None, &csr, 0).await.unwrap_err();
    assert!(status.code() == Code::Unauthenticated && status.message().contains("trust domain `other`"), "{status}");
}

#[tokio::test]
async fn a_silent_handshake_is_cut_after_its_deadline() {
    use tokio::io::AsyncReadExt as _;
    let (_place, serve) = plane();
    let mut socket = TcpStream::connect(serve.tls).await.unwrap();
    let read = tokio::time::timeout(crate::process::SOON, socket.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}
