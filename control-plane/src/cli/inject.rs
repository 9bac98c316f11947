//! `leno inject`: sidecars into the pods of a file, on their way to `kubectl apply`.
//!
//! Resources come in and go out, what has no pod byte for byte; what was done goes to standard error, a line for each
//! resource that has a pod. Without a word to the contrary a pod gets a sidecar, as with `istioctl kube-inject`. Where one
//! resource is wrong, nothing goes out: half of a manifest must not be applied.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use leno_config::rules::{self, SourceText};

use super::failure::Failure;
use crate::inject::manifest::{Manifest, Namespaces, Verdict};
use crate::inject::{Decision, Default, Injection, IstioNames, Owner, Settings, Sidecar};

/// `leno inject`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    wishes: Wishes,
}

/// What is read.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Input {
    /// File or directory with Kubernetes resources, - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same without -f
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
}

/// What the cluster's settings would be.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wishes {
    /// Namespace of resources that name none
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// A label that the namespaces have, as istio-injection=disabled; may be given several times. Namespaces in the files
    /// are heeded by themselves
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    namespace_label: Vec<(String, String)>,
    /// Inject only what asks for it, as the control plane does in a cluster
    #[arg(long)]
    opt_in: bool,
    /// Leave alone what Istio's labels ask for: Istio's own injector is in the cluster
    #[arg(long)]
    beside_istio: bool,
    /// How the sidecar runs beside the app
    #[arg(long, value_enum, default_value = "native")]
    sidecar: Sidecar,
    /// Image of the sidecar [default: leno-proxy of this version]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Image of the set-up container [default: leno-init of this version]
    #[arg(long, value_name = "IMAGE")]
    init_image: Option<String>,
    /// Where the control plane is [default: https://leno.leno-system.svc:15012]
    #[arg(long, value_name = "URL")]
    control_plane: Option<String>,
    /// What istio.io/rev has to be to mean this control plane
    #[arg(long, value_name = "NAME", default_value = "default")]
    revision: String,
}

/// Injects and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let manifest = arguments.input.read()?;
    let outcome = manifest.inject(&arguments.wishes.settings(), &arguments.wishes.namespaces());
    write!(anstream::stderr(), "{}", summary(&outcome.verdicts))?;
    if outcome.verdicts.iter().any(|verdict| verdict.outcome.is_err()) {
        return Ok(ExitCode::FAILURE);
    }
    std::io::stdout().lock().write_all(outcome.text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl Input {
    /// Whether there is anything to read.
    pub(crate) fn is_given(&self) -> bool {
        !self.files.is_empty() || !self.paths.is_empty()
    }

    /// All documents.
    pub(crate) fn read(&self) -> Result<Manifest, Failure> {
        Ok(Manifest::read(&self.sources()?)?)
    }

    /// The files, as they are.
    pub(crate) fn sources(&self) -> Result<Vec<SourceText>, Failure> {
        if !self.is_given() {
            return Err(Failure::usage(anyhow::anyhow!(
                "say which files to read: -f FILE, or -f - for standard input"
            )));
        }
        let paths: Vec<PathBuf> = self.files.iter().chain(&self.paths).cloned().collect();
        rules::read(&paths).map_err(Failure::usage)
    }
}

impl Wishes {
    /// As settings of the injector.
    pub(crate) fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            image: self.image.clone().unwrap_or(defaults.image),
            init_image: self.init_image.clone().unwrap_or(defaults.init_image),
            control_plane: self.control_plane.clone().unwrap_or(defaults.control_plane),
            sidecar: self.sidecar,
            default: if self.opt_in { Default::Skip } else { Default::Inject },
            istio_names: if self.beside_istio { IstioNames::Istios } else { IstioNames::Ours },
            revision: self.revision.clone(),
            ..defaults
        }
    }

    /// Namespace of resources that name none.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What is known about namespaces beside the files.
    pub(crate) fn namespaces(&self) -> Namespaces {
        let labels: BTreeMap<String, String> = self.namespace_label.iter().cloned().collect();
        Namespaces { default: self.namespace.clone(), labels }
    }
}

/// `deployment/reviews`.
pub(super) fn name(owner: &Owner) -> String {
    format!("{}/{}", owner.kind.to_lowercase(), owner.name)
}

/// A line for each resource, and its warnings.
fn summary(verdicts: &[Verdict]) -> String {
    let mut text: String = verdicts.iter().map(line).collect();
    if verdicts.is_empty() {
        text.push_str("nothing here has a pod; everything is passed through as it is\n");
    }
    text
}

fn line(verdict: &Verdict) -> String {
    let (name, namespace) = (name(&verdict.owner), &verdict.namespace);
    let Injection { decision, changed, warnings } = match &verdict.outcome {
        Ok(injection) => injection,
        Err(problems) => {
            let lines = problems.0.iter().map(|problem| {
                let at = &verdict.position;
                format!("error: {name} in {namespace} ({}:{}): {problem}\n", at.file, at.line)
            });
            return lines.collect();
        }
    };
    let done = match (decision, changed) {
        (Decision::Inject(_), Some(_)) => "injected".to_owned(),
        (Decision::Inject(_), None) => "has this sidecar already".to_owned(),
        (Decision::Skip(_), _) => format!("not injected: {decision}"),
    };
    let warnings = warnings.iter().map(|warning| format!("warning: {name} in {namespace}: {warning}\n"));
    format!("{name} in {namespace}: {done}\n{}", warnings.collect::<String>())
}

/// `key=value`.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label has the form KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
