//! `leno explain inject`: why pods get a sidecar or not, with the label that decided and where it stands.
//!
//! It asks the function that the webhook asks. Unlike `leno inject`, it takes silence for no, as a cluster does: what
//! people wonder about is a pod that came up without a sidecar.
//!
//! Three ways: files alone; files against a cluster that `--kubeconfig` or `--context` names, whose namespaces and webhook
//! configurations count then; or, without files, what runs in the cluster.

use std::fmt::Write as _;

use leno_config::rules::SourceText;
use serde::Serialize;
use serde_json::Value;

use super::super::Output;
use super::super::failure::Failure;
use super::super::inject::{Input, Wishes, name};
use crate::inject::manifest::{Manifest, Position, Verdict};
use crate::inject::{Decision, Default, Mark, Others, Settings};
use crate::kubernetes::client::ClusterArguments;
use crate::kubernetes::injected::{self, Surrounding};

/// What stands for a file name where objects come from a cluster.
const CLUSTER: &str = "(cluster)";
/// Of a pod that should have a sidecar.
const RUNS_WITHOUT: &str = "it runs without this sidecar: it was made before that was so, or while no webhook answered; delete it, and the pod \
     that takes its place gets one";

/// `leno explain inject`
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Arguments {
    /// Only this resource, as deploy/reviews
    #[arg(value_name = "KIND/NAME")]
    resource: Option<String>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// One resource, for programs.
#[derive(Debug, Serialize)]
struct Answer {
    resource: String,
    namespace: String,
    /// Where it begins; none in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Position>,
    /// `inject`, `skip`, or `error`: it should have one and cannot.
    decision: &'static str,
    reason: String,
    /// The label or annotation that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
    /// Where that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark_at: Option<Position>,
    warnings: Vec<String>,
}

/// The answers, as they are printed.
pub(super) fn explain(arguments: &Arguments) -> Result<String, Failure> {
    let (manifest, others) = read(arguments)?;
    // As in a cluster.
    let settings = Settings { default: Default::Skip, others, ..arguments.wishes.settings() };
    let verdicts = manifest.verdicts(&settings, &arguments.wishes.namespaces());
    let known: Vec<String> = verdicts.iter().map(|verdict| name(&verdict.owner)).collect();
    let wanted = |verdict: &&Verdict| arguments.resource.as_deref().is_none_or(|asked| is_named(asked, verdict));
    let answers: Vec<Answer> = verdicts.iter().filter(wanted).map(answer).collect();
    if let (true, Some(asked)) = (answers.is_empty(), &arguments.resource) {
        return Err(Failure::usage(not_there(arguments, asked, &known)));
    }
    Ok(arguments.output.render(&answers, |_| text(&answers))?)
}

/// The resources, and who else injects, as far as a cluster was asked.
fn read(arguments: &Arguments) -> Result<(Manifest, Others), Failure> {
    let Arguments { input, cluster, .. } = arguments;
    let has_cluster = cluster.kubeconfig.is_some() || cluster.context.is_some();
    if input.is_given() && !has_cluster {
        return Ok((input.read()?, Others::default()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (objects, others) = runtime.block_on(ask(arguments))?;
    let mut sources = vec![in_cluster(&objects)?];
    if input.is_given() {
        // What a file says of a namespace is what will be: it comes last, and counts.
        sources.extend(input.sources()?);
    }
    Ok((Manifest::read(&sources)?, others))
}

/// Namespaces, and unless there are files what has pods.
async fn ask(arguments: &Arguments) -> Result<(Vec<Value>, Others), Failure> {
    let client = arguments.cluster.connect().await.map_err(Failure::usage)?;
    let unanswered = |error| {
        let hint = "the cluster cannot be asked; -f FILE explains what files say without one";
        Failure::unreachable(anyhow::Error::new(error).context(hint))
    };
    let Surrounding { namespaces: mut objects, others } = injected::surrounding(&client).await.map_err(unanswered)?;
    if !arguments.input.is_given() {
        let kind =
            arguments.resource.as_deref().and_then(|asked| asked.split_once('/')).map(|(kind, _)| whole_kind(kind));
        if let Some(unknown) = kind.as_ref().filter(|kind| !injected::kinds().any(|known| known == **kind)) {
            let known = injected::kinds().collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(anyhow::anyhow!("a {unknown} has no pods here; there are: {known}")));
        }
        let namespace = arguments.wishes.namespace();
        objects.extend(injected::owners(&client, namespace, kind.as_deref()).await.map_err(unanswered)?);
    }
    Ok((objects, others))
}

/// Objects of a cluster as a file that nobody wrote.
fn in_cluster(objects: &[Value]) -> Result<SourceText, Failure> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object)?);
    }
    Ok(SourceText { name: CLUSTER.into(), text: text.into_bytes() })
}

