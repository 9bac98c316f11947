//! HTTP filters: which stand in a listener, and what a route says to them.
//!
//! The order of Leno's stages is fixed: tokens, authorization, rate limits, faults, CORS. A list in another order is taken where that
//! is no weaker. What Leno has no stage for is refused, unless its author says that it may be missing (`is_optional`) or
//! it only measures.

use std::collections::HashMap;

use super::pb;
use super::refusal::{Problem, Result, Within, unsupported};
use super::{any, jwt, policy, rate_limit, rbac};
use crate::ir::{Authorization, Cors, Direction, Fault, JwtAuthentication, RateLimit};
use pb::hcm::{HttpFilter, http_filter::ConfigType};
use pb::protobuf::Any;

const CORS: &str = "envoy.filters.http.cors";
pub(super) const FAULT: &str = "envoy.filters.http.fault";
const RATE_LIMIT: &str = "envoy.filters.http.local_ratelimit";
const JWT: &str = "envoy.filters.http.jwt_authn";
pub(super) const ROUTER: &str = "envoy.filters.http.router";

/// Istio's filters that only measure, and the one that chooses the ALPN between sidecars, which Leno does by itself; by
/// their types.
const ISTIO: [&str; 3] = [
    "stats.PluginConfig",
    "io.istio.http.peer_metadata.Config",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
];
/// Envoy's codec among the upstream filters, which is always there.
const UPSTREAM_CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";

/// In Istio's order: who calls comes first and the router last.
pub(super) fn to_xds(
    direction: Direction,
    jwt: &JwtAuthentication,
    authorization: &Authorization,
    rate_limits: &[RateLimit],
) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    if *jwt != JwtAuthentication::default() {
        filters.push(filter(JWT, any::pack(&jwt::to_xds(jwt))));
    }
    filters.extend(rbac::to_http(authorization).into_iter().map(|(name, config)| filter(&name, config)));
    if !rate_limits.is_empty() {
        filters.push(filter(RATE_LIMIT, any::pack(&rate_limit::to_xds(rate_limits))));
    }
    filters.push(filter(FAULT, any::pack(&pb::fault::HttpFault::default())));
    filters.push(filter(CORS, any::pack(&pb::cors::Cors::default())));
    if direction == Direction::Outbound {
        // Resolves the host for clusters of `Discovery::RequestHost`; Envoy passes other clusters by.
        let specifier = pb::forward_proxy_filter::filter_config::ImplementationSpecifier::DnsCacheConfig(dns_cache());
        filters.push(filter(
            "envoy.filters.http.dynamic_forward_proxy",
            any::pack(&pb::forward_proxy_filter::FilterConfig {
                implementation_specifier: Some(specifier),
                ..Default::default()
            }),
        ));
    }
    filters.push(filter(ROUTER, any::pack(&pb::router::Router::default())));
    filters
}

/// The cache of addresses that filter and cluster share; Envoy wants it to be equal in both.
pub(super) fn dns_cache() -> pb::dns_cache::DnsCacheConfig {
    pb::dns_cache::DnsCacheConfig { name: "leno".to_owned(), ..Default::default() }
}

pub(super) fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        is_optional: false,
        disabled: false,
    }
}

/// What the filters of a listener say.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) jwt: JwtAuthentication,
    pub(super) authorization: Authorization,
    pub(super) rate_limits: Vec<RateLimit>,
}

/// Reads filters that Leno knows, then the router.
pub(super) fn from_xds(filters: Vec<HttpFilter>) -> Result<Listed> {
    let Some(last) = filters.len().checked_sub(1) else {
        return Err(Problem::new("http_filters", "is required: at least the router, `envoy.filters.http.router`"));
    };
    let mut listed = Listed::default();
    for (index, filter) in filters.into_iter().enumerate() {
        let is_router = listed_from_xds(filter, &mut listed).within_item("http_filters", index)?;
        if is_router != (index == last) {
            let reason = "the router (`envoy.filters.http.router`) stands last, and only there";
            return Err(Problem::new("", reason)).within_item("http_filters", index);
        }
    }
    Ok(listed)
}

