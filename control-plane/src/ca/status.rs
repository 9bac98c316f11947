//! How the authority stands, in the shape of `leno ca status -o json`.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::rotate::Taken;
use super::rotation::{Facts, Obstacle, Owner, Phase, Roots, Step};
use super::{Authority, lock};
use crate::ads::status::rfc3339;

/// What `/debug/ca` answers and `leno ca status` prints.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaStatus {
    /// `steady`, `distributing` or `retiring`.
    pub(crate) phase: String,
    /// The bundle, the root of new certificates first.
    pub(crate) roots: Vec<RootStatus>,
    /// What the next `leno ca rotate` would do.
    pub(crate) next: String,
    /// Why it would be refused; empty: it would not.
    pub(crate) refused: Vec<String>,
}

/// One root of the bundle.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootStatus {
    /// `issuing`, `next`, `previous` or `operator`.
    pub(crate) role: String,
    /// Its subject.
    pub(crate) name: String,
    /// RFC 3339, UTC.
    pub(crate) expires: String,
}

/// What became of a `leno ca rotate`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rotation {
    /// What has happened; `null`: nothing.
    pub(crate) done: Option<String>,
    /// What to do next.
    pub(crate) then: Option<String>,
    /// What breaks because of `--force`, or would.
    pub(crate) breaks: Vec<String>,
    /// Why it was refused, and what to do.
    pub(crate) refused: Vec<String>,
}

impl Authority {
    /// How it stands at this moment.
    pub(crate) fn status(&self, facts: &Facts, now: SystemTime) -> CaStatus {
        let roots = lock(&self.roots);
        CaStatus {
            phase: roots.phase.name().to_owned(),
            roots: root_statuses(&roots),
            next: intention(roots.step()).to_owned(),
            refused: roots.obstacles(facts, now).iter().map(ToString::to_string).collect(),
        }
    }
}

impl Rotation {
    /// A step was taken.
    pub(crate) fn taken(taken: &Taken) -> Self {
        Self {
            done: Some(taken.step.done().to_owned()),
            then: Some(taken.step.then().to_owned()),
            breaks: taken.forced.iter().map(Obstacle::breaks).collect(),
            refused: Vec::new(),
        }
    }

    /// A step was refused.
    pub(crate) fn refused(obstacles: &[Obstacle]) -> Self {
        let forcible = obstacles.iter().filter(|obstacle| obstacle.can_be_forced());
        Self {
            done: None,
            then: None,
            breaks: forcible.map(Obstacle::breaks).collect(),
            refused: obstacles.iter().map(ToString::to_string).collect(),
        }
    }
}

fn intention(step: Step) -> &'static str {
    match step {
        Step::Announce => "make a new root and add it to the trust bundle",
        Step::Switch => "issue certificates from the new root",
        Step::Retire => "remove the old root from the trust bundle",
    }
}

fn root_statuses(roots: &Roots) -> Vec<RootStatus> {
    let mut statuses = vec![root("issuing", roots.issuing.root())];
    match &roots.phase {
        Phase::Steady => {}
        Phase::Distributing { next } => statuses.push(root("next", next.root())),
        Phase::Retiring { previous, until: _ } => statuses.push(root("previous", previous)),
    }
    if let Owner::Operator(others) = &roots.owner {
        statuses.extend(others.iter().map(|other| root("operator", other)));
    }
    statuses
}

fn root(role: &str, certificate: &CertificateDer<'_>) -> RootStatus {
    let parsed = X509Certificate::from_der(certificate);
    let name = parsed.map_or_else(|_| String::new(), |(_, parsed)| parsed.subject().to_string());
    let ends = leno_proxy::identity::validity(certificate).map_or(SystemTime::UNIX_EPOCH, |(_, ends)| ends);
    RootStatus { role: role.to_owned(), name, expires: rfc3339(ends) }
}
