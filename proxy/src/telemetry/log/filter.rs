//! Which requests get a line.

use leno_config::ir::{LogFilter, ResponseFlag};

use crate::error::Flags;
use crate::random::Random;

/// What a filter looks at.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The status; 0: there was no answer.
    pub code: u16,
    /// Whole milliseconds.
    pub millis: u64,
    /// What went wrong, or was done on purpose.
    pub flags: Flags,
}

/// Whether there is a line for it.
pub fn holds(filter: &LogFilter, figures: Figures, random: &Random) -> bool {
    match filter {
        LogFilter::And(all) => all.iter().all(|filter| holds(filter, figures, random)),
        LogFilter::Or(any) => any.iter().any(|filter| holds(filter, figures, random)),
        LogFilter::Status(comparison, status) => comparison.holds(u32::from(figures.code), *status),
        LogFilter::Duration(comparison, millis) => comparison.holds(figures.millis, u64::from(*millis)),
        LogFilter::Sample(share) => random.below(1_000_000) < share.millionths(),
        LogFilter::Flags(flags) => figures.flags.iter().any(|flag| is_one_of(flag.as_str(), flags)),
    }
}

fn is_one_of(flag: &str, flags: &[ResponseFlag]) -> bool {
    flags.iter().any(|one| one.as_str() == flag)
}

#[cfg(test)]
mod tests {
    use leno_config::ir::{Comparison, Fraction};

    use super::*;
    use crate::error::Flag;

    #[test]
    fn a_line_is_for_what_the_filter_asks() {
        let flag = |text| ResponseFlag::parse(text).expect("a flag");
        let status = |how, status| LogFilter::Status(how, status);
        let slow = LogFilter::Duration(Comparison::AtLeast, 100);
        let figures = Figures { code: 503, millis: 99, flags: Flags::from(Flag::UF) };
        let all = |share| LogFilter::Sample(Fraction::from_percent(share).expect("a share"));
        for (filter, expected) in [
            (LogFilter::default(), true),
            (LogFilter::Or(Vec::new()), false),
            (status(Comparison::AtLeast, 500), true),
            (status(Comparison::AtMost, 500), false),
            (status(Comparison::Equal, 503), true),
            (status(Comparison::NotEqual, 503), false),
            (slow.clone(), false),
            (LogFilter::Or(vec![slow.clone(), status(Comparison::AtLeast, 500)]), true),
            (LogFilter::And(vec![slow, status(Comparison::AtLeast, 500)]), false),
            (LogFilter::Flags(vec![flag("UH"), flag("UF")]), true),
            (LogFilter::Flags(vec![flag("UH")]), false),
            (all(100.0), true),
            (all(0.0), false),
        ] {
            assert_eq!(holds(&filter, figures, &Random::seeded(1)), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_sample_is_the_share_that_was_asked_for() {
        let (random, filter) = (Random::seeded(7), LogFilter::Sample(Fraction::from_percent(10.0).expect("a share")));
        let figures = Figures { code: 200, millis: 1, flags: Flags::default() };
        let lines = (0..10_000).filter(|_| holds(&filter, figures, &random)).count();
        assert!((900..1100).contains(&lines), "{lines}");
    }
}
