//! `leno logs level`: what a program logs, and changing it while it runs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use http::Method;
use serde::{Deserialize, Serialize};

use super::Output;
use super::ask::{Question, ask};
use super::failure::Failure;
use super::proxy_client::{ProxyClient, Way};
use super::table::{Cell, Column, Room, Table};
use crate::percent::escaped;

/// The levels, from the quietest.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// `leno logs …`
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what a proxy or the control plane logs, or change it until it ends
    ///
    /// `leno logs level shop debug` has the proxy `shop` log more, `leno logs level shop leno_proxy::xds=trace` only one
    /// part of it. Without a level, what is logged now is shown.
    Level(Level),
}

/// `leno logs level`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Level {
    /// Which proxy (as in `leno status`), then LEVEL or TARGET=LEVEL; several with commas
    #[arg(value_name = "[PROXY] [[TARGET=]LEVEL]", num_args = 0..=2)]
    words: Vec<String>,
    #[command(flatten)]
    way: Way,
    /// The control plane itself, at --address, in place of a proxy
    #[arg(long, conflicts_with = "proxy")]
    control_plane: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks or tells a running program.
pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::Level(arguments) = command;
    let (name, change) = taken_apart(&arguments.words).map_err(Failure::usage)?;
    let (method, path) = match change {
        None => (Method::GET, "/logging?format=json".to_owned()),
        Some(change) => (Method::POST, format!("/logging?{}&format=json", query(change).map_err(Failure::usage)?)),
    };
    let answer = match (arguments.control_plane, name) {
        (true, Some(name)) => {
            return Err(Failure::usage(anyhow!(
                "`{name}` names a proxy, and --control-plane none; leave one of them out"
            )));
        }
        (true, None) => control_plane(&arguments.way.address, method, &path)?,
        (false, name) => {
            let proxy = ProxyClient::new(&arguments.way, name)?;
            match method {
                Method::POST => proxy.post(&path)?,
                _ => proxy.get(&path)?,
            }
        }
    };
    let logged: Logged = serde_json::from_str(&answer).context("the answer does not say what is logged")?;
    arguments.output.print(&logged, |room| table(&logged, room))?;
    Ok(ExitCode::SUCCESS)
}

fn control_plane(address: &str, method: Method, path: &str) -> Result<String, Failure> {
    let (status, answer) = ask(address, &Question { method, path, token: None })?;
    match status.is_success() {
        true => Ok(answer),
        false => Err(anyhow!("the control plane answers {path} with {status}: {}", answer.trim()).into()),
    }
}

/// As `/logging` says it.
#[derive(Debug, Serialize, Deserialize)]
struct Logged {
    /// For all that is not named.
    level: String,
    /// By module.
    #[serde(default)]
    modules: BTreeMap<String, String>,
}

fn table(logged: &Logged, room: Room) -> String {
    let mut table = Table::new([Column::text("TARGET"), Column::text("LEVEL")]);
    table.push(["(all others)".into(), level(&logged.level)]);
    for (module, of) in &logged.modules {
        table.push([module.into(), level(of)]);
    }
    table.render(room)
}

/// What floods a disk is worth a look.
fn level(name: &str) -> Cell {
    match name {
        "debug" | "trace" => Cell::doubtful(name),
        _ => name.into(),
    }
}

/// The proxy's name and the change, as far as they are there. A word that is a level, or has a `=`, is no name.
fn taken_apart(words: &[String]) -> anyhow::Result<(Option<&str>, Option<&str>)> {
    let is_change = |word: &str| word.contains('=') || LEVELS.contains(&word.to_ascii_lowercase().as_str());
    match words {
        [] => Ok((None, None)),
        [only] if is_change(only) => Ok((None, Some(only))),
        [name] => Ok((Some(name), None)),
        [name, change, ..] if is_change(change) => Ok((Some(name), Some(change))),
        [_, wrong, ..] => Err(anyhow!("`{wrong}` is no level; there are {}", LEVELS.join(", "))),
    }
}

/// `level=debug`, or `MODULE=LEVEL` for each.
fn query(change: &str) -> anyhow::Result<String> {
    let parts = change.split(',').map(|part| {
        let (target, level) = part.split_once('=').unwrap_or(("level", part));
        let level = level.trim().to_ascii_lowercase();
        if !LEVELS.contains(&level.as_str()) {
            anyhow::bail!("`{level}` is no level; there are {}", LEVELS.join(", "));
        }
        Ok(format!("{}={level}", escaped(target.trim())))
    });
    Ok(parts.collect::<Result<Vec<_>, _>>()?.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_proxy_and_a_level_are_told_apart() {
        for (written, name, change) in [
            (&[][..], None, None),
            (&["debug"], None, Some("debug")),
            (&["WARN"], None, Some("WARN")),
            (&["shop"], Some("shop"), None),
            (&["shop", "debug"], Some("shop"), Some("debug")),
            (&["shop", "leno_proxy::xds=trace"], Some("shop"), Some("leno_proxy::xds=trace")),
            (&["h2=off"], None, Some("h2=off")),
        ] {
            assert_eq!(taken_apart(&words(written)).unwrap(), (name, change), "{written:?}");
        }
        let error = taken_apart(&words(&["shop", "loud"])).unwrap_err().to_string();
        assert!(error.contains("`loud` is no level; there are off, error"), "{error}");
    }

    #[test]
    fn a_change_becomes_a_query() {
        assert_eq!(query("Debug").unwrap(), "level=debug");
        assert_eq!(query("leno_proxy::xds=trace").unwrap(), "leno_proxy%3A%3Axds=trace");
        assert_eq!(query("warn, h2=off").unwrap(), "level=warn&h2=off");
        assert!(query("leno=loud").unwrap_err().to_string().contains("there are off, error"));
    }

    #[test]
    fn what_is_logged_is_a_table() {
        let logged =
            Logged { level: "info".to_owned(), modules: BTreeMap::from([("h2".to_owned(), "debug".to_owned())]) };
        let shown = anstream::adapter::strip_str(&table(&logged, Room::Columns(80))).to_string();
        assert_eq!(shown, "TARGET        LEVEL\n(all others)  info\nh2            debug\n");
    }
}
