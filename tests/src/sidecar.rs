//! A sidecar alone in front of one app: the shortest way to an inbound listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mesh::{Proxy, write};
use crate::pki::{Authority, Leaf};
use crate::ports::free_port;

/// What the app speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// Bytes.
    Tcp,
}

/// A sidecar that reads its rules from files; workload `shop` in namespace `default`.
pub struct Sidecar {
    /// The running program.
    pub proxy: Proxy,
    inbound: SocketAddr,
    outbound: SocketAddr,
    // Last: the process writes into it until it ends.
    directory: TempDir,
}

/// How a sidecar is to be; see [`sidecar`].
pub struct SidecarBuilder<'a> {
    app: SocketAddr,
    speaks: Speaks,
    rules: String,
    workers: usize,
    outbound: Option<u16>,
    identity: Option<(&'a Authority, &'a str)>,
    environment: Vec<(&'a str, PathBuf)>,
    keys: Vec<(&'a str, Value)>,
}

/// A sidecar in front of an HTTP app, with one worker thread, no identity and these rules (YAML).
pub fn sidecar<'a>(app: SocketAddr, rules: &str) -> SidecarBuilder<'a> {
    let rules = rules.to_owned();
    SidecarBuilder {
        app,
        speaks: Speaks::Http,
        rules,
        workers: 1,
        outbound: None,
        identity: None,
        environment: Vec::new(),
        keys: Vec::new(),
    }
}

impl<'a> SidecarBuilder<'a> {
    /// What the app speaks.
    pub fn speaks(self, speaks: Speaks) -> Self {
        Self { speaks, ..self }
    }

    /// With so many worker threads.
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// With this port for what the app calls.
    pub fn outbound(self, port: u16) -> Self {
        Self { outbound: Some(port), ..self }
    }

    /// With a certificate of this authority for this SPIFFE ID; callers of the authority are believed.
    pub fn identity(self, authority: &'a Authority, id: &'a str) -> Self {
        Self { identity: Some((authority, id)), ..self }
    }

    /// With an environment variable that names a file.
    pub fn environment(mut self, name: &'a str, file: &Path) -> Self {
        self.environment.push((name, file.to_owned()));
        self
    }

    /// With another key in its bootstrap.
    pub fn bootstrap(mut self, key: &'a str, value: Value) -> Self {
        self.keys.push((key, value));
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Sidecar {
        let directory = TempDir::with_prefix("leno-test-").expect("cannot create a directory");
        let (rules, state) = (directory.path().join("rules"), directory.path().join("state"));
        let (port, outbound) = (free_port(), self.outbound.unwrap_or_else(free_port));
        std::fs::create_dir_all(&rules).expect("cannot create a directory");
        write(&rules, "sidecar.yaml", &format!("{:#}\n", listeners((port, outbound), self.speaks, self.app)));
        write(&rules, RULES, &self.rules);
        let mut bootstrap = json!({
            "node": {
                "name": "shop", "ip": "127.0.0.1", "namespace": "default", "service_account": "shop",
                "workload": "shop", "labels": {"app": "shop"},
            },
            "interception": "none",
            "rules": [rules],
            "state": state,
            "admin": "127.0.0.1:0",
            "workers": self.workers,
            "drain": "1s",
        });
        if let Some((authority, id)) = self.identity {
            let (certificate, key) = authority.issue(&Leaf::of(id)).write(directory.path(), "svid");
            write(directory.path(), "roots.pem", &authority.pem());
            let roots = directory.path().join("roots.pem");
            bootstrap["identity"] = json!({"certificate": certificate, "key": key, "roots": roots});
        }
        for (key, value) in self.keys {
            bootstrap[key] = value;
        }
        let file = directory.path().join("bootstrap.yaml");
        std::fs::write(&file, format!("{bootstrap:#}\n")).expect("cannot write a file");
        let proxy = Proxy::from_file_with("shop", &file, &state, directory.path(), &self.environment);
        proxy.ready(port).await;
        let [inbound, outbound] = [port, outbound].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Sidecar { proxy, inbound, outbound, directory }
    }
}

/// The file with the rules of the test.
const RULES: &str = "rules.yaml";

impl Sidecar {
    /// Where it takes what is meant for the app.
    pub fn address(&self) -> SocketAddr {
        self.inbound
    }

    /// Where it takes what the app calls.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// Replaces the rules of the test.
    pub fn edit(&self, rules: &str) {
        write(&self.directory.path().join("rules"), RULES, rules);
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.proxy.process.log()
    }
}

fn listeners((port, outbound): (u16, u16), speaks: Speaks, app: SocketAddr) -> Value {
    let (protocol, name) = match speaks {
        Speaks::Http => ("HTTP", "http"),
        Speaks::Tcp => ("TCP", "tcp"),
    };
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "workloadSelector": {"labels": {"app": "shop"}},
            "ingress": [{
                "port": {"number": port, "protocol": protocol, "name": name},
                "bind": "127.0.0.1",
                "defaultEndpoint": app.to_string(),
            }],
            "egress": [{
                "port": {"number": outbound, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": ["./*"],
            }],
        },
    })
}
