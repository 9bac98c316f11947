//! From an authority to a virtual host, by hash look-ups alone.
//!
//! Envoy's order: the exact name, then the longest suffix (`*.example.com`), then the longest prefix (`example.*`),
//! then `*`. Suffixes and prefixes of one length share one look-up, so the cost is bounded by the number of different
//! *lengths*, whatever the number of hosts.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use leno_config::ir::Domain;

type Names = HashMap<Box<str>, usize, RandomState>;

/// Authorities longer than this (a DNS name has at most 253 bytes, a port five) are never lowered on the stack.
const LONGEST: usize = 270;

#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: Names,
    suffixes: Names,
    prefixes: Names,
    /// Longest first.
    suffix_lengths: Vec<usize>,
    /// Longest first.
    prefix_lengths: Vec<usize>,
    any: Option<usize>,
}

impl HostIndex {
    pub(super) fn new<'a>(hosts: impl Iterator<Item = &'a [Domain]>) -> Self {
        let mut index = Self::default();
        for (at, domains) in hosts.enumerate() {
            for domain in domains {
                match domain {
                    Domain::Exact(name) => {
                        index.exact.entry(name.as_str().into()).or_insert(at);
                    }
                    Domain::Suffix(suffix) => {
                        index.suffixes.entry(suffix.as_str().into()).or_insert(at);
                    }
                    Domain::Prefix(prefix) => {
                        index.prefixes.entry(prefix.as_str().into()).or_insert(at);
                    }
                    Domain::Any => {
                        index.any.get_or_insert(at);
                    }
                }
            }
        }
        index.suffix_lengths = lengths(&index.suffixes);
        index.prefix_lengths = lengths(&index.prefixes);
        index
    }

    /// Host names compare without case (RFC 9110 §4.2.3).
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        if !authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(authority);
        }
        let mut buffer = [0; LONGEST];
        match buffer.get_mut(..authority.len()) {
            Some(lower) => {
                lower.copy_from_slice(authority.as_bytes());
                lower.make_ascii_lowercase();
                std::str::from_utf8(lower).ok().and_then(|lower| self.find_lower(lower))
            }
            None => self.find_lower(&authority.to_ascii_lowercase()),
        }
    }

    fn find_lower(&self, authority: &str) -> Option<usize> {
        self.exact
            .get(authority)
            .or_else(|| self.find_suffix(authority))
            .or_else(|| self.find_prefix(authority))
            .copied()
            .or(self.any)
    }

    /// The star stands for at least one character, so a suffix is shorter than what it matches.
    fn find_suffix(&self, authority: &str) -> Option<&usize> {
        self.suffix_lengths
            .iter()
            .filter(|length| **length < authority.len())
            .find_map(|length| self.suffixes.get(authority.get(authority.len().checked_sub(*length)?..)?))
    }

    fn find_prefix(&self, authority: &str) -> Option<&usize> {
        self.prefix_lengths
            .iter()
            .filter(|length| **length < authority.len())
            .find_map(|length| self.prefixes.get(authority.get(..*length)?))
    }
}

fn lengths(names: &Names) -> Vec<usize> {
    let mut lengths: Vec<usize> = names.keys().map(|name| name.len()).collect();
    lengths.sort_unstable_by(|one, other| other.cmp(one));
    lengths.dedup();
    lengths
}
