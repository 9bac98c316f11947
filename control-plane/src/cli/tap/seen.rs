//! What a line of a tap says, as far as people are shown it. `-o json` passes on all of it.

use serde::Deserialize;

/// A request or connection that has ended, or that some were not shown.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    /// When it came; RFC 3339, UTC.
    pub(crate) time: String,
    /// Envoy's response flags; `-`: nothing to say.
    pub(crate) flags: String,
    pub(crate) error: Option<String>,
    pub(crate) duration_ms: f64,
    pub(crate) source: End,
    pub(crate) destination: End,
    /// `None`: a connection.
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) authority: Option<String>,
    /// 0: there was no answer.
    pub(crate) status: Option<u16>,
    pub(crate) rule: Option<String>,
    pub(crate) attempts: u32,
    /// So many were not shown; then nothing else is said.
    pub(crate) dropped: Option<u64>,
}

/// Who was at one end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct End {
    pub(crate) workload: Option<String>,
    pub(crate) identity: Option<String>,
    pub(crate) address: Option<String>,
}

impl End {
    /// The workload, else the service account, else the address.
    pub(crate) fn name(&self) -> &str {
        let account = || self.identity.as_deref().and_then(|id| id.rsplit_once("/sa/")).map(|(_, account)| account);
        self.workload.as_deref().or_else(account).or(self.address.as_deref()).unwrap_or("unknown")
    }
}

impl Seen {
    /// The path without what stands after the `?`.
    pub(crate) fn plain_path(&self) -> &str {
        let path = self.path.as_deref().unwrap_or_default();
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// Whether whoever answers is at fault.
    pub(crate) fn has_failed(&self) -> bool {
        match self.status {
            Some(0) => !self.flags.split(',').any(|flag| flag == "DC"),
            Some(status) => status >= 500,
            None => self.flags.starts_with('U'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_named_by_the_best_that_is_known() {
        let end = |workload: Option<&str>, identity: Option<&str>, address: Option<&str>| End {
            workload: workload.map(str::to_owned),
            identity: identity.map(str::to_owned),
            address: address.map(str::to_owned),
        };
        let (id, address) = (Some("spiffe://cluster.local/ns/shop/sa/reviews"), Some("10.0.0.1:80"));
        for (end, expected) in [
            (end(Some("reviews-v1"), id, address), "reviews-v1"),
            (end(None, id, address), "reviews"),
            (end(None, None, address), "10.0.0.1:80"),
            (end(None, None, None), "unknown"),
        ] {
            assert_eq!(end.name(), expected);
        }
    }
}
