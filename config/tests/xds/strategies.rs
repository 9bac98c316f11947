//! Arbitrary values of the IR, within what its types promise and the wire can say.

mod resilience;
mod security;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use leno_config::identity::SpiffeId;
use leno_config::ir::*;
use leno_config::node::{Interception, Node};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;

pub(crate) use security::secret;

use resilience::{health_check, limits, outlier};

pub(crate) fn name() -> impl Strategy<Value = String> + Clone {
    "[a-z][a-z0-9.-]{0,12}"
}

fn secret_name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,3})?([.][a-z]{1,3})?"
}

/// Anything that a person might write, percent signs and backslashes included.
fn text() -> impl Strategy<Value = String> {
    r"[ -~éß]{0,16}"
}

fn path() -> impl Strategy<Value = String> {
    r"/[a-zA-Z0-9/_.%\\-]{0,16}"
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..100_000_u64, 1..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn seconds() -> impl Strategy<Value = Duration> {
    (0..100_000_u64).prop_map(Duration::from_secs)
}

fn fraction() -> impl Strategy<Value = Fraction> {
    (0..=1_000_000_u32).prop_map(|millionths| Fraction::from_millionths(millionths).unwrap())
}

fn whole_percent() -> impl Strategy<Value = Fraction> {
    (0..=100_u32).prop_map(|percent| Fraction::from_percent(percent.into()).unwrap())
}

fn cluster_name() -> impl Strategy<Value = ClusterName> {
    prop_oneof![
        (1..=u16::MAX, prop_oneof![Just(""), Just("v1")], name())
            .prop_map(|(port, subset, host)| ClusterName::outbound(port, subset, &host)),
        name().prop_map(ClusterName::new),
    ]
}

fn pattern() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![".*", "/v(1|2)/.*", r"\d{3}", "[^a-z]+", "(?i)jason", ""])
}

fn regex() -> impl Strategy<Value = Regex> {
    pattern().prop_map(|pattern| Regex::new(pattern).unwrap())
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        (text(), any::<bool>()).prop_map(|(value, ignore_case)| StringMatch::Exact { value, ignore_case }),
        (text(), any::<bool>()).prop_map(|(value, ignore_case)| StringMatch::Prefix { value, ignore_case }),
        (text(), any::<bool>()).prop_map(|(value, ignore_case)| StringMatch::Suffix { value, ignore_case }),
        (text(), any::<bool>()).prop_map(|(value, ignore_case)| StringMatch::Contains { value, ignore_case }),
        regex().prop_map(StringMatch::Regex),
    ]
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        (path(), any::<bool>()).prop_map(|(value, ignore_case)| PathMatch::Exact { value, ignore_case }),
        (path(), any::<bool>()).prop_map(|(value, ignore_case)| PathMatch::Prefix { value, ignore_case }),
        ("/[a-z]{1,6}(/[a-z]{1,6})?", any::<bool>())
            .prop_map(|(value, ignore_case)| PathMatch::SegmentPrefix { value, ignore_case }),
        regex().prop_map(PathMatch::Regex),
    ]
}

fn header_name() -> impl Strategy<Value = String> {
    "x-[a-z0-9-]{1,8}"
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let key = prop_oneof![
        header_name(),
        prop::sample::select(vec![":method", ":scheme", ":authority", ":path", "host"]).prop_map(str::to_owned),
    ];
    (key, of(string_match()), any::<bool>(), any::<bool>()).prop_map(|(key, value, invert, missing_is_empty)| {
        HeaderMatch { key: HeaderKey::parse(&key).unwrap(), value, invert, missing_is_empty }
    })
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let query = (name(), of(string_match())).prop_map(|(name, value)| QueryMatch { name, value });
    (path_match(), vec(header_match(), 0..3), vec(query, 0..3), vec(claim_match(), 0..2))
        .prop_map(|(path, headers, query, claims)| RouteMatch { path, headers, query, claims })
}

fn claim_match() -> impl Strategy<Value = ClaimMatch> {
    (vec("[ -~]{1,8}", 1..3), string_match(), any::<bool>()).prop_map(|(path, value, invert)| ClaimMatch {
        path,
        value,
        invert,
    })
}

