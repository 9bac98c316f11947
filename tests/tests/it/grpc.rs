//! gRPC's own library on both ends: unary and streaming, metadata, trailers and errors.

use std::net::SocketAddr;

use leno_tests::{Process, Python, eventually, mesh, python};
use tempfile::TempDir;

async fn server(python: &Python, directory: &TempDir) -> (Process, SocketAddr) {
    let log = directory.path().join("server.log");
    let process = Process::start("gRPC server", &mut python.script("grpc_server.py"), &log);
    let port = eventually("the gRPC server says its port", async || {
        let log = process.log();
        let port = log.lines().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok());
        port.ok_or(log)
    })
    .await;
    (process, ([127, 0, 0, 1], port).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_of_every_kind_passes() {
    let Some(python) = python("gRPC with grpcio") else { return };
    let directory = TempDir::new().unwrap();
    let (_server, address) = server(&python, &directory).await;
    let instances = [("v1", address)];
    for (workers, behind) in [(1, false), (1, true), (4, true)] {
        let builder = mesh().service_on("greeter", (80, "grpc", "GRPC"), &instances).workers(workers);
        let builder = if behind { builder.behind_sidecars() } else { builder };
        let mesh = builder.start().await;
        let mut client = python.script("grpc_client.py");
        client.args([mesh.outbound().to_string().as_str(), "greeter"]);
        let log = directory.path().join(format!("client-{workers}-{behind}.log"));
        let mut client = Process::start("gRPC client", &mut client, &log);
        let (status, _) = client.ended().await;
        assert!(status.success(), "{workers} workers, behind sidecars: {behind}: {status}\n{}", client.log());
        assert_eq!(client.log().matches(": ok").count(), 7, "{}", client.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_is_routed_by_service_and_method() {
    let Some(python) = python("gRPC with grpcio") else { return };
    let directory = TempDir::new().unwrap();
    let (_server, address) = server(&python, &directory).await;
    // Only the methods of the greeter have a route; all of the client's calls are for it.
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: greeter}
spec:
  hosts: [greeter]
  http:
  - match: [{uri: {prefix: /leno.Greeter/}, headers: {content-type: {prefix: application/grpc}}}]
    route: [{destination: {host: greeter}}]
";
    let mesh = mesh().service_on("greeter", (80, "grpc", "GRPC"), &[("v1", address)]).rules(rules).start().await;
    let mut client = python.script("grpc_client.py");
    client.args([mesh.outbound().to_string().as_str(), "greeter"]);
    let mut client = Process::start("gRPC client", &mut client, &directory.path().join("client.log"));
    let (status, _) = client.ended().await;
    assert!(status.success(), "{status}\n{}", client.log());
}
