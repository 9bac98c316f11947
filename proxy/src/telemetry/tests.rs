//! Many workers, too many series, idle ones, and label sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use leno_config::ir::{Direction, Locality};
use leno_config::node::{Interception, Node};
use prometheus::core::Collector as _;
use prometheus::{Encoder as _, TextEncoder};

use super::connections::{CLOSED, OPENED, SENT};
use super::labels::MOST_OUTSIDE;
use super::meters::Meters;
use super::names;
use super::party::{Link, OTHER, Party, Protection, Target};
use super::registry::Telemetry;
use super::requests::{Form, Request, RequestKey, Spoken};
use super::series::IDLE;
use super::{Dialect, Figures};
use crate::error::{Flag, Flags};

fn telemetry(dialect: Dialect) -> Arc<Telemetry> {
    let node = Node {
        name: "web-1".to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        workload: "web".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned()), ("version".to_owned(), "v1".to_owned())]),
        locality: Locality::default(),
        interception: Interception::None,
    };
    Arc::new(Telemetry::new(&node, dialect))
}

fn workload(name: &str, namespace: &str) -> Link {
    let party = Party { workload: name.to_owned(), namespace: namespace.to_owned(), ..Party::word("x") };
    Link::unproven(party, Protection::None)
}

fn key(link: u32, code: u16) -> RequestKey {
    RequestKey {
        direction: Direction::Outbound,
        link,
        target: names::UNKNOWN,
        route: names::UNKNOWN,
        code,
        flags: Flags::default(),
        grpc: None,
        spoken: Spoken::Http,
        form: Form::default(),
    }
}

fn requests(telemetry: &Telemetry) -> u64 {
    figures(telemetry).requests.iter().map(|row| row.requests).sum()
}

fn figures(telemetry: &Telemetry) -> Figures {
    telemetry.figures(std::time::SystemTime::UNIX_EPOCH)
}

