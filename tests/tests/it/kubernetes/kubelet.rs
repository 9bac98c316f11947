//! What the controllers and the kubelet do for a Deployment, in little.
//!
//! A pod is made through the API server, so that webhooks see it, and its containers run as its spec says after them, one
//! after the other, as processes in a network namespace: with the users, capabilities, variables and volumes that stand
//! there, and behind the probes that stand there. Images are the programs of this build. A mount belongs to its process
//! alone (`ip netns exec` makes it a namespace for them), so that nothing of this machine changes.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use leno_tests::api_server::ApiServer;
use leno_tests::{Process, eventually, leno, leno_proxy};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::installed::slice;
use crate::capture::network::{Network, Pod, Server, finish};

/// The user of the image `leno`, where a pod does not say another.
const IMAGE_USER: u64 = 65532;

/// The kubelet of a node with a network.
pub(super) struct Kubelet<'a> {
    pub(super) server: &'a ApiServer,
    pub(super) network: &'a Network,
    /// Where `leno.leno-system.svc:15012` really is.
    pub(super) plane: SocketAddr,
    images: TempDir,
}

/// A pod whose containers run until it is dropped.
pub(super) struct Running {
    pub(super) place: Pod,
    pub(super) sidecar: Process,
    pub(super) app: Process,
    _line: Server,
    // Last: the processes write into it until they end.
    _directory: TempDir,
}

impl<'a> Kubelet<'a> {
    /// With the images, where every user may run them.
    pub(super) fn new(server: &'a ApiServer, network: &'a Network, plane: SocketAddr) -> Self {
        let images = directory();
        for program in [leno(), leno_proxy()] {
            let image = images.path().join(program.file_name().unwrap());
            std::fs::hard_link(program, &image).or_else(|_| std::fs::copy(program, &image).map(drop)).unwrap();
        }
        Self { server, network, plane, images }
    }

    /// Makes the pod of a Deployment and runs it, until it is ready and in its Service's EndpointSlice.
    pub(super) async fn run(&self, deployment: &Value, place: Pod) -> Running {
        let pod = self.admitted(deployment, &place).await;
        let files = directory();
        self.volumes(&pod, files.path()).await;
        std::fs::write(files.path().join("hosts"), self.names()).unwrap();
        // The rules of the pod spare what its proxy says, and the loopback device.
        let line = place.forward((Ipv4Addr::LOCALHOST, 15012).into(), self.plane);
        let mut sidecar = None;
        for container in list(&pod["spec"]["initContainers"]) {
            if container["restartPolicy"] == "Always" {
                sidecar = Some(self.begin(&pod, container, &place, files.path()));
                self.passes(&container["startupProbe"], &place).await;
            } else {
                let outcome = finish(&mut self.process(&pod, container, &place, files.path()));
                assert_eq!(outcome.code, 0, "{}: {}", container["name"], outcome.stderr);
            }
        }
        let sidecar = sidecar.expect("the pod has a sidecar");
        let [container] = list(&pod["spec"]["containers"]) else { panic!("one app: {pod}") };
        let app = self.begin(&pod, container, &place, files.path());
        self.passes(&container["readinessProbe"], &place).await;
        self.status(&pod, "Running", true, &place).await;
        let label = |name: &str| pod["metadata"]["labels"][name].as_str().unwrap();
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        let port = container["ports"][0]["containerPort"].as_u64().unwrap();
        let address = SocketAddr::from((place.v4(), port.try_into().unwrap()));
        self.server.apply(slice(namespace, label("app"), label("version"), Some(address))).await;
        Running { place, sidecar, app, _line: line, _directory: files }
    }

    /// The pod as the API server stores it: what the webhooks have made of the Deployment's template.
    async fn admitted(&self, deployment: &Value, place: &Pod) -> Value {
        let template = &deployment["spec"]["template"];
        let mut metadata = template["metadata"].clone();
        metadata["name"] = deployment["metadata"]["name"].clone();
        metadata["namespace"] = deployment["metadata"]["namespace"].clone();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        let pod = self.server.create(pod).await;
        self.status(&pod, "Pending", false, place).await
    }

