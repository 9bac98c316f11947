//! `/logging` of this process, from a request's method and query; the control plane's server has the same page.

use http::Method;

use crate::logging;

use super::answer::{Answer, text, with_type};
use super::query::Query;
use super::routes::{Act, act, not_allowed};

/// Answers `GET` and `POST /logging` with this query. `POST` changes what is logged: `level=LEVEL` and `MODULE=LEVEL`.
pub fn logging(method: &Method, query: &str) -> Answer {
    match Query::parse(query) {
        Ok(query) if act(method) == Act::Read => page(Act::Read, &query),
        Ok(query) if method == Method::POST => page(Act::Change, &query),
        Ok(_) => *not_allowed("GET, HEAD, POST", "use GET to see what is logged, POST to change it\n".to_owned()),
        Err(error) => error.into(),
    }
}

/// `/logging`.
pub(super) fn page(act: Act, query: &Query) -> Answer {
    let is_json = match query.one_of("format", &["text", "json"]) {
        Ok(format) => format == Some("json"),
        Err(error) => return error.into(),
    };
    let pairs: Vec<(&str, &str)> = query.pairs().filter(|(name, _)| *name != "format").collect();
    let changes = match act {
        Act::Change => Some(pairs.as_slice()),
        Act::Read if pairs.is_empty() => None,
        Act::Read => return *not_allowed("POST", "use POST: /logging with levels changes something\n".to_owned()),
    };
    let (status, says) = logging::answer(logging::current(), changes, is_json);
    if is_json && status.is_success() { with_type(status, "application/json", says) } else { text(status, says) }
}