fn header_ops() -> impl Strategy<Value = HeaderOps> {
    let field = || (header_name(), text()).prop_map(|(name, value)| HeaderField::new(&name, &value).unwrap());
    let remove = header_name().prop_map(|name| name.parse().unwrap());
    (vec(remove, 0..2), vec(field(), 0..3), vec(field(), 0..3)).prop_map(|(remove, set, add)| HeaderOps {
        remove,
        set,
        add,
    })
}

fn cors() -> impl Strategy<Value = Cors> {
    (vec(string_match(), 0..3), text(), text(), text(), of(seconds()), any::<bool>(), any::<bool>()).prop_map(
        |(allow_origins, allow_methods, allow_headers, expose_headers, max_age, allow_credentials, forward)| Cors {
            allow_origins,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            forward_unmatched_preflights: forward,
        },
    )
}

fn status() -> impl Strategy<Value = StatusCode> {
    (200..=599_u16).prop_map(|code| StatusCode::from_u16(code).unwrap())
}

fn fault() -> impl Strategy<Value = Fault> {
    let with = prop_oneof![status().prop_map(AbortStatus::Http), (0..=16_u32).prop_map(AbortStatus::Grpc)];
    let delay = (duration(), fraction()).prop_map(|(duration, share)| FaultDelay { duration, share });
    let abort = (with, fraction()).prop_map(|(with, share)| FaultAbort { with, share });
    (of(delay), of(abort)).prop_map(|(delay, abort)| Fault { delay, abort })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let on = btree_set(prop::sample::select(RetryOn::words().collect::<Vec<_>>()), 1..4);
    let numbers = (0..10_u32, 1..10_u32, btree_set(100..=599_u16, 0..4));
    let times = (of(duration()), duration(), duration());
    let headers = (vec(header_match(), 0..2), vec(header_match(), 0..2), of(rate_limited()));
    (on, numbers, times, headers, any::<bool>(), any::<bool>()).prop_map(
        |(
            on,
            (attempts, host_selection_attempts, status_codes),
            (per_try_timeout, base, more),
            (answer_headers, request_headers, rate_limited),
            avoid_previous_hosts,
            other_localities,
        )| RetryPolicy {
            on: on.into_iter().map(|word| RetryOn::parse(word).unwrap()).collect(),
            attempts,
            per_try_timeout,
            status_codes,
            answer_headers,
            request_headers,
            rate_limited,
            backoff_base: base,
            backoff_max: base + more,
            avoid_previous_hosts,
            host_selection_attempts,
            other_localities,
        },
    )
}

fn rate_limited() -> impl Strategy<Value = RateLimitedBackoff> {
    let format = prop_oneof![Just(ResetFormat::Seconds), Just(ResetFormat::UnixTimestamp)];
    let header = (header_name(), format).prop_map(|(name, format)| ResetHeader { name: name.parse().unwrap(), format });
    (vec(header, 1..3), duration()).prop_map(|(headers, max)| RateLimitedBackoff { headers, max })
}

fn hash() -> impl Strategy<Value = HashPolicy> {
    prop_oneof![
        header_name().prop_map(|name| HashPolicy::Header(name.parse().unwrap())),
        (name(), text(), of(seconds()), vec((name(), text()), 0..3)).prop_map(|(name, path, ttl, attributes)| {
            let attributes = attributes.into_iter().map(|(name, value)| CookieAttribute { name, value }).collect();
            HashPolicy::Cookie { name, path, ttl, attributes }
        }),
        Just(HashPolicy::SourceIp),
        name().prop_map(HashPolicy::QueryParameter),
    ]
}

fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![
        path().prop_map(PathRewrite::Prefix),
        path().prop_map(PathRewrite::Full),
        (pattern(), text()).prop_map(|(pattern, substitution)| PathRewrite::Regex {
            pattern: RewritePattern::new(pattern).unwrap(),
            substitution,
        }),
    ]
}

