//! What becomes of the attempts at a request, as text.
//!
//! Steps are separated by `;`; the last one holds for all further attempts. A step is a deed and, after spaces, what goes
//! with it:
//!
//! | deed | what the caller sees |
//! |---|---|
//! | `200` … `599` | an answer with this status; its body is the server's name |
//! | `grpc=14` | gRPC: a status in the head of an answer without a body |
//! | `grpc-late=14` | gRPC: a message, and the status in the trailers |
//! | `reset` `close` | RST or FIN before the first byte of an answer (HTTP/2: of the connection) |
//! | `reset-in-body` `close-in-body` | the same after the head and half of the body |
//! | `half` | the head and half of the body, and nothing more until the caller goes |
//! | `trickle` | the body byte by byte |
//! | `silent` | nothing, until the caller goes |
//! | `garbage` | bytes that are no HTTP |
//! | `endless-hints` | `103 Early Hints` without end |
//! | `hints` | three of them, and then 200 |
//! | `bad-trailer` | a chunked body whose trailer is no header |
//! | `refused-stream` `reset-stream` `reset-stream-in-body` | HTTP/2: RST_STREAM with REFUSED_STREAM, or with INTERNAL_ERROR |
//! | `goaway` | HTTP/2: GOAWAY whose last stream is the one before this, and FIN |
//!
//! | with it | |
//! |---|---|
//! | `after=300` | so many milliseconds later |
//! | `name:value` | a header of the answer; `_` stands for a space in the value |
//! | `then=close` | the connection ends right after the answer, which has not said so |
//! | `then=close-at-next` `then=reset-at-next` | it ends when the next request comes in: the keep-alive race |

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

/// What becomes of the attempts at a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script(Vec<Step>);

/// What becomes of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) deed: Deed,
    pub(super) after: Duration,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Answer(StatusCode),
    Grpc(u16),
    GrpcLate(u16),
    Reset,
    Close,
    ResetInBody,
    CloseInBody,
    Half,
    Trickle,
    Silent,
    Garbage,
    EndlessHints,
    Hints,
    BadTrailer,
    RefusedStream,
    ResetStream,
    ResetStreamInBody,
    GoAway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Stay,
    Close,
    CloseAtNext,
    ResetAtNext,
}

impl Script {
    /// What becomes of an attempt, counted from 0.
    pub(super) fn step(&self, attempt: usize) -> &Step {
        let last = self.0.last().expect("invariant: a script has a step");
        self.0.get(attempt).unwrap_or(last)
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(';').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let deed = words.next().ok_or("a step is empty")?.parse()?;
        let mut step = Self { deed, after: Duration::ZERO, headers: Vec::new(), then: Then::Stay };
        for word in words {
            if let Some(millis) = word.strip_prefix("after=") {
                step.after = Duration::from_millis(millis.parse().map_err(|_| format!("`{word}` is no time"))?);
            } else if let Some(then) = word.strip_prefix("then=") {
                step.then = then.parse()?;
            } else {
                step.headers.push(header(word)?);
            }
        }
        Ok(step)
    }
}

fn header(word: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = word.split_once(':').ok_or_else(|| format!("`{word}` is no header"))?;
    let name = name.parse().map_err(|_| format!("`{name}` is no name of a header"))?;
    let value = value.replace('_', " ").parse().map_err(|_| format!("`{value}` is no value of a header"))?;
    Ok((name, value))
}

impl FromStr for Deed {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let unknown = || format!("`{word}` is no deed of a script");
        if let Ok(status) = word.parse::<StatusCode>() {
            return Ok(Self::Answer(status));
        }
        if let Some((kind, status)) = word.split_once('=') {
            let status = status.parse().map_err(|_| unknown())?;
            return match kind {
                "grpc" => Ok(Self::Grpc(status)),
                "grpc-late" => Ok(Self::GrpcLate(status)),
                _ => Err(unknown()),
            };
        }
        Ok(match word {
            "reset" => Self::Reset,
            "close" => Self::Close,
            "reset-in-body" => Self::ResetInBody,
            "close-in-body" => Self::CloseInBody,
            "half" => Self::Half,
            "trickle" => Self::Trickle,
            "silent" => Self::Silent,
            "garbage" => Self::Garbage,
            "endless-hints" => Self::EndlessHints,
            "hints" => Self::Hints,
            "bad-trailer" => Self::BadTrailer,
            "refused-stream" => Self::RefusedStream,
            "reset-stream" => Self::ResetStream,
            "reset-stream-in-body" => Self::ResetStreamInBody,
            "goaway" => Self::GoAway,
            _ => return Err(unknown()),
        })
    }
}

impl FromStr for Then {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "close" => Self::Close,
            "close-at-next" => Self::CloseAtNext,
            "reset-at-next" => Self::ResetAtNext,
            _ => return Err(format!("`{word}` does not follow an answer")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_holds_for_all_further_attempts() {
        let script: Script = "503 retry-after:1; reset after=20; 200 then=close".parse().expect("it is a script");
        assert_eq!(script.step(0).deed, Deed::Answer(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(script.step(0).headers[0].0, "retry-after");
        assert_eq!((script.step(1).deed, script.step(1).after), (Deed::Reset, Duration::from_millis(20)));
        for later in [2, 3, 100] {
            assert_eq!((script.step(later).deed, script.step(later).then), (Deed::Answer(StatusCode::OK), Then::Close));
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_said_and_not_played() {
        for text in ["", "200;", "503 x", "rest", "grpc=x", "200 then=nothing", "200 after=soon", "1200"] {
            assert!(text.parse::<Script>().is_err(), "{text}");
        }
    }
}
