//! `MeshConfig` (`leno.mesh/v1alpha1`): what holds for the whole mesh.

use std::collections::BTreeMap;

use super::common::{message, words};
use super::{DurationText, LocalityLoadBalancerSetting, OutboundTrafficPolicy, TrafficPolicy};

message! {
    /// What holds for the whole mesh.
    pub struct MeshConfig {
        /// First part of every identity; `cluster.local` by default.
        pub trust_domain: Option<String>,
        /// Other names of the trust domain: identities of theirs are the same workloads (a migration).
        pub trust_domain_aliases: Vec<String>,
        /// Where rules for the whole mesh live; `istio-system` by default.
        pub root_namespace: Option<String>,
        /// Which set of limits.
        pub profile: Option<Profile>,
        /// What becomes of unknown hosts, where no Sidecar says.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// Fills the blocks that a DestinationRule leaves out.
        pub default_traffic_policy: Option<TrafficPolicy>,
        /// Near before far, where neither a DestinationRule nor the service says anything.
        pub locality_lb_setting: Option<Box<LocalityLoadBalancerSetting>>,
        /// What is logged of each request.
        #[serde(rename = "access_log")]
        pub access_log: Option<Box<AccessLog>>,
        /// What is traced of each request.
        pub tracing: Option<Tracing>,
    }

    /// What is logged of each request and each TCP connection; `{}` is Envoy's text on standard output.
    pub struct AccessLog {
        /// One of the forms that everybody knows; `text` by default.
        pub format: Option<AccessLogFormat>,
        /// A form of one's own instead.
        pub custom: Option<CustomLogFormat>,
        /// Which; absent: all.
        pub filter: Option<AccessLogFilter>,
        /// The file that lines are appended to; `/dev/stdout` by default. It is opened anew on SIGUSR1, and when it was
        /// renamed or removed.
        pub path: Option<String>,
        /// What becomes of credentials and queries.
        pub sensitive: Option<SensitiveWords>,
    }

    /// A form of one's own, with Envoy's operators: one of the two.
    pub struct CustomLogFormat {
        /// `%REQ(:METHOD)% %RESPONSE_CODE% %DURATION%`
        pub text: Option<String>,
        /// `{code: "%RESPONSE_CODE%"}`: an operator by itself keeps its type, a number stays a number.
        pub json: BTreeMap<String, String>,
    }

    /// Which requests are logged; all conditions hold.
    pub struct AccessLogFilter {
        /// This status or above.
        pub min_status: Option<u32>,
        /// As long or longer.
        pub min_duration: Option<DurationText>,
        /// Percent of those.
        pub sample: Option<f64>,
        /// One of these response flags, in Envoy's letters: `UF`, `UH`, …
        pub flags: Vec<String>,
    }

    /// What is traced of each request.
    pub struct Tracing {
        /// Address of a collector that speaks OTLP: `http://HOST:4317`.
        pub otlp: Option<String>,
        /// What the collector takes; gRPC by default.
        pub protocol: Option<OtlpProtocol>,
        /// Percent of the requests that come without a decision of their caller; 1 by default.
        pub sampling: Option<f64>,
        /// Attributes of every span, by name.
        pub custom_tags: BTreeMap<String, CustomTag>,
    }

    /// An attribute of spans; one of the two (Istio's Telemetry).
    pub struct CustomTag {
        /// Always the same.
        pub literal: Option<LiteralTag>,
        /// From the request.
        pub header: Option<HeaderTag>,
    }

    /// A fixed text.
    pub struct LiteralTag {
        /// It.
        pub value: String,
    }

    /// A header of the request.
    pub struct HeaderTag {
        /// Its name.
        pub name: String,
        /// Instead, where a request lacks it; absent: no attribute then.
        pub default_value: Option<String>,
    }
}

words! {
    /// Sets of limits.
    pub enum Profile {
        /// Istio's values wherever a user could notice.
        #[default]
        Istio = "istio",
        /// Stricter.
        Safe = "safe",
    }

    /// What a collector takes.
    pub enum OtlpProtocol {
        /// OTLP over gRPC, on port 4317.
        #[default]
        Grpc = "grpc",
        /// OTLP in protobuf over HTTP, on port 4318.
        Http = "http",
    }

    /// Forms of the access log.
    pub enum AccessLogFormat {
        /// Envoy's line.
        #[default]
        Text = "text",
        /// Istio's keys.
        Json = "json",
    }

    /// What becomes of `authorization`, `cookie` and the like, and of queries.
    pub enum SensitiveWords {
        /// That there was something is said, not what.
        #[default]
        Redacted = "redacted",
        /// As they came.
        Shown = "shown",
    }
}
