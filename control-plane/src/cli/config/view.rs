//! What a proxy says of itself, as far as the tables show it. Fields that they do not show are not looked at.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `/config_dump`
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) listeners: Vec<Held<Listener>>,
    pub(super) routes: Vec<Held<RouteConfig>>,
    pub(super) clusters: Vec<Held<Cluster>>,
    pub(super) endpoints: Vec<Held<Endpoints>>,
}

/// One resource, in both forms.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) view: T,
    /// Of the resource, as the proxy knows it.
    pub(super) version: Option<String>,
    /// Name, version and resource, as the proxy said it.
    pub(super) raw: Value,
}

impl Dump {
    /// Takes apart what the proxy said.
    pub(super) fn read(mut dump: Value) -> anyhow::Result<Self> {
        let listeners = rows(&mut dump, "listeners")?;
        let mut routes = rows(&mut dump, "routes")?;
        routes.extend(inline(&listeners));
        let clusters = rows(&mut dump, "clusters")?;
        Ok(Self { listeners, routes, clusters, endpoints: rows(&mut dump, "endpoints")? })
    }
}

fn rows<T: DeserializeOwned>(dump: &mut Value, kind: &str) -> anyhow::Result<Vec<Held<T>>> {
    let rows = dump.get_mut(kind).map(Value::take);
    let Some(Value::Array(rows)) = rows else { anyhow::bail!("its dump has no list of {kind}") };
    rows.into_iter().map(|row| held(row).with_context(|| format!("one of its {kind}"))).collect()
}

fn held<T: DeserializeOwned>(raw: Value) -> anyhow::Result<Held<T>> {
    let resource = raw.get("resource").cloned().unwrap_or_default();
    let version = raw.get("version").and_then(Value::as_str).map(str::to_owned);
    Ok(Held { view: serde_json::from_value(resource)?, version, raw })
}

/// The routes that stand in listeners, as if they were resources of their own.
fn inline(listeners: &[Held<Listener>]) -> Vec<Held<RouteConfig>> {
    let found = listeners.iter().flat_map(|listener| {
        let own = ("/resource".to_owned(), &listener.view.protocol);
        let ports = listener.view.ports.iter();
        let ports = ports.map(|(number, port)| (format!("/resource/ports/{number}"), &port.protocol));
        std::iter::once(own).chain(ports).filter_map(|(place, protocol)| {
            let (kind, manager) = match protocol {
                Protocol::Http(manager) => ("http", manager),
                Protocol::Detect(Detection { http: Some(manager), tcp: _ }) => ("detect/http", manager),
                Protocol::Detect(Detection { http: None, tcp: _ }) | Protocol::Tcp(_) => return None,
            };
            let RouteSource::Inline(config) = &manager.routes else { return None };
            let at = format!("{place}/protocol/{kind}/routes/inline");
            let raw = listener.raw.pointer(&at).cloned().unwrap_or_default();
            let raw = serde_json::json!({ "name": config.name, "version": listener.version, "resource": raw });
            Some(Held { view: config.clone(), version: listener.version.clone(), raw })
        })
    });
    found.collect()
}

#[derive(Debug, Deserialize)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) direction: String,
    pub(super) mtls: String,
    pub(super) protocol: Protocol,
    /// Of captured connections, by number.
    #[serde(default)]
    pub(super) ports: BTreeMap<u16, CapturedPort>,
}

