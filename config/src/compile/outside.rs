//! Clusters of hosts that no rule knows as a service and that the mesh itself talks to: issuers of tokens, collectors of
//! spans.

use crate::ir::{
    Address, Cluster, ClusterName, Discovery, Endpoint, Endpoints, ExternalTls, Health, Locality, LocalityEndpoints,
    UpstreamTls,
};

/// Found by DNS, with TLS where the address says so.
pub(super) fn cluster(name: ClusterName, host: &str, port: u16, tls: bool) -> Cluster {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let endpoint = Address::new(bare, port).ok().map(|address| Endpoint {
        address,
        weight: 1,
        health: Health::Unknown,
        mesh_tls: false,
        identity: None,
        labels: Default::default(),
        workload: None,
    });
    let endpoints = endpoint.into_iter().collect();
    let locality = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints };
    let members =
        Endpoints { cluster: name.clone(), localities: vec![locality], overprovisioning: Endpoints::OVERPROVISIONING };
    let tls = match tls {
        true => UpstreamTls::External(ExternalTls {
            sni: Some(bare.to_owned()).filter(|name| name.parse::<std::net::IpAddr>().is_err()),
            subject_alt_names: vec![bare.to_owned()],
            ..ExternalTls::default()
        }),
        false => UpstreamTls::Plain,
    };
    Cluster { tls, ..Cluster::new(name, Discovery::Dns(members)) }
}
