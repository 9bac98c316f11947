//! From the bootstrap to a task that keeps the identity.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::watch;

use super::clock::SystemClock;
use super::issued::ServiceAccount;
use super::keeper::Keeper;
use super::keyring::{Keyring, Origin};
use crate::bootstrap::{Bootstrap, Source};
use crate::control_plane::{Access, ControlPlane, Issuer};
use crate::handover::Ownership;

impl Origin {
    /// Files win, since they are there for this alone. Over `http://` nothing vouches for either side, so there a proxy
    /// has an identity from files or none.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        match (&bootstrap.identity, &bootstrap.source) {
            (Some(_), _) => Self::Files,
            (None, Source::ControlPlane(plane)) if plane.tls.is_some() => Self::ControlPlane,
            (None, Source::ControlPlane(_) | Source::Rules(_)) => Self::None,
        }
    }
}

/// The way to a control plane, for a process with this keyring.
pub fn access(plane: &ControlPlane, keyring: &Keyring) -> Access {
    let issuer = match keyring.origin() {
        Origin::ControlPlane => Issuer::ControlPlane,
        Origin::Files | Origin::None => Issuer::Files,
    };
    Access::new(plane.clone(), Arc::clone(keyring.identity()), issuer)
}

/// Keeps the identity that the bootstrap asks for until `stop` turns true or its sender is gone. Ends at once where
/// there is to be none.
pub async fn keep(bootstrap: Bootstrap, ownership: Ownership, keyring: Arc<Keyring>, stop: watch::Receiver<bool>) {
    if let Some(files) = bootstrap.identity {
        return files.keep(&keyring, &SystemClock, stop).await;
    }
    let Source::ControlPlane(plane) = &bootstrap.source else { return };
    if plane.tls.is_none() {
        return;
    }
    let keeper = Keeper {
        authority: access(plane, &keyring),
        clock: SystemClock,
        random: || RandomState::new().hash_one(0),
        account: ServiceAccount { namespace: bootstrap.node.namespace, name: bootstrap.node.service_account },
        state: bootstrap.state,
        ownership,
    };
    keeper.run(&keyring, stop).await;
}
