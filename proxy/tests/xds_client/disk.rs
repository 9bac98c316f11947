use std::fs;
use std::os::unix::fs::PermissionsExt;

use leno_config::xds::Kind;
use leno_proxy::state::accepted::{Accepted, Store};
use leno_proxy::state::disk::{FILE, Saved, Unusable, load, save};
use proptest::prelude::*;

use crate::build::{Wire, apply, eds, endpoints, listener, roots, routes};

const NODE: &str = "sidecar~127.0.0.1~a.default~default.svc.cluster.local";

fn small() -> Store {
    let mut accepted = Accepted::default();
    apply(&mut accepted, Kind::Cluster, vec![eds("a").at("1")], &[]);
    apply(&mut accepted, Kind::Endpoints, vec![endpoints("a", 1).at("2")], &[]);
    apply(&mut accepted, Kind::Secret, vec![roots("-----BEGIN CERTIFICATE-----").at("5")], &[]);
    apply(&mut accepted, Kind::Listener, vec![listener("l", 1, "r").at("3")], &[]);
    apply(&mut accepted, Kind::Route, vec![routes("r", &["a"]).at("4")], &[]);
    accepted.store().clone()
}

fn saved(store: &Store) -> Vec<Saved> {
    let of = |it: leno_proxy::state::accepted::Raw<'_>| Saved {
        kind: it.kind,
        name: it.name.to_owned(),
        version: it.version.to_owned(),
        any: it.any.clone(),
    };
    store.raw().map(of).collect()
}

#[test]
fn what_is_written_is_read_and_only_its_owner_may() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state/of/proxy");
    assert_eq!(load(&state, NODE).unwrap(), None, "no file is no error");
    save(&state, NODE, &small()).unwrap();
    assert_eq!(load(&state, NODE).unwrap().unwrap(), saved(&small()));
    assert_eq!(fs::metadata(state.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    save(&state, NODE, &Store::default()).unwrap();
    assert_eq!(load(&state, NODE).unwrap().unwrap(), []);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing stays beside it");
}

#[test]
fn a_write_that_was_cut_off_leaves_the_last_state() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), NODE, &small()).unwrap();
    fs::write(directory.path().join("snapshot.new"), b"LENOSNAP half").unwrap();
    assert_eq!(load(directory.path(), NODE).unwrap().unwrap(), saved(&small()));
    save(directory.path(), NODE, &Store::default()).unwrap();
    assert_eq!(load(directory.path(), NODE).unwrap().unwrap(), []);
}

#[test]
fn every_changed_byte_and_every_missing_tail_is_found() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), NODE, &small()).unwrap();
    let path = directory.path().join(FILE);
    let good = fs::read(&path).unwrap();
    for index in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[index] ^= flip;
            fs::write(&path, &bad).unwrap();
            assert!(load(directory.path(), NODE).is_err(), "byte {index} ^ {flip:#x}");
        }
        fs::write(&path, &good[..index]).unwrap();
        assert!(load(directory.path(), NODE).is_err(), "cut at {index}");
    }
    fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
    assert!(load(directory.path(), NODE).is_err(), "a byte too many");
    fs::write(&path, &good).unwrap();
    assert!(load(directory.path(), NODE).is_ok());
}

#[test]
fn a_file_that_is_not_for_this_proxy_is_named_for_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    save(directory.path(), "another-node", &small()).unwrap();
    let error = load(directory.path(), NODE).unwrap_err();
    assert!(matches!(error, Unusable::OtherNode { .. }), "{error}");
    assert!(error.to_string().contains("belongs to node `another-node`"), "{error}");

    save(directory.path(), NODE, &small()).unwrap();
    let mut other_format = fs::read(&path).unwrap();
    other_format[8] = 9;
    fs::write(&path, other_format).unwrap();
    let error = load(directory.path(), NODE).unwrap_err();
    assert!(matches!(error, Unusable::OtherFormat { found: 9, .. }), "{error}");

    fs::write(&path, "kind: VirtualService").unwrap();
    assert!(matches!(load(directory.path(), NODE).unwrap_err(), Unusable::Foreign(_)));
    fs::write(&path, "").unwrap();
    assert!(matches!(load(directory.path(), NODE).unwrap_err(), Unusable::Damaged { .. }));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(load(directory.path(), NODE).unwrap_err(), Unusable::Read(..)));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let not_a_directory = directory.path().join("file");
    fs::write(&not_a_directory, "").unwrap();
    let error = save(&not_a_directory, NODE, &small()).unwrap_err();
    assert!(error.to_string().contains("file/snapshot.bin"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_with_any_body_under_a_right_checksum_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let directory = tempfile::tempdir().unwrap();
        let format = 1u32.to_le_bytes();
        let checksum = xxhash_rust::xxh3::xxh3_128(&[format.as_slice(), &body].concat()).to_le_bytes();
        fs::write(directory.path().join(FILE), [b"LENOSNAP".as_slice(), &format, &checksum, &body].concat()).unwrap();
        let _ = load(directory.path(), NODE);
    }
}
