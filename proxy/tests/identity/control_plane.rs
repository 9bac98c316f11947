//! The way to a control plane over TLS: both sides prove who they are, or it is said what is wrong.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use leno_proxy::control_plane::{Access, Address, ControlPlane, Issuer, KeyFiles, Tls};
use leno_proxy::handover::Ownership;
use leno_proxy::identity::authority::Authority;
use leno_proxy::identity::clock::SystemClock;
use leno_proxy::identity::csr::Request;
use leno_proxy::identity::keeper::Keeper;
use leno_proxy::identity::keyring::sentence;
use leno_proxy::identity::{Identity, Keyring, Origin, Svid};
use leno_proxy::state::warming::Effective;
use leno_proxy::xds::{self, Backoff, ClientConfig, Hooks, Outputs};
use tokio::sync::watch;

use crate::answers::cart;
use crate::ca::{Ca, DAY, HOUR, Leaf, today};
use server::{Server, node};

const SOON: Duration = Duration::from_secs(20);

/// A control plane and a proxy's files for it.
struct World {
    ca: Arc<Ca>,
    server: Server,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with_hosts(&["localhost"]).await
    }

    async fn with_hosts(hosts: &[&str]) -> Self {
        let ca = Arc::new(Ca::new("root"));
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("root.pem"), ca.root()).unwrap();
        fs::write(directory.path().join("token"), "good\n").unwrap();
        Self { server: Server::start(Arc::clone(&ca), hosts).await, ca, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn plane(&self) -> ControlPlane {
        let address = Address::parse(&format!("https://localhost:{}", self.server.port())).unwrap();
        let tls = Tls { root: self.path("root.pem"), token: Some(self.path("token")), certificate: None };
        ControlPlane { address, further: Vec::new(), tls: Some(tls) }
    }

    fn access(&self, identity: &Arc<Identity>) -> Access {
        Access::new(self.plane(), Arc::clone(identity), Issuer::ControlPlane)
    }

    /// Asks for a certificate once.
    async fn ask(&self, identity: &Arc<Identity>) -> Result<Vec<String>, String> {
        let request = Request::new().unwrap();
        let answer = self.access(identity).sign(request.csr(), SystemTime::now()).await;
        answer.map_err(|error| sentence(&error))
    }

    fn with_certificate(&self, leaf: &Leaf) -> Arc<Identity> {
        let identity = Arc::new(Identity::default());
        let (chain, key) = self.ca.pair_der(leaf);
        identity.set_svid(Svid::new(chain, key).unwrap());
        identity
    }
}

fn jwt(until: SystemTime) -> String {
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{until}}}"#)))
}

#[tokio::test]
async fn a_token_brings_a_certificate_and_is_read_at_each_use() {
    let world = World::new().await;
    let keyring = Arc::new(Keyring::new(Origin::ControlPlane));
    let keeper = Keeper {
        authority: world.access(keyring.identity()),
        clock: SystemClock,
        random: || 0,
        account: cart(),
        state: Some(world.path("state")),
        ownership: Ownership::default(),
    };
    let (_stop, stopped) = watch::channel(false);
    let kept = Arc::clone(&keyring);
    tokio::spawn(async move { keeper.run(&kept, stopped).await });
    let mut changes = keyring.identity().changes();
    let has_one = changes.wait_for(|_| keyring.identity().now().svid.is_some());
    tokio::time::timeout(SOON, has_one).await.expect("a certificate").unwrap();
    let now = keyring.identity().now();
    assert_eq!(now.svid.unwrap().id().as_str(), "spiffe://cluster.local/ns/default/sa/cart");
    assert_eq!(now.trust.roots("cluster.local"), [world.ca.root_der()]);
    assert_eq!(world.server.callers(), ["token good"]);

    world.write("token", "newer");
    world.server.accept("newer");
    world.ask(&Arc::default()).await.expect("the token of now");
    assert_eq!(world.server.callers(), ["token good", "token newer"]);
}

