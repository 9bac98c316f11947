//! SECURITY.md says what fails open and what closed. Each row names tests, and they are there.

use std::fs;
use std::path::Path;

use regex::Regex;

#[test]
fn every_row_of_what_fails_open_or_closed_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let (_, table) = text.split_once("| event | what Leno does | shown by |\n|---|---|---|\n").expect("the table");
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 20, "{} rows", rows.len());
    let link = Regex::new(r"\[`(\w+)`\]\(([\w./-]+)\)").expect("a pattern");
    for row in rows {
        let event = row.split('|').nth(1).unwrap_or_default().trim();
        let named: Vec<_> = link.captures_iter(row).map(|found| found.extract::<2>().1).collect();
        assert!(!named.is_empty(), "`{event}` is shown by nothing");
        for [test, file] in named {
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{event}: {file}: {error}"));
            let is_test = source.split_once(&format!("fn {test}(")).is_some_and(|(before, _)| {
                let attribute = before.rfind("#[").and_then(|at| before.get(at..)).unwrap_or_default();
                attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test")
            });
            assert!(is_test, "{event}: there is no test `{test}` in {file}");
        }
    }
}
