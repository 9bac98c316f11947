//! `leno-proxy run` as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{address, written};
use crate::admin::ConfigDump;
use crate::client::Call;
use crate::exposition;
use crate::process::Process;
use crate::program::leno_proxy;
use crate::wait::eventually;

/// A sidecar that can be killed and started again.
pub struct Proxy {
    /// The running program.
    pub process: Process,
    name: String,
    state: PathBuf,
}

/// How long a sidecar may drain where the test does not say.
pub(super) const DRAIN: &str = "5s";

/// What a sidecar is told at its start.
pub(super) struct Bootstrap<'a> {
    /// Name of the instance.
    pub(super) name: &'a str,
    /// Label `app`.
    pub(super) app: &'a str,
    /// Label `version`.
    pub(super) version: &'a str,
    /// Number of worker threads.
    pub(super) workers: usize,
    /// How long it may drain, as the bootstrap has it.
    pub(super) drain: &'a str,
    /// `control_plane` or `rules`.
    pub(super) source: (&'static str, Value),
}

impl Bootstrap<'_> {
    fn text(&self, state: &Path) -> Value {
        let mut text = json!({
            "node": {
                "name": self.name,
                "ip": "127.0.0.1",
                "namespace": "default",
                "service_account": self.app,
                "workload": self.name,
                "labels": {"app": self.app, "version": self.version},
            },
            "interception": "none",
            "state": state,
            "admin": "127.0.0.1:0",
            "workers": self.workers,
            "drain": self.drain,
            // So that a split comes out alike in every run.
            "seed": 20,
        });
        text[self.source.0] = self.source.1.clone();
        text
    }
}

impl Proxy {
    /// Starts it; see [`ready`](Self::ready).
    pub(super) fn start(directory: &Path, bootstrap: &Bootstrap<'_>) -> Self {
        Self::from_text(directory, bootstrap.name, &bootstrap.text(&directory.join(bootstrap.name)))
    }

    fn from_text(directory: &Path, name: &str, text: &Value) -> Self {
        let state = directory.join(name);
        std::fs::create_dir_all(&state).expect("cannot create a directory");
        std::fs::write(state.join("bootstrap.yaml"), format!("{text:#}\n")).expect("cannot write a file");
        // Of one that was there before.
        let _ = std::fs::remove_file(state.join("ports.json"));
        Self { process: spawn(name, &state), name: name.to_owned(), state }
    }

    /// Starts a proxy with what the test says (`control_plane`, `rules`, `identity`), its state below the directory. It
    /// is service account and app `name` of namespace `default`.
    pub fn with(directory: &Path, name: &str, keys: &[(&str, Value)]) -> Self {
        let source = ("workers", json!(1));
        let bootstrap = Bootstrap { name, app: name, version: "v1", workers: 1, drain: DRAIN, source };
        let mut text = bootstrap.text(&directory.join(name));
        for (key, value) in keys {
            text[*key] = value.clone();
        }
        Self::from_text(directory, name, &text)
    }

    /// Starts a proxy from a bootstrap file that a person wrote; its state directory has to be `state`.
    pub fn from_file(name: &str, config: &Path, state: &Path, working_directory: &Path) -> Self {
        Self::from_file_with(name, config, state, working_directory, &[])
    }

    /// The same, with environment variables that name files.
    pub(crate) fn from_file_with(
        name: &str,
        config: &Path,
        state: &Path,
        working_directory: &Path,
        environment: &[(&str, PathBuf)],
    ) -> Self {
        std::fs::create_dir_all(state).expect("cannot create a directory");
        let mut command = Command::new(leno_proxy());
        command.arg("run").arg("--config").arg(config).current_dir(working_directory);
        command.envs(environment.iter().map(|(name, file)| (name, file)));
        let process = Process::start(name, &mut command, &state.join("log"));
        Self { process, name: name.to_owned(), state: state.to_owned() }
    }

    /// Waits until it holds a configuration and listens on `port`.
    pub async fn ready(&self, port: u16) {
        eventually(&format!("{} is ready on port {port}", self.name), async || {
            let ports = written(&self.state.join("ports.json")).await?;
            let listeners = ports["listeners"].as_object().cloned().unwrap_or_default();
            if !listeners.values().any(|listener| address(listener).is_ok_and(|found| found.port() == port)) {
                return Err(format!("it listens on {ports}"));
            }
            let reply = Call::get("http://admin/ready").try_send(address(&ports["admin"])?).await?;
            if reply.status == 200 { Ok(()) } else { Err(format!("/ready says {} {}", reply.status, reply.text())) }
        })
        .await;
    }

