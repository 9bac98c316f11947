//! Taking one step of a change of roots: checks, the disk, and then what everybody sees.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::issuer::{Issuer, IssuerError, ROOT_LIFE};
use super::kept::{Kept, KeptError, SharedError};
use super::rotation::{Facts, Obstacle, Phase, Roots, Step};
use super::store::{Store, StoreError};
use super::{Authority, Keeping, lock, pem};

/// What is to become of what speaks against a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insistence {
    /// It prevents the step.
    No,
    /// `--force`: the step is taken all the same.
    Force,
}

/// A step that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) step: Step,
    /// What `--force` went over.
    pub(crate) forced: Vec<Obstacle>,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    /// It would cut somebody off.
    #[error("the next step would cut somebody off")]
    Refused(Vec<Obstacle>),
    /// The files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where control planes share the roots.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// What would be shared.
    #[error("the step was not taken: {0}")]
    Kept(#[from] KeptError),
    /// The new root.
    #[error("no root could be made: {0}")]
    Make(#[from] IssuerError),
}

impl Authority {
    /// Takes the next step of a change of roots.
    pub(crate) fn rotate(&self, facts: &Facts, insistence: Insistence, now: SystemTime) -> Result<Taken, RotateError> {
        let mut roots = lock(&self.roots);
        let (step, obstacles) = (roots.step(), roots.obstacles(facts, now));
        let is_in_the_way = |obstacle: &Obstacle| insistence == Insistence::No || !obstacle.can_be_forced();
        if obstacles.iter().any(is_in_the_way) {
            return Err(RotateError::Refused(obstacles));
        }
        match &self.keeping {
            Keeping::Nowhere => self.take(&mut roots, None, now)?,
            Keeping::Disk(store) => {
                self.take(&mut roots, Some(store), now)?;
                store.write_bundle(&pem::certificates(roots.bundle())).map_err(StoreError::from)?;
            }
            Keeping::Shared(store, kept) => {
                // Certificates are issued while this waits for an answer.
                drop(roots);
                let before = lock(kept).clone();
                let after = self.step_of(&before, step, now)?;
                store.replace(&before, &after)?;
                self.adopt(after, now)?;
            }
        }
        for obstacle in &obstacles {
            warn!("--force: {}", obstacle.breaks());
        }
        info!("{}", step.done());
        Ok(Taken { step, forced: obstacles })
    }

    fn step_of(&self, before: &Kept, step: Step, now: SystemTime) -> Result<Kept, IssuerError> {
        match step {
            Step::Announce => before.announced("root", ROOT_LIFE, now),
            Step::Switch => Ok(before.switched(self.settings.life, now)),
            Step::Retire => Ok(before.retired(now)),
        }
    }

    /// First the disk, then the memory: what cannot be kept does not happen.
    fn take(&self, roots: &mut Roots, store: Option<&Store>, now: SystemTime) -> Result<(), RotateError> {
        match &roots.phase {
            Phase::Steady => {
                let next = match store {
                    Some(store) => store.announce(now)?,
                    None => Issuer::create(now)?.0,
                };
                roots.phase = Phase::Distributing { next: Arc::new(next) };
            }
            Phase::Distributing { next } => {
                let (next, previous, until) = (Arc::clone(next), roots.issuing.root().clone(), roots.issued_until);
                if let Some(store) = store {
                    store.switch(&previous, until)?;
                }
                roots.issuing = next;
                roots.phase = Phase::Retiring { previous, until };
            }
            Phase::Retiring { .. } => {
                if let Some(store) = store {
                    store.retire()?;
                }
                roots.phase = Phase::Steady;
            }
        }
        self.metrics.root_ends(roots.issuing.ends());
        self.changed();
        Ok(())
    }
}
