//! Which of the things that a proxy holds are shown.

use anyhow::bail;

use super::Kind;
use super::view::{Destination, Held, Listener, RouteConfig};

/// Only what all of them leave is shown.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only of this host, as in reviews.default.svc.cluster.local, or of one that begins with it (reviews)
    #[arg(long, value_name = "HOST")]
    fqdn: Option<String>,
    /// Only of this port: the listener's, or the service's
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only of this subset
    #[arg(long, value_name = "SUBSET")]
    subset: Option<String>,
    /// Only what leads to the own app, or away from it
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Only what has this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Toward the own app, or away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Filter {
    /// Refuses filters that make no sense for what is asked: ignored, they would show too much.
    pub(super) fn check(&self, kind: Kind) -> anyhow::Result<()> {
        let known: &[&str] = match kind {
            Kind::Listeners => &["port", "direction", "name"],
            Kind::Routes => &["fqdn", "port", "name"],
            Kind::Clusters | Kind::Endpoints => &["fqdn", "port", "subset", "direction", "name"],
            Kind::Secrets => &[],
            Kind::All => return Ok(()),
        };
        let given = [
            ("fqdn", self.fqdn.is_some()),
            ("port", self.port.is_some()),
            ("subset", self.subset.is_some()),
            ("direction", self.direction.is_some()),
            ("name", self.name.is_some()),
        ];
        if let Some((wrong, _)) = given.iter().find(|(name, is_given)| *is_given && !known.contains(name)) {
            let kind = kind.name();
            match known.is_empty() {
                true => bail!("{kind} have no --{wrong}; leave it out"),
                false => bail!("{kind} have no --{wrong}; what there is to choose by: --{}", known.join(", --")),
            }
        }
        Ok(())
    }

    pub(super) fn takes_listener(&self, listener: &Listener) -> bool {
        self.port.is_none_or(|port| listener.address.port() == port)
            && self.direction.is_none_or(|direction| direction.as_str() == listener.direction)
            && self.name.as_deref().is_none_or(|name| name == listener.name)
    }

    /// Leaves the virtual hosts that are asked for; whether there are any.
    pub(super) fn takes_routes(&self, held: &mut Held<RouteConfig>) -> bool {
        if self.name.as_deref().is_some_and(|name| name != held.view.name) {
            return false;
        }
        if self.fqdn.is_none() && self.port.is_none() {
            return true;
        }
        let is_taken = |domains: &[String]| {
            let hosts = domains.iter().map(|domain| match domain.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()),
                None => (domain.as_str(), None),
            });
            let hosts: Vec<(&str, Option<u16>)> = hosts.collect();
            self.fqdn.as_deref().is_none_or(|fqdn| hosts.iter().any(|(host, _)| is_of(host, fqdn)))
                && self.port.is_none_or(|port| hosts.iter().any(|(_, known)| *known == Some(port)))
        };
        let kept: Vec<bool> = held.view.virtual_hosts.iter().map(|host| is_taken(&host.domains)).collect();
        let mut flags = kept.iter();
        held.view.virtual_hosts.retain(|_| flags.next().copied().unwrap_or_default());
        let raw = held.raw.pointer_mut("/resource/virtual_hosts").and_then(|hosts| hosts.as_array_mut());
        if let Some(hosts) = raw {
            let mut flags = kept.iter();
            hosts.retain(|_| flags.next().copied().unwrap_or_default());
        }
        !held.view.virtual_hosts.is_empty()
    }

    pub(super) fn takes_cluster(&self, name: &str) -> bool {
        let Destination { direction, port, subset, host } = Destination::of(name);
        self.fqdn.as_deref().is_none_or(|fqdn| is_of(host, fqdn))
            && self.port.is_none_or(|wanted| port.is_some_and(|port| port == wanted))
            && self.subset.as_deref().is_none_or(|wanted| wanted == subset)
            && self.direction.is_none_or(|wanted| Some(wanted.as_str()) == direction)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

/// Whether a host is the one that is meant, in full or by its first labels.
fn is_of(host: &str, written: &str) -> bool {
    host.strip_prefix(written).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
