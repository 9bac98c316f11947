//! The tables of `leno config`. Each says too whether it has no row.

use std::collections::BTreeMap;

use leno_proxy::admin::clusters::{ClusterStatus, EndpointStatus};
use serde_json::Value;

use super::super::table::{Cell, Column, Room, Table};
use super::view::{
    Action, Certificates, Cluster, Destination, Detection, Dump, Endpoints, Held, HttpManager, Listener, Matcher,
    Origin, Protocol, RouteSource, WeightedCluster,
};

/// Versions are hashes; so many characters tell two apart.
const SHOWN: usize = 8;

pub(super) fn listeners(dump: &Dump, room: Room) -> (bool, String) {
    let mut table = Table::new([
        Column::text("ADDRESS"),
        Column::number("PORT"),
        Column::text("DIRECTION"),
        Column::text("PROTOCOL"),
        Column::text("ROUTE/CLUSTER").wrapped(),
        Column::text("MTLS"),
        Column::text("RULE").extra(),
        Column::text("NAME").extra(),
        Column::text("VERSION").extra(),
    ]);
    for Held { view, version, .. } in &dump.listeners {
        let Listener { name, address, direction, mtls, protocol, ports } = view;
        let own = (address.ip().to_string(), address.port(), mtls, protocol);
        let captured = ports.iter().map(|(port, it)| ("*".to_owned(), *port, &it.mtls, &it.protocol));
        for (host, port, mtls, protocol) in std::iter::once(own).chain(captured) {
            let (protocol, leads_to, rule) = spoken(protocol, room);
            table.push([
                host.into(),
                u64::from(port).into(),
                direction.into(),
                protocol.into(),
                leads_to.into(),
                mode(mtls),
                rule.map(named).into(),
                name.into(),
                short(version.as_deref()),
            ]);
        }
    }
    (table.is_empty(), table.render(room))
}

/// What is spoken, where it leads and which rule says so.
fn spoken(protocol: &Protocol, room: Room) -> (&'static str, String, Option<&Origin>) {
    let table = |manager: &HttpManager| match &manager.routes {
        RouteSource::Named(name) => name.clone(),
        RouteSource::Inline(config) => config.name.clone(),
    };
    match protocol {
        Protocol::Http(manager) => ("HTTP", table(manager), None),
        Protocol::Tcp(tcp) => ("TCP", shares(&tcp.clusters, room), tcp.origin.as_ref()),
        Protocol::Detect(Detection { http: None, tcp }) => {
            ("TCP/TLS", shares(&tcp.clusters, room), tcp.origin.as_ref())
        }
        Protocol::Detect(Detection { http: Some(manager), tcp }) => {
            ("HTTP/TCP", format!("{}, {}", table(manager), shares(&tcp.clusters, room)), tcp.origin.as_ref())
        }
    }
}

/// How callers come in, in the words of PeerAuthentication.
fn mode(mtls: &str) -> Cell {
    match mtls {
        "strict" => Cell::good("STRICT"),
        "permissive" => Cell::doubtful("PERMISSIVE"),
        "disable" => Cell::nothing(),
        other => other.into(),
    }
}

pub(super) fn routes(dump: &Dump, room: Room) -> (bool, String) {
    let mut table = Table::new([
        Column::text("NAME"),
        Column::text("HOSTS").wrapped(),
        Column::text("MATCH").wrapped(),
        Column::text("DESTINATION").wrapped(),
        Column::text("RULE").wrapped(),
        Column::text("VERSION").extra(),
    ]);
    for Held { view: config, version, .. } in &dump.routes {
        for host in &config.virtual_hosts {
            for route in &host.routes {
                table.push([
                    (&config.name).into(),
                    hosts(&host.domains, room).into(),
                    matches(&route.matcher).into(),
                    destination(&route.action, room),
                    route.origin.as_ref().map(named).into(),
                    short(version.as_deref()),
                ]);
            }
        }
    }
    (table.is_empty(), table.render(room))
}

/// The shortest of many, of which most are the same name in another length.
fn hosts(domains: &[String], room: Room) -> String {
    match (domains.iter().min_by_key(|domain| domain.len()), room) {
        (Some(shortest), Room::Columns(_)) if domains.len() > 1 => format!("{shortest} +{}", domains.len() - 1),
        (_, Room::Columns(_) | Room::Unbounded) => domains.join(", "),
    }
}

fn destination(action: &Action, room: Room) -> Cell {
    match action {
        Action::Forward(forward) => shares(&forward.clusters, room).into(),
        Action::Redirect(answer) => format!("redirected with {}", answer.status).into(),
        Action::Direct(answer) => format!("answered with {}", answer.status).into(),
    }
}

