//! Whose word counts when roots are known from several sides.

use std::collections::BTreeMap;
use std::sync::Arc;

use leno_config::ir::{Secret, TrustBundle};
use leno_proxy::identity::csr::Request;
use leno_proxy::identity::keyring::Times;
use leno_proxy::identity::{Keyring, Origin, Trust, certs};

use crate::answers::cart;
use crate::ca::{Ca, Leaf, noon};

fn secret(bundles: &[(&str, &str)]) -> Option<Arc<Secret>> {
    let bundle = |(domain, roots): &(&str, &str)| ((*domain).to_owned(), TrustBundle { roots: (*roots).to_owned() });
    let bundles: BTreeMap<_, _> = bundles.iter().map(bundle).collect();
    Some(Arc::new(Secret { name: Secret::ROOTS.to_owned(), bundles, revoked: None }))
}

fn install(keyring: &Keyring, ca: &Ca, leaf: &Leaf) {
    let request = Request::new().unwrap();
    let answer = [ca.sign(request.csr(), leaf), ca.root()];
    let (issued, svid) = request.accept(&answer, &[], &cart(), noon()).unwrap();
    keyring.install(issued, svid, Times { obtained: noon(), due: None, is_new: true }).unwrap();
}

fn files(domain: &str, ca: &Ca) -> Trust {
    let mut trust = Trust::default();
    trust.add(domain, ca.root().as_bytes()).unwrap();
    trust
}

#[test]
fn the_control_plane_decides_its_domains_and_files_and_the_answer_the_others() {
    let [issuer, by_file, by_wire] = ["issuer", "file", "wire"].map(Ca::new);
    let keyring = Keyring::new(Origin::ControlPlane);
    install(&keyring, &issuer, &Leaf::cart(noon()));
    let roots = |domain: &str| keyring.identity().now().trust.roots(domain).to_vec();
    assert_eq!(roots("cluster.local"), [issuer.root_der()], "what came with the certificate");
    keyring.set_file_trust(files("cluster.local", &by_file), noon());
    assert_eq!(roots("cluster.local"), [by_file.root_der()], "files win over it");
    keyring.set_secret(secret(&[("", &by_wire.root())]), noon());
    assert_eq!(roots("cluster.local"), [by_wire.root_der()], "the control plane wins over both");
    keyring.set_secret(secret(&[("partner", &by_wire.root())]), noon());
    assert_eq!(roots("cluster.local"), [by_file.root_der()], "for the domains that it names");
    assert_eq!(roots("partner"), [by_wire.root_der()]);
    keyring.set_secret(None, noon());
    assert_eq!(roots("partner"), [by_wire.root_der()], "a secret that goes away takes nothing back");
}

#[test]
fn the_own_domain_of_a_secret_is_that_of_the_own_certificate() {
    let [issuer, wire] = ["issuer", "wire"].map(Ca::new);
    let keyring = Keyring::new(Origin::ControlPlane);
    keyring.set_secret(secret(&[("", &wire.root())]), noon());
    assert_eq!(
        keyring.identity().now().trust.roots("cluster.local"),
        [wire.root_der()],
        "the default, until it is known"
    );
    let leaf = Leaf { uris: vec!["spiffe://shop.example/ns/default/sa/cart".to_owned()], ..Leaf::cart(noon()) };
    install(&keyring, &issuer, &leaf);
    let trust = keyring.identity().now().trust;
    assert_eq!(trust.roots("shop.example"), [wire.root_der()]);
    assert!(trust.roots("cluster.local").is_empty());
}

#[test]
fn a_bundle_of_no_use_keeps_the_last_good_one_and_says_so() {
    let [issuer, wire, newer] = ["issuer", "wire", "newer"].map(Ca::new);
    let keyring = Keyring::new(Origin::ControlPlane);
    install(&keyring, &issuer, &Leaf::cart(noon()));
    keyring.set_secret(secret(&[("", &wire.root())]), noon());
    let broken = wire.root().replace("MII", "AAA");
    for (case, bad) in [
        ("no bundle at all", secret(&[])),
        ("an empty bundle", secret(&[("", "")])),
        ("no PEM", secret(&[("", "roots")])),
        ("no certificate", secret(&[("", &broken)])),
        ("one bad bundle beside a good one", secret(&[("", &newer.root()), ("partner", "")])),
    ] {
        keyring.set_secret(bad, noon());
        assert_eq!(keyring.identity().now().trust.roots("cluster.local"), [wire.root_der()], "{case}");
        let trouble = keyring.report().trust_error.expect(case);
        assert!(trouble.text.contains("last good ones stay"), "{case}: {}", trouble.text);
        assert!(certs(&keyring, noon())["trust_error"]["text"].is_string(), "{case}");
    }
    install(&keyring, &newer, &Leaf::cart(noon()));
    assert_eq!(keyring.identity().now().trust.roots("cluster.local"), [wire.root_der()], "a renewal changes nothing");
    keyring.set_secret(secret(&[("", &newer.root())]), noon());
    assert_eq!(keyring.identity().now().trust.roots("cluster.local"), [newer.root_der()]);
    assert_eq!(keyring.report().trust_error, None);
}

#[test]
fn the_same_roots_again_end_no_connection() {
    let wire = Ca::new("wire");
    let keyring = Keyring::new(Origin::Files);
    keyring.set_secret(secret(&[("", &wire.root())]), noon());
    let generation = keyring.identity().now().generation;
    keyring.set_secret(secret(&[("cluster.local", &wire.root())]), noon());
    assert_eq!(keyring.identity().now().generation, generation);
}

#[test]
fn certs_show_what_is_in_force_and_no_key() {
    let (issuer, partner) = (Ca::new("issuer"), Ca::new("partner"));
    let keyring = Keyring::new(Origin::ControlPlane);
    let nothing = certs(&keyring, noon());
    assert!(nothing["certificate"].is_null() && nothing["trust_domains"].as_array().unwrap().is_empty());
    assert!(keyring.why_not_ready().unwrap().contains("no certificate yet"));
    keyring.failed("the control plane refused the token".to_owned(), noon());
    assert!(keyring.why_not_ready().unwrap().contains("refused the token"));
    install(&keyring, &issuer, &Leaf::cart(noon()));
    keyring.set_secret(secret(&[("partner", &partner.root())]), noon());
    let shown = certs(&keyring, noon());
    assert_eq!(shown["origin"], "control_plane");
    assert_eq!(shown["certificate"]["id"], "spiffe://cluster.local/ns/default/sa/cart");
    assert_eq!(shown["certificate"]["valid_until"], "2030-03-18T17:46:40Z");
    assert_eq!(shown["certificate"]["days_left"], 1.0);
    assert_eq!(shown["certificate"]["is_valid"], true);
    assert_eq!(shown["certificate"]["serial"].as_str().unwrap().len(), 40);
    let domains: Vec<_> = shown["trust_domains"].as_array().unwrap().iter().map(|it| &it["trust_domain"]).collect();
    assert_eq!(domains, ["cluster.local", "partner"]);
    assert_eq!(shown["trust_domains"][1]["roots"][0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(shown["trust_domains"][1]["roots"][0]["subject"], "CN=partner");
    assert_eq!(shown["renewals"]["obtained"], 1);
    assert!(shown["renewals"]["error"].is_null());
    assert!(!shown.to_string().contains("PRIVATE"));
    assert_eq!(keyring.why_not_ready(), None);
}
