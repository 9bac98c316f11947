//! `leno serve` as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{address, written};
use crate::client::Call;
use crate::process::Process;
use crate::program::leno;
use crate::wait::eventually;

/// A control plane that can be killed and started again at the same addresses.
pub struct ControlPlane {
    /// The running program.
    pub process: Process,
    addresses: Addresses,
    state: PathBuf,
    rules: PathBuf,
}

/// Where it listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    xds: SocketAddr,
    tls: SocketAddr,
    http: SocketAddr,
}

impl ControlPlane {
    /// Starts it and waits until it says where it listens.
    pub(super) async fn start(directory: &Path, rules: &Path) -> Self {
        let state = directory.join("control-plane");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let process = spawn(&state, rules, Addresses { xds: any, tls: any, http: any });
        let addresses = served(&state).await;
        Self { process, addresses, state, rules: rules.to_owned() }
    }

    /// Where proxies connect.
    pub fn xds(&self) -> SocketAddr {
        self.addresses.xds
    }

    /// Where proxies connect with TLS, and ask for certificates.
    pub fn tls(&self) -> SocketAddr {
        self.addresses.tls
    }

    /// Its state directory, with `root.pem`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where metrics and status are.
    pub fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// What a crash looks like.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, after [`kill`](Self::kill), where it was.
    pub async fn restart(&mut self) {
        let _ = std::fs::remove_file(self.state.join("serve.json"));
        self.process = spawn(&self.state, &self.rules, self.addresses);
        served(&self.state).await;
    }

    /// `/debug/status?resources`, which `leno status --resources -o json` prints.
    pub async fn status(&self) -> Result<Value, String> {
        let reply = Call::get("http://status/debug/status?resources").try_send(self.http()).await?;
        serde_json::from_slice(&reply.body).map_err(|error| format!("{error}: {}", reply.text()))
    }

    /// `/metrics`
    pub async fn metrics(&self) -> String {
        Call::get("http://metrics/metrics").send(self.http()).await.text()
    }
}

fn spawn(state: &Path, rules: &Path, Addresses { xds, tls, http }: Addresses) -> Process {
    std::fs::create_dir_all(state).expect("cannot create a directory");
    let mut command = Command::new(leno());
    command.arg("serve").arg("--rules").arg(rules).arg("--state").arg(state);
    for (flag, address) in [("--xds-address", xds), ("--tls-address", tls), ("--http-address", http)] {
        command.arg(flag).arg(address.to_string());
    }
    Process::start("control plane", &mut command, &state.join("log"))
}

async fn served(state: &Path) -> Addresses {
    let file = state.join("serve.json");
    eventually("the control plane says where it listens", async || {
        let json = written(&file).await?;
        Ok(Addresses { xds: address(&json["xds"])?, tls: address(&json["tls"])?, http: address(&json["http"])? })
    })
    .await
}
