use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::attest::Means;
use super::rotate::{Insistence, RotateError};
use super::rotation::{Facts, Obstacle};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_845)
}

fn settings(state: Option<PathBuf>) -> Settings {
    Settings { state, operator: None, life: HOUR, names: Vec::new(), external: Vec::new() }
}

fn opened(settings: Settings) -> Arc<Authority> {
    let metrics = CaMetrics::register(&prometheus::Registry::new()).unwrap();
    let authority = Authority::open(settings, metrics, now()).unwrap();
    authority.set_domains(Domains { own: "cluster.local".to_owned(), aliases: vec!["old.local".to_owned()] });
    authority
}

fn caller() -> Attested {
    let (namespace, service_account) = ("shop".to_owned(), "cart".to_owned());
    Attested { namespace, service_account, pod: None, until: now() + HOUR, by: Means::Token }
}

/// A request that wants to be somebody else, and an authority.
fn greedy_request() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(["admin.example".to_owned()]).unwrap();
    parameters
        .subject_alt_names
        .push(rcgen::SanType::URI("spiffe://cluster.local/ns/bank/sa/admin".try_into().unwrap()));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    (parameters.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn leaf(chain: &[String]) -> CertificateDer<'static> {
    pem::read_certificates(chain[0].as_bytes()).unwrap().remove(0)
}

#[test]
fn what_a_request_asks_for_is_ignored_except_the_key() {
    let authority = opened(settings(None));
    let (request, key) = greedy_request();
    let issued = authority.sign(&caller(), &request, 0, now()).unwrap();
    let certificate = leaf(&issued);
    let id = leno_proxy::identity::id_of(&certificate).unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!parsed.is_ca());
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(issued.len(), 2, "a leaf of a root needs nothing between them");
}

#[test]
fn a_shorter_life_may_be_asked_for_and_never_a_longer_one() {
    let authority = opened(settings(None));
    let (request, _) = greedy_request();
    let rows = [
        (0, Some(3600)),
        (60, Some(60)),
        (1800, Some(1800)),
        (3600, Some(3600)),
        (3601, Some(3600)),
        (i64::MAX, Some(3600)),
        (59, None),
        (1, None),
        (-1, None),
        (i64::MIN, None),
    ];
    for (wanted, expected) in rows {
        let issued = authority.sign(&caller(), &request, wanted, now());
        let life = issued.as_ref().ok().map(|issued| {
            let (_, ends) = leno_proxy::identity::validity(&leaf(issued)).unwrap();
            ends.duration_since(now()).unwrap().as_secs()
        });
        assert_eq!(life, expected, "{wanted}: {issued:?}");
    }
}

#[test]
fn nobody_has_an_identity_before_the_rules_say_the_trust_domain() {
    let metrics = CaMetrics::register(&prometheus::Registry::new()).unwrap();
    let authority = Authority::open(settings(None), metrics, now()).unwrap();
    let (request, _) = greedy_request();
    assert!(matches!(authority.sign(&caller(), &request, 0, now()), Err(SignError::NotReady)));
    assert!(authority.own_certificate(now()).is_ok(), "but the port is encrypted already");
}

#[test]
fn a_root_is_followed_by_another_when_nobody_needs_it_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let authority = opened(settings(Some(directory.path().to_owned())));
    let old = authority.own_roots();
    let (request, _) = greedy_request();
    let issued = authority.sign(&caller(), &request, 0, now()).unwrap();
    let on_disk = || std::fs::read_to_string(directory.path().join("root.pem")).unwrap();
    assert_eq!(on_disk(), pem::certificates(&old));

    let settled = Facts { unacknowledged: Vec::new(), age: HOUR, ..Facts::default() };
    let rotate = |facts: &Facts, now| authority.rotate(facts, Insistence::No, now);
    rotate(&settled, now()).unwrap();
    let [first, new] = &authority.own_roots()[..] else { panic!() };
    assert_eq!(*first, old[0], "the old root issues until everybody knows the new one");
    assert_eq!(on_disk(), pem::certificates(&authority.own_roots()));

    let behind = Facts { unacknowledged: vec!["cart".to_owned()], age: HOUR, ..Facts::default() };
    let Err(RotateError::Refused(reasons)) = rotate(&behind, now()) else { panic!() };
    assert_eq!(reasons, [Obstacle::Unacknowledged(vec!["cart".to_owned()])]);
    rotate(&settled, now()).unwrap();
    assert_eq!(authority.own_roots(), [new.clone(), old[0].clone()]);
    let own = authority.own_certificate(now()).unwrap();
    let issuer = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
        (parsed.issuer().to_string(), parsed.subject().to_string())
    };
    assert_eq!(issuer(&own.key.cert[0]).0, issuer(new).1, "the control plane's own certificate follows");

    let still_good = leno_proxy::identity::validity(&leaf(&issued)).unwrap().1;
    assert!(matches!(rotate(&settled, still_good), Err(RotateError::Refused(_))));
    rotate(&settled, now() + HOUR + HOUR / PARTS_OF_LIFE + Duration::from_secs(2)).unwrap();
    assert_eq!(authority.own_roots(), std::slice::from_ref(new));
    assert_eq!(on_disk(), pem::certificate(new));
}

