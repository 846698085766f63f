//! What the figures of a ledger allow to be said, and what they do not.

use super::KNOWN;
use crate::score::Figures;
use serde::Serialize;

/// What may be claimed of an evaluation, and what may not, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Why the ledger is too small, or payments too random, to say anything. Advice for such payers is the fixed schedule.
    pub too_little: Option<String>,
    /// What may be claimed.
    pub may: Vec<String>,
    /// What may not be claimed, whatever the figures are.
    pub may_not: Vec<&'static str>,
}

const MAY_NOT: [&str; 6] = [
    "That reminders raise the share of invoices paid on time by any figure: this takes a live merchant with a randomised holdout.",
    "Any effect of a reminder: the creditor's own reminders are in this ledger, and nobody knows who would have paid without.",
    "That the timing of a reminder, rather than that there is one, makes people pay on time.",
    "That other ledgers can be foreseen as well as this one: consumers and businesses pay differently, and simulated payers are \
     no evidence of either.",
    "That a weekday or an hour suits a certain customer.",
    "A saving that was only measured against one reminder on the day before the due date.",
];

impl Claims {
    /// From the figures over all scored invoices, and over those of well-known customers.
    pub(super) fn of(all: &Figures, known: &Figures) -> Self {
        let too_little = too_little(all);
        let may = if too_little.is_some() { Vec::new() } else { may(all, known) };
        Self { too_little, may, may_not: MAY_NOT.to_vec() }
    }
}

fn too_little(all: &Figures) -> Option<String> {
    let (Some(auc), Some(error)) = (all.auc_late, all.auc_late_error) else {
        return Some(format!("{} invoices could be scored, {} of them late", all.invoices, all.late));
    };
    // Two standard errors: with guesses alone this happens once in forty ledgers.
    (auc - 2.0 * error <= 0.5).then(|| {
        format!(
            "{} invoices could be scored, {} of them late: an AUC of {auc:.2} +/- {error:.2} may be mere guessing",
            all.invoices, all.late
        )
    })
}

fn may(all: &Figures, known: &Figures) -> Vec<String> {
    let auc = |who: &str, figures: &Figures| {
        let (auc, error) = (figures.auc_late?, figures.auc_late_error?);
        Some(format!(
            "Of two invoices of {who}, one paid late and one not, the late one had the higher risk in {:.0} of 100 cases \
             (standard error {:.1}), when it was issued.",
            100.0 * auc,
            100.0 * error
        ))
    };
    let reached = all.late_reached.map(|reached| {
        format!(
            "The 30 % of invoices with the highest risk held {:.0} % of the late ones, {:.2} times as many as 30 % drawn by lot.",
            100.0 * reached,
            reached / 0.3
        )
    });
    let calibrated = all.calibration_error.map(|error| {
        format!("The risk given differed from the share of late invoices by {:.1} points on average.", 100.0 * error)
    });
    let known_customers = format!("customers with at least {KNOWN:.0} effective settlements");
    [auc("this ledger", all), auc(&known_customers, known), reached, calibrated].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Forecast;

    /// Every second one is late; what happens to every `hits`-th is foreseen, and of the others nothing is known.
    fn figures(invoices: u16, hits: u16) -> Figures {
        let forecast = |n: u16| {
            let is_late = n.is_multiple_of(2);
            let q = if n.is_multiple_of(hits) { f32::from(u8::from(is_late)) } else { 0.5 };
            Forecast { q, q7: None, quantiles: None, delay: i32::from(is_late) }
        };
        Figures::of(&(0..invoices).map(forecast).collect::<Vec<_>>())
    }

    #[test]
    fn too_little_allows_no_claim() {
        for few in [figures(0, 1), figures(1, 1), figures(20, 9)] {
            let claims = Claims::of(&few, &few);
            assert!(claims.too_little.is_some(), "{few:?}");
            assert_eq!(claims.may, [""; 0], "{few:?}");
            assert_eq!(claims.may_not.len(), 6);
        }
    }

    #[test]
    fn claims_are_the_figures() {
        let all = figures(2_000, 3);
        let claims = Claims::of(&all, &figures(0, 1));
        assert_eq!(claims.too_little, None);
        assert!(claims.may[0].contains("in 78 of 100 cases (standard error 1.0)"), "{:?}", claims.may);
        assert!(claims.may[1].contains("held 47 % of the late ones, 1.56 times"), "{:?}", claims.may);
        assert_eq!(claims.may.len(), 3, "nothing about customers that there are not");
    }
}
