//! What has to be true of an answer to a certificate request.

use leno_proxy::identity::csr::Request;
use leno_proxy::identity::issued::ServiceAccount;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair};

use crate::ca::{Ca, DAY, HOUR, Leaf, MINUTE, noon};

pub(crate) fn cart() -> ServiceAccount {
    ServiceAccount { namespace: "default".to_owned(), name: "cart".to_owned() }
}

#[test]
fn a_request_holds_a_public_key_and_asks_for_nothing() {
    let request = Request::new().unwrap();
    let parsed = CertificateSigningRequestParams::from_pem(request.csr()).unwrap();
    assert!(parsed.params.subject_alt_names.is_empty());
    assert_eq!(parsed.params.distinguished_name.iter().count(), 0);
    let other = Request::new().unwrap();
    assert_ne!(request.csr(), other.csr(), "each request has a key of its own");
}

#[test]
fn a_chain_to_the_root_at_its_end_is_accepted_with_that_root() {
    let ca = Ca::new("root");
    let (below, intermediate) = ca.intermediate("below");
    let leaf = Leaf::cart(noon());
    type Answer = fn(String, &str, String) -> Vec<String>;
    let direct: Answer = |leaf, _, root| vec![leaf, root];
    let rows: [(&str, &Ca, Answer); 4] = [
        ("leaf and root", &ca, direct),
        ("with an intermediate", &below, |leaf, between, root| vec![leaf, between.to_owned(), root]),
        ("all in one text", &below, |leaf, between, root| vec![[leaf.as_str(), between, root.as_str()].concat()]),
        ("without the root, which is known", &below, |leaf, between, _| vec![leaf, between.to_owned()]),
    ];
    for (case, issuer, answer) in rows {
        let request = Request::new().unwrap();
        let signed = issuer.sign(request.csr(), &leaf);
        let answer = answer(signed, &intermediate, ca.root());
        let (issued, svid) = request.accept(&answer, &[ca.root_der()], &cart(), noon()).expect(case);
        assert_eq!(svid.id().as_str(), leaf.uris[0], "{case}");
        assert_eq!(svid.valid_until(), leaf.valid.1, "{case}");
        assert_eq!(issued.roots_pem().matches("BEGIN").count(), 1, "{case}");
        assert!(!issued.chain_pem().contains(issued.roots_pem().trim()), "{case}: the root is not part of the chain");
        assert!(!format!("{issued:?} {svid:?}").contains("PRIVATE"), "{case}");
    }
}

#[test]
fn an_answer_that_is_not_exactly_what_was_asked_for_is_refused_in_words() {
    let (ca, other) = (Ca::new("root"), Ca::new("root"));
    let good = Leaf::cart(noon());
    let uris = |uris: &[&str]| Leaf { uris: uris.iter().map(|uri| (*uri).to_owned()).collect(), ..good.clone() };
    let usage = |usage: &[ExtendedKeyUsagePurpose]| Leaf { usages: usage.to_vec(), ..good.clone() };
    let rows = [
        ("another workload's", uris(&["spiffe://cluster.local/ns/default/sa/admin"]), "sa/admin"),
        ("another namespace's", uris(&["spiffe://cluster.local/ns/shop/sa/cart"]), "namespace `default`"),
        ("a longer name", uris(&["spiffe://cluster.local/ns/default/sa/cart/x"]), "sa/cart/x"),
        ("no name", uris(&[]), "0 URI names"),
        ("two names", uris(&["spiffe://cluster.local/ns/default/sa/cart", "spiffe://cluster.local/a"]), "2 URI names"),
        ("no SPIFFE ID", uris(&["https://cluster.local/ns/default/sa/cart"]), "not a SPIFFE ID"),
        (
            "expired",
            Leaf { valid: (noon() - DAY, noon() - MINUTE), ..good.clone() },
            "it expired at 2030-03-17T17:45:40Z",
        ),
        ("not yet valid", Leaf { valid: (noon() + HOUR, noon() + DAY), ..good.clone() }, "clock"),
        ("for servers alone", usage(&[ExtendedKeyUsagePurpose::ServerAuth]), "TLS clients and servers"),
        ("for clients alone", usage(&[ExtendedKeyUsagePurpose::ClientAuth]), "TLS clients and servers"),
        ("an authority's", Leaf { is_ca: true, ..good.clone() }, "TLS clients and servers"),
    ];
    for (case, leaf, words) in rows {
        let request = Request::new().unwrap();
        let answer = [ca.sign(request.csr(), &leaf), ca.root()];
        let error = request.accept(&answer, &[], &cart(), noon()).expect_err(case).to_string();
        assert!(error.contains(words), "{case}: {error}");
    }
    let foreign_key = ca.issue(&KeyPair::generate().unwrap(), &good);
    type Answer<'a> = Box<dyn Fn(&str) -> Vec<String> + 'a>;
    let rows: [(&str, Answer<'_>, &str); 6] = [
        ("nothing", Box::new(|_| Vec::new()), "empty"),
        ("no PEM", Box::new(|_| vec!["certificate".to_owned()]), "empty"),
        ("a certificate for another key", Box::new(|_| vec![foreign_key.clone(), ca.root()]), "key does not belong"),
        ("another root of the same name", Box::new(|csr| vec![ca.sign(csr, &good), other.root()]), "lead to the roots"),
        ("no root, and none is known", Box::new(|csr| vec![ca.sign(csr, &good)]), "lead to the roots"),
        ("too many", Box::new(|csr| vec![ca.sign(csr, &good); 17]), "17 certificates"),
    ];
    for (case, answer, words) in rows {
        let request = Request::new().unwrap();
        let answer = answer(request.csr());
        let error = request.accept(&answer, &[], &cart(), noon()).expect_err(case).to_string();
        assert!(error.contains(words), "{case}: {error}");
    }
}
