//! The roots as one value, for stores that replace everything at once: a Secret of Kubernetes.
//!
//! It goes through the same steps as the files of [`super::store`], without their half-done states. Several control
//! planes read it and one writes it, so nobody knows what the others have issued: a leaf of the old root is taken to be
//! good for as long as any may be ([`Kept::switched`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::issuer::{Issuer, IssuerError};
use super::pem;
use super::rotation::{Owner, Phase, Roots};
use super::store::{seconds, time};

/// After a switch another control plane may issue from the old root for so long: until it has seen the change.
const PROPAGATION: Duration = Duration::from_secs(60);

/// What the entries are called that differ between the stores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The certificate that issues and what leads from it to its root.
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
    /// All that peers should trust.
    pub(crate) bundle: &'static str,
}

const NEXT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS: &str = "previous.crt";
/// Seconds since 1970, in digits.
const PREVIOUS_UNTIL: &str = "previous-until";
const SINCE: &str = "since";

/// A store that several control planes read. Who writes to it waits, so it is not for a thread that serves.
pub(crate) trait Shared: Send + Sync {
    /// Puts `after` in the place of `before`, if that is still there and it is this control plane's to write. What was
    /// written comes back to every control plane by [`super::Authority::adopt`].
    fn replace(&self, before: &Kept, after: &Kept) -> Result<(), SharedError>;
}

/// Why the shared roots stay as they are.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SharedError {
    /// Another control plane writes.
    #[error("this control plane does not lead, so it writes no roots; say it to {}",
             .0.as_deref().map_or_else(|| "the one that does (nobody is known to; try again)".to_owned(), |leader| format!("`{leader}`, which does")))]
    NotLeader(Option<String>),
    /// Somebody else wrote.
    #[error("the roots were changed by somebody else at the same time; look at `leno ca status` and try again")]
    Conflict,
    /// It cannot be written.
    #[error("the roots cannot be written to {place}: {reason}")]
    Write { place: String, reason: String },
}

/// Roots and keys, and where a change of them stands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// PEM.
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    /// In the bundle, and issues nothing yet.
    next: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    /// Its leaves may be good until then.
    previous: Option<(Vec<u8>, u64)>,
    /// When the last step was taken.
    since: u64,
    /// Brought along by an operator, so not ours to change.
    is_operators: bool,
}

