//! Peers in Python, in virtual environments below `target/` with pinned packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::program::{target, workspace};

/// A Python with the packages of a file in `tests/python`.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
}

/// Says that a test cannot run here. With `LENO_TEST_STRICT=1`, which CI sets, that is a failure.
pub fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED {what} {why}");
    let strict = std::env::var("LENO_TEST_STRICT").is_ok_and(|strict| strict == "1");
    assert!(!strict, "{what} was to be skipped ({why}), and LENO_TEST_STRICT=1 forbids that");
}

/// Sets Python up with `requirements.txt`, once; `None` after saying that `what` is skipped.
pub fn python(what: &str) -> Option<Python> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    once(&PYTHON, what, "python", "requirements.txt")
}

/// The same with `requirements-xds.txt`: Envoy's messages, which own a package directory that Envoy itself owns elsewhere.
pub fn python_with_xds(what: &str) -> Option<Python> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    once(&PYTHON, what, "python-xds", "requirements-xds.txt")
}

/// The same with `requirements-manifests.txt`: Kubernetes' schemas.
pub fn python_with_manifests(what: &str) -> Option<Python> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    once(&PYTHON, what, "python-manifests", "requirements-manifests.txt")
}

/// The same with `requirements-kubernetes.txt`: the client of Kubernetes.
pub fn python_with_kubernetes(what: &str) -> Option<Python> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    once(&PYTHON, what, "python-kubernetes", "requirements-kubernetes.txt")
}

fn once(made: &OnceLock<Result<Python, String>>, what: &str, environment: &str, requirements: &str) -> Option<Python> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match made.get_or_init(|| set_up(environment, requirements)) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            skip(what, why);
            None
        }
    }
}

impl Python {
    /// A command that runs a script of `tests/python`.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg("-u").arg(scripts().join(name));
        command
    }
}

fn scripts() -> PathBuf {
    workspace().join("tests/python")
}

fn set_up(environment: &str, requirements: &str) -> Result<Python, String> {
    let requirements = scripts().join(requirements);
    let wanted = std::fs::read_to_string(&requirements).map_err(|error| error.to_string())?;
    let environment = target().join(environment);
    let interpreter = environment.join("bin/python");
    let done = environment.join("installed.txt");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(Python { interpreter });
    }
    let _ = std::fs::remove_dir_all(&environment);
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
    run(Command::new(&interpreter).args(install).arg(&requirements))?;
    std::fs::write(&done, wanted).map_err(|error| error.to_string())?;
    Ok(Python { interpreter })
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("cannot run {}: {error}", program(command).display()))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", program(command).display(), words.lines().last().unwrap_or("without a word")))
}

fn program(command: &Command) -> &Path {
    Path::new(command.get_program())
}
