//! A route's timeout: it runs from the end of the request to the end of the answer (Envoy).

use std::pin::Pin;
use std::time::Duration;

use http::HeaderMap;
use leno_config::ir::Forward;
use tokio::time::Sleep;

use crate::body::RequestEnd;
use crate::error::ProxyError;
use crate::headers;

/// A route's timeout at work.
#[derive(Debug)]
pub struct Deadline {
    limit: Duration,
    end: RequestEnd,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The timeout of a request; a gRPC caller may ask for less than the route's, and for any where the route has none
/// (Istio).
pub fn timeout_of(forward: &Forward, fields: &HeaderMap) -> Option<Duration> {
    match (forward.timeout, headers::grpc_timeout(fields)) {
        (Some(route), Some(asked)) => Some(route.min(asked)),
        (route, asked) => route.or(asked),
    }
}

impl Deadline {
    /// Not running before `end`, the end of the request.
    pub fn new(limit: Duration, end: RequestEnd) -> Self {
        Self { limit, end, sleep: None }
    }

    /// What the work brings, unless it takes too long.
    pub async fn race<T>(
        &mut self,
        work: impl Future<Output = Result<T, ProxyError>> + Unpin,
    ) -> Result<T, ProxyError> {
        let limit = self.limit;
        tokio::select! {
            biased;
            done = work => done,
            () = self.passed() => Err(ProxyError::Timeout(limit)),
        }
    }

    async fn passed(&mut self) {
        let Self { limit, end, sleep } = self;
        std::future::poll_fn(|context| end.poll(context)).await;
        sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(*limit))).as_mut().await;
    }

    /// What is left of it, for the body of the answer.
    pub fn into_sleep(self) -> Option<Pin<Box<Sleep>>> {
        self.sleep.or_else(|| Some(Box::pin(tokio::time::sleep(self.limit))))
    }
}
