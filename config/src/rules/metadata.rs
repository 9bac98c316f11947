//! What every document carries around its `spec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::common::message;

/// A document of one kind: Kubernetes' envelope with a typed `spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<T> {
    /// `networking.istio.io/v1`, …
    pub api_version: String,
    /// `VirtualService`, …
    pub kind: String,
    /// Who it is. The namespace is as written, so empty where the document names none: the one that counts stands in
    /// [`super::ResourceId`].
    pub metadata: Metadata,
    /// What it says.
    pub spec: T,
    /// What a cluster noted down about it. Read, never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

message! {
    /// Kubernetes' `ObjectMeta`.
    pub struct Metadata {
        /// Unique per kind and namespace.
        pub name: String,
        /// A beginning, behind which a cluster puts something unique.
        pub generate_name: Option<String>,
        /// Empty: `default`.
        pub namespace: String,
        /// What selectors look at.
        pub labels: BTreeMap<String, String>,
        /// Notes for programs.
        pub annotations: BTreeMap<String, String>,
        /// RFC 3339. The oldest of two rules for one host wins.
        pub creation_timestamp: Option<String>,
        /// RFC 3339.
        pub deletion_timestamp: Option<String>,
        /// Seconds.
        pub deletion_grace_period_seconds: Option<i64>,
        /// Unique in time.
        pub uid: Option<String>,
        /// Changes with every change.
        pub resource_version: Option<String>,
        /// Grows with every change of `spec`.
        pub generation: Option<i64>,
        /// What has to happen before it can go.
        pub finalizers: Vec<String>,
        /// Whom it belongs to.
        pub owner_references: Vec<OwnerReference>,
        /// Who wrote which field.
        pub managed_fields: Vec<ManagedFields>,
        /// Old Kubernetes wrote it.
        pub self_link: Option<String>,
    }

    /// Whom a document belongs to.
    pub struct OwnerReference {
        /// Of the owner.
        pub api_version: String,
        /// Of the owner.
        pub kind: String,
        /// Of the owner.
        pub name: String,
        /// Of the owner.
        pub uid: String,
        /// Whether it is the one that manages it.
        pub controller: Option<bool>,
        /// Whether the owner waits for its end.
        pub block_owner_deletion: Option<bool>,
    }

    /// Who wrote which field.
    pub struct ManagedFields {
        /// The program.
        pub manager: Option<String>,
        /// `Apply` or `Update`.
        pub operation: Option<String>,
        /// In which version the fields are written.
        pub api_version: Option<String>,
        /// RFC 3339.
        pub time: Option<String>,
        /// `FieldsV1`
        pub fields_type: Option<String>,
        /// The fields.
        pub fields_v1: Option<FieldSet>,
        /// `status`, `scale`, or nothing.
        pub subresource: Option<String>,
    }

    /// What a cluster noted down; the fields of all kinds together.
    pub struct Status {
        /// How it stands.
        pub conditions: Vec<Condition>,
        /// What Istio's analysis found.
        pub validation_messages: Vec<ValidationMessage>,
        /// Which `metadata.generation` the rest speaks of. Istio writes it as text.
        pub observed_generation: Option<NumberOrText>,
        /// Addresses that Istio gave to a ServiceEntry.
        pub addresses: Vec<StatusAddress>,
        /// Addresses of a load balancer of a Service.
        pub load_balancer: Option<LoadBalancerStatus>,
    }

    /// How something stands.
    pub struct Condition {
        /// What is judged.
        pub r#type: String,
        /// `True`, `False` or `Unknown`.
        pub status: String,
        /// RFC 3339.
        pub last_probe_time: Option<String>,
        /// RFC 3339.
        pub last_transition_time: Option<String>,
        /// One word.
        pub reason: Option<String>,
        /// For people.
        pub message: Option<String>,
        /// Which `metadata.generation` it speaks of.
        pub observed_generation: Option<NumberOrText>,
    }

    /// A finding of Istio's analysis.
    pub struct ValidationMessage {
        /// Which.
        pub r#type: Option<ValidationMessageType>,
        /// `ERROR`, `WARNING` or `INFO`.
        pub level: Option<String>,
        /// Where it is explained.
        pub documentation_url: Option<String>,
    }

    /// Which finding.
    pub struct ValidationMessageType {
        /// In words.
        pub name: Option<String>,
        /// `IST0101`, …
        pub code: Option<String>,
    }

    /// An address that Istio gave to a host of a ServiceEntry.
    pub struct StatusAddress {
        /// The address.
        pub value: Option<String>,
        /// The host.
        pub host: Option<String>,
    }

    /// Addresses of a load balancer.
    pub struct LoadBalancerStatus {
        /// One per address.
        pub ingress: Vec<LoadBalancerIngress>,
    }

    /// One address of a load balancer.
    pub struct LoadBalancerIngress {
        /// As an address.
        pub ip: Option<String>,
        /// As a name.
        pub hostname: Option<String>,
        /// `VIP` or `Proxy`.
        pub ip_mode: Option<String>,
        /// State of each port.
        pub ports: Vec<PortStatus>,
    }

    /// State of one port of a load balancer.
    pub struct PortStatus {
        /// Which.
        pub port: Option<u32>,
        /// `TCP`, …
        pub protocol: Option<String>,
        /// What went wrong.
        pub error: Option<String>,
    }
}

/// A set of fields: paths as nested maps, with `{}` at the ends (Kubernetes' `FieldsV1`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldSet(pub BTreeMap<String, FieldSet>);

/// A number, which some write as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum NumberOrText {
    /// `8080`
    Number(i64),
    /// `"http"`
    Text(String),
}

impl std::fmt::Display for NumberOrText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = NumberOrText;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a text")
            }

            fn visit_i64<E>(self, number: i64) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Number(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<NumberOrText, E> {
                i64::try_from(number)
                    .map(NumberOrText::Number)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &"a smaller number"))
            }

            fn visit_str<E>(self, text: &str) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
