//! The state that survives a restart: `snapshot.bin` in the proxy's state directory.
//!
//! It holds the resources *in force*, as they came from the server, for they are known to work together: what was still
//! warming when the proxy ended had not been used yet, and comes again from the server. A proxy that starts serves from
//! the file at once and tells the server these versions, which then sends what changed meanwhile.
//!
//! ```text
//! 8 bytes   "LENOSNAP"
//! 4 bytes   format number, little endian
//! 16 bytes  xxh3 (128 bits) of format number and body, little endian
//! body      protobuf: node id, then the resources
//! ```
//!
//! A file that is truncated, damaged, of another format or of another node is reported and not used at all; a changed
//! byte anywhere is found. It is written beside and renamed (after `fsync`), readable by its owner alone: resources say
//! who may call whom. It holds no keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use envoy_types::pb::google::protobuf::Any;
use leno_config::xds::Kind;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use super::accepted::{Store, TOTAL_LIMIT};

/// Name of the file in the state directory.
pub const FILE: &str = "snapshot.bin";

const MAGIC: &[u8; 8] = b"LENOSNAP";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 16;
/// The accepted resources, and generously what the encoding adds.
const LARGEST: u64 = 2 * TOTAL_LIMIT as u64;

/// Why a file is there and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The system says no.
    #[error("cannot read {path}; the proxy starts without its last good state", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Not a file that this program wrote.
    #[error("{path} is not a snapshot of Leno; delete it", path = .0.display())]
    Foreign(PathBuf),
    /// Of an older or newer program.
    #[error("{path} has format {found}, this program knows format {FORMAT}; it will be written anew", path = .path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format number.
        found: u32,
    },
    /// Not as it was written.
    #[error("{path} is damaged ({what}); it is not used and will be written anew", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// Of another proxy.
    #[error("{path} belongs to node `{found}`, this is `{node}`; give each proxy a state directory of its own", path = .path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who reads it.
        node: String,
    },
}

/// The state could not be written. The proxy works on; a restart would serve from an older state.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the last good state to {path}; check the directory's owner and free space", path = .path.display())]
pub struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// One resource of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// What it is.
    pub kind: Kind,
    /// Under which name.
    pub name: String,
    /// In which state.
    pub version: String,
    /// Its content.
    pub any: Any,
}

/// Reads the state of `node`; `None` if there is none.
pub fn load(directory: &Path, node: &str) -> Result<Option<Vec<Saved>>, Unusable> {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unusable::Read(path, error)),
    };
    let mut bytes = Vec::new();
    if let Err(error) = file.take(LARGEST + 1).read_to_end(&mut bytes) {
        return Err(Unusable::Read(path, error));
    }
    if bytes.len() as u64 > LARGEST {
        return Err(Unusable::Damaged { path, what: "larger than any state" });
    }
    let saved = decode(&bytes, &path)?;
    if saved.node != node {
        return Err(Unusable::OtherNode { path, found: saved.node, node: node.to_owned() });
    }
    saved.resources.into_iter().map(|resource| resource.into_saved(&path)).collect::<Result<_, _>>().map(Some)
}

/// Replaces the state of `node`. Blocks until it is safely on disk.
pub fn save(directory: &Path, node: &str, in_force: &Store) -> Result<(), WriteError> {
    let path = directory.join(FILE);
    let bytes = encode(node, in_force);
    replace(directory, &path, &bytes).map_err(|source| WriteError { path, source })
}

/// Replaces a file of the directory by one that its owner alone can read: a reader, and a start after a power cut, see
/// the old contents or the new.
pub fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // So that the new name survives a power cut as well.
    File::open(directory)?.sync_all()
}

/// The body of the file.
#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "vec", tag = "4")]
    content: Vec<u8>,
}

impl Entry {
    fn into_saved(self, path: &Path) -> Result<Saved, Unusable> {
        let Self { type_url, name, version, content } = self;
        let kind = Kind::from_url(&type_url)
            .ok_or_else(|| Unusable::Damaged { path: path.to_owned(), what: "a resource of an unknown type" })?;
        Ok(Saved { kind, name, version, any: Any { type_url, value: content } })
    }
}

fn encode(node: &str, in_force: &Store) -> Vec<u8> {
    let entries = in_force.raw().map(|raw| Entry {
        type_url: raw.any.type_url.clone(),
        name: raw.name.to_owned(),
        version: raw.version.to_owned(),
        content: raw.any.value.clone(),
    });
    let body = Body { node: node.to_owned(), resources: entries.collect() }.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER.saturating_add(body.len()));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&checksum(FORMAT, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8], path: &Path) -> Result<Body, Unusable> {
    let damaged = |what| Unusable::Damaged { path: path.to_owned(), what };
    let rest = match bytes.strip_prefix(MAGIC) {
        Some(rest) => rest,
        None if MAGIC.starts_with(bytes) => return Err(damaged("truncated")),
        None => return Err(Unusable::Foreign(path.to_owned())),
    };
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("truncated"))?;
    let found = u32::from_le_bytes(*format);
    if found != FORMAT {
        return Err(Unusable::OtherFormat { path: path.to_owned(), found });
    }
    let (sum, body) = rest.split_first_chunk::<16>().ok_or_else(|| damaged("truncated"))?;
    if u128::from_le_bytes(*sum) != checksum(FORMAT, body) {
        return Err(damaged("its checksum does not fit"));
    }
    Body::decode(body).map_err(|_| damaged("its body is not readable"))
}

fn checksum(format: u32, body: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&format.to_le_bytes());
    hash.update(body);
    hash.digest128()
}
