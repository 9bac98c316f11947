//! What Leno understands and carries to the proxy, and the proxy does not act on yet.
//!
//! One row per feature: when the proxy learns it, its row goes. A document is told once per feature, at the first place.

use super::findings::{Findings, spec};
use super::virtual_service::MESH;
use crate::diagnostic::codes;
use crate::rules::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, Document, HttpRoute, LoadBalancerSettings, MeshConfig,
    OutlierDetection, Path, Profile, Rule, SimpleLb, TrafficPolicy, VirtualService,
};

/// One feature.
struct Feature {
    /// In the words of the rules.
    name: &'static str,
    /// What happens instead.
    instead: &'static str,
    /// Where a document first asks for it.
    first: fn(&Rule) -> Option<Path>,
}

const GOES_ON: &str = "requests go on as if it were not there";
const REFUSES: &str = "proxies refuse clusters that have it and keep what they had before";

const FEATURES: &[Feature] = &[
    Feature { name: "retries", instead: "only requests that were not sent are tried again", first: retries },
    Feature { name: "fault", instead: GOES_ON, first: |rule| http(rule, "fault", |route| route.fault.is_some()) },
    Feature { name: "mirror", instead: GOES_ON, first: mirror },
    Feature { name: "tls routes", instead: "connections with TLS are not routed by server name", first: tls_routes },
    Feature { name: "gateways", instead: "rules for gateways are left out; only `mesh` counts", first: gateways },
    Feature { name: "@request.auth.claims", instead: "the block never matches", first: claims },
    Feature { name: "outlierDetection", instead: GOES_ON, first: |rule| settings(rule, "outlierDetection", outlier) },
    Feature { name: "connectionPool limits", instead: GOES_ON, first: |rule| settings(rule, "connectionPool", limits) },
    Feature {
        name: "connectionPool times",
        instead: "defaults hold",
        first: |rule| settings(rule, "connectionPool", times),
    },
    Feature {
        name: "consistentHash",
        instead: "endpoints are chosen by load",
        first: |rule| settings(rule, "loadBalancer", hash),
    },
    Feature {
        name: "localityLbSetting",
        instead: "all places count alike",
        first: |rule| settings(rule, "loadBalancer", locality),
    },
    Feature {
        name: "warmup",
        instead: "new endpoints get their full share",
        first: |rule| settings(rule, "loadBalancer", warmup),
    },
    Feature {
        name: "simple: PASSTHROUGH",
        instead: "it needs captured connections",
        first: |rule| settings(rule, "loadBalancer", passthrough),
    },
    Feature { name: "tls", instead: REFUSES, first: |rule| settings(rule, "tls", tls) },
    Feature {
        name: "tunnel",
        instead: GOES_ON,
        first: |rule| policy(rule, "tunnel", |policy| policy.tunnel.is_some()),
    },
    Feature {
        name: "proxyProtocol",
        instead: GOES_ON,
        first: |rule| policy(rule, "proxyProtocol", |policy| policy.proxy_protocol.is_some()),
    },
    Feature {
        name: "retryBudget",
        instead: GOES_ON,
        first: |rule| policy(rule, "retryBudget", |policy| policy.retry_budget.is_some()),
    },
    Feature { name: "subjectAltNames", instead: "identities are not checked", first: alt_names },
    Feature { name: "ingress.tls", instead: "the socket takes clear text", first: ingress_tls },
    Feature { name: "inbound connectionPool", instead: GOES_ON, first: inbound_pool },
    Feature { name: "egressProxy", instead: "unknown hosts are called directly", first: egress_proxy },
    Feature {
        name: "access_log",
        instead: "requests are not logged",
        first: |rule| mesh(rule, "access_log", |mesh| mesh.access_log.is_some()),
    },
    Feature {
        name: "tracing",
        instead: "requests are not traced",
        first: |rule| mesh(rule, "tracing", |mesh| mesh.tracing.is_some()),
    },
    Feature {
        name: "profile",
        instead: "the limits of `istio` hold",
        first: |rule| mesh(rule, "profile", |mesh| mesh.profile == Some(Profile::Safe)),
    },
];

pub(super) fn check(document: &Document, found: &mut Findings) {
    for feature in FEATURES {
        if let Some(path) = (feature.first)(&document.rule) {
            let message = format!("the proxy does not act on `{}` yet", feature.name);
            found.add(codes::NOT_ENFORCED, &path, message).on_key().help(feature.instead);
        }
    }
}

fn virtual_service(rule: &Rule) -> Option<&VirtualService> {
    let Rule::VirtualService(rule) = rule else { return None };
    Some(&rule.spec)
}