/// What is done with captured connections to one port.
#[derive(Debug, Deserialize)]
pub(super) struct CapturedPort {
    pub(super) mtls: String,
    pub(super) protocol: Protocol,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Protocol {
    Http(HttpManager),
    Tcp(TcpRoute),
    Detect(Detection),
}

/// What is spoken is told by each connection.
#[derive(Debug, Deserialize)]
pub(super) struct Detection {
    pub(super) http: Option<HttpManager>,
    pub(super) tcp: TcpRoute,
}

#[derive(Debug, Deserialize)]
pub(super) struct HttpManager {
    pub(super) routes: RouteSource,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RouteSource {
    Named(String),
    Inline(RouteConfig),
}

#[derive(Debug, Deserialize)]
pub(super) struct TcpRoute {
    pub(super) origin: Option<Origin>,
    pub(super) clusters: Vec<WeightedCluster>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RouteConfig {
    pub(super) name: String,
    pub(super) virtual_hosts: Vec<VirtualHost>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct VirtualHost {
    pub(super) domains: Vec<String>,
    pub(super) routes: Vec<Route>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    pub(super) origin: Option<Origin>,
    pub(super) matcher: Matcher,
    pub(super) action: Action,
}

/// The rule that something was made of.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Origin {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) index: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Matcher {
    pub(super) path: BTreeMap<String, Value>,
    pub(super) headers: Vec<HeaderMatch>,
    pub(super) query: Vec<QueryMatch>,
    pub(super) claims: Vec<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct HeaderMatch {
    pub(super) key: String,
    /// Text where it is redacted.
    pub(super) value: Option<Value>,
    pub(super) invert: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct QueryMatch {
    pub(super) name: String,
    pub(super) value: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Forward(Forward),
    Redirect(Answer),
    Direct(Answer),
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Forward {
    pub(super) clusters: Vec<WeightedCluster>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct WeightedCluster {
    pub(super) cluster: String,
    pub(super) weight: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Answer {
    pub(super) status: u16,
}

#[derive(Debug, Deserialize)]
pub(super) struct Cluster {
    pub(super) name: String,
    /// A word, or an object whose only key is the word.
    pub(super) discovery: Value,
    pub(super) balance: Value,
    pub(super) tls: Value,
    pub(super) protocol: String,
    /// The DestinationRule.
    #[serde(default)]
    pub(super) origin: Option<Origin>,
}

impl Cluster {
    /// Under which name its endpoints stand in the dump.
    pub(super) fn endpoints_name(&self) -> &str {
        self.discovery.pointer("/eds/service").and_then(Value::as_str).unwrap_or(&self.name)
    }

    /// Those that stand in the cluster itself.
    pub(super) fn own_endpoints(&self) -> Option<Endpoints> {
        let of = |how: &str| self.discovery.get(how);
        of("static").or_else(|| of("dns")).and_then(|found| Endpoints::deserialize(found).ok())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoints {
    pub(super) cluster: String,
    pub(super) localities: Vec<LocalityEndpoints>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LocalityEndpoints {
    pub(super) locality: Locality,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Locality {
    region: String,
    zone: String,
    subzone: String,
}

impl Locality {
    /// `REGION/ZONE/SUBZONE`, as far as it is said.
    pub(super) fn text(&self) -> String {
        let parts = [&self.region, &self.zone, &self.subzone];
        let said = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        parts.iter().take(said).map(|part| part.as_str()).collect::<Vec<_>>().join("/")
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    pub(super) address: String,
    pub(super) health: String,
    #[serde(default)]
    pub(super) identity: Option<String>,
}

/// What the name of a cluster says: `outbound|PORT|SUBSET|HOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination<'a> {
    pub(super) direction: Option<&'a str>,
    pub(super) port: Option<u16>,
    pub(super) subset: &'a str,
    /// The whole name where it has another form.
    pub(super) host: &'a str,
}

impl<'a> Destination<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        let mut parts = name.splitn(4, '|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(direction @ ("inbound" | "outbound")), Some(port), Some(subset), Some(host)) => {
                Self { direction: Some(direction), port: port.parse().ok(), subset, host }
            }
            _ => Self { direction: None, port: None, subset: "", host: name },
        }
    }
}

/// `/certs`, row by row.
#[derive(Debug, Default)]
pub(super) struct Certificates(pub(super) Vec<Certificate>);

#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) is_valid: bool,
    pub(super) not_after: Option<String>,
    pub(super) not_before: Option<String>,
    pub(super) serial: Option<String>,
    /// A SPIFFE ID, or the trust domain that it vouches for.
    pub(super) identity: Option<String>,
}

impl Certificates {
    /// The own certificate, then whom the proxy believes.
    pub(super) fn read(certs: &Value) -> Self {
        let own = certs.get("certificate").filter(|own| !own.is_null()).map(|own| Certificate {
            name: "default",
            kind: "certificate",
            is_valid: own.get("is_valid").and_then(Value::as_bool).unwrap_or_default(),
            identity: text(own, "id"),
            not_after: text(own, "valid_until"),
            not_before: text(own, "valid_from"),
            serial: text(own, "serial"),
        });
        let domains = certs.get("trust_domains").and_then(Value::as_array).into_iter().flatten();
        let roots = domains.flat_map(|domain| {
            let roots = domain.get("roots").and_then(Value::as_array).into_iter().flatten();
            roots.map(|root| Certificate {
                name: "ROOTCA",
                kind: "root",
                is_valid: root.get("days_left").and_then(Value::as_f64).is_some_and(|days| days > 0.0),
                identity: text(domain, "trust_domain"),
                not_after: text(root, "valid_until"),
                not_before: text(root, "valid_from"),
                serial: text(root, "serial"),
            })
        });
        Self(own.into_iter().chain(roots).collect())
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}
