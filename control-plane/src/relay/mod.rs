//! Questions to proxies: passed on over the streams that the proxies opened, and answered over HTTP.
//!
//! `leno_proxy::relay` says why there is such a stream and what it may carry. Here is its other end:
//!
//! ```text
//! GET /proxies/cart-1.shop/clusters ─▶ http ─▶ switchboard ─▶ line ══ service ══ proxy
//!                            answer ◀───────────────────────── line ◀═
//! ```
//!
//! * [`service`]: the gRPC method; who may open a stream, as whom and for how long is decided as for discovery.
//! * [`switchboard`]: who has a stream, found by name.
//! * [`line`]: one proxy's stream without IO: questions under way, what is to be told, what was answered.
//! * [`answer`]: one answer, as the body of an HTTP response.
//! * [`http`]: the paths below `/proxies`.
//!
//! With several control planes over the same rules, each knows the proxies that are connected to it and no others: ask
//! all of them.

pub(crate) mod answer;
pub(crate) mod http;
pub(crate) mod line;
pub(crate) mod service;
pub(crate) mod switchboard;
#[cfg(test)]
mod tests;
