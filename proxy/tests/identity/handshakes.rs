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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
        Self::saying(&Workload::default(), time, leaf, ca)
    }

    /// Of itself.
    fn saying(words: &Workload, time: &TimeOfDay, leaf: &Leaf, ca: &Ca) -> Self {
        let identity = Arc::new(Identity::at(time.clone()));
        let sessions = Sessions::new(
            Arc::clone(&identity),
            Arc::new(Telemetry::default()),
            words,
            std::path::Path::new("").into(),
        );
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
        server.sessions.accept(Prefixed::new(Bytes::new(), stream), leno_proxy::tls::HANDSHAKE).await
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

#[tokio::test]
async fn a_connection_speaks_for_the_identity_with_which_it_began() {
    let ca = Ca::new("root");
    let time = TimeOfDay::of(TestClock::new(noon(), DAY).0);
    let (client, server) =
        (End::new(&time, &leaf(WEB, noon() + DAY), &ca), End::new(&time, &leaf(CART, noon() + DAY), &ca));
    let (reached, accepted) = meet(&client, &server, CART).await;
    let (endpoint, caller) = (reached.unwrap().peer.unwrap(), accepted.unwrap().peer);
    assert_eq!((caller.id.as_str(), caller.own.as_str()), (WEB, CART));
    assert_eq!((endpoint.id.as_str(), endpoint.own.as_str()), (CART, WEB));

    // A renewal is no change of identity.
    client.becomes(&leaf(WEB, noon() + DAY), &ca);
    assert!(client.sessions.still_accepts_server(&endpoint));
    client.becomes(&leaf("spiffe://cluster.local/ns/default/sa/batch", noon() + DAY), &ca);
    assert!(!client.sessions.still_accepts_server(&endpoint));
    server.becomes(&leaf("spiffe://cluster.local/ns/default/sa/cart2", noon() + DAY), &ca);
    let error = server.sessions.still_accepts_caller(&caller).unwrap_err().to_string();
    assert!(error.contains("sa/cart2"), "{error}");
}

#[tokio::test]
async fn a_session_is_resumed_within_one_state_of_certificate_and_roots_alone() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let time = TimeOfDay::of(TestClock::new(noon(), DAY).0);
    let (web, cart) = (leaf(WEB, noon() + DAY), leaf(CART, noon() + DAY));
    let (client, server) = (End::new(&time, &web, &ca), End::new(&time, &cart, &ca));
    let resumes = async |case: &str| {
        let (reached, accepted) = meet(&client, &server, CART).await;
        let (reached, accepted) = (reached.expect(case).security.unwrap(), accepted.expect(case).peer.security);
        assert_eq!(reached.resumed, accepted.resumed, "{case}");
        reached.resumed
    };
    assert!(!resumes("the first").await);
    assert!(resumes("the second").await, "otherwise this test shows nothing");
    for (case, change) in [
        ("roots of the server", &(|| server.trusts(&[&ca, &other])) as &dyn Fn()),
        ("roots of the client", &|| client.trusts(&[&ca, &other])),
        ("certificate of the server", &|| server.becomes(&cart, &ca)),
        ("certificate of the client", &|| client.becomes(&web, &ca)),
    ] {
        change();
        assert!(!resumes(case).await, "a full handshake after another {case}");
        assert!(resumes(case).await, "{case}");
    }

    // Who is no longer believed has nothing of its ticket.
    server.trusts(&[&other]);
    let (_, accepted) = meet(&client, &server, CART).await;
    let error = accepted.unwrap_err().to_string();
    assert!(error.contains("does not end in a root of its trust domain"), "{error}");
    server.trusts(&[&ca]);
    assert!(!resumes("believed again").await);
    client.trusts(&[&other]);
    let (reached, _) = meet(&client, &server, CART).await;
    let error = reached.unwrap_err().to_string();
    assert!(error.contains("does not end in a root of its trust domain"), "{error}");
}

#[tokio::test]
async fn a_session_is_not_resumed_beyond_the_certificate_of_the_peer() {
    let ca = Ca::new("root");
    let (clock, _stop) = TestClock::new(noon(), DAY);
    // Whose certificate ends has a clock that stands still, so only the other notices.
    let (moves, stands) = (TimeOfDay::of(clock.clone()), TimeOfDay::of(TestClock::new(noon(), DAY).0));
    let (short, long) = (leaf(WEB, noon() + MINUTE), leaf(CART, noon() + DAY));
    for short_is_the_client in [true, false] {
        clock.set(noon());
        let (short, long) = (End::new(&stands, &short, &ca), End::new(&moves, &long, &ca));
        let (client, server, expected) = match short_is_the_client {
            true => (short, long, CART),
            false => (long, short, WEB),
        };
        let (reached, accepted) = meet(&client, &server, expected).await;
        assert!(reached.is_ok() && accepted.is_ok(), "{reached:?} {accepted:?}");
        clock.set(noon() + 2 * MINUTE);
        let (reached, accepted) = meet(&client, &server, expected).await;
        let errors = [reached.err(), accepted.err()].map(|error| error.map(|it| it.to_string()).unwrap_or_default());
        assert!(errors.iter().any(|error| error.contains("has expired")), "{errors:?}");
    }
}

