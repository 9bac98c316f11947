//! `leno install` and `leno uninstall`: manifests on standard output, for `kubectl`.
//!
//! Definitions of kinds that somebody else made, Istio's for example, are never printed where a cluster is at hand to ask:
//! applied over them, ours would take fields away that their owner acts on, from rules that are in force; deleted, they
//! would take all rules of the cluster along.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use super::failure::Failure;
use crate::install::manifests;
use crate::install::values::Values;
use crate::kubernetes::client::ClusterArguments;
use crate::kubernetes::crd;

/// `leno install`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Only the definitions of the kinds of rules (CustomResourceDefinitions)
    #[arg(long)]
    crds_only: bool,
    /// All but the definitions of kinds
    #[arg(long, conflicts_with = "crds_only")]
    without_crds: bool,
    /// Namespace of the control plane
    #[arg(long, value_name = "NAME", default_value = "leno-system")]
    namespace: String,
    /// File with values, by the keys of the Helm chart (repeatable; `-` is stdin)
    #[arg(long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// A single value, as replicas=3 or podMonitor.enabled=true (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Ask no cluster, whatever the environment says: what is printed does not depend on what is there
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// `leno uninstall`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Removal {
    /// The definitions of kinds that Leno made as well, and with them all rules of these kinds
    #[arg(long)]
    crds: bool,
    /// Namespace of the control plane
    #[arg(long, value_name = "NAME", default_value = "leno-system")]
    namespace: String,
    /// Ask no cluster which definitions somebody else made
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// Prints what to apply.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let values = Values::merged(&files(&arguments.values)?, &arguments.set).map_err(Failure::usage)?;
    let mut out = std::io::stdout().lock();
    if !arguments.without_crds {
        let of_others = of_others(arguments.offline, &arguments.cluster)?;
        writeln!(out, "{}", heading(&of_others))?;
        definitions(&mut out, &of_others)?;
    }
    if !arguments.crds_only {
        for object in manifests::all(&values, &arguments.namespace) {
            document(&mut out, &object)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what to delete, the last that was applied first.
pub(crate) fn remove(removal: &Removal) -> Result<ExitCode, Failure> {
    // With its namespace goes whatever else was chosen.
    let values = Values::merged(&[], &[]).map_err(Failure::usage)?;
    let mut out = std::io::stdout().lock();
    let mut objects = manifests::all(&values, &removal.namespace);
    objects.reverse();
    for object in &objects {
        document(&mut out, object)?;
    }
    if removal.crds {
        definitions(&mut out, &of_others(removal.offline, &removal.cluster)?)?;
    } else {
        writeln!(anstream::stderr(), "the definitions of kinds stay, and with them the rules; --crds deletes both")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn files(paths: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let read = |path: &PathBuf| {
        let name = path.display().to_string();
        let mut text = String::new();
        let read = match name.as_str() {
            "-" => std::io::stdin().read_to_string(&mut text).map(|_| text),
            _ => std::fs::read_to_string(path),
        };
        read.map(|text| (name.clone(), text)).with_context(|| format!("cannot read the values in {name}"))
    };
    paths.iter().map(read).collect::<anyhow::Result<_>>().map_err(Failure::usage)
}

fn definitions(out: &mut impl std::io::Write, of_others: &Asked) -> Result<(), Failure> {
    for definition in crd::definitions() {
        let name = definition.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        match of_others {
            Asked::Cluster(names) if names.contains(name) => {
                writeln!(out, "# {name} is there, and Leno did not make it: left out.")?;
                writeln!(anstream::stderr(), "{name} stays as it is: somebody else made it")?;
            }
            Asked::Cluster(_) | Asked::Nobody => document(out, &definition)?,
        }
    }
    Ok(())
}

fn document(out: &mut impl std::io::Write, object: &Value) -> Result<(), Failure> {
    Ok(write!(out, "---\n{}", serde_yaml::to_string(object)?)?)
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
fn of_others(offline: bool, cluster: &ClusterArguments) -> Result<Asked, Failure> {
    if offline || !cluster.is_given() {
        return Ok(Asked::Nobody);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = cluster.connect().await.map_err(Failure::usage)?;
        let asked = crd::of_others(&client).await.map_err(|error| {
            let hint = "the cluster cannot be asked which definitions it has; --offline prints them all the same";
            Failure::unreachable(anyhow::Error::new(error).context(hint))
        })?;
        Ok(Asked::Cluster(asked))
    })
}
