//! Frames of HTTP/2 that carry nothing, counted before h2 sees them.
//!
//! h2 counts resets, CONTINUATION and empty DATA. It does not count PING, SETTINGS, PRIORITY, WINDOW_UPDATE, frames of types
//! that nobody knows, and DATA of a byte: about 3 µs each, for as long as somebody sends them. Here a connection has a
//! credit of such frames (`limits.http2_control_…`): so many at once, more with each second and each request, and one for
//! each KiB that the caller was sent, since who reads much has to send WINDOW_UPDATE, and many measure with PING. Who goes
//! beyond is closed at once.
//!
//! Only the nine bytes of each frame's head are looked at (RFC 9113 §4.1), in place: nothing is copied, nothing held back,
//! and a large frame costs as much as a small one. What is incomplete at the end of a read is noted, so that half a frame is
//! not waited for for ever.
//!
//! A DATA frame below five bytes counts as nothing unless it ends its stream: the smallest message of gRPC has five, the
//! smallest frame of a WebSocket client six. One with padding counts like the frame that it may hide.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::forwarding::forward_writes;
use crate::overload::limits::Control;

use super::pulse::{HALF, HALF_DATA, IDLE, Outflow, PREFACE, WHOLE};

/// A frame's head.
const HEAD: usize = 9;
/// What comes before the first frame (RFC 9113 §3.4).
const MAGIC: u32 = 24;
/// A DATA frame that carries something has as many bytes.
const SOMETHING: u32 = 5;
/// The same with padding: its length, and at most as much of it as one byte can say.
const SOMETHING_PADDED: u32 = SOMETHING + 256;
/// Bytes that a caller was sent, for one more frame.
const EARNS: usize = 1024;
/// Frames that may be earned so: a caller may say late what it has read.
const MOST_EARNED: u32 = 65_536;

/// Types of frames (RFC 9113 §6); all others carry nothing.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
/// Flags of frames.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// What some bytes have brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Brought {
    /// Frames that carry nothing.
    control: u32,
    /// Streams that were opened.
    requests: u32,
    /// SETTINGS are complete.
    settings: bool,
}

/// Where in its frames a connection is.
#[derive(Debug)]
struct Scan {
    head: [u8; HEAD],
    /// Bytes of the head that are here.
    have: usize,
    /// Bytes of the frame that are not.
    left: u32,
    kind: u8,
    /// The preface is not over.
    before: bool,
    /// A block of header fields has begun and not ended.
    in_fields: bool,
    last_stream: u32,
    begun: u32,
}

impl Scan {
    fn new() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            left: MAGIC,
            kind: 0,
            before: true,
            in_fields: false,
            last_stream: 0,
            begun: 0,
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Brought {
        let mut brought = Brought::default();
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(self.left);
                bytes = bytes.get(skipped as usize..).unwrap_or_default();
                self.left -= skipped;
                self.complete(&mut brought);
                continue;
            }
            let taken = bytes.len().min(HEAD - self.have);
            let (here, rest) = bytes.split_at(taken);
            if let Some(free) = self.head.get_mut(self.have..self.have + taken) {
                free.copy_from_slice(here);
            }
            self.have += taken;
            bytes = rest;
            if self.have == HEAD {
                self.have = 0;
                self.begin(&mut brought);
                self.complete(&mut brought);
            }
        }
        brought
    }

    /// A frame's head is here.
    fn begin(&mut self, brought: &mut Brought) {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        (self.left, self.kind) = (length, kind);
        self.begun = self.begun.wrapping_add(1);
        match kind {
            DATA => {
                let something = if flags & PADDED == 0 { SOMETHING } else { SOMETHING_PADDED };
                brought.control += u32::from(length < something && flags & END_STREAM == 0);
            }
            HEADERS => {
                self.in_fields = flags & END_HEADERS == 0;
                match stream > self.last_stream {
                    true => brought.requests += 1,
                    // Trailers, or an error.
                    false => brought.control += 1,
                }
                self.last_stream = self.last_stream.max(stream);
            }
            CONTINUATION => {
                self.in_fields = flags & END_HEADERS == 0;
                brought.control += 1;
            }
            _ => brought.control += 1,
        }
    }

    /// Some of a frame is here: maybe all.
    fn complete(&mut self, brought: &mut Brought) {
        if self.left == 0 {
            brought.settings |= !self.before && self.kind == SETTINGS;
            self.before = false;
        }
    }

    fn half(&self) -> u32 {
        match () {
            () if self.in_fields || self.have > 0 => HALF,
            () if self.left == 0 => WHOLE,
            () if self.kind == DATA && !self.before => HALF_DATA,
            () => HALF,
        }
    }
}

/// A stream of HTTP/2 that ends when its peer sends too many frames that carry nothing.
#[derive(Debug)]
pub(super) struct Metered {
    stream: Outflow,
    scan: Scan,
    control: Control,
    /// Bytes that were sent and have not earned anything yet.
    sent: usize,
}

