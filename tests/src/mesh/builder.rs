//! Putting a mesh together.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::documents::{self, Instance, Service};
use super::proxy::{Bootstrap, DRAIN};
use super::{ControlPlane, Mesh, Proxy, RULES, rules_directory, write};
use crate::ports::free_port;

/// A mesh with no service yet, one worker thread in each proxy, and a control plane.
pub fn mesh() -> MeshBuilder {
    MeshBuilder {
        services: Vec::new(),
        rules: String::new(),
        workers: 1,
        drain: DRAIN.to_owned(),
        from: Source::ControlPlane,
        instances: Instances::Bare,
    }
}

/// A mesh to be.
#[derive(Debug, Clone)]
pub struct MeshBuilder {
    services: Vec<Service>,
    rules: String,
    workers: usize,
    drain: String,
    from: Source,
    instances: Instances,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    ControlPlane,
    Files,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instances {
    Bare,
    BehindSidecars,
    Encrypted,
}

impl MeshBuilder {
    /// With an HTTP service on port 80 and its instances: label `version` and address of the app. Its host is
    /// `NAME.default.svc.cluster.local`, and each version is a subset of that name.
    pub fn service(self, name: &str, instances: &[(&str, SocketAddr)]) -> Self {
        self.service_on(name, (80, "http", "HTTP"), instances)
    }

    /// With a service on any port: number, name and protocol as a ServiceEntry has them. A TCP service needs a port
    /// of its own, since the sidecar listens there.
    pub fn service_on(mut self, name: &str, port: (u16, &str, &str), instances: &[(&str, SocketAddr)]) -> Self {
        let instance = |(version, app): &(&str, SocketAddr)| Instance {
            version: (*version).to_owned(),
            app: *app,
            inbound: None,
            encrypted: false,
        };
        let (number, port_name, protocol) = port;
        self.services.push(Service {
            name: name.to_owned(),
            port: number,
            port_name: port_name.to_owned(),
            protocol: protocol.to_owned(),
            instances: instances.iter().map(instance).collect(),
        });
        self
    }

    /// With these rules (YAML), in a file of their own.
    pub fn rules(mut self, rules: &str) -> Self {
        self.rules = rules.to_owned();
        self
    }

    /// With so many worker threads in each proxy.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// With so much time for what is under way when a proxy is told to end, instead of five seconds.
    pub fn drain(mut self, time: &str) -> Self {
        time.clone_into(&mut self.drain);
        self
    }

    /// The caller's sidecar reads the rules itself; there is no control plane.
    pub fn without_control_plane(mut self) -> Self {
        self.from = Source::Files;
        self
    }

    /// Each instance has a sidecar of its own, which the caller's sidecar calls.
    pub fn behind_sidecars(mut self) -> Self {
        self.instances = Instances::BehindSidecars;
        self
    }

    /// The same, and all sidecars have certificates of the control plane: they speak mTLS with each other. A service is
    /// its own service account.
    pub fn encrypted(mut self) -> Self {
        self.instances = Instances::Encrypted;
        self
    }

    /// Writes the documents, starts the programs and waits until every proxy is ready.
    pub async fn start(mut self) -> Mesh {
        let directory = TempDir::with_prefix("leno-test-").expect("cannot create a directory");
        let rules = rules_directory(directory.path());
        std::fs::create_dir_all(&rules).expect("cannot create a directory");
        let outbound = free_port();
        let mut documents = vec![documents::client_sidecar(outbound, &self.services)];
        let inbound = self.give_sidecars(&mut documents);
        documents.extend(self.services.iter().flat_map(Service::documents));
        write(&rules, "mesh.yaml", &documents::stream(&documents));
        write(&rules, RULES, &self.rules);

        let control_plane = match self.from {
            Source::ControlPlane => Some(ControlPlane::start(directory.path(), &rules, &[]).await),
            Source::Files => None,
        };
        let start = |name: &str, app: &str, version: &str| {
            let source = match &control_plane {
                Some(control_plane) if self.instances == Instances::Encrypted => {
                    control_plane.way(app, &directory.path().join(format!("{name}.token")))
                }
                Some(control_plane) => json!({"address": format!("http://{}", control_plane.xds())}),
                None => json!([rules]),
            };
            let source = (if control_plane.is_some() { "control_plane" } else { "rules" }, source);
            let bootstrap = Bootstrap { name, app, version, workers: self.workers, drain: &self.drain, source };
            Proxy::start(directory.path(), &bootstrap)
        };
        let client = start("client", "client", "v1");
        let peers: Vec<Proxy> = inbound
            .iter()
            .map(|peer| start(&format!("{}-{}-{}", peer.app, peer.version, peer.port), &peer.app, &peer.version))
            .collect();
        client.ready(outbound).await;
        for (proxy, peer) in peers.iter().zip(&inbound) {
            proxy.ready(peer.port).await;
        }
        for tcp in self.services.iter().filter(|service| service.is_tcp()) {
            client.ready(tcp.port).await;
        }
        Mesh { control_plane, client, peers, outbound: ([127, 0, 0, 1], outbound).into(), directory }
    }

    /// Gives each instance an inbound listener, where the test wants sidecars, and the document that says so.
    fn give_sidecars(&mut self, documents: &mut Vec<Value>) -> Vec<Inbound> {
        let mut given = Vec::new();
        if self.instances == Instances::Bare {
            return given;
        }
        for service in &mut self.services {
            for at in 0..service.instances.len() {
                let (port, outbound) = (free_port(), free_port());
                documents.push(documents::instance_sidecar(service, &service.instances[at], port, outbound));
                service.instances[at].inbound = Some(port);
                service.instances[at].encrypted = self.instances == Instances::Encrypted;
                let version = service.instances[at].version.clone();
                given.push(Inbound { app: service.name.clone(), version, port });
            }
        }
        given
    }
}

/// The inbound listener of an instance's sidecar.
struct Inbound {
    app: String,
    version: String,
    port: u16,
}
