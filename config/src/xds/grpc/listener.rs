//! API listeners: what a name leads to. Nothing is listened on.

use crate::xds::pb;
use crate::xds::{any, base, filter};
use pb::hcm::http_connection_manager::RouteSpecifier;

/// The listener `name`, whose routes are in `table`.
pub(super) fn to_xds(name: &str, table: &str) -> pb::listener::Listener {
    let manager = pb::hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(pb::hcm::Rds {
            config_source: Some(base::ads()),
            route_config_name: table.to_owned(),
        })),
        // gRPC refuses a list without the router at its end, and every filter that it does not know.
        http_filters: vec![
            filter::filter(filter::FAULT, any::pack(&pb::fault::HttpFault::default())),
            filter::filter(filter::ROUTER, any::pack(&pb::router::Router::default())),
        ],
        ..Default::default()
    };
    pb::listener::Listener {
        name: name.to_owned(),
        api_listener: Some(pb::listener::ApiListener { api_listener: Some(any::pack(&manager)) }),
        ..Default::default()
    }
}
