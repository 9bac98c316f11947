//! `tracing` of MeshConfig: which requests become spans, and by which cluster these leave.
//!
//! A collector that is a service of the mesh is called as one, with its identity; another one gets a cluster of its own,
//! found by DNS, as an issuer of tokens does.

use std::sync::Arc;

use http::Uri;

use crate::defaults;
use crate::ir::{
    Cluster, ClusterName, Collector, CustomTag, Fraction, OtlpProtocol, TagValue, Tracing, TracingProvider,
    UpstreamProtocol,
};
use crate::mesh::{Service, ServicePort, port_number};
use crate::rules;

use super::Output;
use super::outside;
use super::scope::View;

/// How the proxy traces; `None`: not at all.
pub(super) fn tracing(view: &View<'_>) -> Option<Arc<Tracing>> {
    let written = view.mesh.settings().tracing.as_ref()?;
    let target = Target::of(written)?;
    let app = view.node.labels.get(defaults::APP_LABEL).filter(|app| !app.is_empty());
    let collector = Collector {
        cluster: target.cluster().to_string(),
        protocol: target.protocol,
        timeout: defaults::OTLP_TIMEOUT,
        service: app.map(|app| format!("{app}.{}", view.node.namespace)).unwrap_or_default(),
    };
    let sampling = written.sampling.and_then(|percent| Fraction::from_percent(percent).ok());
    Some(Arc::new(Tracing {
        provider: TracingProvider::OpenTelemetry(collector),
        sampling: sampling.unwrap_or(defaults::TRACE_SAMPLING),
        attempts: true,
        longest_path: Tracing::LONGEST_PATH,
        tags: written.custom_tags.iter().filter_map(|(name, tag)| custom_tag(name, tag)).collect(),
    }))
}

/// Notes the cluster by which spans leave.
pub(super) fn cluster<'a>(view: &View<'a>, output: &mut Output<'a>) {
    let Some(target) = view.mesh.settings().tracing.as_ref().and_then(Target::of) else { return };
    match target.service(view) {
        Some((service, own)) => drop(output.reach(service, own.number)),
        None => {
            let outside = outside::cluster(target.cluster(), &target.host, target.port, target.tls);
            let protocol = match target.protocol {
                OtlpProtocol::Grpc(_) => UpstreamProtocol::Http2,
                OtlpProtocol::Http(_) => UpstreamProtocol::Http1,
            };
            output.cluster(Cluster { protocol, ..outside });
        }
    }
}

/// Where a collector is.
struct Target {
    host: String,
    port: u16,
    tls: bool,
    protocol: OtlpProtocol,
}

impl Target {
    /// `None`: there is no collector, or its address is none, which validation has said.
    fn of(written: &rules::Tracing) -> Option<Self> {
        let uri = Collector::uri(written.otlp.as_deref()?).ok()?;
        let protocol = written.protocol.unwrap_or_default();
        let usual = match protocol {
            rules::OtlpProtocol::Grpc => defaults::OTLP_GRPC_PORT,
            rules::OtlpProtocol::Http => defaults::OTLP_HTTP_PORT,
        };
        let (host, port) = (uri.host()?.to_owned(), uri.port_u16().unwrap_or(usual));
        let scheme = uri.scheme_str().unwrap_or("http");
        let protocol = match protocol {
            rules::OtlpProtocol::Grpc => OtlpProtocol::Grpc(format!("{host}:{port}")),
            rules::OtlpProtocol::Http => {
                let path = if matches!(uri.path(), "" | "/") { defaults::OTLP_PATH } else { uri.path() };
                let whole = Uri::builder().scheme(scheme).authority(format!("{host}:{port}")).path_and_query(path);
                OtlpProtocol::Http(whole.build().ok()?)
            }
        };
        Some(Self { tls: scheme == "https", host, port, protocol })
    }

    fn cluster(&self) -> ClusterName {
        ClusterName::outbound(self.port, "", &self.host)
    }

    /// The service that it is, with the port.
    fn service<'a>(&self, view: &View<'a>) -> Option<(&'a Service, &'a ServicePort)> {
        let service = view.mesh.service(&self.host, &view.node.namespace)?;
        Some((service, service.port(port_number(Some(u32::from(self.port)))?)?))
    }
}

/// What cannot be a header is left out; validation refuses it.
fn custom_tag(name: &str, written: &rules::CustomTag) -> Option<CustomTag> {
    let value = match (&written.literal, &written.header) {
        (Some(literal), None) => TagValue::Literal(literal.value.clone()),
        (None, Some(header)) => TagValue::Header {
            name: header.name.parse().ok()?,
            default: header.default_value.clone().unwrap_or_default(),
        },
        (Some(_), Some(_)) | (None, None) => return None,
    };
    Some(CustomTag { name: name.to_owned(), value })
}
