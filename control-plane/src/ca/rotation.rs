//! How one root follows another, without a moment at which two proxies that are up to date refuse each other.
//!
//! ```text
//!            announce                          switch                            retire
//! Steady ──────────────▶ Distributing ──────────────────────▶ Retiring ─────────────────────────▶ Steady
//!   bundle: old            bundle: old, new     all proxies      bundle: new, old    no leaf of the    bundle: new
//!   leaves: old            leaves: old          have the new     leaves: new         old root is       leaves: new
//!                                               root                                 good any more
//! ```
//!
//! A person takes each step (`leno ca rotate`), and each is refused while it would cut somebody off ([`Obstacle`]). What
//! `--force` would break is part of the refusal, so nobody has to guess.
//!
//! This is the state and its rules, without a disk ([`super::store`] keeps it) and without a clock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use super::issuer::Issuer;
use crate::ads::status::rfc3339;

/// So long after its start a control plane does not know who is connected: proxies try again for up to 10 s, and a
/// handshake and the first answers take a while.
pub(crate) const YOUTH: Duration = Duration::from_secs(30);

/// Proxies of other control planes are not known here; so long after the new root was announced they have it, or they are
/// cut off for other reasons.
pub(crate) const ELSEWHERE: Duration = Duration::from_secs(10 * 60);

/// Proxies that are named in a refusal; of more, the number.
const NAMED: usize = 5;

/// The mesh's roots.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) issuing: Arc<Issuer>,
    pub(crate) phase: Phase,
    pub(crate) owner: Owner,
    /// No leaf that any root of this mesh issued is good after this; may be later than the last of them.
    pub(crate) issued_until: SystemTime,
}

/// Whose roots they are.
#[derive(Debug)]
pub(crate) enum Owner {
    /// Made here, so they can be followed by others made here.
    Leno,
    /// Brought along, with further roots that peers should trust.
    Operator(Vec<CertificateDer<'static>>),
}

/// Where a change of roots stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// There is one root.
    Steady,
    /// The next root is in the bundle and issues nothing.
    Distributing { next: Arc<Issuer> },
    /// The new root issues; the previous one is in the bundle until its leaves have ended.
    Retiring {
        previous: CertificateDer<'static>,
        /// No leaf of the previous root is good after this.
        until: SystemTime,
    },
}

/// What the next call of `leno ca rotate` would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new root joins the bundle.
    Announce,
    /// Leaves come from the new root.
    Switch,
    /// The old root leaves the bundle.
    Retire,
}

/// What is known about the proxies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Connected, using the bundle, and not known to have the present one.
    pub(crate) unacknowledged: Vec<String>,
    /// How long this process has been serving.
    pub(crate) age: Duration,
    /// Where other control planes serve proxies too: how long ago the last step was taken.
    pub(crate) shared_for: Option<Duration>,
}

/// Why a step is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The roots are not ours to change.
    Operator,
    /// Proxies may be on their way back.
    Young(Duration),
    /// They would refuse leaves of the new root.
    Unacknowledged(Vec<String>),
    /// Nor is it known whether those of other control planes would.
    Elsewhere(Duration),
    /// Their holders would be refused.
    LiveLeaves(SystemTime),
}

