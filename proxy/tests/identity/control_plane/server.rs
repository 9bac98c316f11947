//! A control plane behind TLS: it believes some tokens and every certificate of its CA, and remembers who came.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use leno_config::node::{Interception, Node};
use leno_config::xds::ca::{IstioCertificateRequest, IstioCertificateResponse, SERVICE};
use leno_proxy::identity::id_of;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, BoxStream};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::ca::{Ca, Leaf, today};

/// A running control plane. It ends with the test's runtime.
pub(super) struct Server {
    address: SocketAddr,
    book: Book,
}

/// Who is believed, and who came.
#[derive(Clone)]
struct Book {
    ca: Arc<Ca>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    tokens: Vec<String>,
    callers: Vec<String>,
}

impl Server {
    /// Its certificate is for these hosts.
    pub(super) async fn start(ca: Arc<Ca>, hosts: &[&str]) -> Self {
        let leaf = Leaf {
            uris: vec!["spiffe://cluster.local/ns/istio-system/sa/leno".to_owned()],
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Leaf::cart(today())
        };
        let acceptor = TlsAcceptor::from(Arc::new(config(&ca, &leaf)));
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Inner { tokens: vec!["good".to_owned()], callers: Vec::new() };
        let book = Book { ca, inner: Arc::new(Mutex::new(inner)) };
        let (connections, incoming) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, connections) = (acceptor.clone(), connections.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = connections.send(Ok::<_, std::io::Error>(Io(stream))).await;
                    }
                });
            }
        });
        let server = tonic::transport::Server::builder()
            .add_service(Certificates(book.clone()))
            .add_service(AggregatedDiscoveryServiceServer::new(Discovery(book.clone())));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        Self { address, book }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Believes one more token.
    pub(super) fn accept(&self, token: &str) {
        self.book.inner.lock().unwrap().tokens.push(token.to_owned());
    }

    /// Who came: `token TEXT` or `certificate ID`.
    pub(super) fn callers(&self) -> Vec<String> {
        self.book.inner.lock().unwrap().callers.clone()
    }

    pub(super) fn forget_callers(&self) {
        self.book.inner.lock().unwrap().callers.clear();
    }
}

impl Book {
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let mut inner = self.inner.lock().unwrap();
        if let Some(token) = request.metadata().get("authorization") {
            let token = token.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
            inner.callers.push(format!("token {token}"));
            return match inner.tokens.contains(&token) {
                true => Ok(()),
                false => Err(Status::unauthenticated("token: not one of ours")),
            };
        }
        let id = request.extensions().get::<Option<String>>().cloned().flatten();
        let id = id.ok_or_else(|| Status::unauthenticated("neither a token nor a certificate"))?;
        inner.callers.push(format!("certificate {id}"));
        Ok(())
    }
}

fn config(ca: &Ca, leaf: &Leaf) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.root_der()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (chain, key) = ca.pair_der(leaf);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Who the proxies under test say they are.
pub(super) fn node() -> Node {
    Node {
        name: "cart-1".to_owned(),
        ip: [127, 0, 0, 1].into(),
        namespace: "default".to_owned(),
        service_account: "cart".to_owned(),
        workload: "cart".to_owned(),
        labels: Default::default(),
        locality: Default::default(),
        interception: Interception::None,
    }
}

/// A connection that knows its peer.
struct Io(TlsStream<TcpStream>);

impl Connected for Io {
    type ConnectInfo = Option<String>;

    fn connect_info(&self) -> Self::ConnectInfo {
        let leaf = self.0.get_ref().1.peer_certificates()?.first()?;
        id_of(leaf).ok().map(|id| id.to_string())
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The certificate service.
#[derive(Clone)]
struct Certificates(Book);

impl NamedService for Certificates {
    const NAME: &'static str = SERVICE;
}

impl tower::Service<http::Request<Body>> for Certificates {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(service, request).await) })
    }
}

impl UnaryService<IstioCertificateRequest> for Certificates {
    type Response = IstioCertificateResponse;
    type Future = BoxFuture<Response<IstioCertificateResponse>, Status>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        let answer = self.0.check(&request).map(|()| {
            let leaf = self.0.ca.sign(&request.get_ref().csr, &Leaf::cart(today()));
            Response::new(IstioCertificateResponse { cert_chain: vec![leaf, self.0.ca.root()] })
        });
        Box::pin(async move { answer })
    }
}

/// A stream that says nothing, for those who are believed.
struct Discovery(Book);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = BoxStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.0.check(&request)?;
        let (responses, outgoing) = mpsc::channel(1);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(_)) = requests.message().await {}
            drop(responses);
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
