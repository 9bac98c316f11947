//! Where Prometheus finds the demo: `leno demo --targets DIR` writes what its `file_sd_configs` read.
//!
//! The ports are other ones at every start, so nobody could write them down beforehand.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::bookshop::Bookshop;

/// Writes `proxies.json` and `control-plane.json` for the configuration in `examples/prometheus`.
pub(super) fn write(bookshop: &Bookshop, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let sidecars = bookshop.workloads.iter().map(|running| (running.workload.name(), running.admin));
    let files =
        [("proxies.json", proxies(sidecars)), ("control-plane.json", control_plane(bookshop.control_plane.http))];
    for (name, targets) in files {
        let (file, scratch) = (directory.join(name), directory.join(format!(".{name}.new")));
        // Prometheus watches the directory and reads at any time.
        let written = fs::write(&scratch, format!("{targets:#}\n")).and_then(|()| fs::rename(&scratch, &file));
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn proxies(sidecars: impl Iterator<Item = (String, SocketAddr)>) -> Value {
    sidecars.map(|(name, admin)| json!({"targets": [admin.to_string()], "labels": {"pod": name}})).collect()
}

fn control_plane(http: SocketAddr) -> Value {
    json!([{"targets": [http.to_string()]}])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_the_form_of_prometheus() {
        let admin = SocketAddr::from(([127, 0, 0, 1], 4711));
        assert_eq!(
            proxies([("reviews-v1".to_owned(), admin)].into_iter()),
            json!([{"targets": ["127.0.0.1:4711"], "labels": {"pod": "reviews-v1"}}])
        );
        assert_eq!(control_plane(admin), json!([{"targets": ["127.0.0.1:4711"]}]));
    }
}
