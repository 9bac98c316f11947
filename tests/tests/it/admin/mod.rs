//! The proxy's admin interface, on running proxies.

mod clusters;
mod pages;
mod process;
mod tap;

use std::net::SocketAddr;

use http::Method;
use leno_tests::{Call, Reply};

/// `GET` of a page.
async fn get(admin: SocketAddr, target: &str) -> Reply {
    Call::get(&format!("http://localhost{target}")).send(admin).await
}

/// `POST` of a page.
async fn post(admin: SocketAddr, target: &str) -> Reply {
    Call::new(Method::POST, &format!("http://localhost{target}")).send(admin).await
}

fn json(reply: &Reply) -> serde_json::Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.text()))
}