impl Metered {
    /// From the preface on.
    pub(super) fn new(stream: Outflow, control: Control) -> Self {
        stream.pulse().change(PREFACE);
        stream.pulse().grant(control.burst, control.burst);
        Self { stream, scan: Scan::new(), control, sent: 0 }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let brought = self.scan.feed(bytes);
        let pulse = self.stream.pulse();
        pulse.frames(self.scan.begun, self.scan.half());
        if brought.settings && pulse.phase() == PREFACE {
            pulse.change(IDLE);
        }
        if brought.requests > 0 {
            pulse.grant(self.control.per_request.saturating_mul(brought.requests), self.control.burst);
        }
        match brought.control == 0 || pulse.spend(brought.control) {
            true => Ok(()),
            false => Err(io::Error::other("the caller floods the connection with frames that carry nothing")),
        }
    }

    fn earn(&mut self, written: Poll<usize>) {
        if let Poll::Ready(bytes) = written {
            self.sent += bytes;
            if self.sent >= EARNS {
                let earned = u32::try_from(self.sent / EARNS).unwrap_or(MOST_EARNED);
                self.sent %= EARNS;
                self.stream.pulse().grant(earned, MOST_EARNED.max(self.control.burst));
            }
        }
    }
}

impl AsyncRead for Metered {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        match buffer.filled().get(before..) {
            Some(new) if !new.is_empty() => match self.take(new) {
                Ok(()) => polled,
                Err(flood) => Poll::Ready(Err(flood)),
            },
            Some(_) | None => polled,
        }
    }
}

forward_writes!(Metered, stream => earn);

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC_BYTES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).expect("short").to_be_bytes();
        let stream = stream.to_be_bytes();
        [&size[1..], &[kind, flags], &stream, &vec![0; length]].concat()
    }

    #[test]
    fn what_carries_nothing_is_counted_however_the_bytes_arrive() {
        let rows = [
            ("settings", frame(SETTINGS, 0, 0, 12), (1, 0, true)),
            ("their end", frame(SETTINGS, 1, 0, 0), (1, 0, true)),
            ("ping", frame(6, 0, 0, 8), (1, 0, false)),
            ("priority", frame(2, 0, 1, 5), (1, 0, false)),
            ("window update", frame(8, 0, 0, 4), (1, 0, false)),
            ("unknown", frame(0xbe, 0, 0, 100), (1, 0, false)),
            ("reset", frame(3, 0, 1, 4), (1, 0, false)),
            ("one byte", frame(DATA, 0, 1, 1), (1, 0, false)),
            ("no byte", frame(DATA, 0, 1, 0), (1, 0, false)),
            ("one byte, padded", frame(DATA, PADDED, 1, 200), (1, 0, false)),
            ("the last byte", frame(DATA, END_STREAM, 1, 1), (0, 0, false)),
            ("a message", frame(DATA, 0, 1, 5), (0, 0, false)),
            ("a request", frame(HEADERS, END_HEADERS, 1, 40), (0, 1, false)),
            ("trailers", frame(HEADERS, END_HEADERS, 0, 40), (1, 0, false)),
        ];
        for (name, frame, (control, requests, settings)) in rows {
            let expected = Brought { control, requests, settings };
            for step in [1, 2, 7, 1000] {
                let mut scan = Scan::new();
                assert_eq!(scan.half(), HALF, "the preface is not here");
                assert_eq!(scan.feed(MAGIC_BYTES), Brought::default(), "{name}");
                let mut brought = Brought::default();
                for part in frame.chunks(step) {
                    let some = scan.feed(part);
                    brought.control += some.control;
                    brought.requests += some.requests;
                    brought.settings |= some.settings;
                }
                assert_eq!(brought, expected, "{name} by {step}");
                assert_eq!((scan.half(), scan.begun), (WHOLE, 1), "{name} by {step}");
            }
        }
    }

    #[test]
    fn half_a_frame_is_known_as_one() {
        let rows = [
            ("half a head", frame(DATA, 0, 1, 100)[..5].to_vec(), HALF),
            ("half a body", frame(DATA, 0, 1, 100)[..50].to_vec(), HALF_DATA),
            ("half a ping", frame(6, 0, 0, 8)[..12].to_vec(), HALF),
            ("half a head of a request", frame(HEADERS, END_HEADERS, 1, 100)[..50].to_vec(), HALF),
            ("a head without its end", frame(HEADERS, 0, 1, 100), HALF),
        ];
        for (name, bytes, expected) in rows {
            let mut scan = Scan::new();
            scan.feed(MAGIC_BYTES);
            scan.feed(&bytes);
            assert_eq!(scan.half(), expected, "{name}");
        }
        let mut scan = Scan::new();
        scan.feed(MAGIC_BYTES);
        scan.feed(&frame(HEADERS, 0, 1, 10));
        scan.feed(&frame(CONTINUATION, END_HEADERS, 1, 10));
        assert_eq!(scan.half(), WHOLE);
    }
}
