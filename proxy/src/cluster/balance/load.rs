//! How much of the traffic each priority gets: Envoy's computation, in whole percent.
//!
//! A priority keeps all of its traffic as long as `overprovisioning` times its healthy share is 100 %; what it cannot take
//! spills over to the next, first to healthy and then to degraded members. Where too few are healthy in all priorities
//! together, a priority panics below its threshold: health is then left aside there, on the grounds that what is reported
//! is more likely wrong than that nearly everybody is down.

/// How many members of a priority there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) all: usize,
    pub(super) healthy: usize,
    pub(super) degraded: usize,
}

/// How much traffic a priority can take, 0 to 100 each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Availability {
    pub(super) healthy: u32,
    pub(super) degraded: u32,
}

/// How much traffic a priority gets, in percent of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) healthy: u32,
    pub(super) degraded: u32,
    /// Health is left aside: all members count as healthy.
    pub(super) is_panicking: bool,
}

impl Counted {
    /// `overprovisioning` in percent.
    pub(super) fn availability(self, overprovisioning: u32) -> Availability {
        let share = |count: usize| {
            let share = (u64::from(overprovisioning) * count as u64).checked_div(self.all as u64).unwrap_or(0);
            u32::try_from(share.min(100)).unwrap_or(100)
        };
        Availability { healthy: share(self.healthy), degraded: share(self.degraded) }
    }

    /// Whether fewer than `threshold` percent are of use.
    fn is_below(self, threshold: u32) -> bool {
        let usable = 100 * (self.healthy + self.degraded) as u64;
        threshold > 0 && (self.all == 0 || usable < u64::from(threshold) * self.all as u64)
    }
}

/// The loads of all priorities, which add up to 100. `panic_threshold` in percent, 0: never.
pub(super) fn loads(counted: &[Counted], overprovisioning: u32, panic_threshold: u32) -> Vec<Load> {
    let available: Vec<_> = counted.iter().map(|counted| counted.availability(overprovisioning)).collect();
    let total = total(available.iter().copied());
    let mut loads = distributed(&available, total);
    if total < 100 {
        for (load, counted) in loads.iter_mut().zip(counted) {
            load.is_panicking = counted.is_below(panic_threshold);
        }
    }
    if total == 0 || loads.iter().all(|load| load.is_panicking) {
        in_total_panic(&mut loads, counted, panic_threshold);
    }
    loads
}

/// What all priorities together can take, at most 100.
pub(super) fn total(available: impl Iterator<Item = Availability>) -> u32 {
    available.map(|one| one.healthy + one.degraded).sum::<u32>().min(100)
}

/// Healthy members are served first, in the order of the priorities; what rounding leaves over goes to the first.
fn distributed(available: &[Availability], total: u32) -> Vec<Load> {
    let mut loads = vec![Load::default(); available.len()];
    if total == 0 {
        return loads;
    }
    let mut left = 100;
    for (load, available) in loads.iter_mut().zip(available) {
        load.healthy = left.min(available.healthy * 100 / total);
        left -= load.healthy;
    }
    for (load, available) in loads.iter_mut().zip(available) {
        load.degraded = left.min(available.degraded * 100 / total);
        left -= load.degraded;
    }
    let first_healthy = available.iter().position(|available| available.healthy > 0);
    let first_degraded = available.iter().position(|available| available.degraded > 0);
    if let Some(load) = first_healthy.and_then(|at| loads.get_mut(at)) {
        load.healthy += left;
    } else if let Some(load) = first_degraded.and_then(|at| loads.get_mut(at)) {
        load.degraded += left;
    }
    loads
}

