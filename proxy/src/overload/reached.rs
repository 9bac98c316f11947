//! Which limits were reached, and how often: one family of metrics, `leno_downstream_limit_total`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit that ended a connection, a stream or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reached {
    /// `limits.first_byte`: a caller said nothing.
    FirstByte,
    /// `limits.handshake`: TLS was begun and not finished.
    Handshake,
    /// `limits.preface`: HTTP/2 was begun and not finished.
    Preface,
    /// `limits.head`: a head, or a frame, was begun and not finished.
    Head,
    /// `limits.body_idle`: a body was begun and not finished.
    BodyIdle,
    /// `limits.write_stall`: an answer was not read.
    WriteStall,
    /// `limits.connection_idle`: nothing was asked.
    ConnectionIdle,
    /// `limits.http2_control_…`: too many frames that carry nothing.
    ControlFrames,
    /// `limits.header_fields`.
    HeaderFields,
    /// `limits.header_bytes`, of one head or of all heads of a connection.
    HeaderBytes,
    /// `limits.target_bytes`.
    TargetBytes,
    /// `limits.connections_per_caller`.
    PerCaller,
    /// 85 % of `limits.memory`: connections are asked to leave.
    MemoryTight,
    /// 95 % of `limits.memory`: answers that nobody takes are ended.
    MemoryFull,
    /// No descriptor was left for a caller.
    Descriptors,
}

impl Reached {
    /// All of them, as metrics name them.
    pub const ALL: [(Self, &str); 15] = [
        (Self::FirstByte, "first_byte"),
        (Self::Handshake, "handshake"),
        (Self::Preface, "preface"),
        (Self::Head, "head"),
        (Self::BodyIdle, "body_idle"),
        (Self::WriteStall, "write_stall"),
        (Self::ConnectionIdle, "connection_idle"),
        (Self::ControlFrames, "http2_control"),
        (Self::HeaderFields, "header_fields"),
        (Self::HeaderBytes, "header_bytes"),
        (Self::TargetBytes, "target_bytes"),
        (Self::PerCaller, "connections_per_caller"),
        (Self::MemoryTight, "memory_tight"),
        (Self::MemoryFull, "memory_full"),
        (Self::Descriptors, "descriptors"),
    ];
}

/// How often each was reached, in the whole process.
#[derive(Debug, Default)]
pub struct ReachedCounts([AtomicU64; Reached::ALL.len()]);

impl ReachedCounts {
    /// Once more.
    #[cold]
    pub fn add(&self, reached: Reached) {
        if let Some(count) = self.0.get(reached as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So far.
    pub fn of(&self, reached: Reached) -> u64 {
        self.0.get(reached as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_place_and_a_name_of_its_own() {
        let counts = ReachedCounts::default();
        for (times, (reached, _)) in Reached::ALL.iter().enumerate() {
            (0..times).for_each(|_| counts.add(*reached));
        }
        for (times, (reached, name)) in Reached::ALL.iter().enumerate() {
            assert_eq!(counts.of(*reached), times as u64, "{name}");
        }
    }
}
