//! A control plane and sidecars around the apps of a test.
//!
//! ```text
//! test ──▶ client's sidecar ──▶ (sidecar of an instance, where the test asks for it) ──▶ origin
//! ```
//!
//! The services of a test are written as ServiceEntry documents with the addresses of their instances, one
//! DestinationRule with a subset for each version, and a Sidecar document for each proxy, so that every listener has a
//! port of its own. What the test is about, its rules, stands in a file beside them, and is edited through [`Mesh`].

mod builder;
mod control_plane;
mod documents;
mod proxy;

use std::net::SocketAddr;
use std::path::Path;

use http::Method;
use serde_json::Value;
use tempfile::TempDir;

pub use builder::{MeshBuilder, mesh};
pub use control_plane::ControlPlane;
pub use proxy::Proxy;

use crate::client::{Call, Reply};
use crate::wait::eventually;

/// The file with the rules of the test.
const RULES: &str = "rules.yaml";

/// Running programs; they end with the value.
pub struct Mesh {
    /// The control plane; `None` where the sidecar reads the rules itself.
    pub control_plane: Option<ControlPlane>,
    /// The caller's sidecar.
    pub client: Proxy,
    /// The sidecars of the instances, in the order of their declaration; empty unless the test asked for them.
    pub peers: Vec<Proxy>,
    outbound: SocketAddr,
    // Last: the processes write into it until they end.
    directory: TempDir,
}

impl Mesh {
    /// Where the caller's sidecar takes HTTP for all hosts.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// The directory with the documents that the control plane, or the sidecar, reads.
    pub fn rules_directory(&self) -> std::path::PathBuf {
        rules_directory(self.directory.path())
    }

    /// Replaces the rules of the test, as editors do: a new file takes the name of the old one.
    pub fn edit(&self, rules: &str) {
        write(&self.rules_directory(), RULES, rules);
    }

    /// The control plane; fails a test that has none.
    pub fn control_plane(&mut self) -> &mut ControlPlane {
        self.control_plane.as_mut().expect("this mesh has no control plane")
    }

    /// `GET` through the caller's sidecar on a connection of its own.
    pub async fn get(&self, url: &str) -> Reply {
        crate::client::get(self.outbound, url).await
    }

    /// Any call through the caller's sidecar on a connection of its own.
    pub async fn send(&self, call: Call) -> Reply {
        call.send(self.outbound).await
    }

    /// A bodyless request with these headers.
    pub async fn ask(&self, method: Method, url: &str, headers: &[(&str, &str)]) -> Reply {
        let call = headers.iter().fold(Call::new(method, url), |call, (name, value)| call.header(name, value));
        self.send(call).await
    }

    /// Waits until a `GET` is answered with this body: the rules that say so have arrived.
    pub async fn answers(&self, url: &str, body: &str) {
        eventually(&format!("{url} is answered with `{body}`"), async || {
            let reply = Call::get(url).try_send(self.outbound).await?;
            if reply.text() == body { Ok(()) } else { Err(format!("{} `{}`", reply.status, reply.text())) }
        })
        .await;
    }

    /// Waits until every proxy has acknowledged what the control plane last sent it. After an edit, wait for its effect
    /// first: until the control plane has read the file, the old rules are acknowledged.
    pub async fn settles(&self) {
        let control_plane = self.control_plane.as_ref().expect("this mesh has no control plane");
        eventually("all proxies have acknowledged what was sent", async || {
            unacknowledged(&control_plane.status().await?).map_or(Ok(()), Err)
        })
        .await;
    }
}

/// The first type of a proxy whose sent version is not acknowledged.
fn unacknowledged(status: &Value) -> Option<String> {
    let proxies = status["proxies"].as_array().filter(|proxies| !proxies.is_empty());
    let Some(proxies) = proxies else { return Some("no proxy is connected".to_owned()) };
    for proxy in proxies {
        for (kind, state) in proxy["types"].as_object().into_iter().flatten() {
            if state["sent"].is_null() || state["sent"] != state["acked"] {
                return Some(format!("{} {kind}: {state}", proxy["node"]));
            }
        }
    }
    None
}

fn rules_directory(root: &Path) -> std::path::PathBuf {
    root.join("rules")
}

/// Replaces a file atomically.
pub(crate) fn write(directory: &Path, name: &str, text: &str) {
    let scratch = directory.join(format!(".{name}.new"));
    std::fs::write(&scratch, text).expect("cannot write a file");
    std::fs::rename(&scratch, directory.join(name)).expect("cannot rename a file");
}

/// Reads the JSON that a program writes about itself, once it is there.
async fn written(file: &Path) -> Result<Value, String> {
    let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))
}

/// An address in such a JSON.
fn address(value: &Value) -> Result<SocketAddr, String> {
    let text = value.as_str().ok_or_else(|| format!("{value} is not an address"))?;
    text.parse().map_err(|_| format!("`{text}` is not an address"))
}
