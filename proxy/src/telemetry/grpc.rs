//! What is told of gRPC: its messages, counted as they pass, and its status.

use http::HeaderMap;

use crate::headers::name;

/// A flag of one byte and a length of four (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: u8 = 5;
/// A status that gRPC does not know counts as `UNKNOWN`.
const LARGEST_STATUS: u8 = 16;
/// `UNKNOWN`.
const UNKNOWN: u8 = 2;

/// Counts the messages of one direction of a stream. A message counts when its prefix has passed; where frames begin and end
/// does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    count: u32,
    /// Bytes of the prefix that have passed.
    prefix: u8,
    /// The length, as far as it is known; then the bytes of the message that are still to come.
    left: u32,
}

impl Messages {
    /// Some more bytes have passed.
    pub fn passed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.prefix == PREFIX {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(skipped..).unwrap_or_default();
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
                if self.left == 0 {
                    self.prefix = 0;
                }
                continue;
            }
            let (Some(first), rest) = (bytes.first(), bytes.get(1..)) else { return };
            bytes = rest.unwrap_or_default();
            // The first byte is the flag of compression.
            self.left = if self.prefix == 0 { 0 } else { self.left << 8 | u32::from(*first) };
            self.prefix += 1;
            if self.prefix == PREFIX {
                self.count = self.count.saturating_add(1);
                if self.left == 0 {
                    self.prefix = 0;
                }
            }
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.into()
    }
}

/// The `grpc-status` of a head (an answer without messages) or of trailers.
pub fn status(fields: &HeaderMap) -> Option<u8> {
    let text = fields.get(name::GRPC_STATUS)?.to_str().ok()?;
    Some(text.parse().ok().filter(|&status| status <= LARGEST_STATUS).unwrap_or(UNKNOWN))
}

/// What an answer counts as that came without a status, as Envoy has it: what its HTTP status stands for.
pub fn status_of_http(code: u16) -> Option<u8> {
    let status = http::StatusCode::from_u16(code).ok()?;
    u8::try_from(crate::error::grpc_status_of(status)).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).expect("short").to_be_bytes();
        [&[0][..], &prefix, &vec![0xff; length]].concat()
    }

    fn count<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut messages = Messages::default();
        frames.into_iter().for_each(|frame| messages.passed(frame));
        messages.count()
    }

    #[test]
    fn a_message_counts_when_its_prefix_has_passed() {
        let rows: [(&[&[u8]], u64); 8] = [
            (&[], 0),
            (&[b""], 0),
            (&[&[0, 0, 0, 0]], 0),
            (&[&[0, 0, 0, 0, 0]], 1),
            (&[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]], 2),
            (&[&[1, 0, 0, 0, 3, 1, 2]], 1),
            (&[&[0, 0, 0], &[0, 1], &[9, 0, 0], &[0, 0, 0]], 2),
            (&[&[0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0]], 1),
        ];
        for (frames, expected) in rows {
            assert_eq!(count(frames.iter().copied()), expected, "{frames:?}");
        }
    }

    proptest! {
        #[test]
        fn where_frames_end_does_not_matter(lengths in prop::collection::vec(0_usize..600, 0..20), cuts in prop::collection::vec(1_usize..300, 1..50)) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|&length| message(length)).collect();
            let mut frames = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (frame, tail) = rest.split_at(cut.min(rest.len()));
                frames.push(frame);
                rest = tail;
            }
            frames.push(rest);
            prop_assert_eq!(count(frames), lengths.len() as u64);
        }

        #[test]
        fn any_bytes_are_counted_somehow(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64)) {
            let all: usize = frames.iter().map(Vec::len).sum();
            prop_assert!(count(frames.iter().map(Vec::as_slice)) <= (all / 5) as u64);
        }
    }

    #[test]
    fn a_status_is_one_of_seventeen() {
        for (text, expected) in
            [(Some("0"), Some(0)), (Some("16"), Some(16)), (Some("17"), Some(2)), (Some("x"), Some(2)), (None, None)]
        {
            let mut fields = HeaderMap::new();
            fields.extend(
                text.map(|text| (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(text))),
            );
            assert_eq!(status(&fields), expected, "{text:?}");
        }
        assert_eq!([status_of_http(503), status_of_http(200), status_of_http(0)], [Some(14), Some(2), None]);
    }
}
