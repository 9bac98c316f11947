//! Calling a sidecar from its own pod: `leno-proxy wait` and `leno-proxy quit`.
//!
//! The image of the sidecar has no shell and no curl, so its own program is what hooks and probes run. `wait` is the
//! postStart hook of the older form of injection: the kubelet starts the next container only when it has returned, so the
//! app finds a proxy that is ready. With `--timeout 0s` it asks once, which makes it an exec probe. `quit` ends the sidecar
//! of a Job, which would else outlive the work (native sidecars need neither).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::bootstrap::duration;

use super::port;

/// For one question.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of an answer.
const MOST: usize = 64 << 10;

/// Flags of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Where the proxy says whether it is ready [default: that of LENO_READY, else http://127.0.0.1:15021/healthz/ready]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How long to wait, as 60s or 500ms; 0s asks once
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: String,
    #[arg(long, hide = true, env = "LENO_READY")]
    ready: Option<SocketAddr>,
}

/// Flags of `quit`.
#[derive(Debug, Args)]
pub struct Quit {
    /// What ends the proxy [default: /quitquitquit at LENO_MERGED, else at LENO_ADMIN, else at 127.0.0.1:15000]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[arg(long, hide = true, env = "LENO_MERGED")]
    merged: Option<SocketAddr>,
    #[arg(long, hide = true, env = "LENO_ADMIN")]
    admin: Option<SocketAddr>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The flags make no sense.
    #[error("{0}")]
    Usage(String),
    /// The proxy says no.
    #[error("the proxy at {url} answered {status}: {says}")]
    Refused {
        /// Who was asked.
        url: String,
        /// What it answered.
        status: StatusCode,
        /// Its reason.
        says: String,
    },
    /// Nobody answers.
    #[error("no proxy answers at {url}: {reason}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// Why there is no answer.
        reason: String,
    },
}

impl CallError {
    /// 1: the proxy says no; 2: asked wrongly; 3: it cannot be reached.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }
}

impl Wait {
    /// Returns when the proxy is ready, or with what it said last.
    pub async fn run(self) -> Result<(), CallError> {
        let timeout = duration("--timeout", &self.timeout).map_err(|error| CallError::Usage(error.to_string()))?;
        let ready = self.ready.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 15021)));
        let url = Url::parse(self.url, ready, "/healthz/ready")?;
        let end = Instant::now() + timeout;
        loop {
            let Err(error) = url.call(&Method::GET).await else { return Ok(()) };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            tokio::time::sleep(PAUSE.min(left)).await;
        }
    }
}

impl Quit {
    /// Asks the proxy to drain and exit, and does not wait for it.
    pub async fn run(self) -> Result<(), CallError> {
        let address = self.merged.or(self.admin).unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)));
        Url::parse(self.url, address, "/quitquitquit")?.call(&Method::POST).await
    }
}

/// An `http://` URL.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    text: String,
    host: String,
    port: u16,
}

impl Url {
    /// What is given, else this path at an address where the proxy of this pod listens.
    fn parse(given: Option<String>, address: SocketAddr, path: &str) -> Result<Self, CallError> {
        let text = given.unwrap_or_else(|| format!("http://{}{path}", within(address)));
        let wrong =
            || CallError::Usage(format!("--url: `{text}` is not a URL like http://127.0.0.1:15021/healthz/ready"));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(wrong()) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: port(&uri, 80).ok_or_else(wrong)?, text })
    }

    /// Asks once; only 200 will do.
    async fn call(&self, method: &Method) -> Result<(), CallError> {
        let unreachable = |reason: String| CallError::Unreachable { url: self.text.clone(), reason };
        let asked = tokio::time::timeout(DEADLINE, self.ask(method)).await;
        match asked.map_err(|_| unreachable(format!("it is silent for {DEADLINE:?}")))? {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((status, says)) => Err(CallError::Refused { url: self.text.clone(), status, says }),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    async fn ask(&self, method: &Method) -> io::Result<(StatusCode, String)> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = self.request(method).map_err(io::Error::other)?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST).collect().await.map_err(io::Error::other)?;
            Ok((status, String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
        };
        let (mut answer, connection) = (pin!(answer), pin!(connection));
        tokio::select! {
            answered = &mut answer => answered,
            // What it has said until then is still to be read.
            _ = connection => answer.await,
        }
    }

    fn request(&self, method: &Method) -> Result<Request<Empty<Bytes>>, http::Error> {
        let uri: Uri = self.text.parse()?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
        let mut request = Request::builder().method(method).uri(path).body(Empty::new())?;
        request.headers_mut().insert(header::HOST, HeaderValue::try_from(authority)?);
        Ok(request)
    }
}

/// Where an address is reached from the same pod.
fn within(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_where_its_variables_say() {
        let url = |given: Option<&str>, address: &str| {
            let parsed = Url::parse(given.map(str::to_owned), address.parse().expect("an address"), "/x");
            parsed.map(|url| url.text).map_err(|error| error.to_string())
        };
        let rows = [
            (None, "0.0.0.0:15021", "http://127.0.0.1:15021/x"),
            (None, "[::]:15021", "http://[::1]:15021/x"),
            (None, "10.0.0.1:1", "http://10.0.0.1:1/x"),
            (Some("http://localhost:7/y?z"), "10.0.0.1:1", "http://localhost:7/y?z"),
        ];
        for (given, address, expected) in rows {
            assert_eq!(url(given, address).as_deref(), Ok(expected));
        }
        for given in ["https://127.0.0.1/", "127.0.0.1:15021", "http://127.0.0.1:x/", "/ready", ""] {
            assert!(url(Some(given), "10.0.0.1:1").is_err(), "{given}");
        }
    }
}
