//! Which campaign an invoice follows.

use crate::campaign::Campaign;
use crate::case::Reason;
use crate::condition::Facts;

/// A campaign that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// Its file's name.
    pub campaign: &'a str,
    /// What chose it: `invoice`, `customer`, or its place in the merchant's order such as `campaigns.1`.
    pub rule: String,
}

/// Chooses: what was said for this very invoice comes before what was said for the customer, and that before the
/// merchant's order, in which the first campaign whose audience fits is taken.
///
/// A name that leads nowhere chooses nothing: the merchant wanted something that is not there, and another campaign may
/// say what the payer must not hear.
pub fn choose<'a>(
    order: impl Iterator<Item = &'a str>,
    campaign: impl Fn(&str) -> Option<&'a Campaign>,
    (invoices_own, customers_own): (&'a str, &'a str),
    facts: &Facts<'_>,
) -> Result<Chosen<'a>, Reason> {
    for (own, rule) in [(invoices_own, "invoice"), (customers_own, "customer")] {
        if !own.is_empty() {
            let exists = campaign(own).is_some();
            return if exists {
                Ok(Chosen { campaign: own, rule: rule.to_owned() })
            } else {
                Err(Reason::UnknownCampaign)
            };
        }
    }
    let fits = |(_, name): &(usize, &str)| campaign(name).is_some_and(|c| c.audience.holds(facts));
    let first = order.enumerate().find(fits);
    first.map(|(n, campaign)| Chosen { campaign, rule: format!("campaigns.{n}") }).ok_or(Reason::NoCampaign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::tests::{SAMPLE, parse};
    use crate::condition::tests::facts;

    #[test]
    fn the_nearer_word_counts() {
        let austria = parse(&format!("audience: {{ country: [AT] }}{SAMPLE}"));
        let all = parse(SAMPLE);
        let get = |name: &str| match name {
            "austria" => Some(&austria),
            "all" | "special" => Some(&all),
            _ => None,
        };
        let choose = |invoice, customer, country| {
            let facts = Facts { country, ..facts() };
            let order = ["gone", "austria", "all"].into_iter();
            super::choose(order, get, (invoice, customer), &facts).map(|c| (c.campaign, c.rule))
        };
        assert_eq!(choose("", "", "AT"), Ok(("austria", "campaigns.1".to_owned())));
        assert_eq!(choose("", "", "DE"), Ok(("all", "campaigns.2".to_owned())));
        assert_eq!(choose("", "special", "AT"), Ok(("special", "customer".to_owned())));
        assert_eq!(choose("special", "austria", "DE"), Ok(("special", "invoice".to_owned())), "whatever its audience");
        assert_eq!(choose("no-such", "all", "DE"), Err(Reason::UnknownCampaign));
        let nobody = super::choose(["austria"].into_iter(), get, ("", ""), &facts());
        assert_eq!(nobody, Err(Reason::NoCampaign));
    }
}
