//! What the sidecar at the other end says of its workload right after the handshake: the bytes are its stream.

use leno_config::identity::SpiffeId;
use leno_proxy::tls::exchange::{Workload, exchange};

use crate::{Target, wire};

pub(crate) const TARGET: Target = Target {
    name: "peer_words",
    property: "a peer is believed as far as its certificate goes, in bounded words, and what was believed is believed again",
    check,
    words: &[
        "\u{0}\u{0}\u{0}\u{2}{}",
        r#""namespace":"shop""#,
        r#""service_account":"reviews""#,
        r#""labels":{"app":"a"}"#,
        r#""name":""#,
        "ä",
    ],
};

fn check(data: &[u8]) {
    let Some(believed) = heard(data) else { return };
    assert_eq!((believed.namespace.as_str(), believed.service_account.as_str()), ("shop", "reviews"));
    let known = ["app", "version", "app.kubernetes.io/", "service.istio.io/canonical-"];
    assert!(believed.labels.keys().all(|name| known.iter().any(|known| name.starts_with(known))), "{believed:?}");
    let texts = [&believed.name, &believed.workload].into_iter().chain(believed.labels.values());
    assert!(texts.into_iter().all(|text| text.len() <= 253), "{believed:?}");
    assert_eq!(heard(&believed.frame()).as_ref(), Some(&believed));
}

/// What is believed of it; nothing, where the connection ends over it.
fn heard(said: &[u8]) -> Option<Workload> {
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/reviews").expect("an ID");
    let mut stream = tokio::io::join(said, tokio::io::sink());
    wire::block_on(exchange(&mut stream, b"", &id)).ok().flatten()
}
