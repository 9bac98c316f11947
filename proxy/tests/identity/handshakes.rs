//! Two ends of the mesh in this process: what a handshake depends on besides the certificates that are shown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use leno_config::identity::SpiffeId;
use leno_proxy::identity::clock::TimeOfDay;
use leno_proxy::identity::{Identity, Svid, Trust};
use leno_proxy::telemetry::Telemetry;
use leno_proxy::tls::Sessions;
use leno_proxy::tls::client::{Encryption, Inside, Reached};
use leno_proxy::tls::exchange::Workload;
use leno_proxy::tls::server::{Caller, HandshakeError};
use leno_proxy::tls::transport::Prefixed;
use tokio::net::{TcpListener, TcpStream};

use crate::authority::TestClock;
use crate::ca::{Ca, DAY, Leaf, MINUTE, noon};

const CART: &str = "spiffe://cluster.local/ns/default/sa/cart";
const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

/// One worker's side of TLS, with the identity behind it.
struct End {
    identity: Arc<Identity>,
    sessions: Sessions,
}

impl End {
    fn new(time: &TimeOfDay, leaf: &Leaf, ca: &Ca) -> Self {
        let identity = Arc::new(Identity::at(time.clone()));
        let sessions = Sessions::new(Arc::clone(&identity), Arc::new(Telemetry::default()), &Workload::default());
        let end = Self { identity, sessions };
        end.becomes(leaf, ca);
        end.trusts(&[ca]);
        end
    }

    fn becomes(&self, leaf: &Leaf, ca: &Ca) {
        let (chain, key) = ca.pair_der(leaf);
        self.identity.set_svid(Svid::new(chain, key).unwrap());
    }

    fn trusts(&self, authorities: &[&Ca]) {
        let roots: String = authorities.iter().map(|ca| ca.root()).collect();
        let mut trust = Trust::default();
        trust.add("cluster.local", roots.as_bytes()).unwrap();
        self.identity.set_trust(trust);
    }
}

/// How a handshake ends on both sides.
type Ends = (Result<Reached, HandshakeError>, Result<Caller, HandshakeError>);

async fn meet(client: &End, server: &End, expected: &str) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = async {
        let (stream, _) = listener.accept().await.unwrap();
        server.sessions.accept(Prefixed::new(Bytes::new(), stream)).await
    };
    tokio::join!(calls(client, address, expected), answers)
}

async fn calls(client: &End, address: SocketAddr, expected: &str) -> Result<Reached, HandshakeError> {
    let encryption = Encryption::Mesh { expected: vec![SpiffeId::parse(expected).unwrap()], sni: "cart".to_owned() };
    let stream = TcpStream::connect(address).await.unwrap();
    client.sessions.connect(stream, &encryption, Inside::Http1).await
}

fn leaf(id: &str, until: SystemTime) -> Leaf {
    Leaf { uris: vec![id.to_owned()], valid: (noon() - 10 * MINUTE, until), ..Leaf::cart(noon()) }
}

#[tokio::test]
async fn an_own_certificate_that_has_ended_opens_and_accepts_nothing_and_says_what_to_do() {
    let ca = Ca::new("root");
    let (clock, _stop) = TestClock::new(noon(), DAY);
    let time = TimeOfDay::of(clock.clone());
    let (short, long) = (noon() + MINUTE, noon() + DAY);
    for (name, client_until, server_until) in [("client", short, long), ("server", long, short)] {
        clock.set(noon());
        let client = End::new(&time, &leaf(WEB, client_until), &ca);
        let server = End::new(&time, &leaf(CART, server_until), &ca);
        let (reached, accepted) = meet(&client, &server, CART).await;
        assert!(reached.is_ok() && accepted.is_ok(), "{name}: {reached:?} {accepted:?}");
        // What was configured with the certificate is kept; the certificate's end counts all the same.
        clock.set(noon() + 2 * MINUTE);
        let (reached, accepted) = meet(&client, &server, CART).await;
        let own = if name == "client" { reached.err() } else { accepted.err() };
        let error = own.expect(name).to_string();
        for words in ["own certificate", "expired at 2030-", "control plane", "new files", "/certs"] {
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
