//! Where configuration comes from: a control plane, or the same rule files compiled in this very process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use leno_config::compile::compile;
use leno_config::diagnostic::Severity;
use leno_config::mesh::Mesh;
use leno_config::node::Node;
use leno_config::rules::{self, SourceText};
use leno_config::validate::validate;
use tokio::sync::{mpsc, watch};

use crate::control_plane::{Access, Link};
use crate::process::refuse;
use crate::rule_files::RuleFiles;
use crate::state::warming::Effective;
use crate::telemetry::Telemetry;
use crate::xds::{self, ClientConfig, Hooks, Outputs, Pause};

/// What is to be in force, and how it stands with the source.
pub type Outcome = (watch::Receiver<Effective>, watch::Receiver<Status>);

/// How it stands with the source of the rules.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A control plane.
    ControlPlane(Box<xds::Status>),
    /// Files.
    Rules {
        /// The paths.
        paths: Vec<PathBuf>,
        /// What was wrong at the last look; what was right before stays in force.
        findings: Vec<String>,
    },
}

/// Follows a control plane; `link` has the connection to it while there is one, and `pauses` says when it is to rest.
pub fn control_plane(
    access: Access,
    node: Node,
    state: Option<PathBuf>,
    telemetry: Arc<Telemetry>,
    (link, pauses): (watch::Sender<Option<Link>>, mpsc::Receiver<Pause>),
    stop: watch::Receiver<bool>,
) -> Outcome {
    let config = ClientConfig { link, pauses, ..ClientConfig::new(access, node, state) };
    let (updates, effective) = watch::channel(Effective::default());
    let (status, mut inner) = watch::channel(xds::Status::default());
    let (outer, shown) = watch::channel(Status::ControlPlane(Box::default()));
    let hooks = Hooks { refuse, ..Hooks::default() };
    tokio::task::spawn_local(xds::run(config, hooks, Outputs { updates, status }, stop));
    tokio::task::spawn_local(async move {
        while inner.changed().await.is_ok() {
            let status = inner.borrow_and_update().clone();
            telemetry.set_rejected(status.kinds.values().map(|kind| kind.nacks).sum());
            outer.send_replace(Status::ControlPlane(Box::new(status)));
        }
    });
    (effective, shown)
}

/// Follows files.
pub fn rules(paths: Vec<PathBuf>, node: Node, telemetry: Arc<Telemetry>) -> Outcome {
    let (updates, effective) = watch::channel(Effective::default());
    let (status, shown) = watch::channel(Status::Rules { paths: paths.clone(), findings: Vec::new() });
    tokio::task::spawn_local(async move {
        let mut files = RuleFiles::watch(paths.clone());
        loop {
            let findings = match files.next(|_| false).await {
                Ok(texts) => match load(&texts, &node) {
                    Ok((effective, findings)) => {
                        for finding in &findings {
                            tracing::warn!("{finding}");
                        }
                        updates.send_replace(effective);
                        findings
                    }
                    Err(findings) => {
                        telemetry.rejected();
                        tracing::warn!("the rules are not valid; what was in force stays\n{}", findings.join("\n"));
                        findings
                    }
                },
                Err(error) => {
                    telemetry.rejected();
                    tracing::warn!(%error, "the rules cannot be read; what was in force stays");
                    vec![error.to_string()]
                }
            };
            status.send_replace(Status::Rules { paths: paths.clone(), findings });
        }
    });
    (effective, shown)
}

/// From texts to resources; refused as a whole when there is an error, so that half an edit is never in force.
fn load(texts: &[SourceText], node: &Node) -> Result<(Effective, Vec<String>), Vec<String>> {
    let parsed = rules::parse(texts);
    let mut findings = parsed.diagnostics;
    findings.extend(validate(&parsed.documents));
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(lines);
    }
    let resources = compile(&Mesh::new(&parsed.documents), node);
    let effective = Effective {
        resources: Arc::new(resources),
        in_force: None,
        received_at: Some(SystemTime::now()),
        complete: true,
    };
    Ok((effective, lines))
}
