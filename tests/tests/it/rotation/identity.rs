//! A workload that becomes another: its files are replaced by those of another service account.

use leno_tests::pki::Authority;
use leno_tests::{Call, metric, origin};

use super::Pair;

const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";
const BATCH: &str = "spiffe://cluster.local/ns/default/sa/batch";

#[tokio::test]
async fn no_request_is_sent_as_the_identity_that_a_pooled_connection_was_opened_with() {
    for protocol in ["HTTP", "HTTP2"] {
        let (root, app) = (Authority::new("root"), origin("reviews").await);
        let mut pair = Pair::start(app.address(), protocol, &root).await;
        let caller = async |pair: &Pair| {
            assert_eq!(Call::get("http://reviews/").send(pair.outbound).await.status, 200, "{protocol}");
            let seen = app.requests().pop().unwrap();
            seen.header("x-forwarded-client-cert").rsplit_once("URI=").unwrap().1.to_owned()
        };
        let handshakes = async |pair: &Pair| {
            let metrics = pair.shop.proxy.metrics().await;
            metric(&metrics, "leno_tls_handshakes_total", &["direction=\"outbound\""])
        };
        for _ in 0..2 {
            assert_eq!(caller(&pair).await, SHOP, "{protocol}");
        }
        assert_eq!(handshakes(&pair).await, 1.0, "{protocol}: the connection is kept");
        pair.shop.is_given(&root, 1001).await;
        assert_eq!(caller(&pair).await, SHOP, "{protocol}");
        assert_eq!(handshakes(&pair).await, 1.0, "{protocol}: it outlives a renewal");
        pair.shop.id = BATCH.to_owned();
        pair.shop.is_given(&root, 1002).await;
        assert_eq!(caller(&pair).await, BATCH, "{protocol}");
        assert_eq!(handshakes(&pair).await, 2.0, "{protocol}");
    }
}