/// Why what is kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    /// An entry.
    #[error("its entry `{0}` is missing")]
    Missing(&'static str),
    /// Certificate and key.
    #[error("its entry `{0}`: {1}")]
    Issuer(&'static str, IssuerError),
    /// A certificate or a number.
    #[error("its entry `{0}` is not what leno wrote there")]
    Entry(&'static str),
}

impl Kept {
    /// A first root, for this purpose and so long (see [`Issuer::create_for`]).
    pub(crate) fn create(purpose: &str, life: Duration, now: SystemTime) -> Result<Self, IssuerError> {
        let (issuer, key) = Issuer::create_for(purpose, life, now)?;
        Ok(Self {
            certificate: pem::certificate(issuer.root()).into_bytes(),
            key: Zeroizing::new(key.as_bytes().to_vec()),
            next: None,
            previous: None,
            since: seconds(now),
            is_operators: false,
        })
    }

    /// From the entries of a store.
    pub(crate) fn read(
        names: Names,
        entries: impl Fn(&str) -> Option<Vec<u8>>,
        is_operators: bool,
    ) -> Result<Self, KeptError> {
        let present = |name| entries(name).ok_or(KeptError::Missing(name));
        let mut certificate = present(names.certificate)?;
        if is_operators && let Some(roots) = entries(names.bundle) {
            // Where the certificate leads to may stand beside it, as cert-manager writes it.
            certificate.push(b'\n');
            certificate.extend(roots);
        }
        let number = |name| {
            let text = entries(name).and_then(|text| String::from_utf8(text).ok());
            text.map(|text| text.trim().parse::<u64>().map_err(|_| KeptError::Entry(name))).transpose()
        };
        let next = entries(NEXT).zip(entries(NEXT_KEY)).map(|(next, key)| (next, Zeroizing::new(key)));
        let until = number(PREVIOUS_UNTIL)?.unwrap_or_default();
        Ok(Self {
            certificate,
            key: Zeroizing::new(present(names.key)?),
            next,
            previous: entries(PREVIOUS).map(|previous| (previous, until)),
            since: number(SINCE)?.unwrap_or_default(),
            is_operators,
        })
    }

    /// As entries of a store. What is not among them is not there any more.
    pub(crate) fn entries(&self, names: Names) -> BTreeMap<&'static str, Vec<u8>> {
        let mut entries = BTreeMap::from([
            (names.certificate, self.certificate.clone()),
            (names.key, self.key.to_vec()),
            (names.bundle, self.bundle()),
            (SINCE, self.since.to_string().into_bytes()),
        ]);
        if let Some((next, key)) = &self.next {
            entries.extend([(NEXT, next.clone()), (NEXT_KEY, key.to_vec())]);
        }
        if let Some((previous, until)) = &self.previous {
            entries.extend([(PREVIOUS, previous.clone()), (PREVIOUS_UNTIL, until.to_string().into_bytes())]);
        }
        entries
    }

    /// What peers should trust, PEM, the root of new leaves first.
    pub(crate) fn bundle(&self) -> Vec<u8> {
        let mut bundle = self.certificate.clone();
        bundle.extend(self.next.iter().flat_map(|(next, _)| next));
        bundle.extend(self.previous.iter().flat_map(|(previous, _)| previous));
        bundle
    }

    /// Where a change of roots stands. `life`: how long leaves are good.
    pub(crate) fn roots(&self, life: Duration, now: SystemTime) -> Result<Roots, KeptError> {
        let in_entry = |name| move |reason| KeptError::Issuer(name, reason);
        let (issuing, others) = Issuer::from_pem(&self.certificate, &self.key, now).map_err(in_entry("tls.crt"))?;
        let first = |name, pem: &[u8]| {
            let certificates = pem::read_certificates(pem).and_then(|found| found.into_iter().next());
            certificates.ok_or(KeptError::Entry(name))
        };
        let phase = match (&self.next, &self.previous) {
            (Some((next, key)), _) => {
                let (next, _) = Issuer::from_pem(next, key, now).map_err(in_entry(NEXT))?;
                Phase::Distributing { next: Arc::new(next) }
            }
            (None, Some((previous, until))) => {
                Phase::Retiring { previous: first(PREVIOUS, previous)?, until: time(*until) }
            }
            (None, None) => Phase::Steady,
        };
        let owner = match self.is_operators {
            // The root itself stands in the bundle once already.
            true => Owner::Operator(others.into_iter().filter(|other| other != issuing.root()).collect()),
            false => Owner::Leno,
        };
        Ok(Roots { issuing: Arc::new(issuing), phase, owner, issued_until: now + life })
    }

    /// With a new root in the bundle.
    pub(crate) fn announced(&self, purpose: &str, life: Duration, now: SystemTime) -> Result<Self, IssuerError> {
        let next = Self::create(purpose, life, now)?;
        Ok(Self { next: Some((next.certificate, next.key)), previous: None, since: seconds(now), ..self.clone() })
    }

    /// With the new root issuing. `life`: the longest that a leaf may be good.
    pub(crate) fn switched(&self, life: Duration, now: SystemTime) -> Self {
        let Some((certificate, key)) = self.next.clone() else { return self.clone() };
        let until = seconds(now + life + PROPAGATION);
        let previous = Some((self.certificate.clone(), until));
        Self { certificate, key, next: None, previous, since: seconds(now), is_operators: false }
    }

    /// Without the old root.
    pub(crate) fn retired(&self, now: SystemTime) -> Self {
        Self { previous: None, since: seconds(now), ..self.clone() }
    }

    /// When the last step was taken.
    pub(crate) fn since(&self) -> SystemTime {
        time(self.since)
    }
}

/// No secret is printed.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("since", &self.since).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { certificate: "tls.crt", key: "tls.key", bundle: "root-cert.pem" };
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn again(kept: &Kept) -> Kept {
        let entries = kept.entries(NAMES);
        Kept::read(NAMES, |name| entries.get(name).cloned(), false).unwrap()
    }

    #[test]
    fn every_step_of_a_change_survives_the_store() {
        let first = Kept::create("root", 3650 * DAY, now()).unwrap();
        let announced = first.announced("root", 3650 * DAY, now()).unwrap();
        let switched = announced.switched(DAY, now() + DAY);
        let retired = switched.retired(now() + 3 * DAY);
        let roots = |kept: &Kept| again(kept).roots(DAY, now()).unwrap();
        for (kept, phase, bundle) in [
            (&first, "steady", 1),
            (&announced, "distributing", 2),
            (&switched, "retiring", 2),
            (&retired, "steady", 1),
        ] {
            assert_eq!(again(kept), *kept);
            assert_eq!((roots(kept).phase.name(), roots(kept).bundle().len()), (phase, bundle));
            let written = pem::read_certificates(&kept.entries(NAMES)[NAMES.bundle]).unwrap();
            assert_eq!(written.iter().collect::<Vec<_>>(), roots(kept).bundle(), "{phase}");
        }
        let Phase::Distributing { next } = roots(&announced).phase else { panic!("not distributing") };
        assert_eq!(roots(&announced).issuing.root(), roots(&first).issuing.root(), "leaves are of the old root");
        assert_eq!(roots(&switched).issuing.root(), next.root());
        let Phase::Retiring { previous, until } = roots(&switched).phase else { panic!("not retiring") };
        assert_eq!(previous, *roots(&first).issuing.root());
        assert!(until >= now() + 2 * DAY + PROPAGATION, "other control planes may have issued until just now");
    }

    #[test]
    fn an_operators_certificate_may_have_its_root_beside_it() {
        let kept = Kept::create("root", 3650 * DAY, now()).unwrap();
        let entries = kept.entries(NAMES);
        let kept = Kept::read(NAMES, |name| entries.get(name).cloned(), true).unwrap();
        let roots = kept.roots(DAY, now()).unwrap();
        assert!(matches!(&roots.owner, Owner::Operator(others) if others.is_empty()));
        assert_eq!(roots.bundle().len(), 1);
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let entries = Kept::create("root", 3650 * DAY, now()).unwrap().entries(NAMES);
        let rows: [(&str, Option<&[u8]>, &str); 4] = [
            ("tls.crt", None, "its entry `tls.crt` is missing"),
            ("tls.key", None, "its entry `tls.key` is missing"),
            ("tls.crt", Some(b"no PEM"), "its entry `tls.crt`: the authority's certificates are not PEM"),
            ("since", Some(b"yesterday"), "its entry `since` is not what leno wrote there"),
        ];
        for (name, text, expected) in rows {
            let entry = |asked: &str| match asked == name {
                true => text.map(<[u8]>::to_vec),
                false => entries.get(asked).cloned(),
            };
            let error = Kept::read(NAMES, entry, false).and_then(|kept| kept.roots(DAY, now()).map(drop));
            let text = error.unwrap_err().to_string();
            assert!(text.starts_with(expected), "{name}: {text}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let kept = Kept::create("root", DAY, now()).unwrap();
        let key = String::from_utf8(kept.key.to_vec()).unwrap();
        assert!(!format!("{kept:?}").contains(key.lines().nth(1).unwrap()));
    }
}
