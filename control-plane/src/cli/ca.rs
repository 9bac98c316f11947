//! `leno ca`: how the certificate authority stands, and the change of its root.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use http::{Method, StatusCode};

use super::Output;
use super::ask::{Question, ask};
use super::failure::Failure;
use crate::ca::status::{CaStatus, Rotation};
use crate::ca::token::TokenKey;

/// The token that goes with a command is good for so long.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// `leno ca …`
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the roots and where a change of them stands
    Status(Status),
    /// Take the next step of a change of the root: announce a new one, switch to it, retire the old one
    Rotate(Rotate),
}

/// `leno ca status`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Status {
    /// HTTP address of the control plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    address: String,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `leno ca rotate`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Rotate {
    /// State directory of the running `leno serve`: who may read its keys may change the root
    #[arg(long, value_name = "DIR", env = "LENO_STATE")]
    state: PathBuf,
    /// Take the step whatever speaks against it; says what breaks
    #[arg(long)]
    force: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks or tells the running control plane.
pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Status(arguments) => status(arguments),
        Command::Rotate(arguments) => rotate(arguments),
    }
}

fn status(arguments: &Status) -> Result<ExitCode, Failure> {
    let (code, answer) = ask(&arguments.address, &Question::get("/debug/ca"))?;
    if code != StatusCode::OK {
        return Err(anyhow!("the control plane answers {code}: {}", answer.trim()).into());
    }
    let status: CaStatus = serde_json::from_str(&answer).context("the answer is not a status of Leno")?;
    arguments.output.print(&status, |_| status_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn rotate(arguments: &Rotate) -> Result<ExitCode, Failure> {
    let address = address_of(&arguments.state).map_err(Failure::usage)?;
    let key = TokenKey::open(&arguments.state).map_err(Failure::usage)?;
    let token = key.create_for_operator(TOKEN_LIFE, SystemTime::now())?;
    let path = if arguments.force { "/ca/rotate?force" } else { "/ca/rotate" };
    let (code, answer) = ask(&address, &Question { method: Method::POST, path, token: Some(&token) })?;
    if code != StatusCode::OK && code != StatusCode::CONFLICT {
        return Err(anyhow!("the control plane answers {code}: {}", answer.trim()).into());
    }
    let rotation: Rotation = serde_json::from_str(&answer).context("the answer is not one of Leno")?;
    arguments.output.print(&rotation, |_| rotation_text(&rotation))?;
    Ok(if rotation.done.is_some() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Where the control plane of a state directory listens.
fn address_of(state: &Path) -> anyhow::Result<String> {
    let path = state.join("serve.json");
    let text = std::fs::read(&path).with_context(|| {
        format!("cannot read `{}`; --state is the directory of a running `leno serve`", path.display())
    })?;
    let addresses: serde_json::Value = serde_json::from_slice(&text)?;
    let http = addresses.get("http").and_then(serde_json::Value::as_str);
    Ok(format!("http://{}", http.with_context(|| format!("`{}` names no http address", path.display()))?))
}

fn status_text(status: &CaStatus) -> String {
    let CaStatus { phase, roots, next, refused } = status;
    let mut text = format!("Phase: {phase}\n");
    for root in roots {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {:<9} {}   expires {}", root.role, root.name.escape_debug(), root.expires);
    }
    let _ = writeln!(text, "Next step (`leno ca rotate`): {next}");
    for reason in refused {
        let _ = writeln!(text, "  refused now: {reason}");
    }
    text
}

fn rotation_text(rotation: &Rotation) -> String {
    let Rotation { done, then, breaks, refused } = rotation;
    let mut text = String::new();
    let mut line = |what: &str, line: &str| {
        let _ = writeln!(text, "{what}{line}");
    };
    if let Some(done) = done {
        line("Done: ", done);
    }
    for reason in refused {
        line("Refused: ", reason);
    }
    for broken in breaks {
        line(if done.is_some() { "Breaks: " } else { "With --force: " }, broken);
    }
    if let Some(then) = then {
        line("Next: ", then);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::status::RootStatus;

    #[test]
    fn the_text_says_what_is_there_what_comes_next_and_what_is_in_the_way() {
        let root = |role: &str, name: &str| RootStatus {
            role: role.to_owned(),
            name: name.to_owned(),
            expires: "2036-11-22T10:00:00Z".to_owned(),
        };
        let status = CaStatus {
            phase: "distributing".to_owned(),
            roots: vec![root("issuing", "CN=one"), root("next", "CN=two")],
            next: "issue certificates from the new root".to_owned(),
            refused: vec!["2 connected proxies have not acknowledged it".to_owned()],
        };
        let expected = "\
Phase: distributing
  issuing   CN=one   expires 2036-11-22T10:00:00Z
  next      CN=two   expires 2036-11-22T10:00:00Z
Next step (`leno ca rotate`): issue certificates from the new root
  refused now: 2 connected proxies have not acknowledged it
";
        assert_eq!(status_text(&status), expected);
    }

    #[test]
    fn what_breaks_is_said_before_and_after() {
        let text = |text: &str| Some(text.to_owned());
        let breaks = vec!["they refuse each other".to_owned()];
        let refused =
            Rotation { done: None, then: None, breaks: breaks.clone(), refused: vec!["too early".to_owned()] };
        assert_eq!(rotation_text(&refused), "Refused: too early\nWith --force: they refuse each other\n");
        let done = Rotation { done: text("a new root"), then: text("wait"), breaks, refused: Vec::new() };
        assert_eq!(rotation_text(&done), "Done: a new root\nBreaks: they refuse each other\nNext: wait\n");
    }
}
