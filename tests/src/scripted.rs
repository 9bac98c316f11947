//! Upstreams that fail on demand: what a server does with a request stands in the request itself.
//!
//! ```text
//! x-run: 17                      which request this is an attempt at
//! x-script: 503; reset; 200      what becomes of its first, second and every later attempt
//! ```
//!
//! So that one set of servers serves all tests at once, and two proxies can be asked the very same. A [`Fleet`] counts the
//! attempts of a run over all its servers: whichever endpoint a proxy picks, the second attempt of run 17 is reset. It
//! writes down every attempt, in [`Attempt`]s.
//!
//! The words of a script are in [`script`]. What happens before a request can be read is a property of the server:
//! [`Manner`]. HTTP/1.1 and HTTP/2, clear text and TLS are told apart by their first bytes, on one port. HTTP/1.1 is
//! written by hand, since no library would say most of this; HTTP/2 is the `h2` crate's, whose connection is cut, or spoken
//! past, from outside where the script wants it.

mod book;
mod http1;
mod http2;
pub mod script;
mod server;

pub use book::Attempt;
pub use server::{Fleet, Manner, Upstream};

/// The header with the number of the request, which all its attempts share.
pub const RUN: &str = "x-run";
/// The header with what is to happen.
pub const SCRIPT: &str = "x-script";
