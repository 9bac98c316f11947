//! Rules and a proxy in, what the proxy is told out: one line of text per route, one case per promise.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod access_logs;
mod authentication;
mod authorization;
mod capture;
mod destination_rules;
mod grpc;
mod health_checks;
mod hosts;
mod http_rules;
mod listeners;
mod locality;
mod profiles;
mod properties;
mod render;
mod support;
mod tls;
mod tracing;
