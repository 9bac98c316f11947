use std::net::Ipv4Addr;

use crate::cluster::EndpointState;
use crate::random::Random;

use super::*;

fn endpoints(cluster: &str, ports: &[u16]) -> ir::Endpoints {
    let endpoints = ports
        .iter()
        .map(|port| ir::Endpoint {
            address: ir::Address::new("127.0.0.1", *port).expect("an address"),
            weight: 1,
            health: ir::Health::Healthy,
            mesh_tls: false,
            identity: None,
            labels: BTreeMap::new(),
            workload: None,
        })
        .collect();
    ir::Endpoints {
        cluster: ir::ClusterName::new(cluster),
        localities: vec![ir::LocalityEndpoints {
            locality: ir::Locality::default(),
            priority: 0,
            weight: None,
            endpoints,
        }],
        overprovisioning: ir::Endpoints::OVERPROVISIONING,
    }
}

fn resources(clusters: &[(&str, &[u16])]) -> Arc<ir::Resources> {
    let mut resources = ir::Resources::default();
    for (name, ports) in clusters {
        let cluster = ir::ClusterName::new(*name);
        let eds = ir::Discovery::Eds { service: None };
        resources.clusters.insert(cluster.clone(), Arc::new(ir::Cluster::new(cluster.clone(), eds)));
        resources.endpoints.insert(cluster, Arc::new(endpoints(name, ports)));
    }
    Arc::new(resources)
}

fn states(snapshot: &Snapshot, cluster: &str) -> Vec<Arc<EndpointState>> {
    match &snapshot.cluster_named(cluster).expect("the cluster").members {
        Members::Balanced(balancer) => balancer.members().iter().map(|member| Arc::clone(&member.state)).collect(),
        Members::RequestHost | Members::OriginalDestination => Vec::new(),
    }
}

#[test]
fn a_push_resets_nothing_that_was_learnt_about_an_endpoint() {
    let before =
        Snapshot::build(&Snapshot::default(), resources(&[("a", &[1, 2])]), &Resolved::new(), &FetchedKeys::new());
    let kept = states(&before, "a")[1].clone();
    let request = kept.begin();
    let after =
        Snapshot::build(&before, resources(&[("a", &[2, 3]), ("b", &[4])]), &Resolved::new(), &FetchedKeys::new());
    assert!(Arc::ptr_eq(&states(&after, "a")[0], &kept));
    assert_eq!(kept.active(), 1);
    drop(request);
    let stats = |snapshot: &Snapshot| Arc::clone(&snapshot.cluster_named("a").expect("the cluster").stats);
    assert!(Arc::ptr_eq(&stats(&before), &stats(&after)));
}

#[test]
fn what_did_not_change_is_shared_with_the_snapshot_before() {
    let before = Snapshot::build(
        &Snapshot::default(),
        resources(&[("a", &[1]), ("b", &[2])]),
        &Resolved::new(),
        &FetchedKeys::new(),
    );
    let after = Snapshot::build(&before, resources(&[("a", &[1]), ("b", &[3])]), &Resolved::new(), &FetchedKeys::new());
    let cluster = |snapshot: &Snapshot, name| Arc::clone(snapshot.cluster_named(name).expect("the cluster"));
    assert!(Arc::ptr_eq(&cluster(&before, "a"), &cluster(&after, "a")));
    assert!(!Arc::ptr_eq(&cluster(&before, "b"), &cluster(&after, "b")));
}

#[test]
fn a_name_is_as_many_endpoints_as_it_has_addresses() {
    let mut resources = ir::Resources::default();
    let name = ir::ClusterName::new("dns");
    let mut named = endpoints("dns", &[80]);
    named.localities[0].endpoints[0].address = ir::Address::new("app.example", 80).expect("an address");
    resources.clusters.insert(name.clone(), Arc::new(ir::Cluster::new(name, ir::Discovery::Dns(named))));
    let resources = Arc::new(resources);
    let nothing = Snapshot::build(&Snapshot::default(), Arc::clone(&resources), &Resolved::new(), &FetchedKeys::new());
    assert!(states(&nothing, "dns").is_empty());
    let ips = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
    let resolved = Resolved::from([("app.example".to_owned(), ips.map(Into::into).to_vec())]);
    let both = Snapshot::build(&nothing, resources, &resolved, &FetchedKeys::new());
    let found: Vec<SocketAddr> = states(&both, "dns").iter().map(|state| state.address).collect();
    assert_eq!(found, ips.map(|ip| SocketAddr::from((ip, 80))));
}

