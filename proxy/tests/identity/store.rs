//! The identity that survives a restart.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use leno_proxy::identity::csr::Request;
use leno_proxy::identity::issued::ServiceAccount;
use leno_proxy::identity::store::{FILE, Save, load};

use crate::answers::cart;
use crate::ca::{Ca, DAY, Leaf, MINUTE, noon};

fn save(directory: &Path, ca: &Ca) {
    let request = Request::new().unwrap();
    let (below, intermediate) = ca.intermediate("below");
    let answer = [below.sign(request.csr(), &Leaf::cart(noon())), intermediate, ca.root()];
    let (issued, svid) = request.accept(&answer, &[], &cart(), noon()).unwrap();
    Save::new(directory, &issued, &svid, noon()).write().unwrap();
}

#[test]
fn what_is_written_is_read_again_and_nobody_else_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    assert!(load(&state, &cart(), noon()).unwrap().is_none(), "there is none yet");
    let ca = Ca::new("root");
    for _ in 0..2 {
        save(&state, &ca);
        let stored = load(&state, &cart(), noon() + MINUTE).unwrap().expect("it is there");
        assert_eq!(stored.obtained, noon());
        assert_eq!(stored.svid.id().as_str(), "spiffe://cluster.local/ns/default/sa/cart");
        assert_eq!(stored.svid.certified_key().cert.len(), 2, "with its intermediate");
        assert_eq!(stored.issued.roots_pem().lines().count(), ca.root().lines().count());
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state.join(FILE)), 0o600);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_that_is_damaged_or_not_of_this_proxy_is_reported_and_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    save(directory.path(), &Ca::new("root"));
    let good = std::fs::read_to_string(&path).unwrap();
    let key_at = good.find("-----BEGIN PRIVATE KEY-----").unwrap();
    let root_at = good.rfind("-----BEGIN CERTIFICATE-----").unwrap();
    let flip = |at: usize| {
        let mut text = good.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(text).unwrap()
    };
    let rows = [
        ("empty", String::new()),
        ("not PEM", "certificate".to_owned()),
        ("cut in its chain", good[..key_at / 2].to_owned()),
        ("cut in its key", good[..key_at + 60].to_owned()),
        ("cut before its roots", good[..root_at].to_owned()),
        ("without a key", [&good[..key_at], &good[root_at..]].concat()),
        ("a changed byte in the leaf", flip(good.find("-----BEGIN").unwrap() + 300)),
        ("a changed byte in the key", flip(key_at + 130)),
    ];
    for (case, text) in rows {
        std::fs::write(&path, text).unwrap();
        let error = load(directory.path(), &cart(), noon()).expect_err(case).to_string();
        assert!(error.contains("is damaged") && error.contains(FILE), "{case}: {error}");
    }
    std::fs::write(&path, good).unwrap();
    let words = |account: &ServiceAccount, now| {
        leno_proxy::identity::keyring::sentence(&load(directory.path(), account, now).expect_err("refused"))
    };
    assert!(words(&cart(), noon() + 2 * DAY).contains("it expired at"));
    assert!(words(&cart(), noon() - DAY).contains("clock"));
    let other = ServiceAccount { namespace: "default".to_owned(), name: "web".to_owned() };
    assert!(words(&other, noon()).contains("service account `web`"));
}
