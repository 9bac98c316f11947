//! `leno agent` beside a real Envoy: what it writes is what Envoy shows and believes, also after a renewal.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use leno_proxy::identity::Svid;
use rustls::crypto::aws_lc_rs;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::anybody::Anybody;
use crate::ports::free_port;
use crate::process::{Place, SOON, leno};

/// A renewal of a certificate that is good for a minute, with all jitter and delays.
const RENEWAL: Duration = Duration::from_secs(90);

#[test]
fn a_real_envoy_shows_the_agents_certificate_and_every_new_one() {
    let Some(program) = crate::real_envoy::program("a real Envoy with the files of leno agent") else { return };
    let place = Place::new();
    place.write("rules.yaml", "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\nspec: {}\n");
    let serve = place.serve_with(&["--certificate-ttl", "60s"]);
    let token = place.file("token").display().to_string();
    let state = place.state().display().to_string();
    let account = ["--namespace", "default", "--service-account", "envoy", "--state", &state, "-o", &token];
    assert!(leno().args(["token", "create"]).args(account).status().unwrap().success());
    let bootstrap = format!(
        "node: {{name: envoy-1, service_account: envoy}}\nstate: {}\ncontrol_plane: {{address: 'https://{}', \
         root: {state}/root.pem, token: {token}}}\n",
        place.file("agent").display(),
        serve.tls,
    );
    std::fs::write(place.file("agent.yaml"), bootstrap).unwrap();
    let mut agent = leno();
    agent.arg("agent").arg("--config").arg(place.file("agent.yaml")).arg("--sds").arg(place.file("sds"));
    let _agent = Running(agent.stderr(Stdio::null()).spawn().unwrap());
    let svid = place.file("agent").join("svid.pem");
    soon(SOON, "the agent wrote its files", || place.file("sds/default.yaml").exists() && svid.exists());

    let port = free_port();
    let _envoy = envoy(&program, &place, port);
    let first = own(&svid);
    soon(SOON, "Envoy shows the agent's certificate", || call(port, Some(&first)) == Some((leaf(&first), true)));
    assert!(!call(port, None).is_some_and(|(_, is_known)| is_known), "nobody is served without a certificate");

    soon(RENEWAL, "the agent has a new certificate", || leaf(&own(&svid)) != leaf(&first));
    let second = own(&svid);
    soon(SOON, "Envoy shows the new one", || call(port, Some(&second)) == Some((leaf(&second), true)));
}

/// What the agent keeps for its own restart, which is what it gave Envoy.
fn own(file: &Path) -> Svid {
    let text = std::fs::read_to_string(file).unwrap();
    let (chain, rest) = text.split_once("-----BEGIN PRIVATE KEY-----").unwrap();
    let key = format!("-----BEGIN PRIVATE KEY-----{rest}");
    Svid::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
}

fn leaf(svid: &Svid) -> CertificateDer<'static> {
    svid.certified_key().cert[0].clone()
}

/// The certificate that is shown at a port, and whether the caller with this one is served.
fn call(port: u16, svid: Option<&Svid>) -> Option<(CertificateDer<'static>, bool)> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let config = match svid {
        Some(svid) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(svid.certified_key()))))
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("envoy.example").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let mut words = String::new();
    // Where the caller is refused, the connection breaks after the handshake.
    let _ = stream.read_to_string(&mut words);
    let shown = stream.conn.peer_certificates()?.first()?.clone().into_owned();
    Some((shown, words == "served"))
}

fn envoy(program: &Path, place: &Place, port: u16) -> Running {
    let sds = |file: &str| {
        let path: PathBuf = place.file("sds").join(file);
        format!("{{path_config_source: {{path: {}}}, resource_api_version: V3}}", path.display())
    };
    let bootstrap = format!(
        "
node: {{id: envoy-1, cluster: envoy}}
static_resources:
  listeners:
  - name: tls
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            tls_certificate_sds_secret_configs: [{{name: default, sds_config: {own}}}]
            validation_context_sds_secret_config: {{name: ROOTCA, sds_config: {roots}}}
      filters:
      - name: envoy.filters.network.direct_response
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config
          response: {{inline_string: served}}
",
        own = sds("default.yaml"),
        roots = sds("ROOTCA.yaml"),
    );
    let file = place.file("envoy.yaml");
    std::fs::write(&file, bootstrap).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(file).args(["--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]);
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks again and again: what is waited for happens in another process, which has no way to tell.
fn soon(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
