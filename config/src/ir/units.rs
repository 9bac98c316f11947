//! Numbers that carry their meaning.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// A TCP port, 1 to 65 535.
pub type Port = std::num::NonZeroU16;

/// The name of a cluster: `outbound|PORT|SUBSET|FQDN`, `inbound|PORT||`, `PassthroughCluster`, `BlackHoleCluster`, or
/// whatever a foreign control plane calls it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// A name as it stands; the wire may use any non-empty text.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// `outbound|PORT|SUBSET|FQDN`; the subset is empty for the whole service. Istio's form.
    pub fn outbound(port: u16, subset: &str, fqdn: &str) -> Self {
        Self(format!("outbound|{port}|{subset}|{fqdn}").into())
    }

    /// `inbound|PORT||`: the app behind an ingress listener. Istio's form.
    pub fn inbound(port: u16) -> Self {
        Self(format!("inbound|{port}||").into())
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ClusterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A share of requests, in millionths: Envoy's finest denominator, so nothing is lost on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Fraction(u32);

impl From<Fraction> for u32 {
    fn from(fraction: Fraction) -> Self {
        fraction.0
    }
}

impl TryFrom<u32> for Fraction {
    type Error = Invalid;

    fn try_from(millionths: u32) -> Result<Self, Invalid> {
        Self::from_millionths(millionths)
    }
}

impl Fraction {
    /// All requests.
    pub const ALL: Self = Self(1_000_000);
    /// One request in a hundred.
    pub const ONE_PERCENT: Self = Self(10_000);
    /// No request.
    pub const NONE: Self = Self(0);

    /// From a percentage, 0 to 100, rounded to the nearest millionth.
    pub fn from_percent(percent: f64) -> Result<Self, Invalid> {
        if (0.0..=100.0).contains(&percent) {
            // In range by the test above, so the cast keeps the value.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            return Ok(Self((percent * 10_000.0).round() as u32));
        }
        Err(Invalid(format!("a percentage is between 0 and 100, this is {percent}")))
    }

    /// From millionths, 0 to 1 000 000.
    pub fn from_millionths(millionths: u32) -> Result<Self, Invalid> {
        if millionths <= 1_000_000 {
            return Ok(Self(millionths));
        }
        Err(Invalid(format!("{millionths} millionths are more than the whole")))
    }

    /// In millionths.
    pub fn millionths(self) -> u32 {
        self.0
    }
}
