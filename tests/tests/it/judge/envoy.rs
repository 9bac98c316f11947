//! A real Envoy as a sidecar of the control plane under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use leno_tests::{ControlPlane, Process, eventually, leno};

use super::tap::Tap;
use crate::envoy_ads::over_ads;

/// What it writes of each request; see [`Line`].
const FORMAT: &str = "%REQ(X-RUN)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n";

/// A running Envoy and what belongs to it. They end with the value.
pub(super) struct Envoy {
    log: PathBuf,
    _process: Process,
    _agent: Process,
    _tap: Tap,
}

/// How an Envoy asks for its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Delta,
    StateOfTheWorld,
}

impl Wire {
    fn api_type(self) -> &'static str {
        match self {
            Self::Delta => "DELTA_GRPC",
            Self::StateOfTheWorld => "GRPC",
        }
    }
}

impl Envoy {
    /// Workload `name` of namespace `default`, with its certificate from `leno agent`.
    pub(super) async fn start(
        program: &Path,
        directory: &Path,
        control_plane: &ControlPlane,
        (name, workers, wire): (&str, usize, Wire),
    ) -> Self {
        let home = directory.join(name);
        let agent = agent(&home, control_plane, name).await;
        let log = home.join("access.log");
        let tap = Tap::start(control_plane.xds(), &log, FORMAT).await;
        let file = home.join("envoy.yaml");
        std::fs::write(&file, bootstrap(name, &home, &tap, wire)).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["-l", "error", "--use-dynamic-base-id", "--file-flush-interval-msec", "10"]);
        command.arg("--concurrency").arg(workers.to_string());
        let process = Process::start(name, &mut command, &home.join("log"));
        Self { log, _process: process, _agent: agent, _tap: tap }
    }

    /// The flags of a request, once it is logged: `-`, or letters with commas between.
    pub(super) async fn flags(&self, run: &str) -> String {
        let begins = format!("{run} ");
        eventually(&format!("Envoy logs {run}"), async || {
            let log = std::fs::read_to_string(&self.log).map_err(|error| error.to_string())?;
            let line = log.lines().find_map(|line| line.strip_prefix(&begins)).ok_or("not yet")?;
            Ok(line.split(' ').next().unwrap_or_default().to_owned())
        })
        .await
    }
}

/// Starts `leno agent` and waits until the certificate is there.
pub(super) async fn agent(home: &Path, control_plane: &ControlPlane, name: &str) -> Process {
    std::fs::create_dir_all(home).unwrap();
    let (token, config, sds) = (home.join("token"), home.join("agent.yaml"), home.join("sds"));
    control_plane.write_token(name, &token);
    let text = format!(
        "node: {{name: {name}, namespace: default, service_account: {name}}}\nstate: {state}\n\
         control_plane: {{address: 'https://{tls}', root: {root}, token: {token}}}\n",
        state = home.join("agent").display(),
        tls = control_plane.tls(),
        root = control_plane.state().join("root.pem").display(),
        token = token.display(),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(leno());
    command.arg("agent").arg("--config").arg(config).arg("--sds").arg(&sds);
    let agent = Process::start(&format!("agent of {name}"), &mut command, &home.join("agent.log"));
    let files = [sds.join("default.yaml"), home.join("agent/svid.pem")];
    eventually("the agent has a certificate", async || match files.iter().all(|file| file.exists()) {
        true => Ok(()),
        false => Err(agent.log()),
    })
    .await;
    agent
}

fn bootstrap(name: &str, home: &Path, tap: &Tap, wire: Wire) -> String {
    format!(
        "
node:
  id: sidecar~127.0.0.1~{name}.default~default.svc.cluster.local
  cluster: {name}.default
  metadata: {{INTERCEPTION_MODE: NONE, LABELS: {{app: {name}}}, LENO_SDS_DIRECTORY: {sds}}}
{ads}",
        sds = home.join("sds").display(),
        ads = over_ads(wire.api_type(), tap.address().port()),
    )
}
