//! `POST /drain_listeners`: no more connections, and those that are there end well.
//!
//! `inboundonly` drains the listeners for the own app alone, `graceful` keeps them open for the drain time of the bootstrap
//! while connections are asked to end, so that callers who have not heard of it are not refused. There is no way back but
//! a new process (Envoy).

use http::StatusCode;
use leno_config::ir::Direction;

use super::Shared;
use super::answer::{Answer, text};
use super::query::{Query, QueryError};

/// What the page understands.
pub(super) const PARAMETERS: &[&str] = &["graceful", "inboundonly"];

/// Which listeners are drained, and how; by default, none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerDrain {
    /// Those for the own app.
    pub inbound: Option<Closing>,
    /// Those for what the app calls.
    pub outbound: Option<Closing>,
}

/// When a listener that is drained closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// After the drain time; until then, each connection is told to end with its next answer.
    Later,
    /// At once.
    Now,
}

impl ListenerDrain {
    /// Whether and when listeners of this direction close.
    pub fn of(self, direction: Direction) -> Option<Closing> {
        match direction {
            Direction::Inbound => self.inbound,
            Direction::Outbound => self.outbound,
        }
    }

    /// Both; what is to close at once closes at once.
    pub(super) fn and(self, other: Self) -> Self {
        Self { inbound: self.inbound.max(other.inbound), outbound: self.outbound.max(other.outbound) }
    }
}

/// `POST /drain_listeners`.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let (graceful, inbound_only) = (query.switch("graceful")?, query.switch("inboundonly")?);
    let closing = Some(if graceful { Closing::Later } else { Closing::Now });
    shared.drain_listeners(ListenerDrain { inbound: closing, outbound: closing.filter(|_| !inbound_only) });
    Ok(text(StatusCode::OK, "OK: /listeners says which are left\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_not_taken_back() {
        let inbound = |closing| ListenerDrain { inbound: Some(closing), outbound: None };
        let both = |closing| ListenerDrain { inbound: Some(closing), outbound: Some(closing) };
        let none = ListenerDrain::default();
        let rows = [
            (none, inbound(Closing::Later), inbound(Closing::Later)),
            (inbound(Closing::Now), inbound(Closing::Later), inbound(Closing::Now)),
            (inbound(Closing::Later), both(Closing::Now), both(Closing::Now)),
            (
                inbound(Closing::Now),
                both(Closing::Later),
                ListenerDrain { inbound: Some(Closing::Now), outbound: Some(Closing::Later) },
            ),
            (both(Closing::Later), none, both(Closing::Later)),
        ];
        for (before, asked, expected) in rows {
            assert_eq!(before.and(asked), expected, "{before:?} and {asked:?}");
        }
    }
}