    async fn status(&self, pod: &Value, phase: &str, ready: bool, place: &Pod) -> Value {
        let mut pod = pod.clone();
        let ready = if ready { "True" } else { "False" };
        pod["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        pod["status"] = json!({
            "phase": phase, "podIP": place.v4(), "conditions": [{"type": "Ready", "status": ready}],
        });
        self.server.update_status(pod).await
    }

    /// The volumes that the injector adds, a directory each.
    async fn volumes(&self, pod: &Value, files: &Path) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap();
        let (namespace, account) = (text("/metadata/namespace"), text("/spec/serviceAccountName"));
        for volume in list(&pod["spec"]["volumes"]) {
            let directory = files.join(volume["name"].as_str().unwrap());
            std::fs::create_dir(&directory).unwrap();
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
            for source in list(&volume["projected"]["sources"]) {
                let Some(audience) = source["serviceAccountToken"]["audience"].as_str() else { continue };
                let token = self.server.token_of(namespace, account, &[audience], Some(pod)).await;
                std::fs::write(directory.join(source["serviceAccountToken"]["path"].as_str().unwrap()), token).unwrap();
            }
            let Some(map) = volume["configMap"]["name"].as_str() else { continue };
            let data = eventually(&format!("{map} is in {namespace}"), async || {
                let map = self.server.get("v1", "ConfigMap", namespace, map).ok_or("it is not".to_owned())?;
                map["data"].as_object().cloned().ok_or("it has no data".to_owned())
            })
            .await;
            for (name, text) in data {
                std::fs::write(directory.join(name), text.as_str().unwrap()).unwrap();
            }
        }
    }

    /// What the cluster's DNS would say, as a file of hosts.
    fn names(&self) -> String {
        let mut hosts = "127.0.0.1 localhost leno.leno-system.svc\n".to_owned();
        for service in self.server.list("v1", "Service") {
            let (address, metadata) = (service["spec"]["clusterIP"].as_str().unwrap(), &service["metadata"]);
            let (name, namespace) = (metadata["name"].as_str().unwrap(), metadata["namespace"].as_str().unwrap());
            if namespace != "leno-system" {
                hosts += &format!("{address} {name} {name}.{namespace} {name}.{namespace}.svc.cluster.local\n");
            }
        }
        hosts
    }

    fn begin(&self, pod: &Value, container: &Value, place: &Pod, files: &Path) -> Process {
        let name = format!("{} of {}", container["name"], pod["metadata"]["name"]).replace('"', "");
        let log = files.join(format!("{name}.log"));
        Process::start(&name, &mut self.process(pod, container, place, files), &log)
    }

    /// A container as a process.
    fn process(&self, pod: &Value, container: &Value, place: &Pod, files: &Path) -> Command {
        let mut script = String::from("mount -t tmpfs tmpfs /run\nmount -t tmpfs tmpfs /var/lib\n");
        let mut mount = |source: PathBuf, path: &str| {
            script += &format!("mount --bind {} {path}\n", source.display());
        };
        mount(files.join("hosts"), "/etc/hosts");
        for volume in list(&container["volumeMounts"]) {
            let (name, path) = (volume["name"].as_str().unwrap(), volume["mountPath"].as_str().unwrap());
            script += &format!("mkdir -p {path}\nmount --bind {} {path}\n", files.join(name).display());
        }
        let user = container["securityContext"]["runAsUser"].as_u64().unwrap_or(IMAGE_USER);
        let capabilities = list(&container["securityContext"]["capabilities"]["add"]).iter().filter_map(Value::as_str);
        let bounds: String = capabilities.map(|name| format!(",+{}", name.to_lowercase())).collect();
        script +=
            &format!("exec setpriv --clear-groups --reuid={user} --regid={user} --bounding-set=-all{bounds} \"$@\"");
        // Of an image that a pod names without a command, its entry point.
        let program = container["command"][0].as_str().unwrap_or("leno");
        let mut process = place.command(Path::new("sh"));
        process.args(["-ec", &script, "sh"]).arg(self.images.path().join(program));
        process.args(list(&container["args"]).iter().filter_map(Value::as_str));
        for variable in list(&container["env"]) {
            let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
            let value = match field {
                Some(path) => pod.pointer(&format!("/{}", path.replace('.', "/"))),
                None => variable.get("value"),
            };
            let value = value.and_then(Value::as_str).unwrap_or_else(|| panic!("{variable} of {pod}"));
            process.env(variable["name"].as_str().unwrap(), value);
        }
        process
    }

    /// Asks what a probe asks, from the node, until the answer is good.
    async fn passes(&self, probe: &Value, place: &Pod) {
        let (get, ip) = (&probe["httpGet"], place.v4());
        let url = format!("http://{ip}:{}{}", get["port"], get["path"].as_str().unwrap());
        eventually(&format!("{url} is well"), async || {
            let mut curl = self.network.on_node(Path::new("curl"));
            let status = finish(curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "10", &url])).stdout;
            if status == "200" { Ok(()) } else { Err(status) }
        })
        .await;
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// One that every user may look into.
fn directory() -> TempDir {
    let directory = TempDir::with_prefix("leno-kubelet-").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}
