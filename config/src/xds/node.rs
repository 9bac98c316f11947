//! Who a proxy says it is: Istio's form of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::pb;
use super::refusal::{Problem, Refusal, Result, Within};
use super::{base, endpoint};
use crate::node::{Interception, Node};
use pb::protobuf::{Struct, Value, value::Kind as ValueKind};

/// Linux's limit (PATH_MAX), so that a client cannot fill the control plane with names.
const LONGEST_PATH: usize = 4096;

/// The node as a proxy sends it with its first request.
pub fn node_to_xds(node: &Node) -> pb::core::Node {
    let Node { name, ip, namespace, service_account, workload, labels, locality, interception } = node;
    let mut metadata = base::texts([
        ("NAME", name.as_str()),
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", service_account),
        ("WORKLOAD_NAME", workload),
        ("INTERCEPTION_MODE", interception.as_metadata()),
        ("INSTANCE_IPS", &ip.to_string()),
        ("LENO_VERSION", env!("CARGO_PKG_VERSION")),
    ]);
    let labels = Value { kind: Some(ValueKind::StructValue(base::texts(labels))) };
    metadata.fields.insert("LABELS".to_owned(), labels);
    pb::core::Node {
        id: node.id(),
        cluster: format!("{workload}.{namespace}"),
        metadata: Some(metadata),
        locality: Some(endpoint::place_to_xds(locality)),
        user_agent_name: "leno".to_owned(),
        user_agent_version_type: Some(pb::core::node::UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        ..Default::default()
    }
}

/// The node as the control plane understands it. The id has to be Istio's, `sidecar~IP~NAME.NAMESPACE~DOMAIN`; metadata
/// says the same more exactly and wins. Nothing here is proven: identity comes from the connection.
pub fn node_from_xds(node: &pb::core::Node) -> std::result::Result<Node, Refusal> {
    read(node).map_err(|problem| problem.of("<node>"))
}

fn read(node: &pb::core::Node) -> Result<Node> {
    #[allow(deprecated)]
    let pb::core::Node {
        id,
        metadata,
        locality,
        // For people and statistics.
        cluster: _,
        user_agent_name: _,
        user_agent_version_type: _,
        listening_addresses: _,
        // What the client can do besides: nothing that the resources depend on.
        dynamic_parameters: _,
        extensions: _,
        client_features: _,
    } = node;
    let (ip, name, namespace) = id_from_xds(id).within("id")?;
    let empty = Struct::default();
    let metadata = metadata.as_ref().unwrap_or(&empty);
    let text = |key: &str, default: &str| base::text_of(metadata, key).unwrap_or(default).to_owned();
    let name = text("NAME", name);
    Ok(Node {
        ip,
        namespace: text("NAMESPACE", namespace),
        service_account: text("SERVICE_ACCOUNT", "default"),
        workload: text("WORKLOAD_NAME", &name),
        name,
        labels: metadata.fields.get("LABELS").map(labels_from_xds).transpose()?.unwrap_or_default(),
        locality: locality.clone().map(endpoint::place_from_xds).unwrap_or_default(),
        interception: Interception::from_metadata(&text("INTERCEPTION_MODE", "")),
    })
}

/// Node metadata of an Envoy: where [`Flavour::CertificateFiles`] finds its certificate.
const SDS_DIRECTORY: &str = "LENO_SDS_DIRECTORY";

/// Node metadata by which istiod, too, is told for whom to write.
const GENERATOR: &str = "GENERATOR";

/// In whose words resources are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Envoy's, which a Leno proxy speaks too.
    Envoy(Flavour),
    /// Those of a gRPC client without a proxy ([`super::grpc`]).
    Grpc,
}

impl Dialect {
    /// For people and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Envoy(_) => "envoy",
            Self::Grpc => "grpc",
        }
    }
}

/// The dialect that a client speaks: gRPC's where the node's metadata say `GENERATOR: grpc`, or where they say nothing
/// about that and its user agent is gRPC (C-core, Java, Go and Node.js all begin so).
pub fn dialect_from_xds(node: &pb::core::Node) -> std::result::Result<Dialect, Refusal> {
    let metadata = node.metadata.as_ref();
    match metadata.and_then(|metadata| base::text_of(metadata, GENERATOR)) {
        Some("grpc") => Ok(Dialect::Grpc),
        Some("envoy") => flavour_from_xds(node).map(Dialect::Envoy),
        Some(other) => {
            let reason = format!("is `grpc` or `envoy`, not `{}`", other.escape_debug());
            Err(Problem::new(&format!("metadata.{GENERATOR}"), reason).of("<node>"))
        }
        None if node.user_agent_name.starts_with("gRPC") => Ok(Dialect::Grpc),
        None => flavour_from_xds(node).map(Dialect::Envoy),
    }
}

/// What kind of Envoy resources are written for. They say the same to all of them, in other words.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    /// A Leno proxy, which knows its own certificate by itself; and an Envoy beside Istio's agent.
    #[default]
    Sidecar,
    /// An Envoy beside `leno agent`, which keeps its certificate in SDS files.
    CertificateFiles {
        /// Where `default.yaml` is; absolute, without a slash at its end.
        directory: String,
    },
}

/// The flavour that a client asks for in its node's metadata.
pub fn flavour_from_xds(node: &pb::core::Node) -> std::result::Result<Flavour, Refusal> {
    let Some(value) = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(SDS_DIRECTORY)) else {
        return Ok(Flavour::Sidecar);
    };
    let directory = match &value.kind {
        Some(ValueKind::StringValue(text)) => text.trim_end_matches('/'),
        _ => "",
    };
    if directory.starts_with('/') && directory.len() <= LONGEST_PATH && !directory.contains('\0') {
        return Ok(Flavour::CertificateFiles { directory: directory.to_owned() });
    }
    let reason = "is the absolute path of the directory where `leno agent` writes default.yaml";
    Err(Problem::new(&format!("metadata.{SDS_DIRECTORY}"), reason).of("<node>"))
}

/// Address, name and namespace.
fn id_from_xds(id: &str) -> Result<(IpAddr, &str, &str)> {
    let bad = || Problem::new("", format!("`{id}` is not `sidecar~IP~NAME.NAMESPACE~DOMAIN`"));
    let parts: Vec<&str> = id.split('~').collect();
    let [_kind, ip, workload, _domain] = parts.as_slice() else { return Err(bad()) };
    let (name, namespace) = workload.rsplit_once('.').ok_or_else(bad)?;
    if name.is_empty() || namespace.is_empty() {
        return Err(bad());
    }
    Ok((ip.parse().map_err(|_| bad())?, name, namespace))
}

fn labels_from_xds(labels: &Value) -> Result<BTreeMap<String, String>> {
    let Some(ValueKind::StructValue(labels)) = &labels.kind else {
        return Err(Problem::new("metadata.LABELS", "is a struct of texts"));
    };
    labels
        .fields
        .iter()
        .map(|(key, value)| match &value.kind {
            Some(ValueKind::StringValue(text)) => Ok((key.clone(), text.clone())),
            _ => Err(Problem::new(&format!("metadata.LABELS.{key}"), "a label is a text")),
        })
        .collect()
}
