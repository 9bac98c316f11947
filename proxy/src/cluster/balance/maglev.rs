//! Consistent hashing with Maglev's table (Eisenbud et al., NSDI 2016, §3.4), weighted as Envoy does it: the same key
//! finds the same endpoint in both.
//!
//! A look-up is one division, whatever the number of endpoints. When one leaves, a few keys of the others move as well:
//! fewer, the larger the table. An entry costs 4 bytes: 256 KiB by default, 19 MiB at most.

use xxhash_rust::xxh64::xxh64;

use crate::cluster::Member;

/// Index of a member at each entry; as long as the table's size, a prime. Empty without members.
#[derive(Debug)]
pub(super) struct Table(Box<[u32]>);

/// How one endpoint walks through the table.
struct Walk {
    owner: u32,
    offset: u64,
    skip: u64,
    share: f64,
    /// It takes its next entry in the first round whose number times `share` reaches this.
    due: f64,
    next: u64,
}

/// An entry that is still free.
const FREE: u32 = u32::MAX;

impl Table {
    /// `shares` belong to `members`; `size` is a prime.
    pub(super) fn new(members: &[Member], shares: &[f64], size: u64) -> Self {
        let heaviest = shares.iter().copied().fold(0.0, f64::max);
        let Ok(length) = usize::try_from(size) else { return Self(Box::default()) };
        if members.is_empty() || length < 2 || heaviest <= 0.0 {
            return Self(Box::default());
        }
        let mut entries = vec![FREE; length];
        let mut walks = walks(members, shares, size);
        let mut filled = 0;
        for round in 1_u32.. {
            for walk in &mut walks {
                if f64::from(round) * walk.share < walk.due {
                    continue;
                }
                walk.due += heaviest;
                walk.take(&mut entries);
                filled += 1;
                if filled == length {
                    return Self(entries.into());
                }
            }
        }
        Self(entries.into())
    }

    /// The member that `hash` belongs to; with `attempt` some other entry's.
    pub(super) fn at(&self, hash: u64, attempt: u32) -> Option<usize> {
        // Envoy: most bits change, so that all attempts rarely meet one endpoint.
        let hash = if attempt == 0 { hash } else { hash ^ (u64::MAX - u64::from(attempt)).wrapping_add(1) };
        let entry = hash.checked_rem(self.0.len() as u64)?;
        self.0.get(usize::try_from(entry).ok()?).map(|owner| *owner as usize)
    }
}

impl Walk {
    /// Takes its next free entry. There is one: the table is not full, and as its size is a prime the walk meets all.
    fn take(&mut self, entries: &mut [u32]) {
        let size = entries.len() as u64;
        for _ in 0..size {
            let at = (self.offset + self.skip * self.next) % size;
            self.next += 1;
            let entry = usize::try_from(at).ok().and_then(|at| entries.get_mut(at));
            if let Some(entry) = entry.filter(|entry| **entry == FREE) {
                *entry = self.owner;
                return;
            }
        }
    }
}

/// In the order of their addresses as text: who comes first takes first.
fn walks(members: &[Member], shares: &[f64], size: u64) -> Vec<Walk> {
    let mut named: Vec<_> = members
        .iter()
        .zip(shares)
        .zip(0_u32..)
        .map(|((member, share), owner)| (member.state.address.to_string(), *share, owner))
        .collect();
    named.sort_by(|one, other| (&one.0, one.2).cmp(&(&other.0, other.2)));
    let walk = |(name, share, owner): (String, f64, u32)| Walk {
        owner,
        offset: xxh64(name.as_bytes(), 0) % size,
        skip: xxh64(name.as_bytes(), 1) % (size - 1) + 1,
        share,
        due: 0.0,
        next: 0,
    };
    named.into_iter().map(walk).collect()
}
