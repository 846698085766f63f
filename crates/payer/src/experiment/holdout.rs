//! Who stays on the merchant's static schedule, to compare with.

use super::{ExperimentError, uniform};
use kernel::{CustomerId, InvoiceId, MerchantId};
use serde::{Deserialize, Serialize};

/// Two holdouts. Held out never means "no reminder", and never "no legal notice": it means the static schedule.
///
/// *Invoices* are held out one by one; the statistics rest on them, since invoices of the same customer then stand on both
/// sides. *Customers* are held out for good: few, so they say little, but they also show what builds up over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Holdouts {
    salt: String,
    invoices: f64,
    customers: f64,
}

/// [`Holdouts`] as they are stored, unchecked.
#[derive(Deserialize)]
struct Stored {
    salt: String,
    invoices: f64,
    customers: f64,
}

impl TryFrom<Stored> for Holdouts {
    type Error = ExperimentError;
    fn try_from(stored: Stored) -> Result<Self, ExperimentError> {
        Self::try_new(stored.salt, stored.invoices, stored.customers)
    }
}

/// On which side of the comparison an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The adaptive schedule.
    Treated,
    /// The static schedule, by the draw for this invoice.
    InvoiceHeldOut,
    /// The static schedule, by the draw for its customer, which holds for good.
    CustomerHeldOut,
}

impl Holdouts {
    /// The default share of invoices that are held out.
    pub const INVOICES: f64 = 0.10;
    /// The default share of customers that are held out.
    pub const CUSTOMERS: f64 = 0.05;

    /// Holdouts of these shares. A new salt draws anew, which ends the experiments under the old one.
    pub fn try_new(salt: impl Into<String>, invoices: f64, customers: f64) -> Result<Self, ExperimentError> {
        match [invoices, customers].into_iter().find(|share| !(0.0..1.0).contains(share)) {
            Some(share) => Err(ExperimentError::Share(share)),
            None => Ok(Self { salt: salt.into(), invoices, customers }),
        }
    }

    /// Holdouts of the default shares.
    pub fn new(salt: impl Into<String>) -> Self {
        Self { salt: salt.into(), invoices: Self::INVOICES, customers: Self::CUSTOMERS }
    }

    /// The group of an invoice.
    pub fn group(&self, merchant: &MerchantId, customer: &CustomerId, invoice: &InvoiceId) -> Group {
        let draw = |what: &str, id: &str| uniform(&format!("{}/{what}", self.salt), merchant, id);
        if draw("customer", customer.as_str()) < self.customers {
            Group::CustomerHeldOut
        } else if draw("invoice", invoice.as_str()) < self.invoices {
            Group::InvoiceHeldOut
        } else {
            Group::Treated
        }
    }

    /// The probability that an invoice is treated, if its customer is not held out: the propensity to log.
    pub fn treated_invoices(&self) -> f64 {
        1.0 - self.invoices
    }

    /// The probability that a customer is not held out.
    pub fn treated_customers(&self) -> f64 {
        1.0 - self.customers
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::merchant;
    use super::*;
    use proptest::prelude::*;

    fn group(holdouts: &Holdouts, customer: u32, invoice: u32) -> Group {
        let customer = CustomerId::try_new(format!("cus_{customer}")).unwrap();
        let invoice = InvoiceId::try_new(format!("in_{invoice}")).unwrap();
        holdouts.group(&merchant(), &customer, &invoice)
    }

    #[test]
    fn shares_come_out_and_customers_stay_whole() {
        const CUSTOMERS: u32 = 4_000;
        const EACH: u32 = 5;
        let holdouts = Holdouts::new("2026");
        let (mut customers, mut invoices) = (0_u32, 0_u32);
        for customer in 0..CUSTOMERS {
            let groups: Vec<Group> = (0..EACH).map(|n| group(&holdouts, customer, customer * EACH + n)).collect();
            let held_out = groups.iter().filter(|g| **g == Group::CustomerHeldOut).count();
            assert!(held_out == 0 || held_out == groups.len(), "{groups:?}");
            customers += u32::from(held_out > 0);
            invoices += groups.iter().map(|g| u32::from(*g == Group::InvoiceHeldOut)).sum::<u32>();
        }
        let is_near = |n: u32, of: u32, p: f64| {
            let (n, of) = (f64::from(n), f64::from(of));
            (n - p * of).abs() <= 4.0 * (of * p * (1.0 - p)).sqrt()
        };
        assert!(is_near(customers, CUSTOMERS, Holdouts::CUSTOMERS), "{customers} customers held out");
        assert!(is_near(invoices, (CUSTOMERS - customers) * EACH, Holdouts::INVOICES), "{invoices} invoices held out");
    }

    #[test]
    fn a_new_salt_draws_anew() {
        let (old, new) = (Holdouts::new("2026"), Holdouts::new("2027"));
        let held_out = |h: &Holdouts| (0..5_000).filter(|n| group(h, *n, *n) != Group::Treated).collect::<Vec<u32>>();
        let (old, new) = (held_out(&old), held_out(&new));
        let both = old.iter().filter(|n| new.contains(n)).count();
        // About 14.5 % of 14.5 % by chance.
        assert!((50..170).contains(&both), "{both} of {} and {}", old.len(), new.len());
    }

    #[test]
    fn shares_are_checked_when_made_and_when_read() {
        for bad in [-0.1, 1.0, f64::NAN] {
            assert!(Holdouts::try_new("", bad, 0.05).is_err() && Holdouts::try_new("", 0.1, bad).is_err(), "{bad}");
        }
        let text = r#"{"salt":"s","invoices":0.2,"customers":0.05}"#;
        let holdouts: Holdouts = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&holdouts).unwrap(), text);
        assert!(serde_json::from_str::<Holdouts>(&text.replace("0.2", "2")).is_err());
    }

    proptest! {
        #[test]
        fn a_replay_gives_the_same_group(salt in "[a-z]{0,8}", customer: u32, invoice: u32) {
            let before = group(&Holdouts::new(salt.clone()), customer, invoice);
            prop_assert_eq!(group(&Holdouts::new(salt), customer, invoice), before);
        }
    }
}
