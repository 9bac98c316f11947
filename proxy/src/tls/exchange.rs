//! What two sidecars tell each other about their workloads, once per connection.
//!
//! A certificate names a service account, and several workloads may share one. Telemetry wants to tell them apart, so two
//! proxies that agree on the ALPN `leno` each send one frame right after the handshake: a length of four bytes (big
//! endian) and JSON. No request carries any of it, so no app can see or set it, and no request pays for it. A peer is
//! believed only as far as its certificate goes: what names another namespace or service account is dropped.

use std::collections::BTreeMap;
use std::io;

use leno_config::identity::SpiffeId;
use leno_config::node::Node;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The application protocol that stands for this exchange.
pub const ALPN: &[u8] = b"leno";
/// A longer frame ends the connection.
const MAX_FRAME: u32 = 8 * 1024;
/// Labels that say what a workload is; the others are nobody's business.
const LABELS: [&str; 6] = [
    "app",
    "version",
    "app.kubernetes.io/name",
    "app.kubernetes.io/version",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
];
/// Longest name or label that is believed; a longer one is cut.
const MAX_TEXT: usize = 253;

/// One side of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// The instance (a pod).
    pub name: String,
    /// What it is an instance of (a deployment).
    pub workload: String,
    /// Must be the certificate's.
    pub namespace: String,
    /// Must be the certificate's.
    pub service_account: String,
    /// `app`, `version` and their newer names.
    pub labels: BTreeMap<String, String>,
}

impl Workload {
    /// What a proxy says of itself.
    pub fn of(node: &Node) -> Self {
        let labels = node.labels.iter().filter(|(name, _)| LABELS.contains(&name.as_str()));
        Self {
            name: node.name.clone(),
            workload: node.workload.clone(),
            namespace: node.namespace.clone(),
            service_account: node.service_account.clone(),
            labels: labels.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// The frame that says it.
    #[expect(clippy::expect_used, reason = "texts alone")]
    pub fn frame(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("invariant: texts serialise");
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        [length.to_be_bytes().as_slice(), &json].concat()
    }

    /// Keeps what the certificate bears out.
    fn borne_out_by(mut self, id: &SpiffeId) -> Option<Self> {
        let (namespace, account) = id.namespace_and_service_account()?;
        if self.namespace != namespace || self.service_account != account {
            return None;
        }
        self.labels.retain(|name, _| LABELS.contains(&name.as_str()));
        for text in [&mut self.name, &mut self.workload].into_iter().chain(self.labels.values_mut()) {
            let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
        }
        Some(self)
    }
}

/// Sends `own` and reads the peer's. `None` when what it says is not what its certificate says.
pub async fn exchange<S>(stream: &mut S, own: &[u8], id: &SpiffeId) -> io::Result<Option<Workload>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(own).await?;
    stream.flush().await?;
    let length = stream.read_u32().await?;
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if length > MAX_FRAME {
        return Err(invalid("the peer's words about itself are longer than 8 KiB"));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json).await?;
    let said: Workload =
        serde_json::from_slice(&json).map_err(|_| invalid("the peer's words about itself are not JSON"))?;
    Ok(said.borne_out_by(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(namespace: &str, account: &str) -> Workload {
        Workload {
            name: "reviews-1".to_owned(),
            workload: "reviews".to_owned(),
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "reviews".to_owned()), ("secret".to_owned(), "x".to_owned())]),
        }
    }

    async fn hears(bytes: &[u8]) -> io::Result<Option<Workload>> {
        let id = SpiffeId::parse("spiffe://td/ns/shop/sa/reviews").expect("valid");
        let (mut here, mut there) = tokio::io::duplex(64 * 1024);
        there.write_all(bytes).await.expect("room");
        drop(there.shutdown().await);
        exchange(&mut here, b"", &id).await
    }

    #[tokio::test]
    async fn a_peer_is_believed_as_far_as_its_certificate_goes() {
        let heard = hears(&workload("shop", "reviews").frame()).await.expect("heard").expect("believed");
        assert_eq!(heard.workload, "reviews");
        assert_eq!(heard.labels.len(), 1, "only labels that say what it is: {:?}", heard.labels);
        for (namespace, account) in [("bank", "reviews"), ("shop", "admin"), ("", "")] {
            let heard = hears(&workload(namespace, account).frame()).await.expect("heard");
            assert_eq!(heard, None, "{namespace}/{account}");
        }
    }

    #[tokio::test]
    async fn a_frame_is_bounded_and_valid() {
        let long = Workload { name: "ä".repeat(2000), ..workload("shop", "reviews") };
        let heard = hears(&long.frame()).await.expect("heard").expect("believed");
        assert!(heard.name.len() <= MAX_TEXT, "{}", heard.name.len());
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02[}", b"\0\0\0\x09{}", b"\0\0"] {
            assert!(hears(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