fn weighted_clusters() -> impl Strategy<Value = WeightedClusters> {
    let share = (cluster_name(), 1..1_000_u32, of((header_ops(), header_ops(), of(name())))).prop_map(
        |(cluster, weight, more)| match more {
            None => WeightedCluster::plain(cluster, weight),
            Some((request_headers, response_headers, host_rewrite)) => {
                WeightedCluster { cluster, weight, request_headers, response_headers, host_rewrite }
            }
        },
    );
    vec(share, 1..4).prop_map(|shares| WeightedClusters::new(shares).unwrap())
}

fn forward() -> impl Strategy<Value = Forward> {
    let mirror = (cluster_name(), fraction()).prop_map(|(cluster, share)| Mirror { cluster, share });
    (
        weighted_clusters(),
        of(path_rewrite()),
        of(name()),
        of(duration()),
        of(retry()),
        vec(mirror, 0..3),
        vec(hash(), 0..3),
    )
        .prop_map(|(clusters, path_rewrite, host_rewrite, timeout, retry, mirrors, hash)| Forward {
            clusters,
            path_rewrite,
            host_rewrite,
            timeout,
            retry,
            mirrors,
            hash,
        })
}

fn action() -> impl Strategy<Value = Action> {
    let code = prop::sample::select(vec![301_u16, 302, 303, 307, 308]);
    let redirect = (code, of(name()), of(name()), of(1..=u16::MAX), of(path_rewrite())).prop_map(
        |(code, host, scheme, port, path)| {
            Action::Redirect(Redirect { status: Redirect::status(code).unwrap(), host, scheme, port, path })
        },
    );
    let direct =
        (status(), vec(any::<u8>(), 0..20)).prop_map(|(status, body)| Action::Direct(DirectResponse { status, body }));
    prop_oneof![3 => forward().prop_map(Action::Forward), 1 => redirect, 1 => direct]
}

fn origin() -> impl Strategy<Value = Origin> {
    (name(), name(), name(), any::<u32>()).prop_map(|(kind, namespace, name, index)| Origin {
        kind,
        namespace,
        name,
        index,
        place: FilePlace::default(),
    })
}

fn route() -> impl Strategy<Value = Route> {
    // Envoy's override holds one filter.
    let authorization = of(vec(security::rbac_filter(false, security::Of::Requests), 0..2).prop_map(Authorization));
    let refused = vec(prop::sample::select(vec!["%2f", "%5c", ";"]), 0..3)
        .prop_map(|words| words.into_iter().filter_map(Separators::parse).fold(Separators::NONE, Separators::and));
    let filters = (of(cors()), of(fault()), authorization, refused);
    (text(), of(origin()), route_match(), action(), header_ops(), header_ops(), filters).prop_map(
        |(name, origin, matcher, action, request_headers, response_headers, filters)| {
            let (cors, fault, authorization, refused_in_path) = filters;
            Route {
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
            }
        },
    )
}

/// Domains of one virtual host; its number keeps them apart from those of the others.
fn domains(number: usize) -> impl Strategy<Value = Vec<Domain>> {
    let one = prop_oneof![
        name().prop_map(move |name| format!("{number}.{name}")),
        name().prop_map(move |name| format!("*.{name}.{number}.example")),
        name().prop_map(move |name| format!("{number}.{name}:*")),
    ];
    btree_set(one, 1..4).prop_map(|domains| domains.iter().map(|domain| Domain::parse(domain).unwrap()).collect())
}

pub(crate) fn route_config() -> impl Strategy<Value = RouteConfig> {
    let hosts: Vec<_> = (0..3_usize)
        .map(|number| {
            let counted = (any::<bool>(), any::<bool>());
            let counted = counted.prop_map(|(request, response)| AttemptCount { request, response });
            (name(), domains(number), vec(route(), 0..3), counted).prop_map(
                move |(name, domains, routes, attempt_count)| VirtualHost {
                    name: format!("{name}{number}"),
                    domains,
                    routes,
                    attempt_count,
                },
            )
        })
        .collect();
    let everything = |name: String| VirtualHost {
        name,
        domains: vec![Domain::Any],
        routes: Vec::new(),
        attempt_count: AttemptCount::default(),
    };
    (name(), hosts, 0..=3_usize, any::<bool>(), any::<bool>()).prop_map(move |(name, mut hosts, count, any, port)| {
        hosts.truncate(count);
        hosts.extend(any.then(|| everything("allow_any".to_owned())));
        RouteConfig { ignore_port: port, ..RouteConfig::new(name, hosts).unwrap() }
    })
}

