//! Route tables: RouteConfiguration, its virtual hosts and their routes.
//!
//! Envoy lets a table and a virtual host say what holds for all their routes; the IR says it at each route. Reading
//! brings it down ([`Inherited`]), so that nothing has to be looked up on the request path.

use super::filter::{PerFilter, Setting, per_filter_from_xds, per_filter_to_xds};
use super::pb;
use super::policy;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::{wrap_bool, wrap_u32};
use super::{base, matcher, retry, route_action};
use crate::ir::{
    Action, AttemptCount, Domain, HeaderOps, Mirror, Origin, RetryPolicy, Route, RouteConfig, Separators, VirtualHost,
};
use pb::route::route_action::RequestMirrorPolicy;

/// Istio: the largest body of a direct response, instead of Envoy's 4 KiB.
const LARGEST_DIRECT_BODY: u32 = 1 << 20;
/// What a path must not hold, in the words of [`Separators`].
const REFUSED_IN_PATH: &str = "refused_in_path";

pub(super) fn to_xds(table: &RouteConfig) -> pb::route::RouteConfiguration {
    let RouteConfig { name, virtual_hosts, ignore_port } = table;
    pb::route::RouteConfiguration {
        name: name.clone(),
        virtual_hosts: virtual_hosts.iter().map(host_to_xds).collect(),
        ignore_port_in_host_matching: *ignore_port,
        // A cluster may come later; until then its requests are answered with 503.
        validate_clusters: wrap_bool(false),
        max_direct_response_body_size_bytes: wrap_u32(LARGEST_DIRECT_BODY),
        ..Default::default()
    }
}

pub(super) fn from_xds(table: pb::route::RouteConfiguration) -> Result<RouteConfig> {
    let pb::route::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        route_specifiers,
        // Leno never demands that a cluster is there.
        validate_clusters: _,
        // Leno's own limit holds.
        max_direct_response_body_size_bytes: _,
        // Only those that a route names matter, and such a route is refused.
        cluster_specifier_plugins: _,
        // Told to nobody.
        metadata: _,
    } = table;
    unsupported(&[
        ("vhds", &vhds),
        ("internal_only_headers", &internal_only_headers),
        ("vhost_header", &vhost_header),
        ("ignore_path_parameters_in_path_matching", &ignore_path_parameters_in_path_matching),
        ("route_specifiers", &route_specifiers),
    ])?;
    let level = Inherited {
        request: request_headers(request_headers_to_add, request_headers_to_remove)?,
        response: response_headers(response_headers_to_add, response_headers_to_remove)?,
        filters: per_filter_from_xds(typed_per_filter_config)?,
        retry: None,
        mirrors: mirrors_from_xds(request_mirror_policies)?,
        most_specific_last: most_specific_header_mutations_wins,
    };
    let virtual_hosts = each("virtual_hosts", virtual_hosts, |host| host_from_xds(host, &level))?;
    let table = RouteConfig::new(nonempty("name", name)?, virtual_hosts).within("virtual_hosts")?;
    Ok(RouteConfig { ignore_port: ignore_port_in_host_matching, ..table })
}

fn host_to_xds(host: &VirtualHost) -> pb::route::VirtualHost {
    let VirtualHost { name, domains, routes, attempt_count } = host;
    pb::route::VirtualHost {
        name: name.clone(),
        domains: domains.iter().map(Domain::to_string).collect(),
        routes: routes.iter().map(route_to_xds).collect(),
        include_request_attempt_count: attempt_count.request,
        include_attempt_count_in_response: attempt_count.response,
        ..Default::default()
    }
}

