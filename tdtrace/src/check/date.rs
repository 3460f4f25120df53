//! A day. Pure.

use std::{fmt, time::Duration};

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// The year.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

const DAY: u64 = 24 * 60 * 60;

impl Date {
    /// The day in UTC, so long after 1970 began. Nothing is said of years beyond 65535.
    #[must_use]
    pub fn since_epoch(time: Duration) -> Self {
        let is_leap = |year: u16| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let mut days = time.as_secs() / DAY;
        let mut year = 1970_u16;
        while days >= 365 + u64::from(is_leap(year)) && year < u16::MAX {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let mut month = 1;
        for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        // At most 30, but for years that are not reached.
        Self { year, month, day: u8::try_from(days + 1).unwrap_or(31) }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, text) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (364, "1970-12-31"),
            (365, "1971-01-01"),
            (11_016, "2000-02-29"),
            (20_513, "2026-03-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            let time = Duration::from_secs(days * DAY + 86_399);
            assert_eq!(Date::since_epoch(time).to_string(), text, "{days}");
        }
    }

    #[test]
    fn a_time_that_no_clock_has_is_still_a_day() {
        assert_eq!(Date::since_epoch(Duration::MAX).year, u16::MAX);
    }
}
