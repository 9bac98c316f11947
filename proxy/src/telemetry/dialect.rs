//! Whose names metrics have.

use std::str::FromStr;

/// Which families of requests and connections are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `istio_*`.
    #[default]
    Istio,
    /// OpenTelemetry's semantic conventions.
    Otel,
    /// Both.
    Both,
    /// None: requests are not counted apart.
    None,
}

impl Dialect {
    /// Whether requests are counted by who calls whom, how and with what outcome. Otherwise `http_*`, statuses and durations
    /// among `envoy_cluster_*`, and the figures of `leno stat` are empty as well.
    pub fn counts(self) -> bool {
        self != Self::None
    }

    /// Whether Istio's names are among them.
    pub fn has_istio(self) -> bool {
        matches!(self, Self::Istio | Self::Both)
    }

    /// Whether OpenTelemetry's names are among them.
    pub fn has_otel(self) -> bool {
        matches!(self, Self::Otel | Self::Both)
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "istio" => Ok(Self::Istio),
            "otel" => Ok(Self::Otel),
            "both" => Ok(Self::Both),
            "none" => Ok(Self::None),
            other => Err(format!("`{other}` is not one of istio, otel, both and none")),
        }
    }
}
