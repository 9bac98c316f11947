//! Series: what is counted, by typed keys, one block per worker.
//!
//! Prometheus' own label-keyed vectors hash the label texts one after another and so merge different series, and they lock
//! and allocate for every look-up. Here a key is a small value ([`Key`]) whose texts are numbers ([`super::names`]). Each worker
//! has a table of its own from keys to [`Block`]s that it alone writes, by plain loads and stores; the [`Book`] of the process
//! knows all blocks of a key and sums them at a scrape.
//!
//! A lock is taken when a worker meets a key for the first time, when a key has been idle, and at a scrape. The book holds so
//! many series and no more: what comes then is counted with all names `other`, and at last with everything `other`, so that no
//! count is lost. A worker gives an idle block back itself, being the only writer, and what it counted stays in the sum as long
//! as the series lives: no counter ever goes down.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::labels::Labels;
use super::record::add;

/// Seconds after which a series that nothing happens in is given up: longer than any range that alerts look at.
pub const IDLE: u64 = 1800;
/// Places kept for keys whose names are `other`: enough for statuses and flags.
const FOLDED: usize = 500;
/// Places kept for keys of which everything is `other`.
const LAST: usize = 16;
/// References of tables and book to a block that nobody else holds.
const OWN: usize = 2;

/// What a series is known by.
pub trait Key: Copy + Eq + Hash + Debug + Send {
    /// Its names, kept as long as the series.
    type Names: Debug + Clone + Send;

    /// Looks its names up.
    fn names(&self, labels: &Labels) -> Self::Names;
    /// The same with all names `other`.
    fn folded(self) -> Self;
    /// The same with everything `other`: a dozen different keys at most.
    fn last(self) -> Self;
}

/// The figures of a series from one worker, which alone writes them.
#[derive(Debug)]
pub struct Block<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Block<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Block<N> {
    /// Adds to the figure at a place; there is no other place.
    pub fn add(&self, at: usize, amount: u64) {
        if let Some(figure) = self.0.get(at) {
            add(figure, amount);
        }
    }

    pub(super) fn add_to(&self, sums: &mut [u64; N]) {
        for (sum, figure) in sums.iter_mut().zip(&self.0) {
            *sum = sum.wrapping_add(figure.load(Ordering::Relaxed));
        }
    }
}

/// All series of one kind in the process.
#[derive(Debug)]
pub struct Book<K: Key, const N: usize> {
    series: Mutex<HashMap<K, Series<K, N>>>,
    len: AtomicUsize,
    most: usize,
}

#[derive(Debug)]
struct Series<K: Key, const N: usize> {
    names: K::Names,
    /// What blocks counted that were given back.
    kept: [u64; N],
    blocks: Vec<Arc<Block<N>>>,
}

/// A series with the sum of all workers.
#[derive(Debug, Clone)]
pub struct Total<K: Key, const N: usize> {
    /// What it is known by.
    pub key: K,
    /// The texts of that.
    pub names: K::Names,
    /// Its figures.
    pub figures: [u64; N],
}

impl<K: Key, const N: usize> Book<K, N> {
    /// At most so many series.
    pub fn new(most: usize) -> Self {
        Self { series: Mutex::default(), len: AtomicUsize::new(0), most }
    }

    /// All series, in no order.
    pub fn totals(&self) -> Vec<Total<K, N>> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let total = |(key, series): (&K, &Series<K, N>)| {
            let mut figures = series.kept;
            series.blocks.iter().for_each(|block| block.add_to(&mut figures));
            Total { key: *key, names: series.names.clone(), figures }
        };
        series.iter().map(total).collect()
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether new keys are folded.
    fn is_full(&self) -> bool {
        self.len() + FOLDED + LAST >= self.most
    }

    /// Under which key a new one is counted.
    fn admitted(&self, key: K, series: &HashMap<K, Series<K, N>>) -> K {
        let room = |kept: usize| series.len() + kept < self.most;
        let folded = key.folded();
        match () {
            () if series.contains_key(&key) || room(FOLDED + LAST) => key,
            () if series.contains_key(&folded) || room(LAST) => folded,
            () => key.last(),
        }
    }

