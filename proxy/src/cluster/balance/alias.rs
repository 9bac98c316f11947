//! Drawing in proportion to weights in constant time (Walker 1977, in Vose's form).

use crate::random::Random;

/// A table as long as the list of weights. Each row holds a threshold and another row: a draw takes a row at random and
/// then one of the two.
#[derive(Debug)]
pub(super) struct AliasTable {
    rows: Vec<Row>,
    /// Running sums of the weights.
    sums: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    /// The row itself is taken when 32 random bits are below it.
    keep_below: u64,
    other: usize,
}

impl AliasTable {
    /// Linear in the number of weights.
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.map(u64::from).collect();
        let count = weights.len() as u64;
        let total: u64 = weights.iter().sum();
        // In units of 1/(count × total), every row holds `total` and a weight brings `weight × count`.
        let mut have: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * u128::from(count)).collect();
        let full = u128::from(total.max(1));
        let mut rows = vec![Row { keep_below: 1 << 32, other: 0 }; weights.len()];
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|at| have.get(*at).is_some_and(|have| *have < full));
        while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
            let (Some(held), Some(row)) = (have.get(poor).copied(), rows.get_mut(poor)) else { break };
            // `held < full`, so the quotient is below 2³².
            #[allow(clippy::cast_possible_truncation)]
            let keep_below = ((held << 32) / full) as u64;
            *row = Row { keep_below, other: rich };
            let Some(left) = have.get_mut(rich) else { break };
            *left -= full - held;
            if *left < full { small.push(rich) } else { large.push(rich) }
        }
        let sums = weights
            .iter()
            .scan(0_u64, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        Self { rows, sums }
    }

    /// The row at `point`/2⁶⁴ of the way along all weights.
    pub(super) fn at(&self, point: u64) -> usize {
        let total = self.sums.last().copied().unwrap_or_default();
        // The high half of the product is below `total`.
        #[allow(clippy::cast_possible_truncation)]
        let weight = ((u128::from(point) * u128::from(total)) >> 64) as u64;
        self.sums.partition_point(|sum| *sum <= weight)
    }

    pub(super) fn draw(&self, random: &Random) -> usize {
        let at = random.below(u32::try_from(self.rows.len()).unwrap_or(u32::MAX)) as usize;
        match self.rows.get(at) {
            Some(row) if random.next() >> 32 >= row.keep_below => row.other,
            Some(_) | None => at,
        }
    }
}
