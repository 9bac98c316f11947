//! A real Envoy takes what Leno writes.
//!
//! Envoy reads its bootstrap as protobuf, so the resources go in as they are sent.

use std::path::Path;
use std::process::Command;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, ApiVersion, GrpcService};
use leno_config::ir;
use leno_config::node::Node;
use leno_config::xds::{Flavour, encode_cluster, encode_listener, node_to_xds};
use prost::Message;

use crate::messages::{self, message};

#[test]
fn a_real_envoy_accepts_every_resource() {
    let Some(envoy) = crate::real_envoy::program("validation by Envoy") else { return };
    let directory = tempfile::tempdir().unwrap();
    accepts(&envoy, directory.path(), &Flavour::Sidecar);
}

#[test]
fn a_real_envoy_accepts_that_its_certificate_is_in_files() {
    let Some(envoy) = crate::real_envoy::program("validation by Envoy") else { return };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("default.yaml"), "resources: []\n").unwrap();
    let path = directory.path().to_str().unwrap().to_owned();
    accepts(&envoy, directory.path(), &Flavour::CertificateFiles { directory: path });
}

fn accepts(envoy: &Path, directory: &Path, flavour: &Flavour) {
    let file = directory.join("bootstrap.pb");
    std::fs::write(&file, bootstrap(flavour).encode_to_vec()).unwrap();
    let output = Command::new(envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn bootstrap(flavour: &Flavour) -> Bootstrap {
    let permissive = |listener: ir::Listener| ir::Listener {
        name: format!("{}, permissive", listener.name),
        mtls: ir::MtlsMode::Permissive,
        ..listener
    };
    let listeners = [
        messages::ir_listener(),
        messages::ir_inline_listener(),
        messages::ir_tcp_listener(),
        ir::Listener {
            name: "all operators".to_owned(),
            access_logs: crate::access_logs::every_operator(),
            ..messages::ir_listener()
        },
        ir::Listener { name: "strict".to_owned(), ..messages::ir_strict_listener() },
        permissive(messages::ir_strict_listener()),
        ir::Listener { name: "permissive".to_owned(), ..messages::ir_permissive_tcp_listener() },
        ir::Listener {
            name: "strict tcp".to_owned(),
            mtls: ir::MtlsMode::Strict,
            ..messages::ir_permissive_tcp_listener()
        },
        messages::ir_outside_listener(),
    ];
    // No two listeners share an address, and Envoy does not mind which ones they are.
    let listeners = listeners
        .into_iter()
        .zip(20_000..)
        .map(|(listener, port)| ir::Listener { address: ([127, 0, 0, 1], port).into(), ..listener })
        .chain(messages::ir_captured_listeners());
    // Envoy wants a static cluster for the stream, and no static cluster that needs files which are not there.
    let clusters = messages::ir_clusters().into_iter().map(|cluster| match &cluster.tls {
        ir::UpstreamTls::External(tls) => {
            let tls = ir::ExternalTls { skip_verify: true, roots: Some(roots()), ..tls.clone() };
            ir::Cluster { tls: ir::UpstreamTls::External(tls), ..cluster }
        }
        _ => cluster,
    });
    let stream = ir::Cluster {
        protocol: ir::UpstreamProtocol::Http2,
        ..ir::Cluster::new(
            ir::ClusterName::new("xds"),
            ir::Discovery::Static(ir::Endpoints { cluster: ir::ClusterName::new("xds"), ..messages::ir_endpoints() }),
        )
    };
    let ads = ApiConfigSource {
        api_type: ApiType::DeltaGrpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: "xds".to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    Bootstrap {
        node: Some(node_to_xds(&node())),
        static_resources: Some(StaticResources {
            listeners: listeners.map(|it| message(&encode_listener(&it, flavour).any)).collect(),
            clusters: clusters.chain([stream]).map(|it| message(&encode_cluster(&it, flavour).any)).collect(),
            // Static secrets are read at once: certificates that are none would be found.
            secrets: vec![messages::secret()],
        }),
        dynamic_resources: Some(DynamicResources { ads_config: Some(ads), ..Default::default() }),
        ..Default::default()
    }
}

fn node() -> Node {
    Node {
        name: "productpage-1".to_owned(),
        ip: "127.0.0.1".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "productpage".to_owned(),
        workload: "productpage".to_owned(),
        labels: [("app".to_owned(), "productpage".to_owned())].into(),
        locality: ir::Locality::parse("r1/z1"),
        interception: leno_config::node::Interception::None,
    }
}

/// Any certificate that Envoy can read.
fn roots() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/xds/root.pem").to_owned()
}