#[tokio::test]
async fn who_loses_its_root_in_the_middle_of_a_handshake_is_refused_at_its_end() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let time = TimeOfDay::of(TestClock::new(noon(), DAY).0);
    for change in ["the server's roots", "the client's roots", "the server's identity", "a renewal"] {
        let (client, server) =
            (End::new(&time, &leaf(WEB, noon() + DAY), &ca), End::new(&time, &leaf(CART, noon() + DAY), &ca));
        let (listener, between) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let to = listener.local_addr().unwrap();
        let answers = async {
            let (stream, _) = listener.accept().await.unwrap();
            server.sessions.accept(Prefixed::new(Bytes::new(), stream), leno_proxy::tls::HANDSHAKE).await
        };
        // The first flight of both sides passes; then everything changes, and then the rest may pass.
        let relay = async {
            let (mut caller, _) = between.accept().await.unwrap();
            let mut endpoint = TcpStream::connect(to).await.unwrap();
            pass_one_record(&mut caller, &mut endpoint).await;
            pass_one_record(&mut endpoint, &mut caller).await;
            match change {
                "the server's roots" => server.trusts(&[&other]),
                "the client's roots" => client.trusts(&[&other]),
                "the server's identity" => server.becomes(&leaf(WEB, noon() + DAY), &ca),
                _ => server.becomes(&leaf(CART, noon() + DAY), &ca),
            }
            let _ = tokio::io::copy_bidirectional(&mut caller, &mut endpoint).await;
        };
        let ends = async { tokio::join!(calls(&client, between.local_addr().unwrap(), CART), answers) };
        let (reached, accepted) = tokio::select! {
            ends = ends => ends,
            () = async { relay.await; std::future::pending().await } => unreachable!("it waits for ever"),
        };
        match change {
            "the client's roots" => assert!(reached.unwrap_err().to_string().contains("root of its trust domain")),
            "the server's roots" => assert!(accepted.unwrap_err().to_string().contains("root of its trust domain")),
            "the server's identity" => assert!(accepted.unwrap_err().to_string().contains("this proxy was")),
            _ => assert!(reached.is_ok() && accepted.is_ok(), "{change}: {reached:?} {accepted:?}"),
        }
    }
}

/// A whole TLS record: five bytes, of which the last two are the length of the rest.
async fn pass_one_record(from: &mut TcpStream, to: &mut TcpStream) {
    let mut head = [0; 5];
    from.read_exact(&mut head).await.unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    from.read_exact(&mut body).await.unwrap();
    to.write_all(&head).await.unwrap();
    to.write_all(&body).await.unwrap();
}

fn workload(account: &str) -> Workload {
    Workload {
        name: format!("{account}-1"),
        workload: account.to_owned(),
        namespace: "default".to_owned(),
        service_account: account.to_owned(),
        labels: [("version".to_owned(), "v1".to_owned())].into(),
    }
}

#[tokio::test]
async fn what_a_workload_says_of_itself_is_believed_as_far_as_its_certificate_bears_it_out() {
    let ca = Ca::new("root");
    let time = TimeOfDay::of(TestClock::new(noon(), DAY).0);
    let (web, cart) = (leaf(WEB, noon() + DAY), leaf(CART, noon() + DAY));
    let other_namespace = Workload { namespace: "bank".to_owned(), ..workload("web") };
    for (said, believed) in [(workload("web"), true), (workload("cart"), false), (other_namespace, false)] {
        let client = End::saying(&said, &time, &web, &ca);
        let server = End::saying(&workload("cart"), &time, &cart, &ca);
        // The second time it is a resumed session that is spoken for.
        for resumed in [false, true] {
            let (reached, accepted) = meet(&client, &server, CART).await;
            let (endpoint, caller) = (reached.unwrap().peer.unwrap(), accepted.unwrap().peer);
            assert_eq!(caller.security.resumed, resumed, "{said:?}");
            assert_eq!(caller.workload.as_deref(), believed.then_some(&said), "{said:?}");
            assert_eq!(endpoint.workload.as_deref(), Some(&workload("cart")), "{said:?}");
            assert_eq!(caller.id.as_str(), WEB, "nothing that is said changes who it is");
        }
    }
}

#[tokio::test]
async fn who_is_not_verified_is_not_heard() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let time = TimeOfDay::of(TestClock::new(noon(), DAY).0);
    let client = End::saying(&workload("web"), &time, &leaf(WEB, noon() + DAY), &other);
    client.trusts(&[&ca]);
    let server = End::saying(&workload("cart"), &time, &leaf(CART, noon() + DAY), &ca);
    let (_, accepted) = meet(&client, &server, CART).await;
    let error = accepted.unwrap_err().to_string();
    assert!(error.contains("does not end in a root of its trust domain"), "{error}");
}