fn tcp_route() -> impl Strategy<Value = TcpRoute> {
    let share = (cluster_name(), 1..1_000_u32).prop_map(|(cluster, weight)| WeightedCluster::plain(cluster, weight));
    let clusters = vec(share, 1..4).prop_map(|shares| WeightedClusters::new(shares).unwrap());
    (text(), of(origin()), clusters, of(duration()), any::<bool>()).prop_map(
        |(stat_prefix, origin, clusters, idle_timeout, hashes_source)| TcpRoute {
            stat_prefix,
            origin,
            clusters,
            idle_timeout,
            hashes_source,
        },
    )
}

/// As the rules write them: named apart, and a path that looks at no query.
fn rate_limits() -> impl Strategy<Value = Vec<RateLimit>> {
    let bucket = (1..=TokenBucket::MOST, 1..=TokenBucket::MOST, 50..86_400_000_u64)
        .prop_map(|(most, tokens, per)| TokenBucket::new(most, tokens, Duration::from_millis(per)).unwrap());
    let path = prop_oneof![
        "/[a-z.()+]{0,8}".prop_map(StringMatch::exact),
        "/[a-z]{0,8}".prop_map(StringMatch::prefix),
        Just(StringMatch::Regex(Regex::new("/a|/b/.*").unwrap())),
    ];
    let header =
        (prop::sample::select(vec![":method", "x-a"]), of("[a-z]{1,4}")).prop_map(|(key, value)| HeaderMatch {
            key: HeaderKey::parse(key).unwrap(),
            value: value.map(StringMatch::exact),
            invert: false,
            missing_is_empty: false,
        });
    let by = of(Just(http::HeaderName::from_static("x-api-key")));
    vec((bucket, of(path), vec(header, 0..3), by), 0..3).prop_map(|limits| {
        let named = limits.into_iter().enumerate();
        named
            .map(|(index, (bucket, path, headers, by))| RateLimit {
                name: format!("shop/all/{index}"),
                bucket,
                path,
                headers,
                by,
            })
            .collect()
    })
}

fn tracing() -> impl Strategy<Value = Tracing> {
    let uri = || Collector::uri("http://collector:4318/v1/traces").expect("an address");
    let protocol = prop_oneof![text().prop_map(OtlpProtocol::Grpc), Just(OtlpProtocol::Http(uri()))];
    let timeout = duration().prop_filter("0 is the default", |timeout| !timeout.is_zero());
    let collector = (name(), protocol, timeout, text()).prop_map(|(cluster, protocol, timeout, service)| {
        TracingProvider::OpenTelemetry(Collector { cluster, protocol, timeout, service })
    });
    let provider = prop_oneof![collector, name().prop_map(TracingProvider::Foreign)];
    let value = prop_oneof![
        text().prop_map(TagValue::Literal),
        text().prop_map(|default| TagValue::Header { name: http::HeaderName::from_static("x-user"), default }),
    ];
    let tag = (name(), value).prop_map(|(name, value)| CustomTag { name, value });
    (provider, 0_u32..=1_000_000, any::<bool>(), any::<u32>(), vec(tag, 0..3)).prop_map(
        |(provider, millionths, attempts, longest_path, tags)| Tracing {
            provider,
            sampling: Fraction::from_millionths(millionths).expect("in range"),
            attempts,
            longest_path,
            tags,
        },
    )
}

