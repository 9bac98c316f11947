use rcgen::KeyPair;
use x509_parser::extensions::GeneralName;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_845) + Duration::from_millis(500)
}

fn workload() -> SpiffeId {
    SpiffeId::workload("cluster.local", "shop", "cart").unwrap()
}

/// A certificate of an operator's hierarchy.
struct Made {
    pem: String,
    key: KeyPair,
    parameters: CertificateParams,
}

fn made(name: &str, authority: IsCa, above: Option<&Made>) -> Made {
    let mut parameters = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    parameters.distinguished_name = subject;
    parameters.is_ca = authority;
    parameters.not_before = (now() - DAY).into();
    parameters.not_after = (now() + 30 * DAY).into();
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        Some(above) => parameters.signed_by(&key, &rcgen::Issuer::from_params(&above.parameters, &above.key)),
        None => parameters.self_signed(&key),
    };
    Made { pem: certificate.unwrap().pem(), key, parameters }
}

fn authority(path: u8) -> IsCa {
    IsCa::Ca(BasicConstraints::Constrained(path))
}

#[test]
fn a_leaf_says_who_it_is_and_nothing_else() {
    let (issuer, _) = Issuer::create(now()).unwrap();
    let (key, _) = Key::generate().unwrap();
    let leaf = issuer.issue(Subject::Workload(&workload()), key.public(), DAY, now()).unwrap();
    let parsed = parse(&leaf.certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]);
    assert!(names.critical, "the subject is empty (RFC 5280 §4.1.2.6)");
    assert_eq!(parsed.subject().iter().count(), 0);
    assert!(!parsed.is_ca());
    assert_eq!(parsed.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any && !usage.code_signing);
    assert_eq!(parsed.issuer().as_raw(), parse(issuer.root()).unwrap().subject().as_raw());
    assert_eq!(validity(&leaf.certificate).unwrap().1, leaf.ends);
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let (issuer, _) = Issuer::create(now()).unwrap();
    let (key, _) = Key::generate().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let leaf = issuer.issue(Subject::Workload(&workload()), key.public(), DAY, now()).unwrap();
        let parsed = parse(&leaf.certificate).unwrap();
        assert!(parsed.raw_serial().len() <= 17 && parsed.raw_serial()[0] < 0x80, "{}", parsed.raw_serial_as_string());
        assert!(seen.insert(parsed.raw_serial().to_vec()));
    }
}

#[test]
fn a_life_has_bounds() {
    let minute = Duration::from_secs(60);
    let now = whole_seconds(now());
    // Life, what is left of the authority, and: back-dated by, ends after.
    let rows = [
        ("a day", DAY, 100 * DAY, Some((BACK, DAY))),
        ("a minute", minute, DAY, Some((Duration::from_secs(10), minute))),
        ("half an hour", 30 * minute, DAY, Some((BACK, 30 * minute))),
        ("twelve minutes", 12 * minute, DAY, Some((2 * minute, 12 * minute))),
        ("less than a minute", minute - Duration::from_secs(1), DAY, None),
        ("longer than the authority", DAY, DAY / 2, Some((BACK, DAY / 2))),
        ("an authority that ends", DAY, minute - Duration::from_secs(1), None),
        ("an authority that has a minute left", DAY, minute, Some((BACK, minute))),
    ];
    for (what, life, left, expected) in rows {
        let found = span(now, life, now + left).ok();
        assert_eq!(found, expected.map(|(back, after)| (now - back, now + after)), "{what}");
    }
    assert!(matches!(span(now, Duration::ZERO, now + DAY), Err(IssueError::TooShort)));
    assert!(matches!(span(now, DAY, now), Err(IssueError::Ending)));
}

#[test]
fn an_operators_chain_is_taken_or_refused_with_the_reason() {
    let root = made("root", authority(1), None);
    let intermediate = made("intermediate", authority(0), Some(&root));
    let other = made("other root", authority(1), None);
    let leaf = made("leaf", IsCa::ExplicitNoCa, Some(&root));
    let blocked = made("an authority too many", authority(0), Some(&intermediate));
    let joined = |parts: &[&Made]| parts.iter().map(|part| part.pem.as_str()).collect::<String>();
    type Check = fn(&Result<(Issuer, Vec<CertificateDer<'static>>), IssuerError>) -> bool;
    let rows: [(&str, String, &Made, Check); 10] = [
        ("a root", joined(&[&root]), &root, |it| matches!(it, Ok((_, others)) if others.is_empty())),
        (
            "a chain",
            joined(&[&intermediate, &root]),
            &intermediate,
            |it| matches!(it, Ok((issuer, _)) if issuer.intermediates().len() == 1),
        ),
        (
            "a chain and the root to come",
            joined(&[&intermediate, &root, &other]),
            &intermediate,
            |it| matches!(it, Ok((_, others)) if others.len() == 1),
        ),
        ("no root", joined(&[&intermediate]), &intermediate, |it| matches!(it, Err(IssuerError::NoRoot))),
        ("an intermediate behind the root", joined(&[&root, &intermediate]), &root, |it| {
            matches!(it, Err(IssuerError::NoRoot))
        }),
        ("a foreign root", joined(&[&intermediate, &other]), &intermediate, |it| {
            matches!(it, Err(IssuerError::Broken(_)))
        }),
        ("a leaf", joined(&[&leaf, &root]), &leaf, |it| matches!(it, Err(IssuerError::NotAnAuthority))),
        ("the key of another", joined(&[&intermediate, &root]), &root, |it| matches!(it, Err(IssuerError::OtherKey))),
        ("a path that is too long", joined(&[&blocked, &intermediate, &root]), &blocked, |it| {
            matches!(it, Err(IssuerError::Broken(_)))
        }),
        ("nothing", String::new(), &root, |it| matches!(it, Err(IssuerError::Pem))),
    ];
    for (what, file, key, check) in rows {
        let found = Issuer::from_pem(file.as_bytes(), key.key.serialize_pem().as_bytes(), now());
        assert!(check(&found), "{what}: {found:?}");
    }
    let late = Issuer::from_pem(root.pem.as_bytes(), root.key.serialize_pem().as_bytes(), now() + 30 * DAY);
    assert!(matches!(late, Err(IssuerError::Expired)), "{late:?}");
}

#[test]
fn the_control_plane_is_reached_by_its_names() {
    let (issuer, _) = Issuer::create(now()).unwrap();
    let (key, _) = Key::generate().unwrap();
    let id = SpiffeId::workload("cluster.local", "istio-system", "leno").unwrap();
    let names = [ServerName::Dns("localhost".to_owned()), ServerName::Address([127, 0, 0, 1].into())];
    let leaf = issuer.issue(Subject::ControlPlane(&id, &names), key.public(), DAY, now()).unwrap();
    let end_entity = EndEntityCert::try_from(&leaf.certificate).unwrap();
    for (name, expected) in [("localhost", true), ("127.0.0.1", true), ("::1", false), ("leno.example", false)] {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        assert_eq!(end_entity.verify_is_valid_for_subject_name(&name).is_ok(), expected, "{name:?}");
    }
    assert_eq!(leno_proxy::identity::id_of(&leaf.certificate).unwrap(), id);
}
