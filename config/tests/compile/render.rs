//! The IR as a person would say it, one line per thing.

use leno_config::ir::*;

/// The rows of a virtual host in the table of the default HTTP socket.
pub fn routes(resources: &Resources, host: &str) -> Vec<String> {
    virtual_host(resources, "15001", host).routes.iter().map(route).collect()
}

/// A virtual host of a table.
pub fn virtual_host<'a>(resources: &'a Resources, table: &str, host: &str) -> &'a VirtualHost {
    let table = &resources.routes[table];
    let names = || table.virtual_hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>();
    table.virtual_hosts.iter().find(|found| found.name == host).unwrap_or_else(|| panic!("{host} not in {:?}", names()))
}

/// The domains of a virtual host in the table of the default HTTP socket.
pub fn domains(resources: &Resources, host: &str) -> Vec<String> {
    virtual_host(resources, "15001", host).domains.iter().map(ToString::to_string).collect()
}

/// `name: conditions => action; what else`
pub fn route(route: &Route) -> String {
    let mut text = String::new();
    if !route.name.is_empty() {
        text += &format!("{}: ", route.name);
    }
    text += &format!("{} => {}", matcher(&route.matcher), action(&route.action));
    text += &operations("request", &route.request_headers);
    text += &operations("response", &route.response_headers);
    if let Some(cors) = &route.cors {
        let origins = cors.allow_origins.iter().map(string).collect::<Vec<_>>().join(" or ");
        text += &format!("; cors {origins}, methods {:?}, headers {:?}", cors.allow_methods, cors.allow_headers);
        text += &format!(", expose {:?}, age {:?}", cors.expose_headers, cors.max_age);
        text += &format!(", credentials {}, forward {}", cors.allow_credentials, cors.forward_unmatched_preflights);
    }
    if let Some(fault) = &route.fault {
        if let Some(delay) = &fault.delay {
            text += &format!("; delay {:?} for {}", delay.duration, share(delay.share));
        }
        if let Some(abort) = &fault.abort {
            text += &format!("; abort {:?} for {}", abort.with, share(abort.share));
        }
    }
    text
}

fn matcher(matcher: &RouteMatch) -> String {
    let mut conditions = vec![match &matcher.path {
        PathMatch::Exact { value, ignore_case } => format!("{value}{}", case(*ignore_case)),
        PathMatch::Prefix { value, ignore_case } => format!("{value}*{}", case(*ignore_case)),
        PathMatch::SegmentPrefix { value, ignore_case } => format!("{value}/*{}", case(*ignore_case)),
        PathMatch::Regex(regex) => format!("{regex:?}"),
    }];
    for header in &matcher.headers {
        let not = if header.invert { "not " } else { "" };
        let value = header.value.as_ref().map_or("present".to_owned(), string);
        let missing = if header.missing_is_empty { " or missing as empty" } else { "" };
        conditions.push(format!("{not}{} {value}{missing}", header.key.as_str()));
    }
    for query in &matcher.query {
        conditions.push(format!("?{} {}", query.name, query.value.as_ref().map_or("present".to_owned(), string)));
    }
    conditions.extend(matcher.claims.iter().map(claim));
    conditions.join(", ")
}

fn string(value: &StringMatch) -> String {
    match value {
        StringMatch::Exact { value, ignore_case } => format!("= {value:?}{}", case(*ignore_case)),
        StringMatch::Prefix { value, ignore_case } => format!("= {value:?}*{}", case(*ignore_case)),
        StringMatch::Suffix { value, ignore_case } => format!("= *{value:?}{}", case(*ignore_case)),
        StringMatch::Contains { value, ignore_case } => format!("has {value:?}{}", case(*ignore_case)),
        StringMatch::Regex(regex) => format!("~ {regex:?}"),
    }
}

fn case(ignored: bool) -> &'static str {
    if ignored { " (any case)" } else { "" }
}

fn action(action: &Action) -> String {
    match action {
        Action::Forward(forward) => self::forward(forward),
        Action::Redirect(redirect) => {
            let Redirect { status, host, scheme, port, path } = redirect;
            let part =
                |name: &str, value: Option<String>| value.map(|value| format!(" {name} {value}")).unwrap_or_default();
            format!("redirect {}", status.as_u16())
                + &part("scheme", scheme.clone())
                + &part("host", host.clone())
                + &part("port", port.map(|port| port.to_string()))
                + &part("path", path.as_ref().map(|path| format!("{path:?}")))
        }
        Action::Direct(direct) => {
            format!("answer {} {:?}", direct.status.as_u16(), String::from_utf8_lossy(&direct.body))
        }
    }
}