fn http_manager() -> impl Strategy<Value = HttpManager> {
    let routes = prop_oneof![
        name().prop_map(RouteSource::Named),
        route_config().prop_map(|table| RouteSource::Inline(Arc::new(table))),
    ];
    let upgrades = vec(prop::sample::select(vec!["websocket", "h2c", "spdy/3.1"]), 0..2);
    let streams = (of(duration()), of(duration())).prop_map(|(idle, longest)| StreamLimits { idle, longest });
    let underscores = prop::sample::select(vec![UnderscoreNames::Pass, UnderscoreNames::Drop, UnderscoreNames::Refuse]);
    let path = (any::<bool>(), any::<bool>(), underscores);
    let limits = (rate_limits(), streams, of(tracing()));
    (text(), routes, upgrades, path, security::jwt(), limits).prop_map(
        |(stat_prefix, routes, upgrades, (dots, merge_slashes, underscores), jwt, (rate_limits, streams, tracing))| {
            HttpManager {
                stat_prefix,
                routes,
                upgrades: upgrades.into_iter().map(str::to_owned).collect(),
                path: PathNormalization { dots, merge_slashes },
                underscores,
                jwt,
                rate_limits,
                streams,
                tracing: tracing.map(Arc::new),
            }
        },
    )
}

fn access_log() -> impl Strategy<Value = AccessLog> {
    let text = prop::sample::select(vec![
        "%% %START_TIME(%s.%3f)% %REQ(x-a?:path):10%",
        "%RESPONSE_CODE%",
        "[%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%] ü",
        "%METADATA(ROUTE:leno.mesh:name)% %FILTER_STATE_OF_NOBODY%",
    ]);
    let text = text.prop_map(|text| LogText::tolerant(text).unwrap());
    let value = prop_oneof![
        text.clone().prop_map(LogValue::Text),
        (0..1000_u32).prop_map(|number| LogValue::Number(number.into())),
        any::<bool>().prop_map(LogValue::Bool),
        Just(LogValue::Null),
    ];
    let value = value.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(LogValue::List),
            btree_map(name(), inner, 0..3).prop_map(LogValue::Object),
        ]
    });
    let json = btree_map(name(), value, 1..4).prop_map(|object| LogFormat::json(object).unwrap());
    let format = prop_oneof![text.prop_map(LogFormat::Text), json];
    let comparison =
        prop::sample::select(vec![Comparison::Equal, Comparison::NotEqual, Comparison::AtLeast, Comparison::AtMost]);
    let filter = prop_oneof![
        (comparison.clone(), any::<u32>()).prop_map(|(how, bound)| LogFilter::Status(how, bound)),
        (comparison, any::<u32>()).prop_map(|(how, bound)| LogFilter::Duration(how, bound)),
        (0..=1_000_000_u32).prop_map(|share| LogFilter::Sample(Fraction::from_millionths(share).unwrap())),
        Just(LogFilter::Flags(vec![ResponseFlag::parse("UF").unwrap(), ResponseFlag::parse("DC").unwrap()])),
    ];
    let filter = filter.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![vec(inner.clone(), 2..4).prop_map(LogFilter::And), vec(inner, 2..4).prop_map(LogFilter::Or),]
    });
    let filter = prop_oneof![Just(LogFilter::default()), filter];
    let sink = prop::sample::select(vec!["/dev/stdout", "/dev/stderr", "/var/log/leno/access.log"]);
    let sensitive = prop::sample::select(vec![Sensitive::Redacted, Sensitive::Shown]);
    (sink, format, filter, sensitive).prop_map(|(path, format, filter, sensitive)| AccessLog {
        sink: LogSink::at(path).unwrap(),
        format,
        filter,
        sensitive,
    })
}

/// What nobody knows is said again by whoever reads it.
fn access_logs() -> impl Strategy<Value = AccessLogs> {
    vec(access_log(), 0..3).prop_map(|logs| {
        let unknown = logs.iter().flat_map(|log| log.format.unknown());
        let left_out = unknown.map(|text| format!("access log: Leno has nothing for `%{text}%`")).collect();
        AccessLogs { logs, left_out }
    })
}

/// What tells connections apart, and which of them goes where.
fn branch() -> impl Strategy<Value = Branch> {
    let names = prop::sample::select(vec!["a.example.com", "*.example.com", "*.b.example.com", "c"]);
    let condition = prop_oneof![
        security::net().prop_map(Condition::Destination),
        names.prop_map(|name| Condition::ServerName(ServerName::parse(name).unwrap())),
    ];
    (condition, tcp_route()).prop_map(|(condition, route)| Branch { condition, route })
}

