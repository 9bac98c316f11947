//! `leno validate`: everything that is wrong with rules, before anything reads them.
//!
//! It says what the control plane would say about the same files, with the lines in question. Findings are data and go to
//! standard output; what else there is to say goes to standard error.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use leno_config::diagnostic::{self, Diagnostic, Severity, Style};
use leno_config::rules::{self, Parsed};
use leno_config::validate;

use super::Output;
use super::failure::Failure;

/// `leno validate`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// File or directory with rules, - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "RULES")]
    files: Vec<PathBuf>,
    /// The same without -f
    #[arg(value_name = "RULES", required_unless_present = "files")]
    rules: Vec<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Which findings make it end with 1
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// What would not be served
    Error,
    /// Everything that is found
    Warning,
}

impl FailOn {
    /// Whether these findings are too many.
    fn is_failure(self, findings: &[Diagnostic]) -> bool {
        findings.iter().any(|finding| match finding.severity {
            Severity::Error => true,
            Severity::Warning => self == Self::Warning,
        })
    }
}

/// Validates and prints. 0: nothing to complain about; 1: findings.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let paths: Vec<PathBuf> = arguments.files.iter().chain(&arguments.rules).cloned().collect();
    let sources = rules::read(&paths).map_err(Failure::usage)?;
    let parsed = rules::parse(&sources);
    let findings = validate::check(&parsed);
    arguments.output.print(&findings, |_| text(&findings))?;
    write!(anstream::stderr(), "{}", summary(sources.len(), &parsed, &findings))?;
    Ok(if arguments.fail_on.is_failure(&findings) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All findings with their lines, an empty line behind each.
fn text(findings: &[Diagnostic]) -> String {
    findings.iter().map(|finding| format!("{}\n\n", diagnostic::render(finding, Style::Colored))).collect()
}

/// How much was read, what was left out, what was found.
fn summary(files: usize, parsed: &Parsed, findings: &[Diagnostic]) -> String {
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let mut text = String::new();
    if !parsed.skipped.is_empty() {
        let kinds: Vec<String> = parsed.skipped.iter().map(|(kind, number)| format!("{kind} ({number})")).collect();
        text += &format!("left out, as they are no rules: {}\n", kinds.join(", "));
    }
    let documents = parsed.documents.len() + parsed.broken.len();
    let found = diagnostic::summary(findings);
    text + &format!("{} in {}: {found}\n", count(documents, "rule"), count(files, "file"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use leno_config::rules::SourceText;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(text: &str) -> Parsed {
        rules::parse(&[SourceText { name: "a.yaml".into(), text: text.into() }])
    }

    const UNKNOWN_HOST: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http: [{route: [{destination: {host: a}}]}]
---
apiVersion: v1
kind: ConfigMap
";

    #[test]
    fn rules_are_named_with_and_without_a_flag() {
        let line = Line::try_parse_from(["validate", "-f", "a", "b", "-f", "-"]).unwrap();
        assert_eq!((line.arguments.files.len(), line.arguments.rules.len()), (2, 1));
        assert!(Line::try_parse_from(["validate"]).is_err());
        assert!(Line::try_parse_from(["validate", "-o", "xml", "a"]).is_err());
    }

    #[test]
    fn warnings_fail_only_where_that_is_asked_for() {
        let findings = validate::check(&parsed(UNKNOWN_HOST));
        assert_eq!(findings.len(), 1);
        assert!(!FailOn::Error.is_failure(&findings));
        assert!(FailOn::Warning.is_failure(&findings));
        assert!(!FailOn::Warning.is_failure(&[]));
        assert!(FailOn::Error.is_failure(&validate::check(&parsed("a: ["))));
    }

    #[test]
    fn findings_and_summary_read_well() {
        let parsed = parsed(UNKNOWN_HOST);
        let findings = validate::check(&parsed);
        let shown = text(&findings);
        assert!(shown.contains("L0201") && shown.contains("a.yaml:6:40") && shown.ends_with("\n\n"), "{shown}");
        assert_eq!(
            summary(1, &parsed, &findings),
            "left out, as they are no rules: v1/ConfigMap (1)\n1 rule in 1 file: 0 errors, 1 warning\n"
        );
        assert_eq!(serde_json::to_value(&findings).unwrap()[0]["line"], 6);
    }
}
