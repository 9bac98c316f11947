//! `leno serve` as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{address, written};
use crate::client::Call;
use crate::ports::free_port;
use crate::process::Process;
use crate::program::{leno, run_leno};
use crate::wait::eventually;

/// A control plane that can be killed and started again at the same addresses.
pub struct ControlPlane {
    /// The running program.
    pub process: Process,
    addresses: Addresses,
    state: PathBuf,
    rules: PathBuf,
    flags: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    xds: SocketAddr,
    tls: SocketAddr,
    http: SocketAddr,
}

impl ControlPlane {
    /// Starts it, with its state below the directory, and waits until it says where it listens.
    pub async fn start(directory: &Path, rules: &Path, flags: &[&str]) -> Self {
        let state = directory.join("control-plane");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        // Not any that the kernel has to give: it would give them to somebody else between two starts.
        let own = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = spawn(&state, rules, Addresses { xds: own(), tls: own(), http: own() }, &flags);
        Self { process, addresses: served(&state).await, state, rules: rules.to_owned(), flags }
    }

    /// Where proxies connect in clear text.
    pub fn xds(&self) -> SocketAddr {
        self.addresses.xds
    }

    /// Where proxies connect with TLS.
    pub fn tls(&self) -> SocketAddr {
        self.addresses.tls
    }

    /// Where metrics and status are.
    pub fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// Its state directory: `root.pem`, keys, log.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Writes a token for a service account of namespace `default`, good for an hour, to a file.
    pub fn write_token(&self, service_account: &str, file: &Path) {
        let (state, file) = (self.state.display().to_string(), file.display().to_string());
        let account = ["--namespace", "default", "--service-account", service_account];
        let made = run_leno(&[&["token", "create", "--state", &state, "-o", &file], &account[..]].concat(), "");
        assert_eq!(made.code, 0, "{}", made.stderr);
    }

    /// The `control_plane` of a bootstrap whose proxy gets a certificate for this service account, by a token that is
    /// written to a file.
    pub fn way(&self, service_account: &str, token: &Path) -> Value {
        self.write_token(service_account, token);
        json!({"address": format!("https://{}", self.tls()), "root": self.state.join("root.pem"), "token": token})
    }

    /// What a crash looks like.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, after [`kill`](Self::kill), where it was.
    pub async fn restart(&mut self) {
        let _ = std::fs::remove_file(self.state.join("serve.json"));
        self.process = spawn(&self.state, &self.rules, self.addresses, &self.flags);
        served(&self.state).await;
    }

    /// `/debug/status?resources`, which `leno status --resources -o json` prints.
    pub async fn status(&self) -> Result<Value, String> {
        let reply = Call::get("http://status/debug/status?resources").try_send(self.addresses.http).await?;
        serde_json::from_slice(&reply.body).map_err(|error| format!("{error}: {}", reply.text()))
    }

    /// `/metrics`
    pub async fn metrics(&self) -> String {
        Call::get("http://metrics/metrics").send(self.addresses.http).await.text()
    }
}

fn spawn(state: &Path, rules: &Path, addresses: Addresses, flags: &[String]) -> Process {
    std::fs::create_dir_all(state).expect("cannot create a directory");
    let mut command = Command::new(leno());
    command.arg("serve").arg("--rules").arg(rules).arg("--state").arg(state);
    let Addresses { xds, tls, http } = addresses;
    command.arg("--xds-address").arg(xds.to_string()).arg("--tls-address").arg(tls.to_string());
    command.arg("--http-address").arg(http.to_string()).args(flags);
    Process::start("control plane", &mut command, &state.join("log"))
}

async fn served(state: &Path) -> Addresses {
    let file = state.join("serve.json");
    eventually("the control plane says where it listens", async || {
        let json = written(&file).await?;
        let [xds, tls, http] = ["xds", "tls", "http"].map(|name| address(&json[name]));
        Ok(Addresses { xds: xds?, tls: tls?, http: http? })
    })
    .await
}