/// TLS that is ended for callers who are not of the mesh.
fn server_tls() -> impl Strategy<Value = ServerTls> {
    let names = btree_set(name(), 0..3).prop_map(|names| names.into_iter().collect::<Vec<_>>());
    let callers = (of(path()), of(path()), names).prop_map(|(roots, revoked, subject_alt_names)| OutsideCallers {
        roots,
        revoked,
        subject_alt_names,
    });
    let own = prop_oneof![
        secret_name().prop_map(|name| (None, None, Some(name))),
        (path(), path()).prop_map(|(certificate, key)| (Some(certificate), Some(key), None)),
    ];
    let versions = prop_oneof![Just(TlsVersion::Tls12), Just(TlsVersion::Tls13)];
    (own, of(callers), versions).prop_map(|((certificate, key, credential), callers, min_version)| ServerTls {
        certificate,
        key,
        credential,
        callers,
        min_version,
    })
}

/// The mode of a listener, and TLS for callers who are not of the mesh.
type Dress = (MtlsMode, Option<Arc<ServerTls>>);

/// How callers come in, who may do what, and what is spoken.
fn way() -> BoxedStrategy<(Dress, Authorization, ListenerProtocol)> {
    // Boxed: several of these side by side are more than a stack holds.
    let authorization = |of| vec(security::rbac_filter(true, of), 0..3).prop_map(Authorization).boxed();
    let (http_manager, tcp_route) = (|| http_manager().boxed(), || tcp_route().boxed());
    let (requests, connections) = (security::Of::Requests, security::Of::Connections);
    let mtls = || prop_oneof![Just(MtlsMode::Disable), Just(MtlsMode::Permissive), Just(MtlsMode::Strict)];
    let dress = || {
        let outside = server_tls().prop_map(|tls| (MtlsMode::Disable, Some(Arc::new(tls))));
        prop_oneof![3 => mtls().prop_map(|mode| (mode, None)), 1 => outside]
    };
    let http = (dress(), authorization(requests), http_manager().prop_map(ListenerProtocol::Http));
    let tcp = (dress(), authorization(connections), tcp_route().prop_map(ListenerProtocol::Tcp));
    let detect = |branches: Vec<Branch>, http, tcp, connections| {
        ListenerProtocol::Detect(Box::new(Detection::new(branches, http, tcp, connections)))
    };
    let told = (mtls(), authorization(requests), http_manager(), tcp_route(), authorization(connections))
        .prop_map(move |(mtls, all, http, tcp, own)| ((mtls, None), all, detect(Vec::new(), Some(http), tcp, own)));
    let http_too = of((http_manager(), authorization(requests)));
    let branched = (http_too, vec(branch(), 1..4), tcp_route(), authorization(connections)).prop_map(
        move |(http, branches, tcp, own)| {
            let (http, all) = http.unzip();
            ((MtlsMode::Disable, None), all.unwrap_or_default(), detect(branches, http, tcp, own))
        },
    );
    prop_oneof![3 => http.boxed(), 3 => tcp.boxed(), 2 => told.boxed(), 2 => branched.boxed()].boxed()
}

/// How connections come in; ports only where they are captured, with their routes inside.
fn intake() -> impl Strategy<Value = (Intake, BTreeMap<Port, CapturedPort>)> {
    let port = (way(), access_logs()).prop_map(|(((mtls, tls), authorization, mut protocol), access_logs)| {
        let manager = match &mut protocol {
            ListenerProtocol::Http(manager) => Some(manager),
            ListenerProtocol::Detect(detection) => detection.http.as_mut(),
            ListenerProtocol::Tcp(_) => None,
        };
        if let Some(manager) = manager {
            manager.routes = RouteSource::Inline(Arc::new(RouteConfig::new("inside", Vec::new()).unwrap()));
        }
        CapturedPort { mtls, tls, authorization, access_logs, protocol }
    });
    let captured = btree_map((1..=u16::MAX).prop_map(|port| Port::new(port).unwrap()), port, 0..3);
    prop_oneof![
        Just((Intake::Bound, BTreeMap::new())),
        Just((Intake::Handed, BTreeMap::new())),
        captured.prop_map(|ports| (Intake::Capture, ports)),
    ]
}