/// By the number of members alone. Without panic, the first priority gets all of it and fails.
fn in_total_panic(loads: &mut [Load], counted: &[Counted], panic_threshold: u32) {
    let all: usize = counted.iter().map(|counted| counted.all).sum();
    let mut left = 100;
    if panic_threshold > 0 && all > 0 {
        for (load, counted) in loads.iter_mut().zip(counted) {
            load.healthy = u32::try_from(100 * counted.all / all).unwrap_or(100);
            load.degraded = 0;
            left -= load.healthy;
        }
        let first = counted.iter().position(|counted| counted.all > 0);
        if let Some(load) = first.and_then(|at| loads.get_mut(at)) {
            load.healthy += left;
        }
    } else if let Some(load) = loads.first_mut() {
        load.healthy = 100;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(healthy, degraded)` of 100 members per priority → `(healthy load, degraded load, panic)`.
    fn of_hundred(priorities: &[(usize, usize)], threshold: u32) -> Vec<(u32, u32, bool)> {
        let counted = |&(healthy, degraded): &(usize, usize)| Counted { all: 100, healthy, degraded };
        let counted: Vec<_> = priorities.iter().map(counted).collect();
        let loads = loads(&counted, 140, threshold);
        assert_eq!(loads.iter().map(|load| load.healthy + load.degraded).sum::<u32>(), 100, "{priorities:?}");
        loads.into_iter().map(|load| (load.healthy, load.degraded, load.is_panicking)).collect()
    }

    /// The tables of Envoy's documentation on priorities. Its last row says 36, 36 and 28: it rounds to the nearest, and
    /// the program gives what rounding down leaves over to the first.
    #[test]
    fn traffic_spills_over_to_the_next_priority_as_envoy_documents() {
        for (healthy, loads) in [
            (&[100, 100][..], &[100, 0][..]),
            (&[72, 100], &[100, 0]),
            (&[71, 100], &[99, 1]),
            (&[50, 100], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[0, 100], &[0, 100]),
            (&[72, 72], &[100, 0]),
            (&[71, 71], &[99, 1]),
            (&[50, 50], &[70, 30]),
            (&[25, 25], &[50, 50]),
            (&[72, 72, 100], &[100, 0, 0]),
            (&[71, 71, 100], &[99, 1, 0]),
            (&[50, 50, 100], &[70, 30, 0]),
            (&[25, 100, 100], &[35, 65, 0]),
            (&[25, 25, 100], &[35, 35, 30]),
            (&[25, 25, 20], &[37, 35, 28]),
        ] {
            let priorities: Vec<_> = healthy.iter().map(|healthy| (*healthy, 0)).collect();
            let found: Vec<_> = of_hundred(&priorities, 0).into_iter().map(|(healthy, ..)| healthy).collect();
            assert_eq!(found, loads, "{healthy:?}");
        }
    }

    /// The table of Envoy's documentation on degraded endpoints, and rows of two priorities.
    #[test]
    fn degraded_members_take_what_healthy_ones_cannot() {
        for (priorities, loads) in [
            (&[(100, 0)][..], &[(100, 0)][..]),
            (&[(71, 0)], &[(100, 0)]),
            (&[(71, 29)], &[(99, 1)]),
            (&[(25, 65)], &[(35, 65)]),
            (&[(5, 0)], &[(100, 0)]),
            (&[(0, 100)], &[(0, 100)]),
            (&[(50, 50), (100, 0)], &[(70, 0), (30, 0)]),
            (&[(50, 50), (0, 0)], &[(70, 30), (0, 0)]),
        ] {
            let found: Vec<_> = of_hundred(priorities, 0).into_iter().map(|load| (load.0, load.1)).collect();
            assert_eq!(found, loads, "{priorities:?}");
        }
    }

    /// The table of Envoy's documentation on panic, with its threshold of 50 %.
    #[test]
    fn a_priority_panics_when_all_together_are_too_few() {
        for (healthy, loads) in [
            ([72, 72], [(100, false), (0, false)]),
            ([71, 71], [(99, false), (1, false)]),
            ([25, 100], [(35, false), (65, false)]),
            ([25, 25], [(50, true), (50, true)]),
            ([5, 65], [(8, true), (92, false)]),
            ([0, 0], [(50, true), (50, true)]),
        ] {
            let found: Vec<_> = of_hundred(&healthy.map(|healthy| (healthy, 0)), 50);
            assert_eq!(found.into_iter().map(|load| (load.0, load.2)).collect::<Vec<_>>(), loads, "{healthy:?}");
        }
        assert_eq!(of_hundred(&[(0, 0), (0, 0)], 0), [(100, 0, false), (0, 0, false)], "a threshold of 0: never");
        let empty = loads(&[Counted::default()], 140, 50);
        assert_eq!((empty[0].healthy, empty[0].is_panicking), (100, true), "nobody is there at all");
    }

    #[test]
    fn panic_in_all_priorities_shares_by_their_size() {
        let counted = [Counted { all: 1, ..Counted::default() }, Counted { all: 3, ..Counted::default() }];
        let healthy: Vec<_> = loads(&counted, 140, 50).into_iter().map(|load| load.healthy).collect();
        assert_eq!(healthy, [25, 75]);
    }
}
