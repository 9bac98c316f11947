//! Times in lines: a moment in UTC, part by part.

use std::time::{SystemTime, UNIX_EPOCH};

use leno_config::ir::{TimeFormat, TimePart};

use super::decimal::{number, padded};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// 1970-01-01 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const DAY: u64 = 24 * 60 * 60;

/// A day of the calendar.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

/// Writes `time`; one before 1970 is 1970.
pub(super) fn write(out: &mut Vec<u8>, time: SystemTime, format: &TimeFormat) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    let (days, of_day) = (seconds / DAY, seconds % DAY);
    let date = Date::of(days);
    for part in format.parts() {
        match part {
            TimePart::Literal(text) => out.extend_from_slice(text.as_bytes()),
            TimePart::Year => padded(out, date.year, 4),
            TimePart::YearOfCentury => padded(out, date.year % 100, 2),
            TimePart::Month => padded(out, date.month, 2),
            TimePart::MonthName => out.extend_from_slice(named(&MONTHS, date.month.saturating_sub(1))),
            TimePart::Day => padded(out, date.day, 2),
            TimePart::DayWithSpace => {
                if date.day < 10 {
                    out.push(b' ');
                }
                number(out, date.day);
            }
            TimePart::Weekday => out.extend_from_slice(named(&WEEKDAYS, days % 7)),
            TimePart::DayOfYear => padded(out, date.day_of_year, 3),
            TimePart::Hour => padded(out, of_day / 3600, 2),
            TimePart::Minute => padded(out, of_day / 60 % 60, 2),
            TimePart::Second => padded(out, of_day % 60, 2),
            TimePart::UnixSeconds => number(out, seconds),
            TimePart::Fraction(digits) => {
                let digits = (*digits).clamp(1, 9);
                padded(out, (nanos / 10_u32.pow(9 - u32::from(digits))).into(), digits.into());
            }
            TimePart::Offset => out.extend_from_slice(b"+0000"),
            TimePart::Zone => out.extend_from_slice(b"UTC"),
        }
    }
}

fn named(names: &[&'static str], index: u64) -> &'static [u8] {
    usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default().as_bytes()
}

impl Date {
    /// The day that is so many days after 1970-01-01, in the Gregorian calendar (Howard Hinnant's `civil_from_days`: years
    /// begin in March, so that a leap day is the last of its year).
    fn of(days: u64) -> Self {
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = if month > 2 { of_year + 60 + u64::from(is_leap) } else { of_year - 305 };
        Self { year, month, day, day_of_year }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_written_as_the_format_says() {
        for (seconds, nanos, format, expected) in [
            (0, 0, "", "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999_999_999, "", "2000-02-28T23:59:59.999Z"),
            (951_782_400, 5_000_000, "%F %T.%3f", "2000-02-29 00:00:00.005"),
            (951_868_800, 0, "%a %e %b %y, %j", "Wed  1 Mar 00, 061"),
            (4_107_542_400, 0, "%F %j", "2100-03-01 060"),
            (1_704_067_199, 123_456_789, "%s.%6f %f %z %Z %R %%", "1704067199.123456 123456789 +0000 UTC 23:59 %"),
            (1_704_067_199, 0, "%Y-%j", "2023-365"),
            (1_735_603_200, 0, "%Y-%m-%d %j %A", ""),
        ] {
            let Ok(format) = TimeFormat::parse(format) else {
                assert_eq!(expected, "", "{format}");
                continue;
            };
            let mut out = Vec::new();
            write(&mut out, UNIX_EPOCH + Duration::new(seconds, nanos), &format);
            assert_eq!(String::from_utf8(out).expect("text"), expected);
        }
    }
}
