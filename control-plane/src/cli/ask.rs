//! Asking a running control plane over its HTTP address.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::failure::Failure;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const MAX_ANSWER: usize = 256 << 20;

/// What to ask.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// With the query.
    pub(super) path: &'a str,
    /// Of the state directory's key.
    pub(super) token: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// `GET` without a token.
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, token: None }
    }
}

/// The answer of the control plane at `address`, whatever its status.
pub(super) fn ask(address: &str, question: &Question<'_>) -> Result<(StatusCode, String), Failure> {
    let hint = "is `leno serve` running? --address takes what it prints as http";
    ask_whom("the control plane", hint, address, question)
}

/// The answer of `whom` at `address`, whatever its status; `hint` is for who cannot reach it.
pub(super) fn ask_whom(
    whom: &str,
    hint: &str,
    address: &str,
    question: &Question<'_>,
) -> Result<(StatusCode, String), Failure> {
    let authority = authority(address).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fetched = runtime.block_on(async { tokio::time::timeout(TIMEOUT, exchange(&authority, question)).await });
    let fetched = fetched.context("no answer in time").and_then(|answer| answer);
    let tried = || format!("cannot reach {whom} at {address} ({hint})");
    fetched.with_context(tried).map_err(Failure::unreachable)
}

/// `HOST:PORT` of an address as it is given on the command line.
pub(super) fn authority(address: &str) -> anyhow::Result<String> {
    let address = address.trim_end_matches('/');
    let authority = address.strip_prefix("http://").unwrap_or(address);
    let parsed = authority.parse::<http::uri::Authority>();
    let parsed = parsed.with_context(|| format!("--address has the form http://HOST:PORT, not `{address}`"))?;
    ensure!(parsed.port_u16().is_some(), "--address names a port, as in http://127.0.0.1:15014, unlike `{address}`");
    Ok(authority.to_owned())
}

async fn exchange(authority: &str, question: &Question<'_>) -> anyhow::Result<(StatusCode, String)> {
    let socket = TcpStream::connect(authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let mut request = http::Request::builder().method(&question.method).uri(question.path);
    request = request.header(header::HOST, authority);
    if let Some(token) = question.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(String::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        Ok((status, String::from_utf8(body.into())?))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_dialled() {
        assert_eq!(authority("http://127.0.0.1:15014/").unwrap(), "127.0.0.1:15014");
        assert_eq!(authority("[::1]:15014").unwrap(), "[::1]:15014");
        for address in ["https://127.0.0.1:15014", "http://localhost", "localhost:http", "localhost:70000", "", "a b:1"]
        {
            assert!(authority(address).is_err(), "{address}");
        }
    }
}
