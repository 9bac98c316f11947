//! What Leno understands and carries to the proxy, and the proxy does not act on yet.
//!
//! One row per feature: when the proxy learns it, its row goes. A document is told once per feature, at the first place.

use super::findings::{Findings, spec};
use crate::diagnostic::codes;
use crate::mesh::MESH_GATEWAY;
use crate::rules::{Document, Headers, OutlierDetection, Path, PortTrafficPolicy, Rule, TrafficPolicy, VirtualService};

/// One feature.
struct Feature {
    /// In the words of the rules, as the message has it.
    name: &'static str,
    /// What happens instead.
    instead: &'static str,
    /// Where a document first asks for it.
    first: fn(&Rule) -> Option<Path>,
}

/// What is about HTTP and about sockets.
const FEATURES: &[Feature] = &[
    Feature {
        name: "format commands in header values, as in `%REQ(x)%`,",
        instead: "the value is sent as it is written",
        first: format_commands,
    },
    Feature { name: "`gateways`", instead: "rules for gateways are left out; only `mesh` counts", first: gateways },
];

/// What is about how endpoints are called.
const POLICIES: &[Feature] = &[
    Feature {
        name: "`consecutiveErrors`",
        instead: "it is not read: write `consecutiveGatewayErrors` or `consecutive5xxErrors`",
        first: |rule| inside(outliers(rule), |it| it.consecutive_errors.map(|_| "consecutiveErrors")),
    },
    Feature {
        name: "`tunnel`",
        instead: "bytes are sent without a tunnel around them",
        first: |rule| policy(rule, "tunnel", |policy| policy.tunnel.is_some()),
    },
    Feature {
        name: "`proxyProtocol`",
        instead: "connections begin without it",
        first: |rule| policy(rule, "proxyProtocol", |policy| policy.proxy_protocol.is_some()),
    },
    Feature {
        name: "other blocks of `defaultTrafficPolicy` than `connectionPool` and `outlierDetection`",
        instead: "DestinationRules say the rest",
        first: rest_of_default,
    },
];

pub(super) fn check(document: &Document, found: &mut Findings) {
    for feature in FEATURES.iter().chain(POLICIES) {
        if let Some(path) = (feature.first)(&document.rule) {
            let message = format!("the proxy does not act on {} yet", feature.name);
            found.add(codes::NOT_ENFORCED, &path, message).on_key().help(feature.instead);
        }
    }
}

fn virtual_service(rule: &Rule) -> Option<&VirtualService> {
    let Rule::VirtualService(rule) = rule else { return None };
    Some(&rule.spec)
}

fn gateways(rule: &Rule) -> Option<Path> {
    let service = virtual_service(rule)?;
    let foreign = |gateways: &[String]| gateways.iter().position(|gateway| gateway != MESH_GATEWAY);
    if let Some(at) = foreign(&service.gateways) {
        return Some(spec().key("gateways").index(at));
    }
    service.http.iter().enumerate().find_map(|(at, route)| {
        let (block, at_gateway) =
            route.r#match.iter().enumerate().find_map(|(block, m)| Some((block, foreign(&m.gateways)?)))?;
        Some(spec().key("http").index(at).key("match").index(block).key("gateways").index(at_gateway))
    })
}

/// The first header value, of a rule or a destination, that Envoy would not send as it is written.
fn format_commands(rule: &Rule) -> Option<Path> {
    virtual_service(rule)?.http.iter().enumerate().find_map(|(at, route)| {
        let path = spec().key("http").index(at);
        let own = (path.key("headers"), route.headers.as_ref());
        let destinations = route
            .route
            .iter()
            .enumerate()
            .map(|(at, destination)| (path.key("route").index(at).key("headers"), destination.headers.as_ref()));
        std::iter::once(own).chain(destinations).find_map(|(path, headers)| command_in(&path, headers?))
    })
}

fn command_in(path: &Path, headers: &Headers) -> Option<Path> {
    [("request", &headers.request), ("response", &headers.response)].into_iter().find_map(|(direction, operations)| {
        let operations = operations.as_ref()?;
        [("set", &operations.set), ("add", &operations.add)].into_iter().find_map(|(field, values)| {
            let (name, _) = values.iter().find(|(_, value)| has_command(value))?;
            Some(path.key(direction).key(field).key(name))
        })
    })
}

