//! One question, and its answer at the pace of who reads it. What may be asked from afar is the admin interface's to say.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::{Notify, mpsc};

use super::Admin;
use super::wire::{self, Chunk, End, Head, Report, Said};

/// What may be sent of one answer before more of it has been read.
#[derive(Debug)]
pub(super) struct Window {
    left: Cell<u32>,
    given: Notify,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { left: Cell::new(wire::WINDOW), given: Notify::new() }
    }

    /// So much has been read. Never more than a whole window: a control plane cannot make a proxy buffer without bound.
    pub(super) fn give(&self, cost: u32) {
        self.left.set(self.left.get().saturating_add(cost).min(wire::WINDOW));
        self.given.notify_one();
    }

    async fn take(&self, cost: u32) {
        loop {
            match self.left.get().checked_sub(cost) {
                Some(left) => return self.left.set(left),
                None => self.given.notified().await,
            }
        }
    }
}

/// Answers a question; ends early when the stream does.
pub(super) async fn answer(
    id: u64,
    method: &str,
    path_and_query: &str,
    admin: &impl Admin,
    window: &Window,
    reports: &mpsc::Sender<Report>,
) {
    // An error means that the stream is over, and with it whoever asked.
    let _ = match question(method, path_and_query) {
        Some((method, target)) => pass_on(id, admin.answer(&method, target.as_str()).await, window, reports).await,
        None => {
            let mut refusal =
                Response::new(http_body_util::Full::new(Bytes::from_static(b"the question cannot be read\n")));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            pass_on(id, refusal, window, reports).await
        }
    };
}

/// The question, if it is one.
fn question(method: &str, path_and_query: &str) -> Option<(Method, PathAndQuery)> {
    if path_and_query.len() > wire::LONGEST_PATH {
        return None;
    }
    Some((method.parse().ok()?, path_and_query.parse().ok()?))
}

type Sent = Result<(), mpsc::error::SendError<Report>>;

async fn pass_on<B>(id: u64, response: Response<B>, window: &Window, reports: &mpsc::Sender<Report>) -> Sent
where
    B: Body<Data = Bytes, Error = Infallible>,
{
    let (head, body) = response.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let status = u32::from(head.status.as_u16());
    reports.send(Said::Head(Head { id, status, content_type: content_type.to_owned() }).into()).await?;
    let mut body = pin!(body);
    while let Some(Ok(frame)) = body.frame().await {
        // Trailers say nothing here.
        let Ok(mut data) = frame.into_data() else { continue };
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(wire::LARGEST_CHUNK));
            window.take(wire::cost(chunk.len())).await;
            reports.send(Said::Chunk(Chunk { id, data: chunk }).into()).await?;
        }
    }
    reports.send(Said::End(End { id, error: String::new() }).into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_method_and_a_path_of_bounded_length() {
        for (method, path, expected) in [
            ("GET", "/clusters?format=json", true),
            ("POST", "/logging?level=debug", true),
            ("G T", "/", false),
            ("GET", "/a b", false),
            ("GET", &format!("/{}", "a".repeat(wire::LONGEST_PATH)), false),
        ] {
            assert_eq!(question(method, path).is_some(), expected, "{method} {path}");
        }
    }

    async fn next(reports: &mut mpsc::Receiver<Report>) -> Said {
        reports.recv().await.and_then(|report| report.said).expect("a report")
    }

    #[tokio::test]
    async fn an_answer_goes_out_in_chunks_and_waits_for_its_reader() {
        let body = Bytes::from(vec![b'x'; 3 * wire::WINDOW as usize]);
        let (reports, mut sent) = mpsc::channel(1);
        let window = Window::new();
        let response = Response::new(http_body_util::Full::new(body));
        let passing = pass_on(7, response, &window, &reports);
        let reading = async {
            assert_eq!(next(&mut sent).await, Said::Head(Head { id: 7, status: 200, content_type: String::new() }));
            let (mut read, mut unread) = (0, 0);
            loop {
                match next(&mut sent).await {
                    Said::Chunk(Chunk { id: 7, data }) => {
                        assert!(data.len() <= wire::LARGEST_CHUNK);
                        read += data.len();
                        unread += wire::cost(data.len());
                        assert!(unread <= wire::WINDOW, "more than may be unread");
                        if unread + wire::cost(wire::LARGEST_CHUNK) > wire::WINDOW {
                            window.give(std::mem::take(&mut unread));
                        }
                    }
                    Said::End(End { id: 7, error }) if error.is_empty() => return read,
                    other => panic!("{other:?}"),
                }
            }
        };
        let (passed, read) = tokio::join!(passing, reading);
        passed.expect("somebody listens");
        assert_eq!(read, 3 * wire::WINDOW as usize);
    }

    #[test]
    fn a_window_is_never_larger_than_it_began() {
        let window = Window::new();
        window.give(u32::MAX);
        assert_eq!(window.left.get(), wire::WINDOW);
    }
}
