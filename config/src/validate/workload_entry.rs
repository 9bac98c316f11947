//! `WorkloadEntry`, alone or as an endpoint.

use super::findings::Findings;
use super::load_balancer::is_locality;
use super::values::is_host;
use crate::defaults;
use crate::diagnostic::codes;
use crate::identity::SpiffeId;
use crate::mesh::TLS_MODE_LABEL;
use crate::rules::{Path, WorkloadEntry};

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressKind {
    Ip,
    Name,
    UnixSocket,
    /// None of these.
    Unknown,
}

impl AddressKind {
    pub(super) fn of(address: &str) -> Self {
        if let Some(path) = address.strip_prefix("unix://") {
            return if path.starts_with(['/', '@']) && path.len() > 1 { Self::UnixSocket } else { Self::Unknown };
        }
        if address.parse::<std::net::IpAddr>().is_ok() {
            Self::Ip
        } else if is_host(address) && !address.contains('*') {
            Self::Name
        } else {
            Self::Unknown
        }
    }
}

pub(super) fn check(entry: &WorkloadEntry, path: &Path, found: &mut Findings) {
    let address = entry.address.as_deref().unwrap_or_default();
    if address.is_empty() {
        if entry.network.as_deref().unwrap_or_default().is_empty() {
            found.add(codes::REQUIRED, path, "the workload has no address").help("add `address`");
        }
    } else {
        match AddressKind::of(address) {
            AddressKind::UnixSocket if !entry.ports.is_empty() => {
                found.add(codes::ADDRESS, &path.key("ports"), "a Unix socket has no ports").on_key();
            }
            AddressKind::Unknown => {
                let help = "write an address, a name, or `unix:///path`";
                let message = format!("`{address}` is not an address");
                found.add(codes::ADDRESS, &path.key("address"), message).help(help);
            }
            AddressKind::Ip | AddressKind::Name | AddressKind::UnixSocket => {}
        }
    }
    for (name, number) in &entry.ports {
        let path = path.key("ports").key(name);
        found.port(&path, Some(*number));
    }
    found.labels(&path.key("labels"), &entry.labels);
    if let Some(locality) = entry.locality.as_deref().filter(|text| !text.is_empty() && !is_locality(text)) {
        let message = format!("`{locality}` is not a locality");
        found.add(codes::LOCALITY, &path.key("locality"), message).help("write `region/zone/subzone`");
    }
    if let Some(account) = entry.service_account.as_deref().filter(|account| !account.is_empty())
        && SpiffeId::workload(defaults::TRUST_DOMAIN, defaults::NAMESPACE, account).is_err()
    {
        let message = format!("no workload has the service account `{account}`");
        let help = "use letters, digits, `-`, `_` and `.`";
        found.add(codes::IDENTITY, &path.key("serviceAccount"), message).help(help);
    }
    let names_identity = entry.service_account.as_deref().is_some_and(|account| !account.is_empty());
    if names_identity && !entry.labels.contains_key(TLS_MODE_LABEL) {
        found
            .add(codes::NO_TLS_MODE, &path.key("serviceAccount"), "the identity is not used: clients speak clear text")
            .help(format!("a sidecar that answers there is marked by the label `{TLS_MODE_LABEL}: istio`"));
    }
}

#[cfg(test)]
mod tests {
    use super::AddressKind;

    #[test]
    fn addresses_are_of_three_kinds() {
        for (address, kind) in [
            ("10.0.0.1", AddressKind::Ip),
            ("::1", AddressKind::Ip),
            ("example.com", AddressKind::Name),
            ("unix:///run/a.sock", AddressKind::UnixSocket),
            ("unix://@a", AddressKind::UnixSocket),
            ("unix://a", AddressKind::Unknown),
            ("unix://", AddressKind::Unknown),
            ("10.0.0.1:80", AddressKind::Unknown),
            ("*.example.com", AddressKind::Unknown),
        ] {
            assert_eq!(AddressKind::of(address), kind, "{address}");
        }
    }
}