fn not_there(arguments: &Arguments, asked: &str, known: &[String]) -> anyhow::Error {
    let place = match arguments.input.is_given() {
        true => "in these files".to_owned(),
        false => format!("in the namespace {} of the cluster", arguments.wishes.namespace()),
    };
    match known.is_empty() {
        true => anyhow::anyhow!("nothing {place} has a pod"),
        false => anyhow::anyhow!("`{asked}` is not {place}; there are: {}", known.join(", ")),
    }
}

fn answer(verdict: &Verdict) -> Answer {
    let (decision, reason, mark, warnings) = match &verdict.outcome {
        Ok(injection) => {
            let decision = &injection.decision;
            let word = match decision {
                Decision::Inject(_) => "inject",
                Decision::Skip(_) => "skip",
            };
            let runs_without = is_of_cluster(&verdict.position) && verdict.owner.kind == "Pod";
            let late = (runs_without && injection.changed.is_some()).then(|| RUNS_WITHOUT.to_owned());
            let warnings = injection.warnings.iter().cloned().chain(late).collect();
            (word, decision.to_string(), decision.mark().cloned(), warnings)
        }
        Err(problems) => ("error", problems.to_string(), None, Vec::new()),
    };
    Answer {
        resource: name(&verdict.owner),
        namespace: verdict.namespace.clone(),
        at: Some(verdict.position.clone()).filter(|at| !is_of_cluster(at)),
        decision,
        reason,
        mark,
        mark_at: verdict.decided_at.clone().filter(|at| !is_of_cluster(at)),
        warnings,
    }
}

fn is_of_cluster(position: &Position) -> bool {
    position.file == CLUSTER
}

/// A paragraph for each.
fn text(answers: &[Answer]) -> String {
    let mut text = String::new();
    for answer in answers {
        let gets = match answer.decision {
            "inject" => "gets a sidecar",
            "skip" => "gets no sidecar",
            _ => "cannot get a sidecar",
        };
        let at = answer.at.as_ref().map(|at| format!(" ({}:{})", at.file, at.line)).unwrap_or_default();
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{} in {}{at}: {gets}", answer.resource, answer.namespace);
        let place = answer.mark_at.as_ref().map(|at| format!(" ({}:{})", at.file, at.line));
        let _ = writeln!(text, "  {}{}", answer.reason, place.unwrap_or_default());
        for warning in &answer.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
    }
    if answers.is_empty() {
        text.push_str("nothing here has a pod\n");
    }
    text
}

/// Whether somebody who says `asked` means it: `reviews`, `deployment/reviews`, or with kubectl's short words.
fn is_named(asked: &str, verdict: &Verdict) -> bool {
    let (kind, name) = match asked.split_once('/') {
        Some((kind, name)) => (Some(kind), name),
        None => (None, asked),
    };
    let owner = &verdict.owner;
    name == owner.name && kind.is_none_or(|kind| whole_kind(kind) == owner.kind.to_lowercase())
}

/// kubectl's words for a kind, as one.
fn whole_kind(word: &str) -> String {
    let word = word.to_lowercase();
    let short = [
        ("deploy", "deployment"),
        ("sts", "statefulset"),
        ("ds", "daemonset"),
        ("rs", "replicaset"),
        ("rc", "replicationcontroller"),
        ("po", "pod"),
        ("cj", "cronjob"),
    ];
    let found = short.iter().find(|(short, _)| *short == word);
    let plural = || word.strip_suffix('s').unwrap_or(&word).to_owned();
    found.map_or_else(plural, |(_, whole)| (*whole).to_owned())
}
