//! Names that series carry, each kept once and known by a number.
//!
//! The request path compares and hashes numbers; texts are touched when a connection, a cluster or a route is new, and at
//! a scrape. A number is never given a second time, so an old one can be wrong but never another's. Who holds a name (a
//! connection, a cluster, a series) keeps it; what nobody has held for a while goes. There are only so many: whoever comes
//! when all are taken is `other`.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of what nobody knows.
pub const UNKNOWN: u32 = 0;
/// The number of what is too many to be told apart.
pub const OTHER: u32 = 1;
/// References of the book itself to a name.
const OWN: usize = 2;

/// A value and its number.
#[derive(Debug)]
pub struct Named<T> {
    id: u32,
    /// What it stands for.
    pub value: T,
}

impl<T> Named<T> {
    /// Its number: what series are keyed by.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// All values of one kind.
#[derive(Debug)]
pub struct Names<T> {
    book: Mutex<Book<T>>,
    len: AtomicUsize,
    most: usize,
    unknown: Arc<Named<T>>,
    other: Arc<Named<T>>,
}

#[derive(Debug)]
struct Book<T> {
    /// With the second since which nobody holds it.
    by_value: HashMap<Listed<T>, Option<u64>>,
    by_id: HashMap<u32, Arc<Named<T>>>,
    next: u32,
}

/// Found by its value.
#[derive(Debug)]
struct Listed<T>(Arc<Named<T>>);

impl<T: PartialEq> PartialEq for Listed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.value == other.0.value
    }
}

impl<T: Eq> Eq for Listed<T> {}

impl<T: Hash> Hash for Listed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.value.hash(state);
    }
}

impl<T> Borrow<T> for Listed<T> {
    fn borrow(&self) -> &T {
        &self.0.value
    }
}

impl<T: Eq + Hash> Names<T> {
    /// At most so many besides `unknown` and `other`.
    pub fn new(most: usize, unknown: T, other: T) -> Self {
        let book = Mutex::new(Book { by_value: HashMap::new(), by_id: HashMap::new(), next: OTHER + 1 });
        let named = |id, value| Arc::new(Named { id, value });
        Self { book, len: AtomicUsize::new(0), most, unknown: named(UNKNOWN, unknown), other: named(OTHER, other) }
    }

    /// What stands for those that nobody knows.
    pub fn unknown(&self) -> &Arc<Named<T>> {
        &self.unknown
    }

    /// What stands for those that are too many.
    pub fn other(&self) -> &Arc<Named<T>> {
        &self.other
    }

    /// The name of a value. Takes a lock: for what is new, not for every request.
    pub fn intern(&self, value: T) -> Arc<Named<T>> {
        for constant in [&self.unknown, &self.other] {
            if constant.value == value {
                return Arc::clone(constant);
            }
        }
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((listed, _)) = book.by_value.get_key_value(&value) {
            return Arc::clone(&listed.0);
        }
        let Some(next) = book.next.checked_add(1).filter(|_| book.by_id.len() < self.most) else {
            return Arc::clone(&self.other);
        };
        let named = Arc::new(Named { id: std::mem::replace(&mut book.next, next), value });
        book.by_id.insert(named.id, Arc::clone(&named));
        book.by_value.insert(Listed(Arc::clone(&named)), None);
        self.len.store(book.by_id.len(), Ordering::Relaxed);
        named
    }

    /// The name with a number; `other` if it is gone.
    pub fn of(&self, id: u32) -> Arc<Named<T>> {
        for constant in [&self.unknown, &self.other] {
            if constant.id == id {
                return Arc::clone(constant);
            }
        }
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(book.by_id.get(&id).unwrap_or(&self.other))
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)] // Nobody asks.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether one more would be `other`.
    pub fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// Forgets what nobody has held for `idle` seconds, seen at second `now`.
    pub fn sweep(&self, now: u64, idle: u64) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { by_value, by_id, .. } = &mut *book;
        by_value.retain(|listed, unheld| {
            if Arc::strong_count(&listed.0) > OWN {
                *unheld = None;
                return true;
            }
            let stays = now.saturating_sub(*unheld.get_or_insert(now)) < idle;
            if !stays {
                by_id.remove(&listed.0.id);
            }
            stays
        });
        self.len.store(by_id.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(most: usize) -> Names<String> {
        Names::new(most, "unknown".to_owned(), "other".to_owned())
    }

    #[test]
    fn a_value_has_one_number_and_what_is_too_much_is_other() {
        let names = names(2);
        let (a, b) = (names.intern("a".to_owned()), names.intern("b".to_owned()));
        assert_ne!(a.id(), b.id());
        assert_eq!(names.intern("a".to_owned()).id(), a.id());
        assert_eq!(names.of(b.id()).value, "b");
        assert!(names.is_full());
        assert_eq!(names.intern("c".to_owned()).value, "other");
        assert_eq!(names.intern("unknown".to_owned()).id(), names.unknown().id());
        assert_eq!(names.of(4711).value, "other", "a number that nobody has");
    }

    #[test]
    fn what_nobody_holds_goes_after_a_while_and_its_number_is_not_given_again() {
        let names = names(2);
        let (held, dropped) = (names.intern("held".to_owned()), names.intern("dropped".to_owned()).id());
        names.sweep(100, 60);
        names.sweep(159, 60);
        assert_eq!(names.len(), 2, "not yet");
        names.sweep(160, 60);
        assert_eq!(names.len(), 1);
        assert_eq!(names.of(held.id()).value, "held");
        assert_eq!(names.of(dropped).value, "other");
        assert_ne!(names.intern("dropped".to_owned()).id(), dropped);
        drop(held);
        names.sweep(200, 60);
        let again = names.intern("held".to_owned());
        names.sweep(1000, 60);
        drop(again);
        names.sweep(1001, 60);
        names.sweep(1060, 60);
        assert_eq!(names.intern("held".to_owned()).value, "held", "it was held again in between");
    }
}