/// Refuses a filter that Leno lacks; says whether it is the router.
fn listed_from_xds(filter: HttpFilter, listed: &mut Listed) -> Result<bool> {
    let HttpFilter { name, is_optional, disabled, config_type } = filter;
    let config = match config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        Some(ConfigType::ConfigDiscovery(_)) | None if is_optional => return Ok(false),
        Some(ConfigType::ConfigDiscovery(_)) => return Err(Problem::unsupported("config_discovery")),
        None => return Err(Problem::missing("typed_config")),
    };
    let is_router = any::is::<pb::router::Router>(&config);
    if is_known(&config) {
        unsupported(&[("disabled", &disabled)])?;
    }
    if is_router {
        router_from_xds(any::unpack(&config).within("typed_config")?).within("typed_config")?;
    } else if any::is::<pb::fault::HttpFault>(&config) {
        let fault = policy::fault_from_xds(any::unpack(&config).within("typed_config")?).within("typed_config")?;
        let whole_listener: [(&str, &dyn super::refusal::IsSet); 2] =
            [("typed_config.delay", &fault.delay), ("typed_config.abort", &fault.abort)];
        unsupported(&whole_listener)?;
    } else if let Some(filter) = rbac::from_http(&name, &config)? {
        listed.authorization.0.push(filter);
    } else if let Some(filter) = any::unpack_if::<pb::jwt_authn::JwtAuthentication>(&config).within("typed_config")? {
        check_place_of_jwt(listed)?;
        listed.jwt = jwt::from_xds(filter).within("typed_config")?;
    } else if let Some(filter) =
        any::unpack_if::<pb::local_rate_limit::LocalRateLimit>(&config).within("typed_config")?
    {
        listed.rate_limits.extend(rate_limit::from_xds(filter).within("typed_config")?);
    } else if !is_known(&config) && !is_harmless(&config) && !is_optional && !disabled {
        return Err(Problem::new(
            "",
            format!("Leno has no filter `{name}` (`{}`); leave it out or set is_optional", any::type_name(&config)),
        ));
    }
    Ok(is_router)
}

/// Tokens are verified once, and before anybody looks at their claims.
fn check_place_of_jwt(listed: &Listed) -> Result<()> {
    if listed.jwt != JwtAuthentication::default() {
        return Err(Problem::new("", "Leno verifies tokens once: put all providers into one filter"));
    }
    if listed.authorization.0.is_empty() {
        return Ok(());
    }
    Err(Problem::new("", format!("Leno verifies tokens before it decides who may call: put `{JWT}` before RBAC")))
}

/// A filter that Leno has a stage for.
fn is_known(config: &Any) -> bool {
    any::is::<pb::router::Router>(config)
        || any::is::<pb::cors::Cors>(config)
        || any::is::<pb::fault::HttpFault>(config)
        || any::is::<pb::http_rbac::Rbac>(config)
        || any::is::<pb::jwt_authn::JwtAuthentication>(config)
        || any::is::<pb::local_rate_limit::LocalRateLimit>(config)
}

/// A filter that changes nothing for Leno: it measures, or does what Leno does anyway.
fn is_harmless(config: &Any) -> bool {
    any::is::<pb::grpc_stats::FilterConfig>(config)
        || any::is::<pb::forward_proxy_filter::FilterConfig>(config)
        || ISTIO.contains(&any::type_name(config))
}

fn router_from_xds(router: pb::router::Router) -> Result<()> {
    #[allow(deprecated)]
    let pb::router::Router {
        strict_check_headers,
        respect_expected_rq_timeout,
        upstream_http_filters,
        // Statistics, logs and traces.
        dynamic_stats: _,
        start_child_span: _,
        upstream_log: _,
        upstream_log_options: _,
        suppress_grpc_request_failure_code_stats: _,
        // Leaves out headers that only inform.
        suppress_envoy_headers: _,
        // Of CONNECT, which Leno does not take.
        reject_connect_request_early_data: _,
    } = router;
    unsupported(&[
        ("strict_check_headers", &strict_check_headers),
        ("respect_expected_rq_timeout", &respect_expected_rq_timeout),
    ])?;
    upstream_from_xds("upstream_http_filters", upstream_http_filters)
}

/// Filters on the way to the endpoint: only the codec, or optional ones.
pub(super) fn upstream_from_xds(field: &str, filters: Vec<HttpFilter>) -> Result<()> {
    for (index, filter) in filters.into_iter().enumerate() {
        let HttpFilter { name, is_optional, disabled, config_type } = filter;
        let is_codec = matches!(
            &config_type,
            Some(ConfigType::TypedConfig(config)) if any::type_name(config) == UPSTREAM_CODEC
        );
        if !is_codec && !is_optional && !disabled {
            let reason = format!("Leno has no upstream filter `{name}`; leave it out or set is_optional");
            return Err(Problem::new("", reason)).within_item(field, index);
        }
    }
    Ok(())
}

/// What a level (table, virtual host, route) says to a filter.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Setting<T> {
    /// Nothing: the level above holds.
    #[default]
    Inherit,
    /// Not here.
    Off,
    /// This.
    On(T),
}