pub(crate) fn listener() -> impl Strategy<Value = Listener> {
    let direction = prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)];
    let address = || (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (name(), address(), vec(address(), 0..2), direction, intake(), way(), access_logs()).prop_map(
        |(name, address, more, direction, (intake, ports), ((mtls, tls), authorization, protocol), access_logs)| {
            Listener {
                additional_addresses: more,
                intake,
                ports,
                mtls,
                tls,
                authorization,
                access_logs,
                ..Listener::new(name, address, direction, protocol)
            }
        },
    )
}

pub(crate) fn locality() -> impl Strategy<Value = Locality> {
    (text(), text(), text()).prop_map(|(region, zone, subzone)| Locality { region, zone, subzone })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let host =
        prop_oneof![any::<IpAddr>().prop_map(|ip| ip.to_string()), r"[a-z]{1,8}\.example\.com".prop_map(|name| name),];
    let health = prop::sample::select(vec![
        Health::Unknown,
        Health::Healthy,
        Health::Unhealthy,
        Health::Draining,
        Health::Timeout,
        Health::Degraded,
    ]);
    let labels = btree_map(name(), text(), 0..4);
    let identity = (name(), name()).prop_map(|(namespace, account)| {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")).unwrap()
    });
    let workload = (name(), name()).prop_map(|(name, namespace)| WorkloadName { name, namespace });
    (host, 1..=u16::MAX, 1..1_000_u32, health, any::<bool>(), of(identity), labels, of(workload)).prop_map(
        |(host, port, weight, health, mesh_tls, identity, labels, workload)| Endpoint {
            address: Address::new(&host, port).unwrap(),
            weight,
            health,
            mesh_tls,
            identity,
            labels,
            workload,
        },
    )
}

pub(crate) fn endpoints() -> impl Strategy<Value = Endpoints> {
    let group = (locality(), 0..=128_u32, of(1..1_000_u32), vec(endpoint(), 0..4)).prop_map(
        |(locality, priority, weight, endpoints)| LocalityEndpoints { locality, priority, weight, endpoints },
    );
    (cluster_name(), vec(group, 0..3), prop_oneof![Just(140_u32), 1..500_u32])
        .prop_map(|(cluster, localities, overprovisioning)| Endpoints { cluster, localities, overprovisioning })
}

fn discovery() -> impl Strategy<Value = Discovery> {
    prop_oneof![
        2 => of(name()).prop_map(|service| Discovery::Eds { service }),
        1 => endpoints().prop_map(Discovery::Static),
        1 => endpoints().prop_map(Discovery::Dns),
        1 => Just(Discovery::OriginalDestination),
        1 => Just(Discovery::RequestHost),
    ]
}

/// How an endpoint is chosen, and how new ones ramp up where that is possible.
fn balance() -> impl Strategy<Value = (Balance, Option<SlowStart>)> {
    let slow_start = || {
        of((duration(), 0.1..10.0_f64, fraction()).prop_map(|(window, aggression, min_share)| SlowStart {
            window,
            aggression,
            min_share,
        }))
    };
    prop_oneof![
        (2..10_u32, slow_start()).prop_map(|(choices, start)| (Balance::LeastRequest { choices }, start)),
        slow_start().prop_map(|start| (Balance::RoundRobin, start)),
        Just((Balance::Random, None)),
        Just((Balance::PeakEwma, None)),
        (1..1024_u64, 1024..=8_388_608_u64).prop_map(|(min, max)| (Balance::RingHash { min, max }, None)),
        prop::sample::select(vec![2_u64, 101, 65_537, 5_000_011]).prop_map(|table| (Balance::Maglev { table }, None)),
    ]
}