/// The first HTTP rule that asks for something, at `field`.
fn http(rule: &Rule, field: &str, asks: fn(&HttpRoute) -> bool) -> Option<Path> {
    let at = virtual_service(rule)?.http.iter().position(asks)?;
    Some(spec().key("http").index(at).key(field))
}

fn retries(rule: &Rule) -> Option<Path> {
    // `attempts: 0` is what the proxy does anyway.
    http(rule, "retries", |route| route.retries.as_ref().is_some_and(|retries| retries.attempts != Some(0)))
}

fn mirror(rule: &Rule) -> Option<Path> {
    http(rule, "mirror", |route| route.mirror.is_some())
        .or_else(|| http(rule, "mirrors", |route| !route.mirrors.is_empty()))
}

fn tls_routes(rule: &Rule) -> Option<Path> {
    (!virtual_service(rule)?.tls.is_empty()).then(|| spec().key("tls"))
}

fn gateways(rule: &Rule) -> Option<Path> {
    let service = virtual_service(rule)?;
    let foreign = |gateways: &[String]| gateways.iter().position(|gateway| gateway != MESH);
    if let Some(at) = foreign(&service.gateways) {
        return Some(spec().key("gateways").index(at));
    }
    service.http.iter().enumerate().find_map(|(at, route)| {
        let (block, at_gateway) =
            route.r#match.iter().enumerate().find_map(|(block, m)| Some((block, foreign(&m.gateways)?)))?;
        Some(spec().key("http").index(at).key("match").index(block).key("gateways").index(at_gateway))
    })
}

fn claims(rule: &Rule) -> Option<Path> {
    virtual_service(rule)?.http.iter().enumerate().find_map(|(at, route)| {
        route.r#match.iter().enumerate().find_map(|(block, conditions)| {
            let name = conditions.headers.keys().find(|name| name.starts_with("@request.auth.claims"))?;
            Some(spec().key("http").index(at).key("match").index(block).key("headers").key(name))
        })
    })
}

/// The blocks that a policy and the policy of one port share.
#[derive(Default)]
struct Settings<'a> {
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTlsSettings>,
}

/// All policies of a rule.
fn policies(rule: &Rule) -> Vec<(Path, &TrafficPolicy)> {
    match rule {
        Rule::DestinationRule(rule) => {
            let whole = rule.spec.traffic_policy.iter().map(|policy| (spec().key("trafficPolicy"), policy));
            let subsets = rule.spec.subsets.iter().enumerate().filter_map(|(at, subset)| {
                Some((spec().key("subsets").index(at).key("trafficPolicy"), subset.traffic_policy.as_ref()?))
            });
            whole.chain(subsets).collect()
        }
        Rule::MeshConfig(rule) => {
            let policy = rule.spec.default_traffic_policy.iter();
            policy.map(|policy| (spec().key("defaultTrafficPolicy"), policy)).collect()
        }
        Rule::VirtualService(_)
        | Rule::ServiceEntry(_)
        | Rule::WorkloadEntry(_)
        | Rule::Sidecar(_)
        | Rule::Service(_)
        | Rule::EndpointSlice(_) => Vec::new(),
    }
}

fn policy(rule: &Rule, field: &str, asks: fn(&TrafficPolicy) -> bool) -> Option<Path> {
    policies(rule).into_iter().find(|(_, policy)| asks(policy)).map(|(path, _)| path.key(field))
}