impl<T: Clone> Setting<T> {
    /// With the level above.
    pub(super) fn or(self, above: &Self) -> Self {
        match self {
            Self::Inherit => above.clone(),
            Self::Off | Self::On(_) => self,
        }
    }

    /// What holds in the end.
    pub(super) fn into_option(self) -> Option<T> {
        match self {
            Self::Inherit | Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

/// What one level says to the filters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PerFilter {
    pub(super) cors: Setting<Cors>,
    pub(super) fault: Setting<Fault>,
    /// Never `Off`: where nobody is asked, the list is empty.
    pub(super) authorization: Setting<Authorization>,
}

/// What a route says to the filters.
pub(super) fn per_filter_to_xds(
    cors: Option<&Cors>,
    fault: Option<&Fault>,
    authorization: Option<&Authorization>,
) -> HashMap<String, Any> {
    let cors = cors.map(|cors| (CORS.to_owned(), any::pack(&policy::cors_to_xds(cors))));
    let fault = fault.map(|fault| (FAULT.to_owned(), any::pack(&policy::fault_to_xds(fault))));
    let authorization = authorization.map(|authorization| (rbac::HTTP.to_owned(), rbac::to_route(authorization)));
    cors.into_iter().chain(fault).chain(authorization).collect()
}

pub(super) fn per_filter_from_xds(configs: HashMap<String, Any>) -> Result<PerFilter> {
    let mut settings = PerFilter::default();
    // Sorted, so that of two problems the same one is told every time.
    let mut configs: Vec<_> = configs.into_iter().collect();
    configs.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, config) in configs {
        one_from_xds(&mut settings, &name, config).within(&format!("typed_per_filter_config[{name}]"))?;
    }
    Ok(settings)
}

fn one_from_xds(settings: &mut PerFilter, name: &str, config: Any) -> Result<()> {
    let (config, is_optional, disabled) = unwrapped(config)?;
    if disabled {
        match name {
            CORS => settings.cors = Setting::Off,
            FAULT => settings.fault = Setting::Off,
            rbac::HTTP => settings.authorization = Setting::On(Authorization::default()),
            // That of the listener would be verified or counted all the same.
            JWT | RATE_LIMIT => return Err(Problem::unsupported("disabled")),
            // Switching off what Leno does not have is done.
            _ => {}
        }
        return Ok(());
    }
    let Some(config) = config else {
        // Switches a filter on that the listener has switched off.
        return if is_optional || [CORS, FAULT, RATE_LIMIT, rbac::HTTP, JWT].contains(&name) {
            Ok(())
        } else {
            Err(Problem::unsupported(""))
        };
    };
    if any::is::<pb::cors::CorsPolicy>(&config) {
        settings.cors = policy::cors_from_xds(any::unpack(&config)?)?.map_or(Setting::Off, Setting::On);
    } else if any::is::<pb::fault::HttpFault>(&config) {
        settings.fault = Setting::On(policy::fault_from_xds(any::unpack(&config)?)?);
    } else if any::is::<pb::http_rbac::RbacPerRoute>(&config) {
        if name != rbac::HTTP {
            let reason = format!("Leno's RBAC filters are called `{}`, so nothing would be overridden", rbac::HTTP);
            return Err(Problem::new("", reason));
        }
        settings.authorization = Setting::On(rbac::from_route(any::unpack(&config)?)?);
    } else if any::is::<pb::jwt_authn::PerRouteConfig>(&config) {
        return Err(Problem::new("", "Leno verifies tokens by the listener's rules; write the route's as one of them"));
    } else if any::is::<pb::local_rate_limit::LocalRateLimit>(&config) {
        return Err(Problem::new("", "Leno limits whole listeners; write the route's limit as a descriptor there"));
    } else if !is_optional && !is_harmless(&config) {
        let reason = format!(
            "Leno has no filter of type `{}`; leave it out or wrap it in an optional \
                              envoy.config.route.v3.FilterConfig",
            any::type_name(&config)
        );
        return Err(Problem::new("", reason));
    }
    Ok(())
}

/// Envoy's wrapper taken off: the configuration, whether it may be missing, whether the filter is switched off.
fn unwrapped(config: Any) -> Result<(Option<Any>, bool, bool)> {
    if !any::is::<pb::route::FilterConfig>(&config) {
        return Ok((Some(config), false, false));
    }
    let pb::route::FilterConfig { config, is_optional, disabled } = any::unpack(&config)?;
    Ok((config, is_optional, disabled))
}