impl Roots {
    /// What peers should trust, the root of new leaves first.
    pub(crate) fn bundle(&self) -> Vec<&CertificateDer<'static>> {
        let mut bundle = vec![self.issuing.root()];
        match &self.phase {
            Phase::Steady => {}
            Phase::Distributing { next } => bundle.push(next.root()),
            Phase::Retiring { previous, until: _ } => bundle.push(previous),
        }
        if let Owner::Operator(others) = &self.owner {
            bundle.extend(others);
        }
        bundle
    }

    /// The next step.
    pub(crate) fn step(&self) -> Step {
        match self.phase {
            Phase::Steady => Step::Announce,
            Phase::Distributing { .. } => Step::Switch,
            Phase::Retiring { .. } => Step::Retire,
        }
    }

    /// Everything that speaks against the next step.
    pub(crate) fn obstacles(&self, facts: &Facts, now: SystemTime) -> Vec<Obstacle> {
        if let Owner::Operator(_) = self.owner {
            return vec![Obstacle::Operator];
        }
        let mut obstacles = Vec::new();
        match self.phase {
            Phase::Steady => {}
            Phase::Distributing { .. } => {
                if facts.age < YOUTH {
                    obstacles.push(Obstacle::Young(YOUTH - facts.age));
                }
                if !facts.unacknowledged.is_empty() {
                    obstacles.push(Obstacle::Unacknowledged(facts.unacknowledged.clone()));
                }
                if let Some(wait) = facts.shared_for.and_then(|ago| ELSEWHERE.checked_sub(ago)) {
                    obstacles.push(Obstacle::Elsewhere(wait));
                }
            }
            Phase::Retiring { until, .. } if now <= until => obstacles.push(Obstacle::LiveLeaves(until)),
            Phase::Retiring { .. } => {}
        }
        obstacles
    }
}

impl Phase {
    /// In one word, as `leno ca status` says it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Distributing { .. } => "distributing",
            Self::Retiring { .. } => "retiring",
        }
    }
}

impl Step {
    /// What has happened once it is done.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Announce => {
                "there is a new root; it is in the trust bundle, and certificates still come from the old one"
            }
            Self::Switch => "certificates come from the new root; the old one stays in the trust bundle",
            Self::Retire => "the old root has left the trust bundle; the change is complete",
        }
    }

    /// What is to be done afterwards.
    pub(crate) fn then(self) -> &'static str {
        match self {
            Self::Announce => {
                "give proxies that have a copy of root.pem the new one, and run `leno ca rotate` again when `leno ca \
                 status` says that every proxy has the bundle"
            }
            Self::Switch => "run `leno ca rotate` again when the certificates of the old root have ended",
            Self::Retire => "nothing is left to do; copies of root.pem may be replaced by the new one",
        }
    }
}

impl Obstacle {
    /// Whether `--force` gets over it.
    pub(crate) fn can_be_forced(&self) -> bool {
        match self {
            Self::Operator => false,
            Self::Young(_) | Self::Unacknowledged(_) | Self::Elsewhere(_) | Self::LiveLeaves(_) => true,
        }
    }

    /// What breaks if the step is taken all the same.
    pub(crate) fn breaks(&self) -> String {
        match self {
            Self::Operator => String::new(),
            Self::Young(_) => {
                "proxies that are not back yet refuse peers with certificates of the new root until they \
                               have reconnected"
                    .to_owned()
            }
            Self::Elsewhere(_) => {
                "proxies of other control planes that do not have the new root yet refuse every peer \
                                   that has renewed its certificate"
                    .to_owned()
            }
            Self::Unacknowledged(_) => "proxies without the new root refuse every peer that has renewed its \
                                        certificate, until they have taken the bundle"
                .to_owned(),
            Self::LiveLeaves(until) => format!(
                "proxies whose certificate is of the old root (good until {} at the latest) are refused by all peers \
                 and by this control plane until they have a new one",
                rfc3339(*until)
            ),
        }
    }
}

