//! `VirtualService`: which requests for a host go where.
//!
//! Fields and names are those of Istio's `networking/v1alpha3/virtual_service.proto`; `v1` and `v1beta1` are the same
//! message.

use std::collections::BTreeMap;

use crate::ir::Separators;

use super::common::{message, words};
use super::{Destination, DurationText, Percent, StringMatch};

/// An annotation of a VirtualService: what its routes take in a path although the profile `safe` refuses it. Words with
/// spaces between them, each of them `%2f`, `%5c` or `;`, for one route only behind its name: `; files=%2f`. Istio ignores
/// it.
pub const PATH_ANNOTATION: &str = "leno.mesh/allow-in-path";

/// The words of [`PATH_ANNOTATION`]: for which route (`None`: all of the rule), and what. `Err`: a word that is none.
pub(crate) fn allowed_in_path(text: &str) -> impl Iterator<Item = Result<(Option<&str>, Separators), &str>> {
    text.split_whitespace().map(|word| {
        let (route, what) = word.split_once('=').map_or((None, word), |(route, what)| (Some(route), what));
        Separators::parse(what).map(|one| (route, one)).ok_or(word)
    })
}

message! {
    /// Which requests for some hosts go where.
    pub struct VirtualService {
        /// Hosts that clients call; `*.example.com` is allowed. Empty only for a delegate.
        pub hosts: Vec<String>,
        /// Where the rules hold; empty: `mesh`, all sidecars.
        pub gateways: Vec<String>,
        /// For HTTP; the first that matches wins.
        pub http: Vec<HttpRoute>,
        /// For TLS that is passed through, by server name.
        pub tls: Vec<TlsRoute>,
        /// For bytes.
        pub tcp: Vec<TcpRoute>,
        /// Namespaces that see it; empty: all.
        pub export_to: Vec<String>,
    }

    /// One rule for HTTP.
    pub struct HttpRoute {
        /// For logs and metrics.
        pub name: Option<String>,
        /// Any of these; empty: every request.
        pub r#match: Vec<HttpMatchRequest>,
        /// Where to, with weights.
        pub route: Vec<HttpRouteDestination>,
        /// Answer with a redirect instead.
        pub redirect: Option<HttpRedirect>,
        /// Answer with a status and a body instead.
        pub direct_response: Option<HttpDirectResponse>,
        /// Another VirtualService says where to.
        pub delegate: Option<Delegate>,
        /// What happens to path and authority.
        pub rewrite: Option<HttpRewrite>,
        /// For the whole request; absent: none.
        pub timeout: Option<DurationText>,
        /// When to try again; absent: the mesh's default.
        pub retries: Option<HttpRetry>,
        /// Faults on purpose.
        pub fault: Option<HttpFaultInjection>,
        /// Where a copy goes.
        pub mirror: Option<Destination>,
        /// Where several copies go.
        pub mirrors: Vec<HttpMirrorPolicy>,
        /// Deprecated: share of requests that are copied, whole percent.
        pub mirror_percent: Option<u32>,
        /// Share of requests that are copied; absent: all.
        pub mirror_percentage: Option<Percent>,
        /// Cross-origin resource sharing.
        pub cors_policy: Option<CorsPolicy>,
        /// Operations on headers.
        pub headers: Option<Headers>,
        /// Old and without effect: WebSockets pass always.
        pub websocket_upgrade: Option<bool>,
    }

    /// Conditions on a request; all of them hold.
    pub struct HttpMatchRequest {
        /// For logs and metrics.
        pub name: Option<String>,
        /// On the path, without its query.
        pub uri: Option<StringMatch>,
        /// On the scheme.
        pub scheme: Option<StringMatch>,
        /// On the method.
        pub method: Option<StringMatch>,
        /// On the authority, its port included.
        pub authority: Option<StringMatch>,
        /// On headers; `{}`: that it is there.
        pub headers: BTreeMap<String, StringMatch>,
        /// The port that was called.
        pub port: Option<u32>,
        /// Only for sidecars with these labels.
        pub source_labels: BTreeMap<String, String>,
        /// Replaces the rule's `gateways`.
        pub gateways: Vec<String>,
        /// On query parameters; `{}`: that it is there.
        pub query_params: BTreeMap<String, StringMatch>,
        /// `uri.exact` and `uri.prefix` compare without case.
        pub ignore_uri_case: Option<bool>,
        /// Conditions that must not hold.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Only for sidecars of this namespace.
        pub source_namespace: Option<String>,
        /// Names the route in statistics.
        pub stat_prefix: Option<String>,
    }

    /// One destination with its share.
    pub struct HttpRouteDestination {
        /// Where to.
        pub destination: Option<Destination>,
        /// Share; a single destination gets everything, whatever it says.
        pub weight: Option<i32>,
        /// Operations on headers, after the route's.
        pub headers: Option<Headers>,
    }

    /// Operations on headers.
    pub struct Headers {
        /// Before the request is passed on.
        pub request: Option<HeaderOperations>,
        /// Before the response is passed back.
        pub response: Option<HeaderOperations>,
    }

    /// Operations on the headers of one direction.
    pub struct HeaderOperations {
        /// Overwrites.
        pub set: BTreeMap<String, String>,
        /// Appends.
        pub add: BTreeMap<String, String>,
        /// Removes.
        pub remove: Vec<String>,
    }

    /// An answer with a `location`.
    pub struct HttpRedirect {
        /// New path, all of it.
        pub uri: Option<String>,
        /// New beginning of the path in place of the matched prefix.
        pub prefix_rewrite: Option<String>,
        /// New authority.
        pub authority: Option<String>,
        /// New port.
        pub port: Option<u32>,
        /// Where else the port comes from.
        pub derive_port: Option<RedirectPortSelection>,
        /// New scheme.
        pub scheme: Option<String>,
        /// 301 (default), 302, 303, 307 or 308.
        pub redirect_code: Option<u32>,
    }

    /// An answer as written.
    pub struct HttpDirectResponse {
        /// 200 to 599.
        pub status: Option<u32>,
        /// May be absent.
        pub body: Option<HttpBody>,
    }

    /// The body of an answer; one of the two.
    pub struct HttpBody {
        /// As text.
        pub string: Option<String>,
        /// As base64.
        pub bytes: Option<String>,
    }

    /// Another VirtualService, one without hosts.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; absent: that of the rule.
        pub namespace: Option<String>,
    }

    /// What happens to path and authority.
    pub struct HttpRewrite {
        /// In place of the matched prefix, or of the whole path where the match was no prefix.
        pub uri: Option<String>,
        /// In place of the authority.
        pub authority: Option<String>,
        /// Replaces by a regular expression.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// Replacement by a regular expression.
    pub struct RegexRewrite {
        /// RE2.
        pub r#match: String,
        /// `\1` is the first group.
        pub rewrite: String,
    }

    /// When to try again.
    pub struct HttpRetry {
        /// Besides the original; 0: never.
        pub attempts: Option<i32>,
        /// For one attempt; absent: the request's timeout.
        pub per_try_timeout: Option<DurationText>,
        /// Envoy's words and status codes, separated by commas.
        pub retry_on: Option<String>,
        /// Also in other localities.
        pub retry_remote_localities: Option<bool>,
        /// Never at an endpoint that was tried; absent: true.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// First back-off interval.
        pub backoff: Option<DurationText>,
    }

    /// Faults on purpose.
    pub struct HttpFaultInjection {
        /// Wait first.
        pub delay: Option<FaultDelay>,
        /// Then fail.
        pub abort: Option<FaultAbort>,
    }

    /// A wait before the request goes on.
    pub struct FaultDelay {
        /// Deprecated: share of requests, whole percent.
        pub percent: Option<i32>,
        /// How long.
        pub fixed_delay: Option<DurationText>,
        /// Istio never did it.
        pub exponential_delay: Option<DurationText>,
        /// Share of requests; absent: none.
        pub percentage: Option<Percent>,
    }

    /// A failure instead of an answer.
    pub struct FaultAbort {
        /// 200 to 599.
        pub http_status: Option<i32>,
        /// A name such as `UNAVAILABLE`, or a number.
        pub grpc_status: Option<String>,
        /// Istio never did it.
        pub http2_error: Option<String>,
        /// Share of requests; absent: none.
        pub percentage: Option<Percent>,
    }

    /// Where a copy goes.
    pub struct HttpMirrorPolicy {
        /// Where to.
        pub destination: Option<Destination>,
        /// Share of requests; absent: all.
        pub percentage: Option<Percent>,
    }

    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Deprecated: origins to the letter, or `*`.
        pub allow_origin: Vec<String>,
        /// Origins that may ask.
        pub allow_origins: Vec<StringMatch>,
        /// `access-control-allow-methods`
        pub allow_methods: Vec<String>,
        /// `access-control-allow-headers`
        pub allow_headers: Vec<String>,
        /// `access-control-expose-headers`
        pub expose_headers: Vec<String>,
        /// `access-control-max-age`
        pub max_age: Option<DurationText>,
        /// `access-control-allow-credentials`
        pub allow_credentials: Option<bool>,
        /// What becomes of a preflight from elsewhere.
        pub unmatched_preflights: Option<UnmatchedPreflights>,
    }

    /// One rule for TLS that is passed through.
    pub struct TlsRoute {
        /// Any of these; at least one.
        pub r#match: Vec<TlsMatchAttributes>,
        /// Where to, with weights.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on a TLS connection; all of them hold.
    pub struct TlsMatchAttributes {
        /// Server names, each covered by the rule's hosts.
        pub sni_hosts: Vec<String>,
        /// Networks of the called address.
        pub destination_subnets: Vec<String>,
        /// The port that was called.
        pub port: Option<u32>,
        /// Only for sidecars with these labels.
        pub source_labels: BTreeMap<String, String>,
        /// Replaces the rule's `gateways`.
        pub gateways: Vec<String>,
        /// Only for sidecars of this namespace.
        pub source_namespace: Option<String>,
    }

    /// One rule for bytes.
    pub struct TcpRoute {
        /// Any of these; empty: every connection.
        pub r#match: Vec<L4MatchAttributes>,
        /// Where to, with weights.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on a connection; all of them hold.
    pub struct L4MatchAttributes {
        /// Networks of the called address.
        pub destination_subnets: Vec<String>,
        /// The port that was called.
        pub port: Option<u32>,
        /// Deprecated, and never done.
        pub source_subnet: Option<String>,
        /// Only for sidecars with these labels.
        pub source_labels: BTreeMap<String, String>,
        /// Replaces the rule's `gateways`.
        pub gateways: Vec<String>,
        /// Only for sidecars of this namespace.
        pub source_namespace: Option<String>,
    }

    /// One destination of bytes with its share.
    pub struct RouteDestination {
        /// Where to.
        pub destination: Option<Destination>,
        /// Share; a single destination gets everything, whatever it says.
        pub weight: Option<i32>,
    }
}

words! {
    /// Where the port of a redirect comes from.
    pub enum RedirectPortSelection {
        /// 80 for `http`, 443 for `https`.
        #[default]
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        /// As the request was made.
        FromRequestPort = "FROM_REQUEST_PORT",
    }

    /// What becomes of a preflight from an origin that is not allowed.
    pub enum UnmatchedPreflights {
        /// As `FORWARD`.
        #[default]
        Unspecified = "UNSPECIFIED",
        /// Passed on to the app.
        Forward = "FORWARD",
        /// Answered here.
        Ignore = "IGNORE",
    }
}
