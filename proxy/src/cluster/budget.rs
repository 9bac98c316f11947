//! Retries as a share of what is under way: a budget, so that retries cannot become the load that keeps a cluster down.
//!
//! A fixed limit is too small for a busy cluster and too large for a quiet one. A share lets a failing endpoint cost a
//! fifth more, and never several times as much: that is what turns a brown-out into an outage. Counted at one instant
//! and not over seconds (Envoy's way): when the cluster slows down, more requests are under way and so are their
//! retries, but the share stays. The number that is always allowed is for clusters so quiet that a fifth is nothing.
//!
//! The share is of requests in their first attempt. Envoy counts those that are being retried as well, which makes a
//! quarter more out of a budget of a fifth.

use leno_config::ir::RetryBudget;

/// Retries that may be under way at once, with so many requests under way, so many that wait for a connection, and so many
/// of both that are being retried already.
pub fn allowed(budget: &RetryBudget, active: u32, pending: u32, retries: u32) -> u32 {
    let under_way = (u64::from(active) + u64::from(pending)).saturating_sub(retries.into());
    let share = under_way * u64::from(budget.share.millionths()) / 1_000_000;
    u32::try_from(share).unwrap_or(u32::MAX).max(budget.min_concurrency)
}

#[cfg(test)]
mod tests {
    use leno_config::ir::Fraction;

    use super::*;

    #[test]
    fn the_share_counts_what_is_under_way_and_never_less_than_the_least() {
        for (percent, least, active, pending, retries, expected) in [
            (20.0, 3, 0, 0, 0, 3),
            (20.0, 3, 15, 0, 0, 3),
            (20.0, 3, 20, 0, 0, 4),
            (20.0, 3, 24, 0, 4, 4),
            (20.0, 3, 1, 0, 3, 3),
            (20.0, 3, 20, 30, 0, 10),
            (20.0, 0, 4, 0, 0, 0),
            (0.0, 1, 1_000, 0, 0, 1),
            (100.0, 3, u32::MAX, u32::MAX, 0, u32::MAX),
        ] {
            let share = Fraction::from_percent(percent).unwrap();
            let budget = RetryBudget { share, min_concurrency: least };
            assert_eq!(
                allowed(&budget, active, pending, retries),
                expected,
                "{percent} % of {active} + {pending} - {retries}"
            );
        }
    }
}