    /// Kills it and starts it again with its state.
    pub fn restart(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_file(self.state.join("ports.json"));
        self.process = spawn(&self.name, &self.state);
    }

    /// Starts a new process that takes over from this one, waits until it serves, and returns the one before, which drains.
    pub async fn upgrade(&mut self) -> Process {
        let mut command = Command::new(leno_proxy());
        command.arg("run").arg("--upgrade").arg("--config").arg(self.state.join("bootstrap.yaml"));
        let after = Process::start(&self.name, &mut command, &self.state.join("log"));
        let before = std::mem::replace(&mut self.process, after);
        let pid = self.process.pid();
        eventually(&format!("a new process of {} serves", self.name), async || {
            let log = self.process.log();
            let line = format!("took over: this process serves process={pid}");
            if log.contains(&line) { Ok(()) } else { Err("it does not say so".to_owned()) }
        })
        .await;
        before
    }

    /// Waits until its state has been written after some moment, and nothing more is waiting to be: it writes half a
    /// second after the last change.
    pub async fn rests_on_disk_since(&self, moment: SystemTime) {
        let snapshot = self.state.join("snapshot.bin");
        eventually("the state rests on disk", async || {
            let written = snapshot.metadata().and_then(|it| it.modified()).map_err(|error| error.to_string())?;
            let rests = written.elapsed().is_ok_and(|since| since > Duration::from_secs(1));
            if written >= moment && rests { Ok(()) } else { Err(format!("written at {written:?}")) }
        })
        .await;
    }

    /// Waits until its state has been written to disk.
    pub async fn settles_on_disk(&self) {
        let snapshot = self.state.join("snapshot.bin");
        eventually("the state is on disk", async || snapshot.metadata().map(drop).map_err(|error| error.to_string()))
            .await;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its admin address.
    pub async fn admin(&self) -> SocketAddr {
        eventually(&format!("{} says where its admin interface is", self.name), async || {
            address(&written(&self.state.join("ports.json")).await?["admin"])
        })
        .await
    }

    /// Status of `/ready`; an error while nobody listens.
    pub async fn readiness(&self) -> Result<u16, String> {
        let ports = written(&self.state.join("ports.json")).await?;
        Ok(Call::get("http://admin/ready").try_send(address(&ports["admin"])?).await?.status)
    }

    /// `/config_dump`
    pub async fn config_dump(&self) -> ConfigDump {
        let reply = Call::get("http://admin/config_dump").send(self.admin().await).await;
        ConfigDump(serde_json::from_slice(&reply.body).expect("/config_dump is JSON"))
    }

    /// `/certs`; an error while nobody listens.
    pub async fn certs(&self) -> Result<Value, String> {
        let ports = written(&self.state.join("ports.json")).await?;
        let reply = Call::get("http://admin/certs").try_send(address(&ports["admin"])?).await?;
        serde_json::from_slice(&reply.body).map_err(|error| format!("{error}: {}", reply.text()))
    }

    /// What `/ready` says; an error while nobody listens.
    pub async fn why_not_ready(&self) -> Result<String, String> {
        let ports = written(&self.state.join("ports.json")).await?;
        Ok(Call::get("http://admin/ready").try_send(address(&ports["admin"])?).await?.text())
    }

    /// `/clusters`
    pub async fn clusters(&self) -> String {
        Call::get("http://admin/clusters").send(self.admin().await).await.text()
    }

    /// `/stats/prometheus`
    pub async fn metrics(&self) -> String {
        Call::get("http://admin/stats/prometheus").send(self.admin().await).await.text()
    }

    /// Waits until a metric has series with these labels, whose sum is this value.
    pub async fn shows(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        eventually(&format!("{name}{labels:?} of {} is {value}", self.name), async || {
            match exposition::figure(&exposition::samples(&self.metrics().await), name, labels) {
                Some(found) if found == value => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    }

    /// Its directory: snapshot, ports, log.
    pub fn state(&self) -> &Path {
        &self.state
    }
}

fn spawn(name: &str, state: &Path) -> Process {
    let mut command = Command::new(leno_proxy());
    command.arg("run").arg("--config").arg(state.join("bootstrap.yaml"));
    Process::start(name, &mut command, &state.join("log"))
}