#[test]
fn shares_are_drawn_in_proportion_and_a_missing_cluster_keeps_its_share() {
    let names = HashMap::from([(ir::ClusterName::new("a"), 0)]);
    let shares = vec![
        ir::WeightedCluster::plain(ir::ClusterName::new("a"), 80),
        ir::WeightedCluster::plain(ir::ClusterName::new("gone"), 20),
    ];
    let targets = Targets::new(&ir::WeightedClusters::new(shares).expect("valid"), &names);
    let random = Random::seeded(11);
    let draws: Vec<Chosen> = (0..10_000).filter_map(|_| targets.choose(&random)).collect();
    let gone = draws.iter().filter(|chosen| **chosen == Chosen { share: 1, cluster: None }).count();
    assert_eq!(draws.len(), 10_000);
    assert!((1_850..2_150).contains(&gone), "{gone} of 10 000");
}

#[test]
fn the_own_listeners_are_known_by_every_address_that_reaches_them() {
    let listener = |name: &str, address: &str, direction| {
        let single = ir::WeightedClusters::single(ir::ClusterName::new("a"));
        let tcp = ir::TcpRoute {
            stat_prefix: String::new(),
            origin: None,
            clusters: single,
            idle_timeout: None,
            hashes_source: false,
        };
        let address = address.parse().expect("an address");
        let protocol = ir::ListenerProtocol::Tcp(tcp);
        (name.to_owned(), Arc::new(ir::Listener::new(name.to_owned(), address, direction, protocol)))
    };
    let resources = ir::Resources {
        listeners: BTreeMap::from([
            listener("out", "127.0.0.1:15001", ir::Direction::Outbound),
            listener("in", "0.0.0.0:15006", ir::Direction::Inbound),
        ]),
        ..ir::Resources::default()
    };
    let snapshot = Snapshot::build(&Snapshot::default(), Arc::new(resources), &Resolved::new(), &FetchedKeys::new());
    let rows = [
        ("127.0.0.1:15001", true, true),
        ("0.0.0.0:15001", true, true),
        ("127.0.0.1:15006", false, true),
        ("10.0.0.1:15001", false, false),
        ("127.0.0.1:15002", false, false),
    ];
    for (address, outbound, any) in rows {
        let address = address.parse().expect("an address");
        assert_eq!((snapshot.is_own_outbound(address), snapshot.is_own(address)), (outbound, any), "{address}");
    }
}

#[test]
fn a_port_of_a_capturing_listener_is_a_listener_without_a_socket_that_a_push_leaves_as_it_was() {
    let route = |cluster: &str| ir::TcpRoute {
        stat_prefix: String::new(),
        origin: None,
        clusters: ir::WeightedClusters::single(ir::ClusterName::new(cluster)),
        idle_timeout: None,
        hashes_source: false,
    };
    let port = ir::CapturedPort {
        mtls: ir::MtlsMode::Strict,
        tls: None,
        authorization: ir::Authorization::default(),
        access_logs: ir::AccessLogs::default(),
        protocol: ir::ListenerProtocol::Tcp(route("app")),
    };
    let (any, rest) = ("0.0.0.0:15006".parse().expect("an address"), ir::ListenerProtocol::Tcp(route("rest")));
    let capturing = ir::Listener {
        intake: ir::Intake::Capture,
        additional_addresses: vec!["[::]:15006".parse().expect("an address")],
        ports: BTreeMap::from([(ir::Port::new(9080).expect("a port"), port)]),
        ..ir::Listener::new("virtualInbound".to_owned(), any, ir::Direction::Inbound, rest)
    };
    let resources = || {
        let listeners = BTreeMap::from([(capturing.name.clone(), Arc::new(capturing.clone()))]);
        Arc::new(ir::Resources { listeners, ..ir::Resources::default() })
    };
    let build = |old: &Snapshot| Snapshot::build(old, resources(), &Resolved::new(), &FetchedKeys::new());
    let snapshot = build(&Snapshot::default());
    let handed = &snapshot.listeners["inbound_0.0.0.0_9080"];
    assert_eq!((handed.config.intake, handed.config.mtls), (ir::Intake::Handed, ir::MtlsMode::Strict));
    assert!(Arc::ptr_eq(&handed.config, &build(&snapshot).listeners["inbound_0.0.0.0_9080"].config));
    let rows = [
        ("127.0.0.1:15006", true),
        ("127.9.9.9:15006", true),
        ("[::1]:15006", true),
        ("192.0.2.1:15006", false),
        ("127.0.0.1:9080", false),
    ];
    for (address, expected) in rows {
        assert_eq!(snapshot.is_own(address.parse().expect("an address")), expected, "{address}");
    }
    assert!(!snapshot.captures_outbound());
}
