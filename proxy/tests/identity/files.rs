//! An identity from files, while they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leno_proxy::control_plane::KeyFiles;
use leno_proxy::identity::clock::SystemClock;
use leno_proxy::identity::{IdentityFiles, Keyring, Origin};
use tokio::sync::watch;

use crate::ca::{Ca, DAY, HOUR, Leaf, today};

const SOON: Duration = Duration::from_secs(20);

struct Kept {
    keyring: Arc<Keyring>,
    /// Held, so that it goes on.
    _stop: watch::Sender<bool>,
}

impl Kept {
    fn start(directory: &Path, revoked: Option<&str>) -> Self {
        let path = |name: &str| directory.join(name);
        let files = IdentityFiles {
            own: KeyFiles { certificate: path("own.pem"), key: path("own.key") },
            roots: path("roots.pem"),
            revoked: revoked.map(path),
        };
        let keyring = Arc::new(Keyring::new(Origin::Files));
        let (stop, stopped) = watch::channel(false);
        let kept = Arc::clone(&keyring);
        tokio::spawn(async move { files.keep(&kept, &SystemClock, stopped).await });
        Self { keyring, _stop: stop }
    }

    fn id(&self) -> Option<String> {
        self.keyring.identity().now().svid.map(|svid| svid.id().to_string())
    }

    async fn has(&self, account: &str) {
        let wanted = id(account);
        let mut changes = self.keyring.identity().changes();
        let wait = changes.wait_for(|_| self.id().as_ref() == Some(&wanted));
        tokio::time::timeout(SOON, wait)
            .await
            .unwrap_or_else(|_| panic!("never {wanted}: {:?}", self.keyring.report()))
            .unwrap();
    }

    async fn complains_of(&self, words: &str) {
        let complains = async {
            while !self.keyring.report().error.is_some_and(|error| error.text.contains(words)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(SOON, complains).await;
        waited.unwrap_or_else(|_| panic!("never complained of {words}: {:?}", self.keyring.report().error));
    }
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

fn leaf(account: &str) -> Leaf {
    Leaf { uris: vec![id(account)], ..Leaf::cart(today()) }
}

fn write(directory: &Path, ca: &Ca, leaf: &Leaf) {
    let (certificate, key) = ca.pair(leaf);
    replace(directory.join("own.pem"), &certificate);
    replace(directory.join("own.key"), &key);
    replace(directory.join("roots.pem"), &ca.root());
}

fn replace(path: PathBuf, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn new_files_come_into_force_and_bad_ones_leave_the_old_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("root");
    write(directory.path(), &ca, &leaf("one"));
    let kept = Kept::start(directory.path(), None);
    kept.has("one").await;
    assert_eq!(kept.keyring.identity().now().trust.roots("cluster.local"), [ca.root_der()]);

    write(directory.path(), &ca, &leaf("two"));
    kept.has("two").await;
    assert_eq!(kept.keyring.report().error, None, "a certificate was not judged beside the key of another");

    let (certificate, key) = ca.pair(&leaf("three"));
    let expired = ca.pair(&Leaf { valid: (today() - DAY, today() - HOUR), ..leaf("three") });
    let rows: [(&str, &str, &str, &str); 5] = [
        ("own.key", &key, "key does not belong", "another key"),
        ("own.key", "no key", "own.key", "no key"),
        ("own.pem", "", "own.pem", "no certificate"),
        ("own.pem", &certificate, "key does not belong", "another certificate"),
        ("roots.pem", &Ca::new("other").root(), "lead to the roots", "other roots"),
    ];
    for (name, text, words, case) in rows {
        let path = directory.path().join(name);
        let good = fs::read_to_string(&path).unwrap();
        replace(path.clone(), text);
        kept.complains_of(words).await;
        assert_eq!(kept.id(), Some(id("two")), "{case}");
        replace(path, &good);
        let mut changes = kept.keyring.identity().changes();
        let again = changes.wait_for(|_| kept.keyring.report().error.is_none());
        tokio::time::timeout(SOON, again).await.expect(case).unwrap();
    }
    replace(directory.path().join("own.pem"), &expired.0);
    replace(directory.path().join("own.key"), &expired.1);
    kept.complains_of("it expired at").await;
    assert_eq!(kept.id(), Some(id("two")), "what is valid is better than what is not");
    write(directory.path(), &ca, &leaf("four"));
    kept.has("four").await;
}

#[tokio::test]
async fn files_that_come_late_and_a_directory_that_is_swapped_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let kept = Kept::start(&path("mounted"), None);
    kept.complains_of("cannot read").await;
    assert!(kept.keyring.why_not_ready().unwrap().contains("own.pem"));
    let ca = Ca::new("root");
    for (version, account) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(path(version)).unwrap();
        write(&path(version), &ca, &leaf(account));
        // As Kubernetes does with a mounted volume.
        std::os::unix::fs::symlink(version, path("..new")).unwrap();
        fs::rename(path("..new"), path("mounted")).unwrap();
        kept.has(account).await;
    }
    assert_eq!(kept.keyring.why_not_ready(), None);
}

#[tokio::test]
async fn a_revocation_list_of_no_use_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &Ca::new("root"), &leaf("one"));
    fs::write(directory.path().join("crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
    let kept = Kept::start(directory.path(), Some("crl.pem"));
    kept.complains_of("crl.pem").await;
    assert_eq!(kept.id(), None);
    fs::write(directory.path().join("crl.pem"), "").unwrap();
    kept.has("one").await;
}

#[tokio::test]
async fn a_revocation_list_that_turns_bad_leaves_the_last_good_one_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("root");
    write(directory.path(), &ca, &leaf("one"));
    let list = directory.path().join("crl.pem");
    // Each signing makes another list.
    let good = ca.revocations();
    fs::write(&list, &good).unwrap();
    let kept = Kept::start(directory.path(), Some("crl.pem"));
    kept.has("one").await;
    let before = kept.keyring.identity().now().trust.revocations().to_vec();
    assert_eq!(before.len(), 1);
    for bad in ["-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "-----BEGIN X509 CRL-----\n?"] {
        replace(list.clone(), bad);
        kept.complains_of("crl.pem").await;
        assert_eq!(kept.keyring.identity().now().trust.revocations(), before, "{bad}");
        assert_eq!(kept.id(), Some(id("one")), "{bad}");
        replace(list.clone(), &good);
        let mut changes = kept.keyring.identity().changes();
        let again = changes.wait_for(|_| kept.keyring.report().error.is_none());
        tokio::time::timeout(SOON, again).await.expect(bad).unwrap();
    }
}
