//! The two ids of a trace, as numbers; text only where it is written.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use crate::random::Random;

/// Which trace: 16 bytes, never all zero (W3C Trace Context §3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

/// Which span of it: 8 bytes, never all zero (§3.2.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// `None`: zero stands for "no trace".
    pub fn new(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }

    /// One that nobody else has.
    pub fn random(random: &Random) -> Self {
        let id = u128::from(random.next()) << 64 | u128::from(random.next());
        Self(NonZeroU128::new(id).unwrap_or(NonZeroU128::MIN))
    }

    /// As OTLP carries it.
    pub fn bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// The upper half; zero where a system with ids of 8 bytes made it.
    pub(super) fn high(self) -> u64 {
        // The upper half of 128 bits is 64 bits.
        #[allow(clippy::cast_possible_truncation)]
        let high = (self.0.get() >> 64) as u64;
        high
    }
}

impl SpanId {
    /// `None`: zero stands for "no span".
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// One that no other span of the trace has.
    pub fn random(random: &Random) -> Self {
        Self(NonZeroU64::new(random.next()).unwrap_or(NonZeroU64::MIN))
    }

    /// As OTLP carries it.
    pub fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

/// 32 lower-case hexadecimal digits.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// 16 lower-case hexadecimal digits.
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_zero_and_have_all_their_digits() {
        assert_eq!((TraceId::new(0), SpanId::new(0)), (None, None));
        assert_eq!(TraceId::new(0xab).map(|id| id.to_string()).as_deref(), Some("000000000000000000000000000000ab"));
        assert_eq!(SpanId::new(0xab).map(|id| id.to_string()).as_deref(), Some("00000000000000ab"));
        let random = Random::seeded(1);
        assert_ne!(TraceId::random(&random), TraceId::random(&random));
    }
}