/// `HOST:PORT/SUBSET`, each with its percentage where there are several.
fn shares(clusters: &[WeightedCluster], room: Room) -> String {
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let share = |cluster: &WeightedCluster| match clusters.len() {
        1 => cluster_name(&cluster.cluster, room),
        // Weights are 32 bits wide, which a double holds exactly.
        #[allow(clippy::cast_precision_loss)]
        _ => {
            let percent = f64::from(cluster.weight) * 100.0 / (total.max(1) as f64);
            let percent = format!("{percent:.1}");
            format!("{}% {}", percent.trim_end_matches(".0"), cluster_name(&cluster.cluster, room))
        }
    };
    clusters.iter().map(share).collect::<Vec<_>>().join(", ")
}

/// In full where there is room; else `HOST:PORT/SUBSET`, without what all hosts of the mesh end with.
fn cluster_name(name: &str, room: Room) -> String {
    let Destination { direction, port, subset, host } = Destination::of(name);
    match (room, direction, port) {
        (Room::Columns(_), Some("outbound"), Some(port)) => {
            let host = host.strip_suffix(&format!(".svc.{}", leno_config::defaults::CLUSTER_DOMAIN)).unwrap_or(host);
            let subset = if subset.is_empty() { String::new() } else { format!("/{subset}") };
            format!("{host}:{port}{subset}")
        }
        (Room::Columns(_) | Room::Unbounded, _, _) => name.to_owned(),
    }
}

/// The conditions of a route, as a person would say them.
fn matches(matcher: &Matcher) -> String {
    let path = matcher.path.iter().map(|(how, value)| path(how, value));
    let headers = matcher.headers.iter().map(|header| {
        let condition = condition(&header.key, header.value.as_ref());
        if header.invert { format!("not {condition}") } else { condition }
    });
    let query = matcher.query.iter().map(|query| format!("?{}", condition(&query.name, query.value.as_ref())));
    let claims = matcher.claims.iter().map(|_| "a claim of the token".to_owned());
    path.chain(headers).chain(query).chain(claims).collect::<Vec<_>>().join(" ")
}

fn path(how: &str, value: &Value) -> String {
    let text = value.get("value").unwrap_or(value).as_str().unwrap_or_default();
    match how {
        "prefix" => format!("{text}*"),
        "segment_prefix" => format!("{text}/*"),
        "regex" => format!("~{text}"),
        _ => text.to_owned(),
    }
}

/// `name=value`, `name` where it only has to be there.
fn condition(name: &str, value: Option<&Value>) -> String {
    let Some(value) = value else { return name.to_owned() };
    let Some((how, of)) = value.as_object().and_then(|object| object.iter().next()) else {
        return format!("{name}={}", value.as_str().unwrap_or_default());
    };
    let text = of.get("value").unwrap_or(of).as_str().unwrap_or_default();
    match how.as_str() {
        "prefix" => format!("{name}={text}*"),
        "suffix" => format!("{name}=*{text}"),
        "contains" => format!("{name}=*{text}*"),
        "regex" => format!("{name}~{text}"),
        _ => format!("{name}={text}"),
    }
}

pub(super) fn clusters(dump: &Dump, room: Room) -> (bool, String) {
    let mut table = Table::new([
        Column::text("SERVICE"),
        Column::number("PORT"),
        Column::text("SUBSET"),
        Column::text("DIRECTION"),
        Column::text("TYPE"),
        Column::text("RULE").wrapped(),
        Column::text("TLS").extra(),
        Column::text("BALANCE").extra(),
        Column::text("PROTOCOL").extra(),
        Column::text("VERSION").extra(),
    ]);
    for Held { view, version, .. } in &dump.clusters {
        let Destination { direction, port, subset, host } = Destination::of(&view.name);
        table.push([
            // The app behind an inbound cluster has no name.
            if host.is_empty() { "(this workload)".into() } else { host.into() },
            port.map(u64::from).into(),
            subset.into(),
            direction.into(),
            discovery(view).into(),
            view.origin.as_ref().map(named).into(),
            word(&view.tls).into(),
            word(&view.balance).into(),
            (&view.protocol).into(),
            short(version.as_deref()),
        ]);
    }
    (table.is_empty(), table.render(room))
}

/// How endpoints are found, in Envoy's words.
fn discovery(cluster: &Cluster) -> String {
    match word(&cluster.discovery) {
        "dns" => "STRICT_DNS".to_owned(),
        "original_destination" => "ORIGINAL_DST".to_owned(),
        other => other.to_uppercase(),
    }
}

/// The name of an enum's variant, with or without contents.
fn word(value: &Value) -> &str {
    let key = || value.as_object().and_then(|object| object.keys().next()).map(String::as_str);
    value.as_str().or_else(key).unwrap_or_default()
}

