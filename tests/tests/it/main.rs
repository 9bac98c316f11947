//! The end-to-end suites: one program, so that the harness is linked once.
//!
//! Each module is a subject; each test starts the processes it needs and shares nothing with the others.
#![allow(clippy::unwrap_used)] // A test may.

mod access_log;
mod admin;
mod agreement;
mod amplification;
mod authorization;
mod breaking;
mod capture;
mod changes;
mod chaos;
mod check;
mod cli;
mod connections;
mod csds;
mod dashboards;
mod demo;
mod drain;
mod eighty;
#[path = "../../../config/tests/real_envoy/ads.rs"]
mod envoy_ads;
mod examples;
mod explain;
mod faults;
mod figures;
mod floods;
mod foreign;
mod from_istio;
mod generated;
mod grpc;
mod identity;
mod inject;
mod judge;
mod jwt;
mod kubernetes;
mod limits;
mod load;
mod local_replies;
mod logs;
mod matches;
mod metrics;
mod mirrors;
mod mtls;
mod namespaces;
mod nothing_dropped;
mod observed;
mod outages;
mod overload;
mod packaging;
mod pod;
mod poisoned;
mod protocols;
mod proxyless;
mod pushes;
mod rate_limits;
#[path = "../../../config/tests/real_envoy/mod.rs"]
mod real_envoy;
mod relay;
mod retries;
mod revocation;
mod rotation;
mod routing;
mod running;
mod sanitize;
mod security;
#[path = "../../../config/tests/skip/mod.rs"]
mod skip;
mod split;
mod stalls;
mod status;
mod streaming;
mod tools;
mod tracing;
mod upgrades;
