//! `leno explain inject`: why pods get a sidecar or not, with the label that decided and where it stands.
//!
//! It asks the function that the webhook asks. Unlike `leno inject`, it takes silence for no, as a cluster does: what
//! people wonder about is a pod that came up without a sidecar.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::Output;
use super::super::failure::Failure;
use super::super::inject::{Input, Wishes, name};
use crate::inject::manifest::{Position, Verdict};
use crate::inject::{Decision, Default, Mark, Settings};

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
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// One resource, for programs.
#[derive(Debug, Serialize)]
struct Answer {
    resource: String,
    namespace: String,
    /// Where it begins.
    at: Position,
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
    let manifest = arguments.input.read()?;
    // As in a cluster.
    let settings = Settings { default: Default::Skip, ..arguments.wishes.settings() };
    let verdicts = manifest.verdicts(&settings, &arguments.wishes.namespaces());
    let known: Vec<String> = verdicts.iter().map(|verdict| name(&verdict.owner)).collect();
    let wanted = |verdict: &&Verdict| arguments.resource.as_deref().is_none_or(|asked| is_named(asked, verdict));
    let answers: Vec<Answer> = verdicts.iter().filter(wanted).map(answer).collect();
    if let (true, Some(asked)) = (answers.is_empty(), &arguments.resource) {
        return Err(Failure::usage(not_there(asked, &known)));
    }
    Ok(arguments.output.render(&answers, |_| text(&answers))?)
}

fn not_there(asked: &str, known: &[String]) -> anyhow::Error {
    match known.is_empty() {
        true => anyhow::anyhow!("nothing in these files has a pod"),
        false => anyhow::anyhow!("`{asked}` is not in these files; there are: {}", known.join(", ")),
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
            (word, decision.to_string(), decision.mark().cloned(), injection.warnings.clone())
        }
        Err(problems) => ("error", problems.to_string(), None, Vec::new()),
    };
    Answer {
        resource: name(&verdict.owner),
        namespace: verdict.namespace.clone(),
        at: verdict.position.clone(),
        decision,
        reason,
        mark,
        mark_at: verdict.decided_at.clone(),
        warnings,
    }
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
        let at = &answer.at;
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{} in {} ({}:{}): {gets}", answer.resource, answer.namespace, at.file, at.line);
        let place = answer.mark_at.as_ref().map(|at| format!(" ({}:{})", at.file, at.line));
        let _ = writeln!(text, "  {}{}", answer.reason, place.unwrap_or_default());
        for warning in &answer.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
    }
    if answers.is_empty() {
        text.push_str("nothing in these files has a pod\n");
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
