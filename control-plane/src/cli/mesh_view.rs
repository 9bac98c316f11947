//! What `leno stat`, `edges` and `routes` have in common: whom they ask, for how long, and how numbers are written.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http::StatusCode;
use leno_config::ir::Locality;
use leno_config::node::{Interception, Node};
use leno_proxy::telemetry::figures::{DURATION_BOUNDS_MS, Figures, Party};
use serde::Serialize;

use super::ask::{Question, ask, ask_whom};
use super::failure::Failure;
use super::table::{Cell, Column};
use crate::figures::counters::Counters;
use crate::figures::history::History;
use crate::figures::view::{Rates, View, parse_window, quantile};

/// Below this share of successes a number is coloured as doubtful, …
const GOOD: f64 = 0.999;
/// … and below this as bad.
const FAIR: f64 = 0.95;

/// Whom to ask and about what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Scope {
    /// HTTP address of the control plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    pub(super) address: String,
    /// HTTP address of the admin interface of one proxy: shows what that proxy alone has counted since it started
    #[arg(long, value_name = "URL", conflicts_with = "window")]
    pub(super) proxy: Option<String>,
    /// How far back to look: 1s to 10m
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_window)]
    window: Duration,
    /// Namespace to show
    #[arg(short, long, default_value = "default", env = "LENO_NAMESPACE")]
    namespace: String,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

impl Scope {
    /// What is counted there.
    pub(super) fn view(&self) -> Result<View, Failure> {
        if let Some(proxy) = &self.proxy {
            let hint = "is it running? --proxy takes its `admin` address";
            let answer = ask_whom("the proxy", hint, proxy, &Question::get("/figures"))?;
            let figures: Figures = read(proxy, &answer)?;
            return Ok(of_one(&figures));
        }
        let path = format!("/figures?window={}s", self.window.as_secs());
        read(&self.address, &ask(&self.address, &Question::get(&path))?)
    }

    /// Whether a namespace is to be shown.
    pub(super) fn shows(&self, namespace: &str) -> bool {
        self.all_namespaces || self.namespace == namespace
    }

    /// Of the namespace: it goes without saying where only one is shown.
    pub(super) fn namespace_column(&self) -> Column {
        let column = Column::text("NAMESPACE");
        if self.all_namespaces { column } else { column.extra() }
    }

    /// What to say where there is nothing to show.
    pub(super) fn nothing(&self, what: &str) -> String {
        match self.all_namespaces {
            true => format!("No {what}.\n"),
            false => format!("No {what}\nin namespace {} (-A: all namespaces).\n", self.namespace),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(address: &str, answer: &(StatusCode, String)) -> Result<T, Failure> {
    let (code, text) = answer;
    if !code.is_success() {
        return Err(Failure::unreachable(anyhow!("{address} answers {code}: {}", text.trim())));
    }
    let wrong = || format!("the answer of {address} is not understood; is it as old as this program?");
    Ok(serde_json::from_str(text).with_context(wrong)?)
}

/// One proxy's counters, from its start until now.
fn of_one(figures: &Figures) -> View {
    let lived = figures.taken_ms.saturating_sub(figures.started_ms);
    let mut history = History::default();
    history.take_all(figures);
    let Party { workload, namespace, service_account, .. } = figures.own.clone();
    let node = Node {
        name: workload.clone(),
        ip: [127, 0, 0, 1].into(),
        namespace,
        service_account,
        workload,
        labels: [].into(),
        locality: Locality::default(),
        interception: Interception::None,
    };
    let mut view = View::new(Duration::from_millis(lived), DURATION_BOUNDS_MS.to_vec());
    view.add(&node, Some(&history), None);
    view.finish();
    view
}

/// What is told of requests, whatever they have in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Golden {
    /// Requests in the window.
    pub(super) requests: u64,
    /// Those that failed.
    pub(super) failures: u64,
    /// Share of the others, 0 to 1; `null`: there were none.
    pub(super) success: Option<f64>,
    /// Requests per second.
    pub(super) rps: f64,
    /// Milliseconds that half of the requests did not exceed.
    pub(super) p50_ms: Option<f64>,
    /// The same for 95 of 100.
    pub(super) p95_ms: Option<f64>,
    /// The same for 99 of 100.
    pub(super) p99_ms: Option<f64>,
    /// Failures per second, by which tables are sorted.
    #[serde(skip)]
    pub(super) pain: f64,
}

impl Golden {
    pub(super) fn of(counters: &Counters, rates: &Rates, bounds: &[f64]) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let success = (counters.requests > 0).then(|| 1.0 - counters.failures as f64 / counters.requests as f64);
        let at = |share| quantile(&counters.durations, bounds, share);
        Self {
            requests: counters.requests,
            failures: counters.failures,
            success,
            rps: rates.requests,
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            pain: rates.failures,
        }
    }

    /// Who hurts most comes first, then who has most to do.
    pub(super) fn by_pain(&self, other: &Self) -> std::cmp::Ordering {
        other.pain.total_cmp(&self.pain).then_with(|| other.rps.total_cmp(&self.rps))
    }

    pub(super) fn success_cell(&self) -> Cell {
        match self.success {
            None => Cell::nothing(),
            Some(share) if share < FAIR => Cell::bad(percent(share)),
            Some(share) if share < GOOD => Cell::doubtful(percent(share)),
            Some(share) => Cell::good(percent(share)),
        }
    }

    pub(super) fn rps_cell(&self) -> Cell {
        if self.requests == 0 { Cell::nothing() } else { Cell::from(rate(self.rps)) }
    }
}

/// `99.73%`; never rounded up to all or down to none.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 99.99 && percent < 100.0 => ">99.99%".to_owned(),
        percent if percent > 0.0 && percent < 0.01 => "<0.01%".to_owned(),
        percent => format!("{percent:.2}%"),
    }
}

