//! The certificate authority from outside: a client that speaks TLS, tokens of the command line, openssl.

mod certificates;
mod refusals;
mod relay;
mod roots;
mod rotation;
mod streams;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use leno_config::xds::ca::{IstioCertificateRequest, IstioCertificateResponse, METHOD};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::process::{Place, SOON, Serve, leno};

const RULES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
";

/// A control plane with one service.
fn plane() -> (Place, Serve) {
    plane_with(&[])
}

fn plane_with(flags: &[&str]) -> (Place, Serve) {
    let place = Place::new();
    place.write("rules.yaml", RULES);
    let serve = started(&place, flags);
    (place, serve)
}

fn started(place: &Place, flags: &[&str]) -> Serve {
    let serve = place.serve_with(flags);
    let deadline = Instant::now() + SOON;
    while serve.get("/ready").0 != 200 {
        assert!(Instant::now() < deadline, "the rules are not in force");
        std::thread::sleep(Duration::from_millis(20));
    }
    serve
}

/// `leno token create`
fn token(place: &Place, namespace: &str, account: &str, life: &str) -> String {
    let mut command = leno();
    command.args(["token", "create", "--namespace", namespace, "--service-account", account, "--ttl", life]);
    let output = command.arg("--state").arg(place.state()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A certificate chain with its key, PEM.
#[derive(Clone)]
struct Credential {
    chain: String,
    key: String,
}

/// Connects as a proxy does: it trusts `root.pem` and asks for the name in the address.
async fn connect(
    address: SocketAddr,
    root: &Path,
    name: &str,
    credential: Option<&Credential>,
) -> Result<Channel, String> {
    let config = client_config(root, credential);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let dial = tower::service_fn(move |_: Uri| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let socket = TcpStream::connect(address).await?;
            connector.connect(name, socket).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector(dial).await.map_err(|error| format!("{error:?}"))
}

fn client_config(root: &Path, credential: Option<&Credential>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&std::fs::read(root).unwrap()) {
        roots.add(root.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credential {
        None => builder.with_no_client_auth(),
        Some(Credential { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn connected(place: &Place, serve: &Serve) -> Channel {
    connect(serve.tls, &place.state().join("root.pem"), "localhost", None).await.unwrap()
}

/// `CreateCertificate`, with whatever stands in the authorization header.
async fn create(
    channel: &Channel,
    authorization: Option<&str>,
    csr: &str,
    seconds: i64,
) -> Result<Vec<String>, Status> {
    let message = IstioCertificateRequest { csr: csr.to_owned(), validity_duration: seconds, metadata: None };
    let mut request = tonic::Request::new(message);
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let answer = client.unary(request, PathAndQuery::from_static(METHOD), codec).await?;
    Ok(answer.into_inner().cert_chain)
}

/// A certificate by token, as a new process gets it.
async fn certified(place: &Place, serve: &Serve, namespace: &str, account: &str) -> Credential {
    let (csr, key) = request();
    let bearer = format!("Bearer {}", token(place, namespace, account, "1h"));
    let mut chain = create(&connected(place, serve).await, Some(&bearer), &csr, 0).await.unwrap();
    chain.pop();
    Credential { chain: chain.concat(), key: key.serialize_pem() }
}

/// A request for a new key, PEM.
fn request() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(["somebody-else.example".to_owned()]).unwrap();
    (parameters.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn openssl(arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn metric(serve: &Serve, series: &str) -> u64 {
    let (_, metrics) = serve.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}