fn tls() -> impl Strategy<Value = UpstreamTls> {
    let names = || {
        let one = prop_oneof![name(), name().prop_map(|name| format!("spiffe://cluster.local/ns/default/sa/{name}"))];
        btree_set(one, 0..3).prop_map(|names| names.into_iter().collect::<Vec<_>>())
    };
    let mesh = move || (name(), names()).prop_map(|(sni, identities)| MeshTls { sni, identities });
    let credential = (secret_name(), any::<bool>()).prop_map(|(name, is_shown)| Credential { name, is_shown });
    let files = (of(path()), of(path()), of(path()), of(path()), of(credential));
    let versions = prop_oneof![Just(TlsVersion::Tls12), Just(TlsVersion::Tls13)];
    let external = (of(name()), names(), files, any::<bool>(), versions).prop_map(
        |(sni, subject_alt_names, (roots, revoked, certificate, key, credential), skip_verify, min_version)| {
            ExternalTls {
                sni,
                subject_alt_names,
                // What is about roots alone says nothing beside a file of them.
                credential: credential.filter(|credential| credential.is_shown || roots.is_none()),
                roots,
                revoked,
                certificate,
                key,
                skip_verify,
                min_version,
            }
        },
    );
    prop_oneof![
        Just(UpstreamTls::Plain),
        mesh().prop_map(UpstreamTls::Auto),
        mesh().prop_map(UpstreamTls::Mesh),
        external.prop_map(UpstreamTls::External),
    ]
}

pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let protocol = prop::sample::select(vec![
        UpstreamProtocol::Http1,
        UpstreamProtocol::Http2,
        UpstreamProtocol::AsDownstream,
        UpstreamProtocol::Tcp,
    ]);
    let keepalive = (of(any::<u32>()), of(seconds()), of(seconds()))
        .prop_map(|(probes, time, interval)| TcpKeepalive { probes, time, interval });
    let bounds = (of(1..1_000_u32), of(duration()), of(1..1_000_u32));
    let connections = (duration(), of(duration()), bounds, of(keepalive));
    let health = (limits(), of(outlier()), of(health_check()), fraction(), any::<bool>());
    let tls = (tls(), any::<bool>(), vec(any::<IpAddr>(), 0..3));
    let service = (name(), name(), name()).prop_map(|(host, name, namespace)| ServiceName { host, name, namespace });
    let cluster_name = (cluster_name(), of(service));
    (cluster_name, discovery(), balance(), protocol, connections, health, tls).prop_map(
        |(
            (name, service),
            discovery,
            balance,
            protocol,
            (connect_timeout, idle_timeout, bounds, tcp_keepalive),
            (limits, outlier, health_check, panic_threshold, locality_weighted),
            (tls, mesh_internal, source_addresses),
        )| {
            // A cluster that finds its endpoint itself has nothing to choose.
            let chooses = !matches!(discovery, Discovery::OriginalDestination | Discovery::RequestHost);
            let (balance, slow_start) = if chooses { balance } else { (Balance::LeastRequest { choices: 2 }, None) };
            let (max_requests_per_connection, max_connection_duration, streams) = bounds;
            let multiplexes = matches!(protocol, UpstreamProtocol::Http2 | UpstreamProtocol::AsDownstream);
            Cluster {
                name,
                service,
                discovery,
                balance,
                protocol,
                max_connection_duration,
                max_concurrent_streams: streams.filter(|_| multiplexes),
                health_check,
                connect_timeout,
                idle_timeout,
                max_requests_per_connection,
                limits,
                outlier,
                tcp_keepalive,
                source_addresses,
                tls,
                mesh_internal,
                panic_threshold,
                slow_start,
                locality_weighted,
            }
        },
    )
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let names = (name(), "[a-z][a-z0-9-]{0,8}", text(), text());
    let interception = prop_oneof![Just(Interception::None), Just(Interception::Redirect), Just(Interception::Tproxy)];
    (names, any::<IpAddr>(), btree_map(name(), text(), 0..4), locality(), interception).prop_map(
        |((name, namespace, service_account, workload), ip, labels, locality, interception)| Node {
            name,
            ip,
            namespace,
            service_account,
            workload,
            labels,
            locality,
            interception,
        },
    )
}
