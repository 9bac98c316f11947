//! `leno install`: manifests on standard output, for `kubectl apply -f -`.
//!
//! Definitions of kinds that somebody else made, Istio's for example, are never printed where a cluster is at hand to ask:
//! applied over them, ours would take fields away that their owner acts on, from rules that are in force.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::failure::Failure;
use crate::kubernetes::client::ClusterArguments;
use crate::kubernetes::crd;

/// `leno install`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Only the definitions of the kinds of rules (CustomResourceDefinitions)
    #[arg(long, required = true)]
    crds_only: bool,
    /// Ask no cluster, whatever the environment says: what is printed does not depend on what is there
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// Prints the manifests.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let of_others = of_others(arguments)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", heading(&of_others))?;
    for definition in crd::definitions() {
        let name = definition.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        match &of_others {
            Asked::Cluster(names) if names.contains(name) => {
                writeln!(out, "# {name} is there, and Leno did not make it: left out.")?;
                writeln!(anstream::stderr(), "{name} stays as it is: somebody else made it")?;
            }
            Asked::Cluster(_) | Asked::Nobody => write!(out, "---\n{}", serde_yaml::to_string(&definition)?)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known of definitions that somebody else made.
enum Asked {
    /// These are.
    Cluster(BTreeSet<String>),
    Nobody,
}

fn heading(of_others: &Asked) -> &'static str {
    match of_others {
        Asked::Cluster(_) => {
            "# Kinds of rules for Leno. The cluster was asked: definitions that somebody else made are left out."
        }
        Asked::Nobody => {
            "# Kinds of rules for Leno. No cluster was asked: where there are definitions already that Leno did not make\n\
             # (no label app.kubernetes.io/managed-by: leno), apply none of these over them. With --context or KUBECONFIG\n\
             # `leno install` leaves those out by itself."
        }
    }
}

/// Asks the cluster that somebody named. One that does not answer is an error: without its word we might print what
/// overwrites something.
fn of_others(arguments: &Arguments) -> Result<Asked, Failure> {
    if arguments.offline || !arguments.cluster.is_given() {
        return Ok(Asked::Nobody);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = arguments.cluster.connect().await.map_err(Failure::usage)?;
        let asked = crd::of_others(&client).await.map_err(|error| {
            let hint = "the cluster cannot be asked which definitions it has; --offline prints them all the same";
            Failure::unreachable(anyhow::Error::new(error).context(hint))
        })?;
        Ok(Asked::Cluster(asked))
    })
}
