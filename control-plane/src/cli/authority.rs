//! The flags of `leno serve` that are about certificates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use crate::ca::bundle::{BundleError, External};
use crate::ca::issuer::{SHORTEST, ServerName};
use crate::ca::{OperatorFiles, Settings};

/// Host names by which every control plane can be reached: on this machine, and in Kubernetes by its own name and by
/// the one that Istio's agents use.
const NAMES: [&str; 4] =
    ["localhost", "leno.leno-system.svc", "leno.leno-system.svc.cluster.local", "istiod.istio-system.svc"];

/// Flags about certificates.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct AuthorityArguments {
    /// Certificates of your own authority in place of a root that leno makes: the issuing one first, then the
    /// intermediates, the root, and further roots that peers should trust (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_key", env = "LENO_CA_CERT")]
    ca_cert: Option<PathBuf>,
    /// Key of the first certificate of --ca-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_cert", env = "LENO_CA_KEY")]
    ca_key: Option<PathBuf>,
    /// How long certificates of workloads are good, and the longest they may ask for; at least 60s
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = life, env = "LENO_CERTIFICATE_TTL")]
    certificate_ttl: Duration,
    /// A further host name or address by which proxies reach --tls-address; may be given several times
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    tls_san: Vec<ServerName>,
    /// Roots of another trust domain whose workloads may be met (PEM); may be given several times
    #[arg(long, value_name = "TRUST-DOMAIN=FILE", value_parser = external)]
    bundle: Vec<External>,
}

impl AuthorityArguments {
    /// What they ask for, with this state directory.
    pub(super) fn settings(&self, state: Option<PathBuf>) -> Settings {
        let operator = self.ca_cert.clone().zip(self.ca_key.clone());
        let operator = operator.map(|(certificates, key)| OperatorFiles { certificates, key });
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(ServerName::Address);
        let names = NAMES.map(|name| ServerName::Dns(name.to_owned()));
        Settings {
            state,
            operator,
            life: self.certificate_ttl,
            names: names.into_iter().chain(addresses).chain(self.tls_san.iter().cloned()).collect(),
            external: self.bundle.clone(),
        }
    }
}

fn life(text: &str) -> Result<Duration, String> {
    let life = super::token::duration(text)?;
    match life >= SHORTEST {
        true => Ok(life),
        false => Err(format!("certificates are good for at least {} s", SHORTEST.as_secs())),
    }
}

fn server_name(text: &str) -> Result<ServerName, String> {
    match rustls_pki_types::ServerName::try_from(text) {
        Ok(rustls_pki_types::ServerName::DnsName(name)) => Ok(ServerName::Dns(name.as_ref().to_owned())),
        Ok(rustls_pki_types::ServerName::IpAddress(_)) => {
            IpAddr::from_str(text).map(ServerName::Address).map_err(|error| error.to_string())
        }
        Ok(_) | Err(_) => Err("it is neither a host name nor an address".to_owned()),
    }
}

fn external(text: &str) -> Result<External, BundleError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_and_names_are_checked_on_the_command_line() {
        for (text, expected) in [("24h", true), ("60s", true), ("59s", false), ("0", false), ("1d", false)] {
            assert_eq!(life(text).is_ok(), expected, "{text}");
        }
        let rows = [("leno.example", true), ("10.0.0.1", true), ("::1", true), ("a b", false), ("", false)];
        for (text, expected) in rows {
            assert_eq!(server_name(text).is_ok(), expected, "{text}");
        }
    }
}
