//! Are these rules right? In short; `leno validate` shows the lines.

use std::path::PathBuf;

use leno_config::rules::{parse, read};
use leno_config::validate;

use super::report::Section;

/// Most findings that are listed by themselves.
const LISTED: usize = 10;

/// Rules of files and directories.
pub(super) fn section(paths: &[PathBuf]) -> Section {
    let mut section = Section::new("rules");
    let files = paths.iter().map(|path| format!("-f {}", path.display())).collect::<Vec<_>>().join(" ");
    let next = format!("leno validate {files}");
    let sources = match read(paths) {
        Ok(sources) => sources,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            section.fails(format!("{error}{cause}"), format!("ls -l {}", files.replace("-f ", "")));
            return section;
        }
    };
    let parsed = parse(&sources);
    let findings = validate::check(&parsed);
    for finding in findings.iter().take(LISTED) {
        match finding.is_error() {
            true => section.fails(finding.to_string(), next.as_str()),
            false => section.warns(finding.to_string(), next.as_str()),
        }
    }
    match findings.len() {
        0 => section.ok(format!("{} documents, nothing to complain about", parsed.documents.len())),
        many if many > LISTED => section.warns(format!("{} more findings", many - LISTED), next),
        _ => {}
    }
    section
}