/// What differs from the mesh's defaults: the default retries are not mentioned.
fn forward(forward: &Forward) -> String {
    let mut text = clusters(&forward.clusters);
    if let Some(rewrite) = &forward.path_rewrite {
        text += &match rewrite {
            PathRewrite::Prefix(path) => format!("; prefix to {path}"),
            PathRewrite::Full(path) => format!("; path to {path}"),
            PathRewrite::Regex { pattern, substitution } => format!("; {} to {substitution}", pattern.pattern()),
        };
    }
    if let Some(host) = &forward.host_rewrite {
        text += &format!("; host to {host}");
    }
    if let Some(timeout) = forward.timeout {
        text += &format!("; timeout {timeout:?}");
    }
    text += &retry(forward.retry.as_ref());
    for mirror in &forward.mirrors {
        text += &format!("; mirror {} to {}", share(mirror.share), mirror.cluster);
    }
    for hash in &forward.hash {
        text += &format!("; hash {hash:?}");
    }
    text
}

/// The default says nothing.
fn retry(retry: Option<&RetryPolicy>) -> String {
    let Some(retry) = retry else { return "; no retries".to_owned() };
    let words = retry.on.iter().map(|on| on.as_str()).collect::<Vec<_>>().join(",");
    let mut text = String::new();
    if words != "connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable" || retry.attempts != 2 {
        text += &format!("; {} retries on {words}", retry.attempts);
    }
    if !retry.status_codes.is_empty() {
        text += &format!(" {:?}", retry.status_codes);
    }
    if let Some(timeout) = retry.per_try_timeout {
        text += &format!("; per try {timeout:?}");
    }
    if (retry.backoff_base.as_millis(), retry.backoff_max.as_millis()) != (25, 250) {
        text += &format!("; back-off {:?} to {:?}", retry.backoff_base, retry.backoff_max);
    }
    if !retry.avoid_previous_hosts {
        text += "; retries at the same endpoint";
    }
    if retry.other_localities {
        text += "; retries in other localities";
    }
    assert_eq!(retry.host_selection_attempts, 5);
    text
}

