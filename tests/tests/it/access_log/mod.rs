//! The access log of running proxies: one line for each request and each TCP connection, whatever becomes of it, and
//! never at the cost of a request.

mod judge;
mod keys;
mod lines;
mod places;
mod sinks;

use std::path::Path;

use leno_tests::eventually;
use serde_json::Value;

/// A MeshConfig with this access log.
fn mesh_config(access_log: &str) -> String {
    format!(
        "---\napiVersion: leno.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{access_log: {access_log}}}\n"
    )
}

/// JSON into a file.
fn json_into(path: &Path) -> String {
    mesh_config(&format!("{{format: json, path: {}}}", path.display()))
}

/// All whole lines of a file; none where there is no file.
fn lines(path: &Path) -> Vec<String> {
    let text = String::from_utf8(std::fs::read(path).unwrap_or_default()).expect("lines are text");
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

/// The lines of a file as soon as there are so many; more than that is an error.
async fn wait_for_lines(path: &Path, count: usize) -> Vec<String> {
    let found = eventually(&format!("{count} lines in {}", path.display()), async || {
        Some(lines(path)).filter(|lines| lines.len() >= count).ok_or_else(|| format!("{:?}", lines(path)))
    })
    .await;
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

/// The same in JSON.
async fn wait_for_json(path: &Path, count: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    wait_for_lines(path, count).await.iter().map(parse).collect()
}
