//! Tokens that a worker has verified, so that one that comes with every request costs one look-up.
//!
//! Two generations stand in for "least recently used": what is used moves to the young one; when that is full, the old one
//! is forgotten. Only good tokens are kept, so nobody but an issuer can fill it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::token::Verified;

/// Tokens of one generation; there are two.
const GENERATION: usize = 512;
/// Longer tokens are verified each time.
const MAX_TOKEN: usize = 4096;

/// A worker's verified tokens.
#[derive(Default)]
pub struct TokenCache {
    generations: RefCell<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, Entry, RandomState>,
    old: HashMap<Box<str>, Entry, RandomState>,
}

/// A token and for whom it was verified.
#[derive(Clone)]
pub(super) struct Entry {
    /// Number of the provider with its keys, as [`super::Provider`] has it.
    pub(super) provider: u64,
    pub(super) token: Rc<Verified>,
}

impl TokenCache {
    /// How many tokens are kept: at most 1024.
    pub fn len(&self) -> usize {
        let generations = self.generations.borrow();
        generations.young.len().saturating_add(generations.old.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a token; whether for the provider that is asked about is for the caller to see.
    pub(super) fn find(&self, token: &str) -> Option<Entry> {
        let mut generations = self.generations.borrow_mut();
        if let Some(found) = generations.young.get(token) {
            return Some(found.clone());
        }
        let (key, found) = generations.old.remove_entry(token)?;
        generations.insert(key, found.clone());
        Some(found)
    }

    pub(super) fn keep(&self, token: &str, entry: Entry) {
        if token.len() <= MAX_TOKEN {
            self.generations.borrow_mut().insert(token.into(), entry);
        }
    }
}

impl Generations {
    fn insert(&mut self, token: Box<str>, entry: Entry) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&token) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(token, entry);
    }
}

/// Tokens are secrets.
impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}
