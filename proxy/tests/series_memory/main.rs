//! What series cost, in a process of its own: memory is the whole program's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use leno_config::ir::{Direction, Locality};
use leno_config::node::{Interception, Node};
use leno_proxy::error::Flags;
use leno_proxy::telemetry::names;
use leno_proxy::telemetry::party::Target;
use leno_proxy::telemetry::requests::{Request, RequestKey};
use leno_proxy::telemetry::{Dialect, Form, Meters, Spoken, Telemetry};

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib * 1024
}

fn node() -> Node {
    Node {
        name: "web-1".to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        workload: "web".to_owned(),
        labels: BTreeMap::new(),
        locality: Locality::default(),
        interception: Interception::None,
    }
}

#[test]
fn a_hundred_thousand_hosts_cost_at_most_2000_series_and_10_mib() {
    let telemetry = Telemetry::new(&node(), Dialect::Both);
    let workers: Vec<Meters> = (0..4).map(|_| Meters::new(&telemetry)).collect();
    let cluster = telemetry.labels().targets.intern(Target::of_host("PassthroughCluster"));
    let before = resident();
    for number in 0..100_000_u32 {
        for (worker, code) in workers.iter().zip([200, 301, 404, 503]) {
            let key = RequestKey {
                direction: Direction::Outbound,
                link: names::UNKNOWN,
                target: worker.outside(&cluster, &format!("host-{number}.a-long-name-of-a-domain.example.com")),
                route: names::UNKNOWN,
                code,
                flags: Flags::default(),
                grpc: None,
                spoken: Spoken::Http,
                form: Form::default(),
            };
            worker.request(key, &Request { micros: number.into(), ..Request::default() });
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(telemetry.requests().len() <= 2_000, "{} series", telemetry.requests().len());
    assert!(grown <= 10 << 20, "{grown} bytes");
    let rows = telemetry.figures(SystemTime::now()).requests;
    assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), 400_000, "each is counted");
}
