//! In turn.
//!
//! Equal weights take a cursor. Unequal ones are spread evenly by a second look at the same idea: the cursor walks a
//! low-discrepancy sequence (the golden ratio), which visits every stretch of the weights' number line in proportion
//! and never bunches the picks of a heavy endpoint, at a binary search each and without state per endpoint.

use std::cell::Cell;

use crate::random::Random;

use super::Shares;
use super::alias::AliasTable;

/// Where a worker stands in its turn. Starts at random, so that workers and restarts do not all begin with the first.
#[derive(Debug, Default)]
pub(super) struct Cursor(Cell<Option<u64>>);

impl Cursor {
    fn next(&self, random: &Random, step: u64) -> u64 {
        let now = self.0.get().unwrap_or_else(|| random.next());
        self.0.set(Some(now.wrapping_add(step)));
        now
    }
}

/// 2⁶⁴ divided by the golden ratio: multiples of it modulo 2⁶⁴ are spread most evenly (Knuth 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// An index among `count`.
pub(super) fn pick(count: usize, shares: &Shares, cursor: &Cursor, random: &Random) -> Option<usize> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    match shares {
        Shares::Even => usize::try_from(cursor.next(random, 1) % count).ok(),
        Shares::Weighted(table) => Some(weighted(table, cursor, random)),
    }
}

/// The same for unequal weights.
pub(super) fn weighted(table: &AliasTable, cursor: &Cursor, random: &Random) -> usize {
    table.at(cursor.next(random, GOLDEN))
}