#[tokio::test]
async fn a_refused_token_is_named_with_the_remedy_and_never_shown() {
    let world = World::new().await;
    world.write("token", "secret-of-nobody");
    let error = world.ask(&Arc::default()).await.unwrap_err();
    for words in ["refused the token in", "token: not one of ours", "leno token create"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(!error.contains("secret-of-nobody"), "{error}");
}

#[tokio::test]
async fn without_a_token_of_use_the_own_certificate_renews_itself() {
    let world = World::new().await;
    let identity = world.with_certificate(&Leaf::cart(today()));
    let id = "certificate spiffe://cluster.local/ns/default/sa/cart";
    for (case, prepare, expected) in [
        ("expired", Some(jwt(today() - HOUR)), vec![id]),
        ("gone", None, vec![id]),
        ("refused", Some("bad".to_owned()), vec!["token bad", id]),
        ("good", Some("good".to_owned()), vec!["token good"]),
    ] {
        match prepare {
            Some(token) => world.write("token", &token),
            None => fs::remove_file(world.path("token")).unwrap(),
        }
        world.server.forget_callers();
        world.ask(&identity).await.expect(case);
        assert_eq!(world.server.callers(), expected, "{case}");
    }
    let expired = world.with_certificate(&Leaf { valid: (today() - DAY, today() - HOUR), ..Leaf::cart(today()) });
    fs::remove_file(world.path("token")).unwrap();
    let error = world.ask(&expired).await.unwrap_err();
    assert!(error.contains("cannot be read") && error.contains("leno token create"), "{error}");
    world.write("token", &jwt(today() - HOUR));
    let error = world.ask(&expired).await.unwrap_err();
    assert!(error.contains("has expired"), "{error}");
}

#[tokio::test]
async fn a_certificate_from_files_stands_in_for_a_token() {
    let world = World::new().await;
    let (certificate, key) = world.ca.pair(&Leaf::cart(today()));
    world.write("own.pem", &certificate);
    world.write("own.key", &key);
    let mut plane = world.plane();
    let tls = plane.tls.as_mut().unwrap();
    tls.token = None;
    tls.certificate = Some(KeyFiles { certificate: world.path("own.pem"), key: world.path("own.key") });
    let access = Access::new(plane, Arc::default(), Issuer::ControlPlane);
    let request = Request::new().unwrap();
    access.sign(request.csr(), SystemTime::now()).await.expect("it is known");
    assert_eq!(world.server.callers(), ["certificate spiffe://cluster.local/ns/default/sa/cart"]);
    world.write("own.key", &world.ca.pair(&Leaf::cart(today())).1);
    let error = sentence(&access.sign(request.csr(), SystemTime::now()).await.unwrap_err());
    assert!(error.contains("own.pem") && error.contains("key does not belong"), "{error}");
}

#[tokio::test]
async fn a_control_plane_that_is_not_the_one_of_the_root_gets_to_see_nothing() {
    let world = World::new().await;
    let other_name = World::with_hosts(&["leno.istio-system.svc"]).await;
    let identity = world.with_certificate(&Leaf::cart(today()));
    let good = fs::read_to_string(world.path("root.pem")).unwrap();
    let error = other_name.ask(&Arc::default()).await.unwrap_err();
    assert!(error.contains("not for `localhost`") && error.contains("--tls-san"), "{error}");
    // What the mesh says of roots counts for the control plane too, since it is the one who issues.
    world.write("root.pem", &Ca::new("root").root());
    for (case, root, words) in [
        ("another root of the same name", Ca::new("root").root(), "is of another CA"),
        ("another root", Ca::new("other").root(), "is of another CA"),
        ("no certificate", String::new(), "there is no certificate in it"),
        ("no PEM inside", good.replace("MII", "!!!"), "root.pem"),
    ] {
        world.write("root.pem", &root);
        let error = world.ask(&identity).await.unwrap_err();
        assert!(error.contains(words) && error.contains("root.pem"), "{case}: {error}");
    }
    fs::remove_file(world.path("root.pem")).unwrap();
    assert!(world.ask(&identity).await.unwrap_err().contains("No such file"));
    assert!(world.server.callers().is_empty() && other_name.server.callers().is_empty());
}

#[tokio::test]
async fn after_a_rotation_the_roots_of_the_mesh_vouch_for_the_control_plane() {
    let world = World::new().await;
    let identity = world.with_certificate(&Leaf::cart(today()));
    world.write("root.pem", &Ca::new("before the rotation").root());
    let mut trust = leno_proxy::identity::Trust::default();
    trust.add("cluster.local", world.ca.root().as_bytes()).unwrap();
    identity.set_trust(trust);
    world.ask(&identity).await.expect("the mesh's own root");
    let foreign = Access::new(world.plane(), Arc::clone(&identity), Issuer::Files);
    let request = Request::new().unwrap();
    let error = foreign.sign(request.csr(), SystemTime::now()).await.expect_err("files are of somebody else");
    assert!(sentence(&error).contains("is of another CA"));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_said() {
    let world = World::new().await;
    let mut plane = world.plane();
    plane.address = Address::parse("https://127.0.0.1:1").unwrap();
    let access = Access::new(plane, Arc::default(), Issuer::ControlPlane);
    let error = sentence(&access.sign("", SystemTime::now()).await.unwrap_err());
    assert!(error.starts_with("cannot connect to the control plane at https://127.0.0.1:1"), "{error}");
}

/// The xDS client of a proxy.
struct Discovery {
    status: watch::Receiver<xds::Status>,
    _stop: watch::Sender<bool>,
}

impl Discovery {
    fn start(access: Access, state: Option<&Path>) -> Self {
        let (updates, _) = watch::channel(Effective::default());
        let (sender, status) = watch::channel(xds::Status::default());
        let (stop, stopped) = watch::channel(false);
        let mut config = ClientConfig::new(access, node(), state.map(Path::to_owned));
        config.backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
        tokio::spawn(xds::run(config, Hooks::default(), Outputs { updates, status: sender }, stopped));
        Self { status, _stop: stop }
    }

    async fn says(&mut self, what: &str, holds: impl Fn(&xds::Status) -> bool) {
        let wait = tokio::time::timeout(SOON, self.status.wait_for(|status| holds(status))).await;
        wait.unwrap_or_else(|_| panic!("never said {what}")).unwrap();
    }
}

#[tokio::test]
async fn xds_goes_by_token_until_there_is_a_certificate() {
    let world = World::new().await;
    let identity = Arc::new(Identity::default());
    let mut first = Discovery::start(world.access(&identity), None);
    first.says("that it is connected", |status| status.connected).await;
    assert_eq!(world.server.callers(), ["token good"]);
    world.server.forget_callers();
    let identity = world.with_certificate(&Leaf::cart(today()));
    let mut second = Discovery::start(world.access(&identity), None);
    second.says("that it is connected", |status| status.connected).await;
    assert_eq!(world.server.callers(), ["certificate spiffe://cluster.local/ns/default/sa/cart"]);
}

#[tokio::test]
async fn xds_says_who_was_refused_and_tries_again_until_it_is_not() {
    let world = World::new().await;
    world.write("token", "bad");
    let mut client = Discovery::start(world.access(&Arc::default()), None);
    let refused = |status: &xds::Status| {
        status
            .last_error
            .as_ref()
            .is_some_and(|it| it.contains("refused the token in") && it.contains("leno token create"))
    };
    client.says("that it was refused", refused).await;
    world.write("token", "good");
    client.says("that it is connected", |status| status.connected && status.last_error.is_none()).await;
}

#[tokio::test]
async fn xds_shows_the_token_when_its_certificate_is_not_accepted() {
    let world = World::new().await;
    let stranger = Arc::new(Identity::default());
    let (chain, key) = Ca::new("another mesh").pair_der(&Leaf::cart(today()));
    stranger.set_svid(Svid::new(chain, key).unwrap());
    let mut client = Discovery::start(world.access(&stranger), None);
    client.says("that it is connected", |status| status.connected).await;
    assert_eq!(world.server.callers(), ["token good"]);
}
