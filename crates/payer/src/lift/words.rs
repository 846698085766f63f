//! What a comparison says, in a sentence.

use super::compare::{Comparison, Unit, Verdict};
use super::measure::Measure;
use super::sequence::Interval;

impl Comparison {
    /// What may be said now, such as "Not measurable yet: 1,204 of about 11,000 invoices needed."
    pub fn finding(&self) -> String {
        let interval = self.interval();
        match self.verdict {
            Verdict::ZeroByDefinition => {
                "Exactly zero by definition: every invoice was first decided after its due date, \
                and no such reminder can make that invoice be paid on time."
                    .to_owned()
            }
            Verdict::NotMeasurable { n, needed } => format!("Not measurable yet: {}.", self.progress(n, needed)),
            Verdict::NoDifference => {
                let range = interval.map(|i| self.range(i)).unwrap_or_default();
                format!("No difference is shown; if there is one, it is {range}.")
            }
            Verdict::Higher { needed } => self.certain(self.measure.higher(), interval, needed),
            Verdict::Lower { needed } => self.certain(self.measure.lower(), interval, needed),
        }
    }

    fn certain(&self, what: &str, interval: Option<Interval>, needed: Option<u64>) -> String {
        let Some(interval) = interval else { return format!("{what}.") };
        match needed {
            None => {
                let estimate = self.measure.amount(interval.estimate);
                format!("{what}: by {estimate} {} ({}).", self.measure.unit(), self.range(interval))
            }
            Some(needed) => {
                let least = self.measure.amount(interval.low.abs().min(interval.high.abs()));
                let progress = self.progress(self.n(), needed);
                format!(
                    "{what}: by at least {least} {}. How much is not measurable yet: {progress}.",
                    self.measure.unit()
                )
            }
        }
    }

    fn range(&self, Interval { low, high, .. }: Interval) -> String {
        format!("between {} and {} {}", self.measure.signed(low), self.measure.signed(high), self.measure.unit())
    }

    fn progress(&self, n: u64, needed: u64) -> String {
        let units = match self.unit {
            Unit::Invoice => "invoices",
            Unit::Customer => "customers",
        };
        format!("{} of about {} {units} needed", thousands(n), thousands(about(needed)))
    }
}

impl Measure {
    /// What a difference is given in.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::OnTime | Self::OptOuts | Self::Complaints => "points",
            Self::Days => "days",
        }
    }

    /// A difference in [`Self::unit`].
    pub(super) fn scaled(self, difference: f64) -> f64 {
        match self {
            Self::OnTime | Self::OptOuts | Self::Complaints => difference * 100.0,
            Self::Days => difference,
        }
    }

    fn amount(self, difference: f64) -> String {
        format!("{:.1}", self.scaled(difference).abs())
    }

    fn signed(self, difference: f64) -> String {
        format!("{:+.1}", self.scaled(difference)).replace('-', "\u{2212}")
    }

    const fn higher(self) -> &'static str {
        match self {
            Self::OnTime => "More is paid on time than on the static schedule",
            Self::Days => "It is paid later than on the static schedule",
            Self::OptOuts => "More payers opt out than on the static schedule",
            Self::Complaints => "More payers complain than on the static schedule",
        }
    }

    const fn lower(self) -> &'static str {
        match self {
            Self::OnTime => "Less is paid on time than on the static schedule",
            Self::Days => "It is paid sooner than on the static schedule",
            Self::OptOuts => "Fewer payers opt out than on the static schedule",
            Self::Complaints => "Fewer payers complain than on the static schedule",
        }
    }
}

/// Rounded up to two digits: more would claim to know.
fn about(n: u64) -> u64 {
    let unit = 10_u64.pow(n.checked_ilog10().unwrap_or(0).saturating_sub(1));
    n.div_ceil(unit) * unit
}

/// Such as `12,040`.
pub(super) fn thousands(n: u64) -> String {
    if n < 1_000 { n.to_string() } else { format!("{},{:03}", thousands(n / 1_000), n % 1_000) }
}

#[cfg(test)]
mod tests {
    use super::super::compare::{Point, Side};
    use super::*;

    fn said(measure: Measure, verdict: Verdict, low: f64, high: f64) -> String {
        let interval = Some(Interval { estimate: (low + high) / 2.0, low, high });
        let point = Point { before: "2026-06-01".parse().unwrap(), treated: 1_100, held_out: 104, interval };
        let (treated, held_out) = (Side::default(), Side::default());
        Comparison { measure, unit: Unit::Invoice, treated, held_out, verdict, weeks: vec![point] }.finding()
    }

    #[test]
    fn every_verdict_is_a_sentence() {
        let on_time = |verdict, low, high| said(Measure::OnTime, verdict, low, high);
        assert_eq!(
            on_time(Verdict::NotMeasurable { n: 1_204, needed: 10_412 }, -0.1, 0.2),
            "Not measurable yet: 1,204 of about 11,000 invoices needed."
        );
        assert_eq!(
            on_time(Verdict::NoDifference, -0.012, 0.03),
            "No difference is shown; if there is one, it is between −1.2 and +3.0 points."
        );
        assert_eq!(
            on_time(Verdict::Higher { needed: None }, 0.02, 0.06),
            "More is paid on time than on the static schedule: by 4.0 points (between +2.0 and +6.0 points)."
        );
        assert_eq!(
            on_time(Verdict::Higher { needed: Some(11_000) }, 0.01, 0.2),
            "More is paid on time than on the static schedule: by at least 1.0 points. \
             How much is not measurable yet: 1,204 of about 11,000 invoices needed."
        );
        assert_eq!(
            said(Measure::Days, Verdict::Lower { needed: None }, -2.0, -0.5),
            "It is paid sooner than on the static schedule: by 1.2 days (between −2.0 and −0.5 days)."
        );
        assert!(on_time(Verdict::ZeroByDefinition, 0.0, 0.0).starts_with("Exactly zero by definition"));
    }

    #[test]
    fn needed_numbers_do_not_claim_to_know_more_than_two_digits() {
        assert_eq!([0, 7, 99, 101, 10_412, 99_999].map(about), [0, 7, 99, 110, 11_000, 100_000]);
        assert_eq!(thousands(1_234_005), "1,234,005");
    }
}
