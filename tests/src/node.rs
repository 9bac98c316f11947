//! Peers in Node.js, with the packages of `tests/node/package-lock.json` below `target/`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::program::{target, workspace};
use crate::python::{run, skip};

/// A Node.js with those packages.
#[derive(Debug, Clone)]
pub struct Node {
    modules: PathBuf,
}

/// Sets Node.js up, once; `None` after saying that `what` is skipped.
pub fn node(what: &str) -> Option<Node> {
    static NODE: OnceLock<Result<Node, String>> = OnceLock::new();
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match NODE.get_or_init(set_up) {
        Ok(node) => Some(node.clone()),
        Err(why) => {
            skip(what, why);
            None
        }
    }
}

impl Node {
    /// A command that runs a script of `tests/node`.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(scripts().join(name)).env("NODE_PATH", &self.modules);
        command
    }
}

fn scripts() -> PathBuf {
    workspace().join("tests/node")
}

fn set_up() -> Result<Node, String> {
    let files = ["package.json", "package-lock.json"];
    let directory = target().join("node");
    let (modules, done) = (directory.join("node_modules"), directory.join("installed.json"));
    let wanted = std::fs::read_to_string(scripts().join(files[1])).map_err(|error| error.to_string())?;
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(Node { modules });
    }
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    for file in files {
        std::fs::copy(scripts().join(file), directory.join(file)).map_err(|error| format!("{file}: {error}"))?;
    }
    run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory))?;
    std::fs::write(&done, wanted).map_err(|error| error.to_string())?;
    Ok(Node { modules })
}