/// What is in the way, and what to do about it.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str(
                "the root is the operator's (--ca-cert, or a Secret that leno did not make): append the new root to \
                 that file and restart, then put the new chain first in it and restart, then remove the old root",
            ),
            Self::Young(wait) => write!(
                f,
                "this control plane has only just started and proxies may not be back yet; try again in {} s",
                wait.as_secs() + 1
            ),
            Self::Unacknowledged(nodes) => {
                let named = nodes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = nodes.len().saturating_sub(NAMED);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                write!(
                    f,
                    "{} connected proxies have not acknowledged the bundle with the new root: {named}{more}; wait for \
                     them, or repair or stop them (`leno status` says what they refused)",
                    nodes.len()
                )
            }
            Self::Elsewhere(wait) => write!(
                f,
                "other control planes serve proxies that are not known here, and the new root is not old enough for all \
                 of them to have it; try again in {} s",
                wait.as_secs() + 1
            ),
            Self::LiveLeaves(until) => write!(
                f,
                "certificates of the old root are good until {} at the latest; try again then",
                rfc3339(*until)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_845)
    }

    fn roots(phase: Phase) -> Roots {
        let (issuer, _) = Issuer::create(now()).unwrap();
        Roots { issuing: Arc::new(issuer), phase, owner: Owner::Leno, issued_until: now() }
    }

    fn distributing() -> Phase {
        Phase::Distributing { next: Arc::new(Issuer::create(now()).unwrap().0) }
    }

    fn retiring(until: SystemTime) -> Phase {
        Phase::Retiring { previous: Issuer::create(now()).unwrap().0.root().clone(), until }
    }

    #[test]
    fn a_step_is_refused_while_it_would_cut_somebody_off() {
        let second = Duration::from_secs(1);
        let facts = |behind: &[&str], age| Facts {
            unacknowledged: behind.iter().map(ToString::to_string).collect(),
            age: Duration::from_secs(age),
            shared_for: None,
        };
        let shared = |ago| Facts { shared_for: Some(Duration::from_secs(ago)), ..facts(&[], 30) };
        let rows = [
            ("nothing speaks against a new root", Phase::Steady, facts(&["a"], 0), vec![]),
            ("everybody has it", distributing(), facts(&[], 30), vec![]),
            ("one has not", distributing(), facts(&["a"], 30), vec![Obstacle::Unacknowledged(vec!["a".to_owned()])]),
            (
                "who is there is not known yet",
                distributing(),
                facts(&["a"], 20),
                vec![Obstacle::Young(10 * second), Obstacle::Unacknowledged(vec!["a".to_owned()])],
            ),
            ("others' proxies may not", distributing(), shared(570), vec![Obstacle::Elsewhere(30 * second)]),
            ("others' proxies had the time", distributing(), shared(601), vec![]),
            ("a leaf of the old root is good", retiring(now()), facts(&[], 30), vec![Obstacle::LiveLeaves(now())]),
            ("none is", retiring(now() - second), facts(&["a"], 0), vec![]),
        ];
        for (what, phase, facts, expected) in rows {
            let found = roots(phase).obstacles(&facts, now());
            assert_eq!(found, expected, "{what}");
            assert!(found.iter().all(|it| it.can_be_forced() && !it.breaks().is_empty()), "{what}");
        }
    }

    #[test]
    fn an_operators_root_is_not_ours_to_change() {
        let roots = Roots { owner: Owner::Operator(Vec::new()), ..roots(Phase::Steady) };
        assert_eq!(roots.obstacles(&Facts::default(), now()), [Obstacle::Operator]);
        assert!(!Obstacle::Operator.can_be_forced());
    }

    #[test]
    fn the_bundle_begins_with_the_root_of_new_leaves() {
        for (phase, expected) in [(Phase::Steady, 1), (distributing(), 2), (retiring(now()), 2)] {
            let roots = roots(phase);
            assert_eq!(roots.bundle().len(), expected);
            assert_eq!(roots.bundle()[0], roots.issuing.root());
        }
        let other = Issuer::create(now()).unwrap().0.root().clone();
        let operators = Roots { owner: Owner::Operator(vec![other]), ..roots(Phase::Steady) };
        assert_eq!(operators.bundle().len(), 2);
    }

    #[test]
    fn a_refusal_names_some_and_counts_the_rest() {
        let nodes = (0..7).map(|index| format!("p{index}")).collect();
        let text = Obstacle::Unacknowledged(nodes).to_string();
        assert!(text.starts_with("7 connected") && text.contains("p0, p1, p2, p3, p4 and 2 more"), "{text}");
    }
}