fn host_from_xds(host: pb::route::VirtualHost, table: &Inherited) -> Result<VirtualHost> {
    #[allow(deprecated)]
    let pb::route::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        request_mirror_policies,
        route_specifiers,
        include_request_attempt_count,
        include_attempt_count_in_response,
        // Statistics.
        virtual_clusters: _,
        // A header that tells why Envoy tried again; it informs and decides nothing.
        include_is_timeout_retry_header: _,
        // How much of a body is kept for retries; Leno's own limit holds.
        per_request_buffer_limit_bytes: _,
        request_body_buffer_limit: _,
        // Told to nobody.
        metadata: _,
    } = host;
    unsupported(&[
        ("matcher", &matcher),
        ("require_tls", &require_tls),
        ("rate_limits", &rate_limits),
        ("retry_policy_typed_config", &retry_policy_typed_config),
        ("hedge_policy", &hedge_policy),
        ("route_specifiers", &route_specifiers),
    ])?;
    let mut filters = per_filter_from_xds(typed_per_filter_config)?;
    filters.cors = filters.cors.or(&old_cors(cors)?);
    let level = Inherited {
        request: request_headers(request_headers_to_add, request_headers_to_remove)?,
        response: response_headers(response_headers_to_add, response_headers_to_remove)?,
        filters,
        retry: retry_policy.map(retry::from_xds).transpose().within("retry_policy")?.flatten(),
        mirrors: mirrors_from_xds(request_mirror_policies)?,
        most_specific_last: table.most_specific_last,
    }
    .below(table);
    Ok(VirtualHost {
        name: nonempty("name", name)?,
        domains: each("domains", domains, |domain| Ok(Domain::parse(&domain)?))?,
        routes: each("routes", routes, |route| route_from_xds(route, &level))?,
        attempt_count: AttemptCount {
            request: include_request_attempt_count,
            response: include_attempt_count_in_response,
        },
    })
}

pub(super) fn route_to_xds(route: &Route) -> pb::route::Route {
    let Route {
        name,
        origin,
        matcher,
        action,
        request_headers,
        response_headers,
        cors,
        fault,
        authorization,
        refused_in_path,
    } = route;
    let (request_headers_to_add, request_headers_to_remove) = policy::headers_to_xds(request_headers);
    let (response_headers_to_add, response_headers_to_remove) = policy::headers_to_xds(response_headers);
    pb::route::Route {
        name: name.clone(),
        r#match: Some(matcher::route_to_xds(matcher)),
        action: Some(match action {
            Action::Forward(forward) => pb::route::route::Action::Route(route_action::forward_to_xds(forward)),
            Action::Redirect(redirect) => pb::route::route::Action::Redirect(route_action::redirect_to_xds(redirect)),
            Action::Direct(direct) => pb::route::route::Action::DirectResponse(route_action::direct_to_xds(direct)),
        }),
        metadata: metadata_to_xds(origin.as_ref(), *refused_in_path),
        typed_per_filter_config: per_filter_to_xds(cors.as_ref(), fault.as_ref(), authorization.as_ref()),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        ..Default::default()
    }
}

