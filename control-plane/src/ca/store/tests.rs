use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_845)
}

fn opened(directory: &Path) -> Result<(Store, Roots), StoreError> {
    let store = Store::new(directory)?;
    let roots = store.open(LIFE, now())?;
    Ok((store, roots))
}

#[test]
fn a_restart_keeps_the_root_and_what_was_issued() {
    let directory = tempfile::tempdir().unwrap();
    let (store, first) = opened(directory.path()).unwrap();
    store.note_issued(now() + LIFE).unwrap();
    let (_, second) = opened(directory.path()).unwrap();
    assert_eq!(first.issuing.root(), second.issuing.root());
    assert_eq!(second.issued_until, now() + LIFE);
}

#[test]
fn every_phase_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, first) = opened(directory.path()).unwrap();
    let next = store.announce(now()).unwrap();
    let (_, roots) = opened(directory.path()).unwrap();
    let Phase::Distributing { next: found } = &roots.phase else { panic!("{roots:?}") };
    assert_eq!((roots.issuing.root(), found.root()), (first.issuing.root(), next.root()));

    store.switch(first.issuing.root(), now() + LIFE).unwrap();
    let (_, roots) = opened(directory.path()).unwrap();
    let Phase::Retiring { previous, until } = &roots.phase else { panic!("{roots:?}") };
    assert_eq!((roots.issuing.root(), previous, *until), (next.root(), first.issuing.root(), now() + LIFE));

    store.retire().unwrap();
    let (_, roots) = opened(directory.path()).unwrap();
    assert!(matches!(roots.phase, Phase::Steady));
    assert_eq!(roots.issuing.root(), next.root());
}

/// A process that is killed leaves the files as they are between two of its writes.
#[test]
fn an_interrupted_step_is_completed_or_forgotten() {
    type Break = fn(&Path);
    let rows: [(&str, Break, &str); 5] = [
        ("a key was made", |ca| std::fs::remove_file(ca.join("next.pem")).unwrap(), "steady"),
        ("a certificate alone", |ca| std::fs::remove_file(ca.join("next.key")).unwrap(), "steady"),
        (
            "the previous root was noted",
            |ca| drop(std::fs::copy(ca.join("root.pem"), ca.join("previous.pem"))),
            "distributing",
        ),
        (
            "the key was moved",
            |ca| {
                std::fs::copy(ca.join("root.pem"), ca.join("previous.pem")).unwrap();
                std::fs::rename(ca.join("next.key"), ca.join("root.key")).unwrap();
            },
            "retiring",
        ),
        ("nothing happened", |_| {}, "distributing"),
    ];
    for (what, interrupt, expected) in rows {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = opened(directory.path()).unwrap();
        store.announce(now()).unwrap();
        interrupt(&directory.path().join("ca"));
        for _ in 0..2 {
            let (_, roots) = opened(directory.path()).unwrap();
            assert_eq!(roots.phase.name(), expected, "{what}");
        }
    }
}

#[test]
fn a_root_that_cannot_be_used_is_never_replaced_in_silence() {
    type Break = fn(&Path);
    let rows: [(&str, Break, &str); 5] = [
        ("no certificate", |ca| std::fs::remove_file(ca.join("root.pem")).unwrap(), "root.pem` is missing"),
        ("no key", |ca| std::fs::remove_file(ca.join("root.key")).unwrap(), "root.key` is missing"),
        (
            "another key",
            |ca| std::fs::write(ca.join("root.key"), &*super::super::key::Key::generate().unwrap().1).unwrap(),
            "does not belong",
        ),
        ("no PEM", |ca| std::fs::write(ca.join("root.pem"), "x").unwrap(), "not PEM"),
        ("another journal", |ca| std::fs::write(ca.join("issued.json"), "{}").unwrap(), "not written by this version"),
    ];
    for (what, damage, expected) in rows {
        let directory = tempfile::tempdir().unwrap();
        opened(directory.path()).unwrap();
        damage(&directory.path().join("ca"));
        let error = opened(directory.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn a_first_start_that_was_interrupted_begins_anew() {
    for missing in ["root.pem", "root.key"] {
        let directory = tempfile::tempdir().unwrap();
        opened(directory.path()).unwrap();
        for name in ["issued.json", missing] {
            std::fs::remove_file(directory.path().join("ca").join(name)).unwrap();
        }
        assert!(opened(directory.path()).is_ok(), "without {missing}");
    }
}