/// `80 to v1, 20 to v2`, or just where everything goes.
pub fn clusters(clusters: &WeightedClusters) -> String {
    let one = |cluster: &WeightedCluster| {
        let headers =
            operations("request", &cluster.request_headers) + &operations("response", &cluster.response_headers);
        let host = cluster.host_rewrite.as_ref().map(|host| format!("; host to {host}")).unwrap_or_default();
        let more = headers + &host;
        let more = if more.is_empty() { more } else { format!(" ({})", more.trim_start_matches("; ")) };
        match clusters.as_slice() {
            [_] => format!("{}{more}", short(cluster.cluster.as_str())),
            _ => format!("{} to {}{more}", cluster.weight, short(cluster.cluster.as_str())),
        }
    };
    clusters.as_slice().iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `outbound|9080|v1|reviews.default.svc.cluster.local` as `reviews.default:9080/v1`.
pub fn short(cluster: &str) -> String {
    match cluster.split('|').collect::<Vec<_>>().as_slice() {
        ["outbound", port, subset, host] => {
            let host = host.trim_end_matches(".svc.cluster.local");
            let subset = if subset.is_empty() { String::new() } else { format!("/{subset}") };
            format!("{host}:{port}{subset}")
        }
        _ => cluster.to_owned(),
    }
}

fn operations(direction: &str, operations: &HeaderOps) -> String {
    let field = |field: &HeaderField| format!("{}={}", field.name(), field.value().to_str().unwrap());
    let mut text = String::new();
    for name in &operations.remove {
        text += &format!("; {direction} removes {name}");
    }
    for set in &operations.set {
        text += &format!("; {direction} sets {}", field(set));
    }
    for add in &operations.add {
        text += &format!("; {direction} adds {}", field(add));
    }
    text
}

fn share(share: Fraction) -> String {
    format!("{}%", f64::from(share.millionths()) / 10_000.0)
}

/// The clusters that go to services, short.
pub fn outbound_clusters(resources: &Resources) -> Vec<String> {
    resources.clusters.keys().map(|name| short(name.as_str())).collect()
}

/// The endpoints of a cluster: `10.0.0.1:9080`, and what is not usual about each.
pub fn endpoints(endpoints: &Endpoints) -> Vec<String> {
    let one = |locality: &LocalityEndpoints, endpoint: &Endpoint| {
        let mut text = endpoint.address.to_string();
        if endpoint.weight != 1 {
            text += &format!(" x{}", endpoint.weight);
        }
        if locality.locality != Locality::default() {
            let Locality { region, zone, subzone } = &locality.locality;
            text += &format!(" in {region}/{zone}/{subzone}");
        }
        if locality.priority != 0 {
            text += &format!(" at {}", locality.priority);
        }
        if let Some(weight) = locality.weight {
            text += &format!(" share {weight}");
        }
        if endpoint.mesh_tls {
            text += " mTLS";
        }
        if let Some(identity) = &endpoint.identity {
            text += &format!(" as {identity}");
        }
        if endpoint.health != Health::Unknown {
            text += &format!(" {:?}", endpoint.health);
        }
        text
    };
    let localities = endpoints.localities.iter();
    localities.flat_map(|locality| locality.endpoints.iter().map(move |endpoint| one(locality, endpoint))).collect()
}

/// The endpoints of an EDS cluster by its full name.
pub fn endpoints_of(resources: &Resources, cluster: &str) -> Vec<String> {
    endpoints(&resources.endpoints[cluster])
}

/// Sockets: `name direction address: what`, and one line for each port of a socket that captures.
pub fn listeners(resources: &Resources) -> Vec<String> {
    let one = |listener: &Listener| {
        let intake = match listener.intake {
            Intake::Bound => "",
            Intake::Capture => " captures",
            Intake::Handed => " handed",
        };
        let addresses = listener.addresses().map(|address| address.to_string()).collect::<Vec<_>>().join(" and ");
        let what = spoken(&listener.protocol);
        let mut lines = vec![format!("{} {:?}{intake} {addresses}: {what}", listener.name, listener.direction)];
        lines.extend(listener.ports.iter().map(|(port, it)| format!("  {port}: {}", spoken(&it.protocol))));
        lines
    };
    resources.listeners.values().flat_map(|listener| one(listener)).collect()
}

/// What is done with connections.
fn spoken(protocol: &ListenerProtocol) -> String {
    let http = |manager: &HttpManager| match &manager.routes {
        RouteSource::Named(name) => format!("http {name}"),
        RouteSource::Inline(table) => {
            let rows = table.virtual_hosts.iter().flat_map(|host| &host.routes).map(route);
            format!("http {}: {}", table.name, rows.collect::<Vec<_>>().join(" | "))
        }
    };
    let tcp = |route: &TcpRoute| format!("tcp {}", clusters(&route.clusters));
    match protocol {
        ListenerProtocol::Http(manager) => http(manager),
        ListenerProtocol::Tcp(route) => tcp(route),
        ListenerProtocol::Detect(detection) => {
            let branch = |branch: &Branch| match &branch.condition {
                Condition::Destination(range) => format!("to {range} {}", tcp(&branch.route)),
                Condition::ServerName(name) => format!("for {name} {}", tcp(&branch.route)),
            };
            let ways = detection.branches().iter().map(branch).chain(detection.http.as_ref().map(http));
            ways.chain([format!("else {}", tcp(&detection.tcp))]).collect::<Vec<_>>().join(", ")
        }
    }
}

/// The filters of a listener, one line per policy: `ALLOW name: what | what by who | who`. A filter without policies is a
/// line of its own, and so is a dry run.
pub fn authorization(authorization: &Authorization) -> Vec<String> {
    let mut lines = Vec::new();
    for filter in &authorization.0 {
        if filter.enforced {
            lines.extend(policies(&format!("{:?}", filter.action).to_uppercase(), &filter.policies));
        }
        if let Some(shadow) = &filter.shadow {
            lines.extend(policies(&format!("TRY {:?}", shadow.action).to_uppercase(), &shadow.policies));
        }
    }
    lines
}

fn policies(action: &str, policies: &[RbacPolicy]) -> Vec<String> {
    if policies.is_empty() {
        return vec![format!("{action} nothing")];
    }
    let one = |policy: &RbacPolicy| {
        let what = policy.permissions.iter().map(permission).collect::<Vec<_>>().join(" | ");
        let who = policy.principals.iter().map(principal).collect::<Vec<_>>().join(" | ");
        format!("{action} {}: {what} by {who}", policy.name)
    };
    policies.iter().map(one).collect()
}

fn permission(permission: &Permission) -> String {
    let list = |entries: &[Permission], with: &str| {
        format!("({})", entries.iter().map(self::permission).collect::<Vec<_>>().join(with))
    };
    match permission {
        Permission::Any => "any".to_owned(),
        Permission::And(all) => list(all, " & "),
        Permission::Or(one) => list(one, " | "),
        Permission::Not(other) => format!("!{}", self::permission(other)),
        Permission::Header(condition) => header(condition),
        Permission::Path(path) => format!("path {}", string(path)),
        Permission::PathTemplate(template) => format!("template {}", template.as_str()),
        Permission::DestinationPort(port) => format!(":{port}"),
        Permission::DestinationPorts { from, to } => format!(":{from}-{to}"),
        Permission::DestinationIp(network) => format!("to {network}"),
        Permission::ServerName(name) => format!("sni {}", string(name)),
        Permission::Claim(condition) => claim(condition),
    }
}

fn principal(principal: &Principal) -> String {
    let list = |entries: &[Principal], with: &str| {
        format!("({})", entries.iter().map(self::principal).collect::<Vec<_>>().join(with))
    };
    match principal {
        Principal::Any => "any".to_owned(),
        Principal::And(all) => list(all, " & "),
        Principal::Or(one) => list(one, " | "),
        Principal::Not(other) => format!("!{}", self::principal(other)),
        Principal::Authenticated(id) => format!("id {}", id.as_ref().map_or("present".to_owned(), string)),
        Principal::DirectIp(network) => format!("from {network}"),
        Principal::RemoteIp(network) => format!("for {network}"),
        Principal::Header(condition) => header(condition),
        Principal::Path(path) => format!("path {}", string(path)),
        Principal::Claim(condition) => claim(condition),
    }
}

fn header(header: &HeaderMatch) -> String {
    assert!(!header.invert && !header.missing_is_empty, "istiod negates around the condition");
    format!("{} {}", header.key.as_str(), header.value.as_ref().map_or("present".to_owned(), string))
}

fn claim(claim: &ClaimMatch) -> String {
    format!("{}claim {} {}", if claim.invert { "not " } else { "" }, claim.path.join("/"), string(&claim.value))
}

/// `origins-0: issuer, keys, …` for each provider, then what is required.
pub fn tokens(tokens: &JwtAuthentication) -> Vec<String> {
    let one = |provider: &JwtProvider| {
        let mut text = format!("{}: {}", provider.name, provider.issuer.as_deref().unwrap_or("anyone"));
        if !provider.audiences.is_empty() {
            text += &format!(" for {}", provider.audiences.join("|"));
        }
        text += &match &provider.jwks {
            Jwks::Inline(keys) => format!(", keys {keys}"),
            Jwks::Remote(RemoteJwks { uri, cluster, timeout, refresh }) => {
                format!(", keys of {uri} by {cluster} within {timeout:?} every {refresh:?}")
            }
        };
        for header in &provider.from_headers {
            text += &format!(", in {} after {:?}", header.name, header.prefix);
        }
        for name in &provider.from_params {
            text += &format!(", in ?{name}");
        }
        for name in &provider.from_cookies {
            text += &format!(", in cookie {name}");
        }
        if provider.forward {
            text += ", forwarded";
        }
        if let Some(name) = &provider.payload_header {
            text += &format!(", payload to {name}");
        }
        for output in &provider.claim_headers {
            text += &format!(", {} to {}", output.claim, output.name);
        }
        assert_eq!(provider.clock_skew.as_secs(), 60);
        text
    };
    let rules = tokens.rules.iter().map(|rule| {
        assert!(rule.matcher.is_catch_all());
        requirement(&rule.requirement)
    });
    tokens.providers.iter().map(one).chain(rules).collect()
}

fn requirement(required: &JwtRequirement) -> String {
    let list = |name: &str, entries: &[JwtRequirement]| {
        format!("{name}({})", entries.iter().map(requirement).collect::<Vec<_>>().join(", "))
    };
    match required {
        JwtRequirement::Provider(name) => name.clone(),
        JwtRequirement::Any(any) => list("any", any),
        JwtRequirement::All(all) => list("all", all),
        JwtRequirement::AllowMissing => "missing".to_owned(),
        JwtRequirement::AllowMissingOrFailed => "whatever".to_owned(),
    }
}