pub(super) fn endpoints(dump: &Dump, clusters: &[ClusterStatus], room: Room) -> (bool, String) {
    let mut table = Table::new([
        Column::text("ENDPOINT"),
        Column::text("STATUS"),
        Column::text("OUTLIER"),
        Column::text("CLUSTER"),
        Column::text("LOCALITY"),
        Column::number("WEIGHT"),
        Column::number("ACTIVE").extra(),
        Column::number("REQUESTS").extra(),
        Column::number("ERRORS").extra(),
        Column::text("IDENTITY").extra(),
    ]);
    let known = places(dump);
    for cluster in clusters {
        for endpoint in &cluster.endpoints {
            let place = known.get(&(cluster.name.as_str(), endpoint.address.to_string()));
            table.push([
                endpoint.address.to_string().into(),
                health(endpoint, place.map_or("", |place| place.health.as_str())),
                outlier(endpoint, cluster.ejected),
                cluster_name(&cluster.name, room).into(),
                place.map(|place| place.locality.clone()).into(),
                u64::from(endpoint.weight).into(),
                u64::from(endpoint.active).into(),
                endpoint.requests.into(),
                endpoint.errors.into(),
                place.and_then(|place| place.identity.clone()).into(),
            ]);
        }
    }
    (table.is_empty(), table.render(room))
}

/// What the configuration says of an endpoint.
struct Place {
    locality: String,
    health: String,
    identity: Option<String>,
}

/// By cluster and address.
fn places(dump: &Dump) -> BTreeMap<(&str, String), Place> {
    let named: BTreeMap<&str, &Endpoints> =
        dump.endpoints.iter().map(|held| (held.view.cluster.as_str(), &held.view)).collect();
    let mut places = BTreeMap::new();
    let mut put = |cluster, endpoints: &Endpoints| {
        for locality in &endpoints.localities {
            for endpoint in &locality.endpoints {
                let (health, identity) = (endpoint.health.clone(), endpoint.identity.clone());
                let place = Place { locality: locality.locality.text(), health, identity };
                places.insert((cluster, endpoint.address.clone()), place);
            }
        }
    };
    for Held { view, .. } in &dump.clusters {
        match view.own_endpoints() {
            Some(own) => put(view.name.as_str(), &own),
            None => {
                if let Some(endpoints) = named.get(view.endpoints_name()) {
                    put(view.name.as_str(), endpoints);
                }
            }
        }
    }
    places
}

/// By the checks of this proxy; where it makes none, by what it was told.
fn health(endpoint: &EndpointStatus, told: &str) -> Cell {
    match (endpoint.healthy, told) {
        (Some(false), _) => Cell::bad("UNHEALTHY"),
        (Some(true), _) | (None, "" | "unknown" | "healthy") => Cell::good("HEALTHY"),
        (None, "degraded") => Cell::doubtful("DEGRADED"),
        (None, other) => Cell::bad(other.to_uppercase()),
    }
}

/// What outlier detection makes of it; nothing where nobody judges it.
fn outlier(endpoint: &EndpointStatus, ejected: Option<u32>) -> Cell {
    match (endpoint.breaker.as_str(), ejected) {
        ("closed", None) => Cell::nothing(),
        ("closed", Some(_)) => Cell::good("OK"),
        ("open", _) => Cell::bad("EJECTED"),
        (other, _) => Cell::doubtful(other.to_uppercase()),
    }
}

pub(super) fn secrets(certificates: &Certificates, room: Room) -> (bool, String) {
    let mut table = Table::new([
        Column::text("NAME"),
        Column::text("TYPE"),
        Column::text("VALID"),
        Column::text("NOT-AFTER"),
        Column::text("IDENTITY").wrapped(),
        Column::text("NOT-BEFORE").extra(),
        Column::text("SERIAL").extra(),
    ]);
    for certificate in &certificates.0 {
        table.push([
            certificate.name.into(),
            certificate.kind.into(),
            if certificate.is_valid { Cell::good("yes") } else { Cell::bad("NO") },
            certificate.not_after.as_deref().into(),
            certificate.identity.as_deref().into(),
            certificate.not_before.as_deref().into(),
            certificate.serial.as_deref().into(),
        ]);
    }
    (table.is_empty(), table.render(room))
}

/// `VirtualService default/reviews[2]`
fn named(origin: &Origin) -> String {
    let Origin { kind, namespace, name, index } = origin;
    match kind.as_str() {
        "VirtualService" => format!("{kind} {namespace}/{name}[{index}]"),
        _ => format!("{kind} {namespace}/{name}"),
    }
}

fn short(version: Option<&str>) -> Cell {
    version.map(|version| version.chars().take(SHOWN).collect::<String>()).into()
}