    /// A new block for a key, and the key that it really stands for. `is_known` are those of which the worker has a block
    /// already: then there is none.
    fn open(&self, key: K, labels: &Labels, is_known: impl FnOnce(&K) -> bool) -> (K, Option<Arc<Block<N>>>) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.admitted(key, &series);
        if is_known(&key) {
            return (key, None);
        }
        let block = Arc::new(Block::default());
        match series.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().blocks.push(Arc::clone(&block)),
            Entry::Vacant(place) => {
                let names = key.names(labels);
                place.insert(Series { names, kept: [0; N], blocks: vec![Arc::clone(&block)] });
            }
        }
        self.len.store(series.len(), Ordering::Relaxed);
        (key, Some(block))
    }

    /// Gives a block back: its figures stay as long as the series has other blocks.
    fn close(&self, key: K, block: &Arc<Block<N>>) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = all.get_mut(&key) {
            block.add_to(&mut series.kept);
            series.blocks.retain(|one| !Arc::ptr_eq(one, block));
            if series.blocks.is_empty() {
                all.remove(&key);
            }
        }
        self.len.store(all.len(), Ordering::Relaxed);
    }
}

/// One worker's blocks.
#[derive(Debug)]
pub struct Table<K: Key, const N: usize> {
    book: Arc<Book<K, N>>,
    labels: Arc<Labels>,
    slots: RefCell<HashMap<K, Slot<N>, RandomState>>,
    /// The second that it is, about.
    now: Cell<u64>,
}

#[derive(Debug)]
struct Slot<const N: usize> {
    block: Arc<Block<N>>,
    /// When something was counted last.
    used: u64,
}

impl<K: Key, const N: usize> Table<K, N> {
    /// Without a block yet.
    pub fn new(book: Arc<Book<K, N>>, labels: Arc<Labels>) -> Self {
        Self { book, labels, slots: RefCell::default(), now: Cell::new(0) }
    }

    /// Counts in the block of a key.
    pub fn count(&self, key: K, count: impl FnOnce(&Block<N>)) {
        let mut slots = self.slots.borrow_mut();
        match slots.get_mut(&key) {
            Some(slot) => {
                slot.used = self.now.get();
                count(&slot.block);
            }
            None => count(&self.meet(&mut slots, key)),
        }
    }

    /// The block of a key, which stays as long as somebody holds it.
    pub fn block(&self, key: K) -> Arc<Block<N>> {
        let mut slots = self.slots.borrow_mut();
        match slots.get_mut(&key) {
            Some(slot) => {
                slot.used = self.now.get();
                Arc::clone(&slot.block)
            }
            None => self.meet(&mut slots, key),
        }
    }

    /// A key that this worker has no block for.
    #[cold]
    fn meet(&self, slots: &mut HashMap<K, Slot<N>, RandomState>, key: K) -> Arc<Block<N>> {
        let used = self.now.get();
        // Once there is no room, most new keys end in a block that is here already: then without a lock.
        if self.book.is_full()
            && let Some(slot) = slots.get_mut(&key.folded())
        {
            slot.used = used;
            return Arc::clone(&slot.block);
        }
        let (key, opened) = self.book.open(key, &self.labels, |key| slots.contains_key(key));
        let slot = match (slots.entry(key), opened) {
            (Entry::Occupied(slot), _) => slot.into_mut(),
            (Entry::Vacant(place), opened) => place.insert(Slot { block: opened.unwrap_or_default(), used }),
        };
        slot.used = used;
        Arc::clone(&slot.block)
    }

    /// The second that it is, about.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// It is second `now`, about: what is counted from here on is counted then.
    pub fn tick(&self, now: u64) {
        self.now.set(now);
    }

    /// Gives up what nothing was counted in for `idle` seconds and nobody holds.
    pub fn expire(&self, idle: u64) {
        let now = self.now.get();
        self.slots.borrow_mut().retain(|key, slot| {
            let held = Arc::strong_count(&slot.block) > OWN;
            if held {
                slot.used = now;
            }
            let stays = held || now.saturating_sub(slot.used) < idle;
            if !stays {
                self.book.close(*key, &slot.block);
            }
            stays
        });
    }
}
