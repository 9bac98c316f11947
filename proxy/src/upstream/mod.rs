//! Connections to endpoints.
//!
//! * [`connect`]: opens one, with a deadline and the loop guard.
//! * `line`: who waits for one, where their number is limited.
//! * [`opened`]: which ones are ours, should they come back.
//! * [`pool`]: keeps them, per worker and endpoint; hands out what can carry a request now.
//! * [`send`]: one request on one connection, and what its failure means.

pub mod connect;
mod line;
pub mod opened;
pub mod pool;
pub mod send;

/// HTTP/2 flow control, for both sides. h2 counts small DATA frames against a budget of half the connection window and
/// ends the *whole connection* when one slow reader exceeds it; a small stream window stops such a sender first, and a
/// large connection window keeps the budget out of reach.
pub mod h2_windows {
    /// Per stream.
    pub const STREAM: u32 = 64 * 1024;
    /// Per connection.
    pub const CONNECTION: u32 = 64 * 1024 * 1024;
    /// All header fields of a message together: Envoy allows 60 KiB, hyper's 16 KiB breaks big cookies.
    pub const HEADER_LIST: u32 = 64 * 1024;
    /// What one stream may buffer for sending.
    pub const SEND_BUFFER: usize = 256 * 1024;
    /// Streams at a time that a client may open on one connection.
    pub const STREAMS: u32 = 100;
}
