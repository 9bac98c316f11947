//! `leno serve --kubernetes` as a process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use leno_tests::{Call, Process, eventually, leno};
use serde_json::Value;

/// One `leno serve --kubernetes`.
pub(super) struct Replica {
    pub(super) process: Process,
    pub(super) name: String,
    /// Clear text.
    pub(super) xds: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) webhook: SocketAddr,
}

impl Replica {
    /// Starts it, and waits until it says where it listens. `rules`: a directory beside the API server's rules.
    pub(super) async fn start(directory: &Path, name: &str, kubeconfig: &Path, rules: Option<&Path>) -> Self {
        let process = Self::begin(directory, name, kubeconfig, rules, [0; 4]);
        Self::listens(directory, name, process).await
    }

    /// Starts it where `before` listened, with its state, and waits for nothing.
    pub(super) fn begin_again(directory: &Path, kubeconfig: &Path, before: &Self) -> Process {
        let ports = [before.xds, before.tls, before.http, before.webhook].map(|address| address.port());
        Self::begin(directory, &before.name, kubeconfig, None, ports)
    }

    fn begin(directory: &Path, name: &str, kubeconfig: &Path, rules: Option<&Path>, ports: [u16; 4]) -> Process {
        let state = directory.join(name);
        std::fs::create_dir_all(&state).unwrap();
        let _ = std::fs::remove_file(state.join("serve.json"));
        let mut command = Command::new(leno());
        command.arg("serve").arg("--kubernetes").arg("--kubeconfig").arg(kubeconfig);
        if let Some(rules) = rules {
            command.arg("--rules").arg(rules);
        }
        command.arg("--state").arg(&state).arg("--pod-name").arg(name);
        let flags = ["--xds-address", "--tls-address", "--http-address", "--webhook-address"];
        for (flag, port) in flags.into_iter().zip(ports) {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        Process::start(name, &mut command, &state.join("log"))
    }

    /// A process of which [`begin`](Self::begin) is over, as soon as it serves.
    pub(super) async fn listens(directory: &Path, name: &str, process: Process) -> Self {
        let state = directory.join(name);
        let (xds, tls, http, webhook) = eventually(&format!("{name} says where it listens"), async || {
            let text = std::fs::read(state.join("serve.json")).map_err(|error| error.to_string())?;
            let json: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            let at = |what: &str| json[what].as_str().and_then(|at| at.parse().ok()).ok_or(format!("{what} in {json}"));
            Ok((at("xds")?, at("tls")?, at("http")?, at("webhook")?))
        })
        .await;
        Self { process, name: name.to_owned(), xds, tls, http, webhook }
    }

    /// The nodes that are connected to it.
    pub(super) async fn proxies(&self) -> Result<Vec<Value>, String> {
        let reply = Call::get("http://status/debug/status?resources").try_send(self.http).await?;
        let status: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        Ok(status["proxies"].as_array().cloned().unwrap_or_default())
    }
}