/// What a scrape shows: for each sample its name and labels, and its value.
fn scraped(telemetry: &Arc<Telemetry>) -> Vec<(String, f64)> {
    let collector = telemetry.collector().expect("names are valid");
    let mut text = Vec::new();
    TextEncoder::new().encode(&collector.collect(), &mut text).expect("families are whole");
    let text = String::from_utf8(text).expect("it is text");
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        (series.to_owned(), value.parse().expect("a number"))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

#[test]
fn workers_are_summed() {
    for workers in [1, 4] {
        let telemetry = telemetry(Dialect::Istio);
        let reviews = telemetry.labels().links.intern(workload("reviews", "shop"));
        let meters: Vec<Meters> = (0..workers).map(|_| Meters::new(&telemetry)).collect();
        for (number, meters) in (1..).zip(&meters) {
            for _ in 0..number {
                let request = Request { micros: 1_500, response_bytes: 10, ..Request::default() };
                meters.request(key(reviews.id(), 200), &request);
            }
        }
        let figures = figures(&telemetry);
        let [row] = figures.requests.as_slice() else { panic!("one series: {figures:?}") };
        let expected = workers * (workers + 1) / 2;
        assert_eq!((row.requests, row.response_bytes), (expected, 10 * expected));
        assert_eq!((row.source.workload.as_str(), row.destination.workload.as_str()), ("web", "reviews"));
        assert_eq!(row.duration.buckets.get(2), Some(&expected), "1.5 ms is up to 2.5 ms");
    }
}

#[test]
fn nothing_is_counted_and_shown_where_nobody_wants_it() {
    let telemetry = telemetry(Dialect::None);
    let reviews = telemetry.labels().links.intern(workload("reviews", "shop"));
    Meters::new(&telemetry).request(key(reviews.id(), 200), &Request::default());
    assert!(figures(&telemetry).requests.is_empty());
    let names = ["istio_", "http_"];
    let shown: Vec<_> = scraped(&telemetry)
        .into_iter()
        .filter(|(series, _)| names.iter().any(|name| series.starts_with(name)))
        .collect();
    assert!(shown.is_empty(), "{shown:?}");
}

#[test]
fn names_that_read_alike_when_written_one_after_another_stay_apart() {
    let telemetry = telemetry(Dialect::Istio);
    let meters = Meters::new(&telemetry);
    for (name, namespace) in [("web", "a-prod"), ("weba", "-prod"), ("cart", "v1"), ("car", "tv1")] {
        let link = telemetry.labels().links.intern(workload(name, namespace));
        meters.request(key(link.id(), 200), &Request::default());
    }
    let of =
        |name: &str| scraped(&telemetry).into_iter().filter(|(series, _)| series.starts_with(name)).collect::<Vec<_>>();
    let samples = of("istio_requests_total{");
    assert_eq!(samples.len(), 4, "{samples:?}");
    assert!(samples.iter().all(|(_, value)| (*value - 1.0).abs() < f64::EPSILON), "{samples:?}");
}

#[test]
fn what_is_too_much_is_counted_as_other_and_nothing_is_lost() {
    let telemetry = telemetry(Dialect::Istio);
    let meters = [Meters::new(&telemetry), Meters::new(&telemetry)];
    let mut links = Vec::new();
    for number in 0..4_000 {
        let link = telemetry.labels().links.intern(workload(&format!("w{number}"), "shop"));
        for code in [200, 404, 503] {
            meters[number % 2].request(key(link.id(), code), &Request::default());
        }
        links.push(link);
    }
    assert!(telemetry.requests().len() <= 9_000, "{}", telemetry.requests().len());
    assert_eq!(requests(&telemetry), 12_000);
    let rows = figures(&telemetry).requests;
    let others: Vec<u16> = rows.iter().filter(|row| row.destination.workload == OTHER).map(|row| row.code).collect();
    assert_eq!(others, [200, 404, 503], "statuses stay apart");
    // Statuses that nobody has heard of end at last in one series.
    for code in 1_000..3_000 {
        meters[0].request(key(links[0].id(), code), &Request::default());
    }
    assert!(telemetry.requests().len() <= 9_000, "{}", telemetry.requests().len());
    assert_eq!(requests(&telemetry), 14_000);
}

#[test]
fn what_is_idle_goes_and_what_is_held_stays() {
    let telemetry = telemetry(Dialect::Istio);
    let (one, other) = (Meters::new(&telemetry), Meters::new(&telemetry));
    let link = telemetry.labels().links.intern(workload("reviews", "shop"));
    let gone = link.id();
    one.request(key(gone, 200), &Request::default());
    one.request(key(gone, 200), &Request::default());
    let connection = one.connection(Direction::Outbound, gone, names::UNKNOWN, Flags::default());
    connection.add(OPENED, 1);
    other.tick(IDLE);
    other.request(key(gone, 200), &Request::default());
    one.tick(IDLE);
    one.expire(IDLE, IDLE);
    assert_eq!(requests(&telemetry), 3, "the other worker uses it, and no counter goes down");
    other.tick(2 * IDLE);
    other.expire(2 * IDLE, IDLE);
    assert_eq!((requests(&telemetry), telemetry.requests().len()), (0, 0));
    connection.add(SENT, 5);
    assert_eq!(figures(&telemetry).tcp.first().map(|row| (row.opened, row.sent)), Some((1, 5)), "it is open");
    drop(connection);
    one.tick(3 * IDLE);
    one.expire(3 * IDLE, IDLE);
    assert!(telemetry.tcp().is_empty());
    drop(link);
    telemetry.labels().sweep(0, IDLE);
    telemetry.labels().sweep(IDLE, IDLE);
    let again = telemetry.labels().links.intern(workload("reviews", "shop"));
    assert_ne!(again.id(), gone, "no number is given twice");
}

#[test]
fn hosts_outside_the_mesh_are_few_and_the_rest_is_other() {
    let telemetry = telemetry(Dialect::Istio);
    let meters = Meters::new(&telemetry);
    let cluster = telemetry.labels().targets.intern(Target::of_host("PassthroughCluster"));
    for number in 0..100_000_u32 {
        let target = meters.outside(&cluster, &format!("host-{number}.example.com"));
        let code = [200, 404, 502][number as usize % 3];
        meters.request(RequestKey { target, ..key(names::UNKNOWN, code) }, &Request::default());
    }
    assert_eq!(requests(&telemetry), 100_000);
    assert!(telemetry.requests().len() <= 3 * (MOST_OUTSIDE + 1), "{}", telemetry.requests().len());
    let rows = figures(&telemetry).requests;
    let hosts: BTreeSet<&str> = rows.iter().map(|row| row.service.host.as_str()).collect();
    assert_eq!(hosts.len(), MOST_OUTSIDE + 1);
    assert!(hosts.contains(OTHER) && hosts.contains("host-0.example.com"));
    meters.tick(IDLE);
    meters.expire(IDLE, IDLE);
    telemetry.labels().sweep(0, IDLE);
    telemetry.labels().sweep(IDLE, IDLE);
    let new = meters.outside(&cluster, "new.example.com");
    assert_eq!(telemetry.labels().targets.of(new).value.host, "new.example.com", "there is room again");
}

#[test]
fn all_series_of_a_family_have_the_same_labels_and_none_is_there_twice() {
    let telemetry = telemetry(Dialect::Both);
    let meters = Meters::new(&telemetry);
    for (number, group) in (0..6).zip(["X25519", "X25519MLKEM768"].into_iter().cycle()) {
        // What differs in the group alone is one series of istio_*.
        let link = Link { group, ..workload(&format!("w{}", number / 2), "shop") };
        let link = telemetry.labels().links.intern(link);
        for (direction, spoken, grpc, flag) in [
            (Direction::Inbound, Spoken::Grpc, Some(0), None),
            (Direction::Outbound, Spoken::Http, None, Some(Flag::UF)),
            (Direction::Outbound, Spoken::Grpc, Some(14), Some(Flag::UT)),
        ] {
            let flags = flag.map(Flags::from).unwrap_or_default();
            let key = RequestKey { direction, spoken, grpc, flags, ..key(link.id(), 200) };
            meters.request(key, &Request { request_messages: 1, ..Request::default() });
            let block = meters.connection(direction, link.id(), names::UNKNOWN, flags);
            block.add(CLOSED, 1);
        }
    }
    let odd = workload("quote\" back\\slash\nline", "ä");
    let odd = telemetry.labels().links.intern(odd);
    meters.request(key(odd.id(), 200), &Request::default());
    let samples = scraped(&telemetry);
    let mut seen = BTreeSet::new();
    let mut labels = BTreeMap::<String, BTreeSet<Vec<String>>>::new();
    for (series, _) in &samples {
        assert!(seen.insert(series.clone()), "twice: {series}");
        let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
        // No value of this test has `="` in it, so that this is the name of a label each time.
        let mut names: Vec<String> = rest
            .split("=\"")
            .filter_map(|part| part.rsplit([',', '{', '"']).next())
            .filter(|name| !name.is_empty() && !name.contains('}'))
            .map(str::to_owned)
            .collect();
        names.sort();
        labels.entry(name.to_owned()).or_default().insert(names);
    }
    for (name, sets) in &labels {
        assert_eq!(sets.len(), 1, "{name}: {sets:?}");
    }
    let of = |name: &str| labels.get(name).and_then(BTreeSet::first).cloned().unwrap_or_default();
    assert_eq!(of("istio_requests_total"), REQUEST_LABELS);
    assert_eq!(of("istio_tcp_sent_bytes_total").len(), REQUEST_LABELS.len() - 2, "without status and gRPC's");
    for name in super::istio::NAMES {
        let bare = samples.iter().any(|(series, _)| series.starts_with(name));
        assert!(bare, "{name} is not there");
    }
    for name in super::otel::NAMES {
        assert!(samples.iter().any(|(series, _)| series.starts_with(name)), "{name} is not there");
    }
}

const REQUEST_LABELS: [&str; 25] = [
    "connection_security_policy",
    "destination_app",
    "destination_canonical_revision",
    "destination_canonical_service",
    "destination_cluster",
    "destination_principal",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_version",
    "destination_workload",
    "destination_workload_namespace",
    "grpc_response_status",
    "reporter",
    "request_protocol",
    "response_code",
    "response_flags",
    "source_app",
    "source_canonical_revision",
    "source_canonical_service",
    "source_cluster",
    "source_principal",
    "source_version",
    "source_workload",
    "source_workload_namespace",
];
