//! The messages of `leno.mesh.v1.Relay`, the one service of our own.
//!
//! Written by hand like those of the certificate service: seven small messages do not need a generator, and the numbers
//! are what counts on the wire. Unknown fields are skipped, as protobuf does, so either side may be the older one.
//!
//! ```text
//! service Relay { rpc Connect(stream Report) returns (stream Command); }
//! ```
//!
//! **Flow.** Many answers share a stream, and a reader who stands still (a person who has stopped the terminal under a
//! tap) must not hold up the others. So each answer has a window of its own, as in HTTP/2: the proxy may have sent
//! [`WINDOW`] of it that nobody has read yet, and [`More`] gives back what was read. A chunk counts with [`cost`], a
//! little more than its length, so that the window bounds their number as well.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;

/// Full name of the service.
pub const SERVICE: &str = "leno.mesh.v1.Relay";
/// Path of the one method, as HTTP/2 sees it.
pub const METHOD: &str = "/leno.mesh.v1.Relay/Connect";

/// Questions to one proxy that are under way at a time.
pub const CONCURRENT: usize = 16;
/// Bytes of one answer that were sent and not read yet, by their [`cost`].
pub const WINDOW: u32 = 256 << 10;
/// Largest chunk, in bytes.
pub const LARGEST_CHUNK: usize = 16 << 10;
/// Largest message of either side, in bytes: a node with all its labels.
pub const LARGEST_MESSAGE: usize = 128 << 10;
/// Longest `path_and_query`, in bytes.
pub const LONGEST_PATH: usize = 8 << 10;
/// What a chunk costs beyond its bytes.
const OVERHEAD: u32 = 256;
/// Chunks of one answer that can be on their way at a time.
pub const CHUNKS: usize = (WINDOW / OVERHEAD) as usize;

/// What a chunk of so many bytes takes of the window.
pub fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(OVERHEAD)
}

/// From the proxy to the control plane.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// One of them; none: something newer than this program, to be skipped.
    #[prost(oneof = "Said", tags = "1, 2, 3, 4")]
    pub said: Option<Said>,
}

/// What a proxy says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// Who it is; the first message and only that.
    #[prost(message, boxed, tag = "1")]
    Node(Box<Node>),
    /// An answer begins.
    #[prost(message, tag = "2")]
    Head(Head),
    /// A part of an answer.
    #[prost(message, tag = "3")]
    Chunk(Chunk),
    /// An answer is over.
    #[prost(message, tag = "4")]
    End(End),
}

/// The beginning of an answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Head {
    /// Of the question.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// HTTP's status.
    #[prost(uint32, tag = "2")]
    pub status: u32,
    /// Empty: not said.
    #[prost(string, tag = "3")]
    pub content_type: String,
}

/// A part of the body of an answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Chunk {
    /// Of the question.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// [`LARGEST_CHUNK`] at most.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// The end of an answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    /// Of the question.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Why it is not whole; empty: it is.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// From the control plane to the proxy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// One of them; none: something newer than this program, to be skipped.
    #[prost(oneof = "Told", tags = "1, 2, 3")]
    pub told: Option<Told>,
}

/// What a control plane says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Told {
    /// A question.
    #[prost(message, tag = "1")]
    Ask(Ask),
    /// The rest of an answer is not wanted.
    #[prost(message, tag = "2")]
    Cancel(Cancel),
    /// A part of an answer has been read.
    #[prost(message, tag = "3")]
    More(More),
}

/// A question to the admin interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ask {
    /// Never used twice on a stream.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// `GET` or `POST`.
    #[prost(string, tag = "2")]
    pub method: String,
    /// As in a request line: `/clusters?format=json`.
    #[prost(string, tag = "3")]
    pub path_and_query: String,
}

/// Nobody reads an answer any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cancel {
    /// Of the question.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// So much of an answer has been read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct More {
    /// Of the question.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The [`cost`] of what was read since the last one.
    #[prost(uint32, tag = "2")]
    pub cost: u32,
}

impl From<Said> for Report {
    fn from(said: Said) -> Self {
        Self { said: Some(said) }
    }
}

impl From<Told> for Command {
    fn from(told: Told) -> Self {
        Self { told: Some(told) }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_numbers_on_the_wire_stay_what_they_are() {
        let reports: [(Said, &[u8]); 4] = [
            (Said::Node(Box::default()), &[0x0a, 0]),
            (
                Said::Head(Head { id: 1, status: 200, content_type: "t".to_owned() }),
                b"\x12\x08\x08\x01\x10\xc8\x01\x1a\x01t",
            ),
            (Said::Chunk(Chunk { id: 1, data: Bytes::from_static(b"d") }), b"\x1a\x05\x08\x01\x12\x01d"),
            (Said::End(End { id: 1, error: "e".to_owned() }), b"\x22\x05\x08\x01\x12\x01e"),
        ];
        for (said, bytes) in reports {
            assert_eq!(Report::from(said).encode_to_vec(), bytes);
        }
        let commands: [(Told, &[u8]); 3] = [
            (
                Told::Ask(Ask { id: 1, method: "M".to_owned(), path_and_query: "/".to_owned() }),
                b"\x0a\x08\x08\x01\x12\x01M\x1a\x01/",
            ),
            (Told::Cancel(Cancel { id: 1 }), &[0x12, 2, 8, 1]),
            (Told::More(More { id: 1, cost: 2 }), &[0x1a, 4, 8, 1, 16, 2]),
        ];
        for (told, bytes) in commands {
            assert_eq!(Command::from(told).encode_to_vec(), bytes);
        }
    }

    #[test]
    fn a_message_of_a_later_version_is_skipped() {
        assert_eq!(Command::decode(&[0x7a, 1, b'x'][..]).unwrap(), Command { told: None });
    }
}
