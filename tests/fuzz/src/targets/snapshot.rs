//! The file of the last good state. Byte 0 says what the rest is: changes to a good file, a body that the file's checksum
//! belongs to, or a whole file.

use std::fs;
use std::path::Path;

use leno_config::xds::Kind;
use leno_proxy::state::disk::{self, FILE, Saved, Unusable};
use prost::Message;
use tempfile::TempDir;
use xxhash_rust::xxh3::Xxh3;

use crate::Target;
use crate::input::Input;

const NODE: &str = "sidecar~10.0.0.1~reviews-1.default~default.svc.cluster.local";

pub(crate) const TARGET: Target = Target {
    name: "snapshot",
    property: "every change to the file is found, and what is taken is what the bytes say to a second reader",
    check,
    words: &["LENOSNAP", "\u{1}\u{0}\u{0}\u{0}", "type.googleapis.com/envoy.config.cluster.v3.Cluster", NODE],
};

/// The format as `state/disk.rs` documents it, written down a second time.
#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
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

thread_local! {
    static DIRECTORY: TempDir = tempfile::tempdir().expect("a directory");
}

fn check(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 3 {
        0 => a_change_is_found(input),
        1 => a_body_is_read_as_it_is_written(input.0),
        _ => drop(load(input.0)),
    }
}

fn load(bytes: &[u8]) -> Result<Vec<Saved>, Unusable> {
    DIRECTORY.with(|directory| {
        fs::write(directory.path().join(FILE), bytes).expect("a file");
        disk::load(directory.path(), NODE).map(|saved| saved.expect("there is a file"))
    })
}

fn file(body: &[u8]) -> Vec<u8> {
    let format = 1_u32.to_le_bytes();
    let mut hash = Xxh3::new();
    hash.update(&format);
    hash.update(body);
    [b"LENOSNAP".as_slice(), &format, &hash.digest128().to_le_bytes(), body].concat()
}

fn a_change_is_found(mut input: Input<'_>) {
    let entries = Kind::PUSH_ORDER.into_iter().map(|kind| Entry {
        type_url: kind.url().to_owned(),
        name: kind.label().to_owned(),
        version: "1".to_owned(),
        content: vec![1, 2, 3],
    });
    let good = file(&Body { node: NODE.to_owned(), entries: entries.collect() }.encode_to_vec());
    let mut bytes = good.clone();
    while !input.0.is_empty() {
        let at = input.below(bytes.len());
        let (what, byte) = (input.byte(), input.byte());
        match (what % 4, bytes.get_mut(at)) {
            (0, Some(there)) => *there ^= byte,
            (1, Some(_)) => drop(bytes.remove(at)),
            (2, _) => bytes.truncate(at),
            _ => bytes.insert(at, byte),
        }
    }
    let found = load(&bytes);
    assert_eq!(found.is_ok(), bytes == good, "{:?}", found.map_err(|error| error.to_string()));
}

fn a_body_is_read_as_it_is_written(body: &[u8]) {
    let found = load(&file(body));
    let read = Body::decode(body);
    let known = |body: &Body| body.entries.iter().all(|entry| Kind::from_url(&entry.type_url).is_some());
    match read {
        Ok(body) if body.node == NODE && known(&body) => {
            let found = found.expect("a good file is taken");
            let entries: Vec<Entry> = found.into_iter().map(entry).collect();
            assert_eq!(entries, body.entries);
        }
        Ok(_) | Err(_) => {
            let error = found.expect_err("another node's, or nonsense").to_string();
            assert!(error.contains(&*Path::new(FILE).to_string_lossy()), "{error}");
        }
    }
}

fn entry(saved: Saved) -> Entry {
    assert_eq!(saved.kind.url(), saved.any.type_url);
    Entry { type_url: saved.any.type_url, name: saved.name, version: saved.version, content: saved.any.value }
}
