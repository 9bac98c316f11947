//! The rules the demo runs when it is not told others.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where they are in a clone of the project.
const IN_THE_WORKSPACE: &str = "examples/bookinfo";

/// For wherever there is no clone: what a person edits, byte for byte.
const FILES: [(&str, &str); 2] = [
    ("services.yaml", include_str!("../../../../examples/bookinfo/services.yaml")),
    ("routes.yaml", include_str!("../../../../examples/bookinfo/routes.yaml")),
];

/// The directory to read rules from: the one asked for, else the workspace's example, else a copy of it below
/// `scratch`.
pub(super) fn directory(asked: Option<&Path>, scratch: &Path) -> anyhow::Result<PathBuf> {
    if let Some(asked) = asked {
        let there = asked.exists();
        anyhow::ensure!(there, "there are no rules at {}: leave out --rules to run the example", asked.display());
        return asked.canonicalize().with_context(|| format!("cannot read {}", asked.display()));
    }
    if let Ok(example) = Path::new(IN_THE_WORKSPACE).canonicalize() {
        return Ok(example);
    }
    let copy = scratch.join("bookinfo");
    std::fs::create_dir_all(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
    for (name, text) in FILES {
        let file = copy.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_refused_by_name() {
        let scratch = tempfile::tempdir().unwrap();
        let error = directory(Some(Path::new("no/such/rules")), scratch.path()).unwrap_err();
        assert!(error.to_string().contains("no/such/rules"), "{error}");
    }

    #[test]
    fn outside_a_clone_the_example_is_written_where_it_can_be_edited() {
        // Tests run in the crate's own directory, which has no `examples`.
        let scratch = tempfile::tempdir().unwrap();
        let copy = directory(None, scratch.path()).unwrap();
        assert!(copy.starts_with(scratch.path()));
        assert!(std::fs::read_to_string(copy.join("routes.yaml")).unwrap().contains("jason"));
    }
}
