//! How far the end of the process has come, as its connections see it.

/// A process goes through these in their order, each at most once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It is wanted.
    #[default]
    Serving,
    /// It is to end: connections are still taken, and each is told to go as its protocol allows without losing a request.
    /// One that rests is left alone, since its caller may be about to use it.
    Draining,
    /// Nobody is expected any more: what rests is closed.
    Closing,
}