fn route_from_xds(route: pb::route::Route, above: &Inherited) -> Result<Route> {
    #[allow(deprecated)]
    let pb::route::Route {
        name,
        r#match,
        metadata,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        route_specifiers,
        action,
        // Statistics and traces.
        stat_prefix: _,
        decorator: _,
        tracing: _,
        // How much of a body is kept for retries; Leno's own limit holds.
        per_request_buffer_limit_bytes: _,
        request_body_buffer_limit: _,
    } = route;
    unsupported(&[("route_specifiers", &route_specifiers)])?;
    let mut level = Inherited {
        request: request_headers(request_headers_to_add, request_headers_to_remove)?,
        response: response_headers(response_headers_to_add, response_headers_to_remove)?,
        filters: per_filter_from_xds(typed_per_filter_config)?,
        retry: None,
        mirrors: Vec::new(),
        most_specific_last: above.most_specific_last,
    };
    let matcher = matcher::route_from_xds(required("match", r#match)?).within("match")?;
    let action = match required("action", action)? {
        pb::route::route::Action::Route(action) => {
            let (mut forward, cors) = route_action::forward_from_xds(action).within("route")?;
            level.filters.cors = level.filters.cors.or(&cors);
            level.retry = forward.retry.take();
            level.mirrors = std::mem::take(&mut forward.mirrors);
            Action::Forward(forward)
        }
        pb::route::route::Action::Redirect(redirect) => {
            Action::Redirect(route_action::redirect_from_xds(redirect).within("redirect")?)
        }
        pb::route::route::Action::DirectResponse(direct) => {
            Action::Direct(route_action::direct_from_xds(direct).within("direct_response")?)
        }
        pb::route::route::Action::FilterAction(_) => return Err(Problem::unsupported("filter_action")),
        pb::route::route::Action::NonForwardingAction(_) => return Err(Problem::unsupported("non_forwarding_action")),
    };
    let refused_in_path = separators_from_xds(metadata.as_ref())?;
    let route = level.below(above).into_route(name, base::origin_from_xds(metadata.as_ref()), matcher, action);
    Ok(Route { refused_in_path, ..route })
}

/// Envoy has no word for what a path must not hold on one route, so it stands beside the origin. A real Envoy takes no
/// notice.
fn metadata_to_xds(origin: Option<&Origin>, refused_in_path: Separators) -> Option<pb::core::Metadata> {
    let mut metadata = base::origin_to_xds(origin);
    if !refused_in_path.is_empty() {
        let metadata = metadata.get_or_insert_default();
        let fields = metadata.filter_metadata.entry(base::NAMESPACE.to_owned()).or_default();
        fields.fields.insert(REFUSED_IN_PATH.to_owned(), base::text(refused_in_path.to_string()));
    }
    metadata
}

/// It protects, so a word of a later version is not passed over.
fn separators_from_xds(metadata: Option<&pb::core::Metadata>) -> Result<Separators> {
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(base::NAMESPACE));
    let Some(text) = fields.and_then(|fields| base::text_of(fields, REFUSED_IN_PATH)) else {
        return Ok(Separators::NONE);
    };
    text.split(' ').try_fold(Separators::NONE, |all, word| match Separators::parse(word) {
        Some(one) => Ok(all.and(one)),
        None => Err(Problem::new("metadata", format!("`{word}` is nothing that a path can be refused for"))),
    })
}

/// What a level says for all the routes below it, the levels above it included.
struct Inherited {
    request: HeaderOps,
    response: HeaderOps,
    filters: PerFilter,
    retry: Option<RetryPolicy>,
    mirrors: Vec<Mirror>,
    /// Envoy applies a route's header operations first and the table's last, unless the table says the reverse.
    most_specific_last: bool,
}

impl Inherited {
    fn below(self, above: &Self) -> Self {
        let headers = |here: HeaderOps, above: &HeaderOps| {
            if above.is_empty() {
                here
            } else if self.most_specific_last {
                policy::headers_then(above.clone(), &here)
            } else {
                policy::headers_then(here, above)
            }
        };
        Self {
            request: headers(self.request, &above.request),
            response: headers(self.response, &above.response),
            filters: PerFilter {
                cors: self.filters.cors.or(&above.filters.cors),
                fault: self.filters.fault.or(&above.filters.fault),
                authorization: self.filters.authorization.or(&above.filters.authorization),
            },
            retry: self.retry.or_else(|| above.retry.clone()),
            mirrors: if self.mirrors.is_empty() { above.mirrors.clone() } else { self.mirrors },
            most_specific_last: self.most_specific_last,
        }
    }

    fn into_route(
        self,
        name: String,
        origin: Option<crate::ir::Origin>,
        matcher: crate::ir::RouteMatch,
        mut action: Action,
    ) -> Route {
        if let Action::Forward(forward) = &mut action {
            forward.retry = self.retry;
            forward.mirrors = self.mirrors;
        }
        Route {
            name,
            origin,
            matcher,
            action,
            request_headers: self.request,
            response_headers: self.response,
            cors: self.filters.cors.into_option(),
            fault: self.filters.fault.into_option(),
            authorization: self.filters.authorization.into_option(),
            refused_in_path: Separators::NONE,
        }
    }
}

/// Envoy's older cross-origin policy as a setting.
pub(super) fn old_cors(policy: Option<pb::route::CorsPolicy>) -> Result<Setting<crate::ir::Cors>> {
    let Some(policy) = policy else { return Ok(Setting::Inherit) };
    Ok(policy::old_cors_from_xds(policy).within("cors")?.map_or(Setting::Off, Setting::On))
}

pub(super) fn request_headers(add: Vec<pb::core::HeaderValueOption>, remove: Vec<String>) -> Result<HeaderOps> {
    policy::headers_from_xds(("request_headers_to_add", add), ("request_headers_to_remove", remove))
}

pub(super) fn response_headers(add: Vec<pb::core::HeaderValueOption>, remove: Vec<String>) -> Result<HeaderOps> {
    policy::headers_from_xds(("response_headers_to_add", add), ("response_headers_to_remove", remove))
}

pub(super) fn mirrors_from_xds(mirrors: Vec<RequestMirrorPolicy>) -> Result<Vec<Mirror>> {
    each("request_mirror_policies", mirrors, policy::mirror_from_xds)
}