/// `80%`, `19.2%`: of what adds up to all; never rounded up to all or down to none.
pub(super) fn share(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 99.9 && percent < 100.0 => ">99.9%".to_owned(),
        percent if percent > 0.0 && percent < 0.1 => "<0.1%".to_owned(),
        percent => format!("{}%", (percent * 10.0).round() / 10.0),
    }
}

/// `0.05`, `12.3`, `1250`
pub(super) fn rate(rate: f64) -> String {
    match rate {
        rate if rate < 10.0 => format!("{rate:.2}"),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

/// `0.8ms`, `45ms`, `2.50s`
pub(super) fn millis(millis: f64) -> String {
    match millis {
        millis if millis < 10.0 => format!("{millis:.1}ms"),
        millis if millis < 1000.0 => format!("{millis:.0}ms"),
        millis => format!("{:.2}s", millis / 1000.0),
    }
}

/// `512B/s`, `1.5KiB/s`
pub(super) fn bytes(per_second: f64) -> String {
    let mut value = per_second;
    for unit in ["B/s", "KiB/s", "MiB/s"] {
        if value < 1024.0 {
            return if unit == "B/s" || value >= 100.0 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1}GiB/s")
}

/// What could not be asked, for standard error.
pub(super) fn problems(view: &View) -> Vec<String> {
    let problem = |seen: &crate::figures::view::Seen| {
        let problem = seen.problem.as_ref()?;
        Some(format!("{}.{}: {problem}", seen.name, seen.namespace))
    };
    view.proxies.iter().filter_map(problem).collect()
}

/// Says what could not be asked.
pub(super) fn warn(view: &View) {
    for problem in problems(view) {
        // Where stderr is gone there is nobody left to tell.
        let _ = std::io::Write::write_fmt(&mut anstream::stderr(), format_args!("warning: {problem}\n"));
    }
}

/// A small shop: `productpage` calls `reviews-v2` with mTLS, half in vain, and `mail`, which has no sidecar.
#[cfg(test)]
pub(super) mod example {
    use leno_proxy::telemetry::figures::{Direction, Service};

    use super::*;
    use crate::figures::counters::{AtCluster, Between, OnRoute};
    use crate::figures::view::{Row, Seen};

    pub(crate) const ROUTE: &str = "VirtualService shop/reviews[0]";

    pub(crate) fn cluster(version: &str) -> String {
        format!("outbound|80|{version}|reviews.shop.svc.cluster.local")
    }

    fn party(workload: &str, principal: &str) -> Party {
        let namespace = if workload == "unknown" { "unknown" } else { "shop" };
        Party {
            workload: workload.to_owned(),
            namespace: namespace.to_owned(),
            principal: principal.to_owned(),
            ..Party::default()
        }
    }

    /// So many requests in a minute, between 2.5 and 5 ms each.
    fn counted<K>(of: K, requests: u64, failures: u64) -> Row<K> {
        let durations = vec![0, 0, 0, requests];
        let (received, sent) = (requests * 50, requests * 100);
        let counters = Counters { requests, failures, durations, received, sent, ..Counters::default() };
        #[allow(clippy::cast_precision_loss)]
        let per_second = |count: u64| count as f64 / 60.0;
        let rates = Rates {
            requests: per_second(requests),
            failures: per_second(failures),
            received: per_second(received),
            sent: per_second(sent),
        };
        Row { of, counters, rates }
    }

    fn between(direction: Direction, [source, destination]: [Party; 2], service: &str, group: &str) -> Between {
        let security = if group == "-" { "none" } else { "mutual_tls" };
        Between {
            direction,
            source,
            destination,
            service: Service { host: String::new(), name: service.to_owned(), namespace: "shop".to_owned() },
            protocol: "http".to_owned(),
            security: security.to_owned(),
            group: group.to_owned(),
        }
    }

    pub(crate) fn view() -> View {
        let seen = |name: &str, workload: &str| Seen {
            node: format!("sidecar~10.0.0.1~{name}.shop~shop.svc.cluster.local"),
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            workload: workload.to_owned(),
            span_s: 60.0,
            connections_active: 3,
            requests_active: 0,
            problem: None,
        };
        let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let known = || [party("productpage", &id("productpage")), party("reviews-v2", &id("reviews"))];
        let nobody = || party("unknown", "unknown");
        let mut view = View::new(Duration::from_secs(60), DURATION_BOUNDS_MS.to_vec());
        view.proxies = vec![
            seen("productpage-1", "productpage"),
            seen("productpage-2", "productpage"),
            seen("reviews-v2-1", "reviews-v2"),
        ];
        let group = "X25519MLKEM768";
        view.requests = vec![
            counted(between(Direction::Inbound, known(), "reviews", group), 120, 60),
            counted(between(Direction::Outbound, known(), "reviews", group), 120, 60),
            counted(
                between(Direction::Inbound, [nobody(), party("productpage", "unknown")], "productpage", "-"),
                240,
                0,
            ),
            counted(between(Direction::Outbound, [party("productpage", "unknown"), nobody()], "mail", "-"), 30, 0),
        ];
        let on_route = |version: &str| OnRoute {
            direction: Direction::Outbound,
            of: party("productpage", "unknown"),
            route: ROUTE.to_owned(),
            cluster: cluster(version),
            service: Service::default(),
        };
        view.routes = vec![counted(on_route("v1"), 30, 0), counted(on_route("v2"), 90, 0)];
        let at = AtCluster { of: party("productpage", "unknown"), cluster: cluster("v2") };
        view.retries = vec![counted(at, 12, 0)];
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_not_rounded_to_all_or_none() {
        for (text, expected) in [
            (percent(1.0), "100.00%"),
            (percent(0.999_99), ">99.99%"),
            (percent(0.5), "50.00%"),
            (percent(0.000_01), "<0.01%"),
            (percent(0.0), "0.00%"),
            (share(1.0), "100%"),
            (share(0.999_95), ">99.9%"),
            (share(0.8), "80%"),
            (share(0.192_34), "19.2%"),
            (share(0.000_1), "<0.1%"),
            (share(0.0), "0%"),
            (rate(0.0), "0.00"),
            (rate(12.34), "12.3"),
            (rate(1234.5), "1234"),
            (millis(0.84), "0.8ms"),
            (millis(45.2), "45ms"),
            (millis(2500.0), "2.50s"),
            (bytes(0.0), "0B/s"),
            (bytes(1536.0), "1.5KiB/s"),
            (bytes(3.0 * 1024.0 * 1024.0), "3.0MiB/s"),
            (bytes(5e12), "4656.6GiB/s"),
        ] {
            assert_eq!(text, expected);
        }
    }
}