/// Whether a text has a command of Envoy's: `%NAME%`, `%NAME(…)%`, `%NAME(…):10%`, or `%%` for a percent sign.
fn has_command(text: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b"_0123456789".contains(&b));
    text.match_indices('%').any(|(at, _)| {
        let inner = text.get(at.saturating_add(1)..).and_then(|rest| rest.split_once('%'));
        inner.is_some_and(|(inner, _)| inner.is_empty() || inner.split(['(', ':']).next().is_some_and(is_name))
    })
}

/// All policies of a DestinationRule.
fn policies(rule: &Rule) -> Vec<(Path, &TrafficPolicy)> {
    let Rule::DestinationRule(rule) = rule else { return Vec::new() };
    let whole = rule.spec.traffic_policy.iter().map(|policy| (spec().key("trafficPolicy"), policy));
    let subsets = rule.spec.subsets.iter().enumerate().filter_map(|(at, subset)| {
        Some((spec().key("subsets").index(at).key("trafficPolicy"), subset.traffic_policy.as_ref()?))
    });
    whole.chain(subsets).collect()
}

fn policy(rule: &Rule, field: &str, asks: fn(&TrafficPolicy) -> bool) -> Option<Path> {
    policies(rule).into_iter().find(|(_, policy)| asks(policy)).map(|(path, _)| path.key(field))
}

/// One block, named `field`, of all policies and of their ports.
fn blocks<'a, T>(
    rule: &'a Rule,
    field: &str,
    of_policy: fn(&'a TrafficPolicy) -> Option<&'a T>,
    of_port: fn(&'a PortTrafficPolicy) -> Option<&'a T>,
) -> Vec<(Path, &'a T)> {
    let mut blocks = Vec::new();
    for (path, policy) in policies(rule) {
        blocks.extend(of_policy(policy).map(|block| (path.key(field), block)));
        blocks.extend(
            policy
                .port_level_settings
                .iter()
                .enumerate()
                .filter_map(|(at, port)| Some((path.key("portLevelSettings").index(at).key(field), of_port(port)?))),
        );
    }
    blocks
}

fn outliers(rule: &Rule) -> Vec<(Path, &OutlierDetection)> {
    let field = "outlierDetection";
    let written =
        blocks(rule, field, |policy| policy.outlier_detection.as_ref(), |port| port.outlier_detection.as_ref());
    let default = mesh_default(rule).and_then(|policy| policy.outlier_detection.as_ref());
    written.into_iter().chain(default.map(|it| (spec().key("defaultTrafficPolicy").key(field), it))).collect()
}

fn mesh_default(rule: &Rule) -> Option<&TrafficPolicy> {
    let Rule::MeshConfig(rule) = rule else { return None };
    rule.spec.default_traffic_policy.as_ref()
}

/// The first block that asks for something; `asks` names the field in it, with dots between several.
fn inside<T>(blocks: Vec<(Path, &T)>, asks: fn(&T) -> Option<&'static str>) -> Option<Path> {
    blocks.into_iter().find_map(|(path, block)| {
        let inner = asks(block)?;
        Some(inner.split('.').filter(|key| !key.is_empty()).fold(path, |path, key| path.key(key)))
    })
}

/// The first field that is set.
fn first_set(fields: &[(&'static str, bool)]) -> Option<&'static str> {
    fields.iter().find(|(_, is_set)| *is_set).map(|(field, _)| *field)
}

/// What the compiler reads of a DestinationRule only.
fn rest_of_default(rule: &Rule) -> Option<Path> {
    let policy = mesh_default(rule)?;
    let field = first_set(&[
        ("loadBalancer", policy.load_balancer.is_some()),
        ("tls", policy.tls.is_some()),
        ("portLevelSettings", !policy.port_level_settings.is_empty()),
        ("tunnel", policy.tunnel.is_some()),
        ("proxyProtocol", policy.proxy_protocol.is_some()),
        ("retryBudget", policy.retry_budget.is_some()),
    ])?;
    Some(spec().key("defaultTrafficPolicy").key(field))
}

#[cfg(test)]
mod tests {
    use super::has_command;

    #[test]
    fn format_commands_are_told_from_percent_signs() {
        for text in ["%REQ(x-a)%", "a %START_TIME% b", "%REQ(x?y):10%", "100%%", "50% of %PROTOCOL%"] {
            assert!(has_command(text), "{text}");
        }
        for text in ["", "100%", "5% and 6%", "%20", "a%2Fb%2Fc", "%req%"] {
            assert!(!has_command(text), "{text}");
        }
    }
}
