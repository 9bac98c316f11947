//! How long one request and its answer may last (Envoy's `stream_idle_timeout` and `max_stream_duration`).
//!
//! Both are off in Istio's sidecars: a stream of gRPC may rest for hours. Where they are on, whoever carries the request
//! polls a [`Watch`]: while the answer is awaited, and with the frames of its body. A frame of either body counts as a sign
//! of life; what it costs is a look at the clock, and the timer is not touched until it fires.

use std::pin::Pin;
use std::task::{Context, Poll};

use leno_config::ir::StreamLimits;
use tokio::time::{Instant, Sleep};

use crate::body::RequestEnd;
use crate::error::{Flag, ProxyError};

/// Why a stream is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Nothing has moved for too long.
    Idle,
    /// It has lasted too long.
    TooLong,
}

impl Overdue {
    /// What is said of it.
    pub fn flag(self) -> Flag {
        match self {
            Self::Idle => Flag::SI,
            Self::TooLong => Flag::DT,
        }
    }
}

/// The limits of one stream at work.
#[derive(Debug)]
pub struct Watch {
    limits: StreamLimits,
    began: Instant,
    /// Of the answer.
    moved: Instant,
    request: RequestEnd,
    sleep: Pin<Box<Sleep>>,
}

impl Watch {
    /// From now on; `None`: there is no limit. `request` tells what moves there.
    pub fn new(limits: StreamLimits, request: RequestEnd) -> Option<Box<Self>> {
        let first = limits.idle.into_iter().chain(limits.longest).min()?;
        let (began, sleep) = (Instant::now(), Box::pin(tokio::time::sleep(first)));
        Some(Box::new(Self { limits, began, moved: began, request, sleep }))
    }

    /// Something of the answer has moved.
    pub fn touch(&mut self) {
        self.moved = Instant::now();
    }

    /// Ready when the stream is over.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Overdue> {
        while self.sleep.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let moved = self.request.moved().map_or(self.moved, |moved| moved.max(self.moved));
            let idle = self.limits.idle.map(|idle| (moved + idle, Overdue::Idle));
            let longest = self.limits.longest.map(|longest| (self.began + longest, Overdue::TooLong));
            let Some((due, overdue)) = idle.into_iter().chain(longest).min_by_key(|(due, _)| *due) else { break };
            if due <= now {
                return Poll::Ready(overdue);
            }
            self.sleep.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// What the work for the answer brings, unless the stream is over before.
    pub async fn race<T>(
        &mut self,
        mut work: impl Future<Output = Result<T, ProxyError>> + Unpin,
    ) -> Result<T, ProxyError> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = Pin::new(&mut work).poll(context) {
                self.touch();
                return Poll::Ready(done);
            }
            let complete = self.request.is_complete();
            self.poll(context).map(|overdue| Err(ProxyError::Overdue { overdue, complete }))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(3600);

    async fn overdue(watch: &mut Watch) -> Overdue {
        std::future::poll_fn(|context| watch.poll(context)).await
    }

    #[tokio::test]
    async fn a_stream_that_rests_or_lasts_too_long_is_over() {
        assert!(Watch::new(StreamLimits::default(), RequestEnd::default()).is_none());
        for (idle, longest, expected) in [
            (Some(SHORT), None, Overdue::Idle),
            (None, Some(SHORT), Overdue::TooLong),
            (Some(SHORT), Some(LONG), Overdue::Idle),
            (Some(LONG), Some(SHORT), Overdue::TooLong),
        ] {
            let mut watch = Watch::new(StreamLimits { idle, longest }, RequestEnd::default()).expect("a limit");
            assert_eq!(overdue(&mut watch).await, expected, "{idle:?}, {longest:?}");
        }
    }

    #[tokio::test]
    async fn what_moves_in_either_direction_puts_the_end_off() {
        let request = RequestEnd::default();
        let limits = StreamLimits { idle: Some(SHORT), longest: None };
        let mut watch = Watch::new(limits, request.clone()).expect("a limit");
        for turn in 0..4 {
            let began = Instant::now();
            tokio::time::sleep(SHORT / 2).await;
            if turn % 2 == 0 {
                request.touch();
            } else {
                watch.touch();
            }
            assert_eq!(overdue(&mut watch).await, Overdue::Idle);
            assert!(began.elapsed() >= SHORT + SHORT / 2, "turn {turn}: {:?}", began.elapsed());
            watch.sleep.as_mut().reset(Instant::now() + SHORT);
        }
    }
}
