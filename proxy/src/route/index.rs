//! The first route that matches, without trying them all.
//!
//! Rules promise "first match wins", so a longer prefix must not overtake an earlier route. The index only leaves out
//! routes whose path condition cannot hold: exact paths and prefixes stand in hash maps by their text, each with the
//! positions of its routes in order, and everything else (regular expressions, conditions without case) is always
//! tried. Of all candidate lists the smallest matching position wins.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use leno_config::ir::{PathMatch, Route};

/// Below this, trying all in order is faster than hashing.
const SMALL: usize = 8;

#[derive(Debug)]
pub(super) enum PathIndex {
    /// So many routes, tried in order.
    Small(usize),
    Large(Large),
}

type Positions = HashMap<Box<str>, Vec<usize>, RandomState>;

#[derive(Debug, Default)]
pub(super) struct Large {
    exact: Positions,
    prefixes: Positions,
    prefix_lengths: Vec<usize>,
    others: Vec<usize>,
}

impl PathIndex {
    pub(super) fn new(routes: &[Route]) -> Self {
        if routes.len() <= SMALL {
            return Self::Small(routes.len());
        }
        let mut large = Large::default();
        for (at, route) in routes.iter().enumerate() {
            match &route.matcher.path {
                PathMatch::Exact { value, ignore_case: false } => {
                    large.exact.entry(value.as_str().into()).or_default().push(at);
                }
                PathMatch::Prefix { value, ignore_case: false }
                | PathMatch::SegmentPrefix { value, ignore_case: false } => {
                    large.prefixes.entry(value.as_str().into()).or_default().push(at);
                }
                PathMatch::Exact { ignore_case: true, .. }
                | PathMatch::Prefix { ignore_case: true, .. }
                | PathMatch::SegmentPrefix { ignore_case: true, .. }
                | PathMatch::Regex(_) => large.others.push(at),
            }
        }
        large.prefix_lengths = large.prefixes.keys().map(|prefix| prefix.len()).collect();
        large.prefix_lengths.sort_unstable();
        large.prefix_lengths.dedup();
        Self::Large(large)
    }

    /// The smallest position for which `takes` says yes.
    pub(super) fn first_match(&self, path: &str, takes: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Small(count) => (0..*count).find(|at| takes(*at)),
            Self::Large(large) => large.first_match(path, takes),
        }
    }
}

impl Large {
    fn first_match(&self, path: &str, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut look = |positions: &[usize]| {
            let earlier = positions.iter().copied().take_while(|at| best.is_none_or(|best| *at < best));
            if let Some(found) = earlier.into_iter().find(|at| takes(*at)) {
                best = Some(found);
            }
        };
        if let Some(positions) = self.exact.get(path) {
            look(positions);
        }
        for length in &self.prefix_lengths {
            if let Some(positions) = path.get(..*length).and_then(|prefix| self.prefixes.get(prefix)) {
                look(positions);
            }
        }
        look(&self.others);
        best
    }
}