#[test]
fn who_insists_is_told_what_breaks() {
    let authority = opened(settings(None));
    let (request, _) = greedy_request();
    authority.sign(&caller(), &request, 0, now()).unwrap();
    let facts = Facts { unacknowledged: vec!["cart".to_owned()], age: HOUR, ..Facts::default() };
    for expected in [0, 1, 1] {
        let taken = authority.rotate(&facts, Insistence::Force, now()).unwrap();
        assert_eq!(taken.forced.len(), expected);
        assert!(taken.forced.iter().all(|obstacle| !obstacle.breaks().is_empty()));
    }
    assert_eq!(authority.own_roots().len(), 1);
}

#[test]
fn certificates_that_were_issued_before_a_restart_count() {
    let directory = tempfile::tempdir().unwrap();
    let (request, _) = greedy_request();
    let authority = opened(settings(Some(directory.path().to_owned())));
    authority.sign(&caller(), &request, 0, now()).unwrap();
    let facts = Facts { unacknowledged: Vec::new(), age: HOUR, ..Facts::default() };
    authority.rotate(&facts, Insistence::No, now()).unwrap();
    drop(authority);
    let again = opened(Settings { life: issuer::SHORTEST, ..settings(Some(directory.path().to_owned())) });
    again.rotate(&facts, Insistence::No, now()).unwrap();
    let Err(RotateError::Refused(reasons)) = again.rotate(&facts, Insistence::No, now() + HOUR) else { panic!() };
    assert!(matches!(reasons[..], [Obstacle::LiveLeaves(until)] if until > now() + HOUR), "{reasons:?}");
}

#[test]
fn what_is_noted_about_issued_certificates_is_never_too_early() {
    let step = Duration::from_secs(7);
    for seconds in 0..20 {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(900);
        let noted = coarse(time, step);
        assert!(noted > time && noted.duration_since(time).unwrap() <= step + Duration::from_secs(1), "{seconds}");
    }
}

#[tokio::test]
async fn a_certificate_renews_only_what_it_says_itself() {
    use super::attest::{Gate, Peer, PeerCertificate};
    let authority = opened(settings(None));
    let gate = Gate::new(&authority, []);
    let id = |text| SpiffeId::parse(text).unwrap();
    let rows = [
        ("its own", id("spiffe://cluster.local/ns/shop/sa/cart"), HOUR, Ok(())),
        ("an alias of the trust domain", id("spiffe://old.local/ns/shop/sa/cart"), HOUR, Ok(())),
        ("ended since", id("spiffe://cluster.local/ns/shop/sa/cart"), Duration::ZERO, Err("has expired")),
        ("another trust domain", id("spiffe://other/ns/shop/sa/cart"), HOUR, Err("trust domain `other`")),
        ("no workload", id("spiffe://cluster.local/shop/cart"), HOUR, Err("not a workload")),
    ];
    for (what, id, left, expected) in rows {
        let certificate = PeerCertificate { id, ends: now() + left };
        let peer = Peer { certificate: Some(certificate), from: ([127, 0, 0, 1], 1).into() };
        let later = now() + Duration::from_secs(1);
        let admitted = gate.admit(&http::HeaderMap::new(), &peer, "a test", later).await;
        match (admitted, expected) {
            (Ok(attested), Ok(())) => assert_eq!((&*attested.namespace, &*attested.service_account), ("shop", "cart")),
            (Err(status), Err(words)) => {
                assert_eq!(status.code(), tonic::Code::Unauthenticated, "{what}");
                assert!(status.message().contains(words), "{what}: {status}");
            }
            (admitted, _) => panic!("{what}: {admitted:?}"),
        }
    }
}
