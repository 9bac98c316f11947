//! `leno config`: what a proxy holds, by its own word.
//!
//! As `istioctl proxy-config` does, in tables that say what a person looks for, and with `-o json|yaml` everything as the
//! proxy tells it. What is shown is what its workers run on, with the state of endpoints at this moment: not what the rules
//! or the control plane would have it hold.

mod filter;
mod tables;
mod view;

use std::process::ExitCode;

use anyhow::Context as _;
use leno_proxy::admin::clusters::ClusterStatus;
use serde_json::{Value, json};

use super::Output;
use super::failure::Failure;
use super::proxy_client::{ProxyClient, Way};
use super::table::Room;
use filter::Filter;
use view::{Certificates, Dump, Held};

/// `leno config`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// What to show
    #[arg(value_enum)]
    kind: Kind,
    /// Which proxy: NAME.NAMESPACE, NAME or its node id, as `leno status` shows it; may be left out where there is only one
    #[arg(value_name = "PROXY")]
    of: Option<String>,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    filter: Filter,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What a proxy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Sockets that it listens on
    #[value(alias = "listener", alias = "l")]
    Listeners,
    /// Rules by which it sends requests on
    #[value(alias = "route", alias = "r")]
    Routes,
    /// Services that it calls
    #[value(alias = "cluster", alias = "c")]
    Clusters,
    /// Instances of those, and how they stand
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    /// Its certificate and whom it believes, without any key
    #[value(alias = "secret", alias = "s")]
    Secrets,
    /// All of this
    #[value(alias = "a")]
    All,
}

impl Kind {
    /// The kinds that it stands for.
    fn each(self) -> &'static [Self] {
        const ALL: [Kind; 5] = [Kind::Listeners, Kind::Routes, Kind::Clusters, Kind::Endpoints, Kind::Secrets];
        match self {
            Self::Listeners => &[Self::Listeners],
            Self::Routes => &[Self::Routes],
            Self::Clusters => &[Self::Clusters],
            Self::Endpoints => &[Self::Endpoints],
            Self::Secrets => &[Self::Secrets],
            Self::All => &ALL,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Routes => "routes",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Secrets => "secrets",
            Self::All => "all",
        }
    }
}

/// Asks a proxy and prints what it holds.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { kind, of, way, filter, output } = arguments;
    filter.check(*kind).map_err(Failure::usage)?;
    let holdings = Holdings::of(&ProxyClient::new(way, of.as_deref())?, *kind)?;
    let shown = holdings.shown(filter);
    output.print(&shown.raw(*kind), |room| shown.text(*kind, room))?;
    Ok(ExitCode::SUCCESS)
}

/// What was asked of one proxy; pages that are not needed are not fetched.
#[derive(Debug, Default)]
struct Holdings {
    dump: Dump,
    clusters: Vec<ClusterStatus>,
    certificates: Value,
}

impl Holdings {
    fn of(proxy: &ProxyClient, kind: Kind) -> Result<Self, Failure> {
        let each = kind.each();
        let foreign = || format!("{proxy} tells it in a way that this version of leno does not know");
        let mut holdings = Self::default();
        if each.iter().any(|kind| *kind != Kind::Secrets) {
            holdings.dump = Dump::read(proxy.json("/config_dump")?).with_context(foreign)?;
        }
        if each.contains(&Kind::Endpoints) {
            let clusters = proxy.json("/clusters?format=json")?;
            holdings.clusters = serde_json::from_value(clusters).with_context(foreign)?;
        }
        if each.contains(&Kind::Secrets) {
            holdings.certificates = proxy.json("/certs")?;
        }
        Ok(holdings)
    }

    /// What the filter leaves.
    fn shown(mut self, filter: &Filter) -> Self {
        self.dump.listeners.retain(|Held { view, .. }| filter.takes_listener(view));
        self.dump.routes.retain_mut(|held| filter.takes_routes(held));
        self.dump.clusters.retain(|Held { view, .. }| filter.takes_cluster(&view.name));
        self.clusters.retain(|cluster| filter.takes_cluster(&cluster.name));
        self
    }

    /// For programs: as the proxy said it.
    fn raw(&self, kind: Kind) -> Value {
        let of = |kind: Kind| match kind {
            Kind::Listeners => json!(self.dump.listeners.iter().map(|held| &held.raw).collect::<Vec<_>>()),
            Kind::Routes => json!(self.dump.routes.iter().map(|held| &held.raw).collect::<Vec<_>>()),
            Kind::Clusters => json!(self.dump.clusters.iter().map(|held| &held.raw).collect::<Vec<_>>()),
            Kind::Endpoints => json!(self.clusters),
            Kind::Secrets | Kind::All => self.certificates.clone(),
        };
        match kind {
            Kind::All => Value::Object(kind.each().iter().map(|kind| (kind.name().to_owned(), of(*kind))).collect()),
            one => of(one),
        }
    }

    /// For people: a table for each kind.
    fn text(&self, kind: Kind, room: Room) -> String {
        let tables = kind.each().iter().map(|kind| {
            let (is_empty, text) = match kind {
                Kind::Listeners => tables::listeners(&self.dump, room),
                Kind::Routes => tables::routes(&self.dump, room),
                Kind::Clusters => tables::clusters(&self.dump, room),
                Kind::Endpoints => tables::endpoints(&self.dump, &self.clusters, room),
                Kind::Secrets | Kind::All => tables::secrets(&Certificates::read(&self.certificates), room),
            };
            if is_empty { format!("There are no {}, or the filters leave none.\n", kind.name()) } else { text }
        });
        tables.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests;
