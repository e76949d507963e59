//! Seconds since 1970 as date and time of day, in the proleptic Gregorian calendar.

pub(super) const DAY_S: i64 = 86_400;

/// A date and time of day, as the clock's registers have them before coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// Seconds since midnight.
    pub second_of_day: i64,
}

/// Days from 1970-01-01 to this day. Reckoned in years that begin in March, so that a leap day is the last one.
pub(super) fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Date {
    pub fn from_epoch(time_s: i64) -> Date {
        let days = time_s.div_euclid(DAY_S) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        Date {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            second_of_day: time_s.rem_euclid(DAY_S),
        }
    }

    pub fn to_epoch(self) -> i64 {
        days_since_epoch(self.year, self.month, self.day) * DAY_S + self.second_of_day
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (days, year, month, day) in [
            (0, 1970, 1, 1),
            (-1, 1969, 12, 31),
            (11_016, 2000, 2, 29),
            (11_017, 2000, 3, 1),
            (20_778, 2026, 11, 21),
            (47_540, 2100, 2, 28),
            (47_541, 2100, 3, 1),
        ] {
            let date = Date::from_epoch(days * DAY_S + 5);
            assert_eq!(
                date,
                Date {
                    year,
                    month,
                    day,
                    second_of_day: 5
                }
            );
        }
    }

    #[test]
    fn every_day_of_eight_centuries_there_and_back() {
        let mut last = Date::from_epoch(-200_000 * DAY_S);
        for days in -199_999..100_000 {
            let date = Date::from_epoch(days * DAY_S);
            assert_eq!(date.to_epoch(), days * DAY_S);
            let next_day = date.day == last.day + 1 && date.month == last.month;
            assert!(
                next_day || (date.day == 1 && date.month == last.month % 12 + 1),
                "{last:?} {date:?}"
            );
            last = date;
        }
    }
}
