//! gRPC's own libraries as clients without a proxy, by what `leno serve` tells them: grpcio (C-core) and grpc-js.

mod routing;
mod verdicts;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leno_tests::{ControlPlane, Node, Process, Python, eventually, node, python};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For the longest row of calls of one client, its start included.
const WHOLE_RUN: Duration = Duration::from_secs(120);

/// A library with xDS in it.
enum Library {
    Grpcio(Python),
    GrpcJs(Node),
}

impl Library {
    /// Those that can be set up here.
    fn all() -> Vec<Self> {
        let grpcio = python("proxyless gRPC with grpcio").map(Self::Grpcio);
        grpcio.into_iter().chain(node("proxyless gRPC with grpc-js").map(Self::GrpcJs)).collect()
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Grpcio(_) => "grpcio",
            Self::GrpcJs(_) => "grpc-js",
        }
    }

    fn client(&self) -> Command {
        match self {
            Self::Grpcio(python) => python.script("xds_client.py"),
            Self::GrpcJs(node) => node.script("xds_client.js"),
        }
    }
}

/// A control plane, and servers that say their name.
struct World {
    control_plane: ControlPlane,
    servers: Vec<(Process, SocketAddr)>,
    directory: TempDir,
}

impl World {
    /// Servers `v1` and `v2`, and no rules yet.
    async fn start(python: &Python) -> Self {
        let directory = TempDir::with_prefix("leno-test-").unwrap();
        let rules = directory.path().join("rules");
        std::fs::create_dir_all(&rules).unwrap();
        write(&rules, "# Nothing yet.\n");
        let control_plane = ControlPlane::start(directory.path(), &rules, &["--allow-empty"]).await;
        let mut servers = Vec::new();
        for name in ["v1", "v2"] {
            servers.push(server(python, name, directory.path()).await);
        }
        Self { control_plane, servers, directory }
    }

    /// The first rules, in force: a client that came before would be told that there is no such service.
    async fn begins_with(&self, rules: &str) {
        self.edit(rules);
        eventually("the first rules are in force", async || {
            let status = self.control_plane.status().await?;
            if status["rules"]["accepted"].as_u64() > Some(0) { Ok(()) } else { Err(status["rules"].to_string()) }
        })
        .await;
    }

    /// Replaces all rules.
    fn edit(&self, rules: &str) {
        write(&self.directory.path().join("rules"), rules);
    }

    /// A service `host` on port 80 at the servers of these versions, with a subset for each.
    fn service(&self, host: &str, versions: &[&str]) -> String {
        let endpoint = |version: &&str| {
            let (_, address) = &self.servers[usize::from(*version == "v2")];
            format!(
                "{{address: {}, ports: {{grpc: {}}}, labels: {{version: {version}}}}}",
                address.ip(),
                address.port()
            )
        };
        let endpoints = versions.iter().map(endpoint).collect::<Vec<_>>().join(", ");
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}}}
spec:
  hosts: [{host}.default.svc.cluster.local]
  ports: [{{number: 80, name: grpc, protocol: GRPC}}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{endpoints}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec:
  host: {host}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---"
        )
    }

    /// Starts a client, which calls each target so many times.
    fn client(&self, library: &Library, name: &str, rounds: usize, targets: &[&str]) -> Process {
        self.client_with(library, name, json!({}), rounds, targets)
    }

    /// The same with metadata of its node.
    fn client_with(&self, library: &Library, name: &str, metadata: Value, rounds: usize, targets: &[&str]) -> Process {
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": self.control_plane.xds().to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {
                "id": format!("sidecar~127.0.0.1~{name}.default~default.svc.cluster.local"),
                "cluster": name,
                "metadata": metadata,
                "locality": {"region": "r1", "zone": "z1", "sub_zone": ""},
            },
        });
        let mut command = library.client();
        command.arg(rounds.to_string()).args(targets).env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
        // So that a refused resource fails calls at once, with the reason (gRFC A88), where the library knows how.
        command.env("GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING", "true");
        let log = self.directory.path().join(format!("{}-{name}.log", library.name()));
        Process::start(&format!("{} client {name}", library.name()), &mut command, &log)
    }

    /// What a client that calls so many times hears, by line.
    async fn calls(&self, library: &Library, name: &str, rounds: usize, targets: &[&str]) -> Vec<String> {
        let mut client = self.client(library, name, rounds, targets);
        let (status, _) = client.ended_within(WHOLE_RUN).await;
        assert!(status.success(), "{status}\n{}", client.log());
        lines(&client)
    }

    /// What `/debug/status` says about the streams of a client. grpcio opens one for each target, grpc-js one for all.
    async fn streams(&self, name: &str) -> Result<Vec<Value>, String> {
        let status = self.control_plane.status().await?;
        let of_client = |proxy: &&Value| proxy["node"].as_str().is_some_and(|node| node.contains(&format!("~{name}.")));
        let found = status["proxies"].as_array().into_iter().flatten().filter(of_client).cloned().collect::<Vec<_>>();
        if found.is_empty() { Err(format!("{name} is not in {status:#}")) } else { Ok(found) }
    }
}

/// What a client has heard until now; libraries write lines of their own too.
fn lines(client: &Process) -> Vec<String> {
    let log = client.log();
    log.lines().filter_map(|line| line.strip_prefix("call ")).map(str::to_owned).collect()
}

/// Waits until the last twenty calls of an endless client came out like this.
async fn settles(client: &Process, what: &str, is_so: impl Fn(&str) -> bool) {
    let before = lines(client).len();
    eventually(what, async || {
        let lines = lines(client);
        let last = lines.iter().skip(before).rev().take(20).collect::<Vec<_>>();
        match last.len() == 20 && last.iter().all(|line| is_so(line)) {
            true => Ok(()),
            false => Err(format!("{last:?}")),
        }
    })
    .await;
}

async fn server(python: &Python, name: &str, directory: &Path) -> (Process, SocketAddr) {
    let log = directory.join(format!("server-{name}.log"));
    let process = Process::start(&format!("gRPC server {name}"), python.script("grpc_server.py").arg(name), &log);
    let port = eventually("the gRPC server says its port", async || {
        let log = process.log();
        log.lines().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).ok_or(log)
    })
    .await;
    (process, ([127, 0, 0, 1], port).into())
}

/// As editors do: a new file takes the name of the old one.
fn write(directory: &Path, rules: &str) {
    std::fs::write(directory.join(".rules.new"), rules).unwrap();
    std::fs::rename(directory.join(".rules.new"), directory.join("rules.yaml")).unwrap();
}