/// The first policy, of a port as well, that asks for something in the block `field`; `asks` names the field in it.
fn settings(rule: &Rule, field: &str, asks: fn(&Settings<'_>) -> Option<&'static str>) -> Option<Path> {
    policies(rule).into_iter().find_map(|(path, policy)| {
        let whole = Settings {
            load_balancer: policy.load_balancer.as_ref(),
            connection_pool: policy.connection_pool.as_ref(),
            outlier_detection: policy.outlier_detection.as_ref(),
            tls: policy.tls.as_ref(),
        };
        let ports = policy.port_level_settings.iter().enumerate().map(|(at, port)| {
            let settings = Settings {
                load_balancer: port.load_balancer.as_ref(),
                connection_pool: port.connection_pool.as_ref(),
                outlier_detection: port.outlier_detection.as_ref(),
                tls: port.tls.as_ref(),
            };
            (path.key("portLevelSettings").index(at), settings)
        });
        std::iter::once((path.clone(), whole)).chain(ports).find_map(|(path, settings)| {
            let inner = asks(&settings)?;
            let path = path.key(field);
            Some(inner.split('.').filter(|key| !key.is_empty()).fold(path, |path, key| path.key(key)))
        })
    })
}

/// The first field that is set.
fn first_set(fields: &[(&'static str, bool)]) -> Option<&'static str> {
    fields.iter().find(|(_, is_set)| *is_set).map(|(field, _)| *field)
}

fn outlier(settings: &Settings<'_>) -> Option<&'static str> {
    settings.outlier_detection.map(|_| "")
}

fn limits(settings: &Settings<'_>) -> Option<&'static str> {
    let pool = settings.connection_pool?;
    let (tcp, http) = (pool.tcp.as_ref(), pool.http.as_ref());
    first_set(&[
        ("tcp.maxConnections", tcp.is_some_and(|tcp| tcp.max_connections.is_some())),
        ("http.http1MaxPendingRequests", http.is_some_and(|http| http.http1_max_pending_requests.is_some())),
        ("http.http2MaxRequests", http.is_some_and(|http| http.http2_max_requests.is_some())),
        ("http.maxRequestsPerConnection", http.is_some_and(|http| http.max_requests_per_connection.is_some())),
        ("http.maxRetries", http.is_some_and(|http| http.max_retries.is_some())),
        ("http.maxConcurrentStreams", http.is_some_and(|http| http.max_concurrent_streams.is_some())),
    ])
}

fn times(settings: &Settings<'_>) -> Option<&'static str> {
    let tcp = settings.connection_pool?.tcp.as_ref()?;
    first_set(&[
        ("tcp.maxConnectionDuration", tcp.max_connection_duration.is_some()),
        ("tcp.tcpKeepalive", tcp.tcp_keepalive.is_some()),
    ])
}

fn hash(settings: &Settings<'_>) -> Option<&'static str> {
    settings.load_balancer?.consistent_hash.as_ref().map(|_| "consistentHash")
}

fn locality(settings: &Settings<'_>) -> Option<&'static str> {
    settings.load_balancer?.locality_lb_setting.as_ref().map(|_| "localityLbSetting")
}

fn warmup(settings: &Settings<'_>) -> Option<&'static str> {
    let balance = settings.load_balancer?;
    first_set(&[("warmup", balance.warmup.is_some()), ("warmupDurationSecs", balance.warmup_duration_secs.is_some())])
}

fn passthrough(settings: &Settings<'_>) -> Option<&'static str> {
    (settings.load_balancer?.simple? == SimpleLb::Passthrough).then_some("simple")
}

fn tls(settings: &Settings<'_>) -> Option<&'static str> {
    // DISABLE is what the proxy does.
    (settings.tls?.mode? != ClientTlsMode::Disable).then_some("")
}

fn alt_names(rule: &Rule) -> Option<Path> {
    let Rule::ServiceEntry(rule) = rule else { return None };
    (!rule.spec.subject_alt_names.is_empty()).then(|| spec().key("subjectAltNames"))
}

fn ingress_tls(rule: &Rule) -> Option<Path> {
    let Rule::Sidecar(rule) = rule else { return None };
    let at = rule.spec.ingress.iter().position(|listener| listener.tls.is_some())?;
    Some(spec().key("ingress").index(at).key("tls"))
}

fn inbound_pool(rule: &Rule) -> Option<Path> {
    let Rule::Sidecar(rule) = rule else { return None };
    if rule.spec.inbound_connection_pool.is_some() {
        return Some(spec().key("inboundConnectionPool"));
    }
    let at = rule.spec.ingress.iter().position(|listener| listener.connection_pool.is_some())?;
    Some(spec().key("ingress").index(at).key("connectionPool"))
}

fn egress_proxy(rule: &Rule) -> Option<Path> {
    let policy = match rule {
        Rule::Sidecar(rule) => rule.spec.outbound_traffic_policy.as_ref()?,
        Rule::MeshConfig(rule) => rule.spec.outbound_traffic_policy.as_ref()?,
        Rule::VirtualService(_)
        | Rule::DestinationRule(_)
        | Rule::ServiceEntry(_)
        | Rule::WorkloadEntry(_)
        | Rule::Service(_)
        | Rule::EndpointSlice(_) => return None,
    };
    policy.egress_proxy.as_ref().map(|_| spec().key("outboundTrafficPolicy").key("egressProxy"))
}

fn mesh(rule: &Rule, field: &str, asks: fn(&MeshConfig) -> bool) -> Option<Path> {
    let Rule::MeshConfig(rule) = rule else { return None };
    asks(&rule.spec).then(|| spec().key(field))
}
