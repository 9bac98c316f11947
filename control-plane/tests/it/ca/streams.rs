//! xDS on the encrypted port: a node may only be what its credential says, and only as long.

use leno_config::xds::Kind;
use tonic::Code;

use super::*;
use crate::client::{Client, node};

const CART: &[(&str, &str)] = &[("NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "cart")];

#[tokio::test]
async fn a_node_is_served_as_what_its_credential_says_and_as_nothing_else() {
    let (place, serve) = plane();
    let token = token(&place, "shop", "cart", "1h");
    let credential = certified(&place, &serve, "shop", "cart").await;
    let root = place.state().join("root.pem");
    let rows = [
        ("itself", "shop", CART, None),
        ("another namespace", "bank", &[("NAMESPACE", "bank"), ("SERVICE_ACCOUNT", "cart")][..], Some("namespace")),
        ("another namespace in the id", "bank", CART, Some("namespace")),
        (
            "another namespace in the metadata",
            "shop",
            &[("NAMESPACE", "bank"), ("SERVICE_ACCOUNT", "cart")],
            Some("namespace"),
        ),
        ("another account", "shop", &[("NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "admin")], Some("service account")),
        ("no account", "shop", &[("NAMESPACE", "shop")], Some("service account")),
    ];
    for (what, namespace, metadata, expected) in rows {
        for by_certificate in [false, true] {
            let shown = by_certificate.then_some(&credential);
            let channel = connect(serve.tls, &root, "localhost", shown).await.unwrap();
            let token = (!by_certificate).then_some(token.as_str());
            let mut client = Client::over(channel, token, node("cart-1", namespace, metadata)).await;
            client.asks(Kind::Cluster, &[]).await;
            match (client.hears().await, expected) {
                (Ok(response), None) => assert_eq!(response.type_url, Kind::Cluster.url()),
                (Err(status), Some(words)) => {
                    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
                    assert!(status.message().contains(words), "{what}: {status}");
                }
                (heard, _) => panic!("{what}: {heard:?}"),
            }
        }
    }
    assert_eq!(metric(&serve, "leno_ca_refused_total{reason=\"node\"}"), 10);
}

#[tokio::test]
async fn without_a_credential_no_stream_is_served() {
    let (place, mut serve) = plane();
    for token in [None, Some("a.b.c")] {
        let mut client = Client::over(connected(&place, &serve).await, token, node("cart-1", "shop", CART)).await;
        let status = client.hears().await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        serve.waits_for("a stream refused");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_credential() {
    let (place, serve) = plane();
    let token = token(&place, "shop", "cart", "10s");
    let mut client = Client::over(connected(&place, &serve).await, Some(&token), node("cart-1", "shop", CART)).await;
    client.asks(Kind::Cluster, &[]).await;
    client.hears().await.unwrap();
    let status = client.hears().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("connect again"), "{status}");
}

#[tokio::test]
async fn status_shows_until_when_a_proxy_has_a_certificate() {
    let (place, serve) = plane();
    let token = token(&place, "shop", "cart", "1h");
    let mut client = Client::over(connected(&place, &serve).await, Some(&token), node("cart-1", "shop", CART)).await;
    client.asks(Kind::Cluster, &[]).await;
    client.hears().await.unwrap();
    assert!(serve.status_json()["proxies"][0]["certificate"].is_null());
    certified(&place, &serve, "shop", "cart").await;
    let certificate = &serve.status_json()["proxies"][0]["certificate"];
    assert!(certificate["expires"].as_str().unwrap().ends_with('Z'), "{certificate}");
    assert!((86_000..=86_400).contains(&certificate["left_s"].as_u64().unwrap()), "{certificate}");
    let table = text(&serve.status(&[]));
    assert!(table.contains("CERT") && table.contains("23h59m"), "{table}");
}
