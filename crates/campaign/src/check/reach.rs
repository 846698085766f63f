//! What can be reached: steps that can fire, audiences that others leave something of.

use super::Of;
use crate::campaign::{Campaign, Offset, Step, Trigger};
use crate::condition::ConditionFile;
use crate::file::{CampaignFile, EntryMode};
use crate::words::all_of;
use kernel::PayerKind;
use std::collections::{BTreeMap, BTreeSet};

/// The values that are still possible, by key. Only of what stays as it is while a case runs.
type Possible = BTreeMap<&'static str, BTreeSet<String>>;

/// Steps that can never be sent.
pub(super) fn check_steps(file: &CampaignFile, campaign: &Campaign, of: &mut Of<'_>) {
    let mut possible = Possible::new();
    if let Err(key) = narrow(&mut possible, &file.audience) {
        of.warn(format!("audience.{key}"), "contradicts itself: no invoice ever fits".to_owned());
        return;
    }
    let mut never: BTreeSet<usize> = BTreeSet::new();
    for (n, (step, said)) in campaign.steps.iter().zip(&file.steps).enumerate() {
        if let Err(key) = narrow(&mut possible.clone(), &said.only_if) {
            never.insert(n);
            let audience: Vec<String> = possible.get(key).into_iter().flatten().cloned().collect();
            let because = if audience.is_empty() {
                "contradicts itself".to_owned()
            } else {
                format!("contradicts the audience, where it is {}", all_of(&audience))
            };
            of.warn(format!("steps.{n}.only_if.{key}"), format!("{because}: the step is never sent"));
        } else if let Some(ending) = ended_before(campaign, n, step, &never) {
            never.insert(n);
            let reason = format!("the step is never sent in time: {ending} before it ends the sequence");
            of.warn(format!("steps.{n}.when"), reason);
        } else if let Some(base) = lost_base(campaign, n, step, &never) {
            never.insert(n);
            of.warn(
                format!("steps.{n}.when"),
                format!("the step is never sent: it counts from {base}, which never is"),
            );
        }
    }
}

/// Leaves the values that a condition allows; the key that leaves none, if one does.
fn narrow(possible: &mut Possible, condition: &ConditionFile) -> Result<(), &'static str> {
    for (key, values) in lists(condition) {
        let values: BTreeSet<String> = values.into_iter().collect();
        if values.is_empty() {
            continue;
        }
        let left = match possible.get(key) {
            Some(before) => before & &values,
            None => values,
        };
        if left.is_empty() {
            return Err(key);
        }
        possible.insert(key, left);
    }
    condition.all.iter().try_for_each(|inner| narrow(possible, inner))?;
    if !condition.any.is_empty() && condition.any.iter().all(|inner| narrow(&mut possible.clone(), inner).is_err()) {
        let first = condition.any.first().map(|inner| narrow(&mut possible.clone(), inner));
        return first.unwrap_or(Ok(()));
    }
    // What it excludes can be told if it asks for one thing only.
    if let Some(inner) = &condition.not
        && let [(key, excluded)] = asked(inner).as_slice()
        && is_only(inner)
        && let Some(left) = possible.get_mut(key)
    {
        left.retain(|value| !excluded.contains(value));
        if left.is_empty() {
            return Err(key);
        }
    }
    Ok(())
}

/// The keys whose values never change, with what they list.
fn lists(condition: &ConditionFile) -> [(&'static str, Vec<String>); 5] {
    let payer = |payer: &PayerKind| match payer {
        PayerKind::Business => "business".to_owned(),
        PayerKind::Consumer => "consumer".to_owned(),
    };
    [
        ("merchant", condition.merchant.clone()),
        ("customer", condition.customer.clone()),
        ("country", condition.country.clone()),
        ("payer", condition.payer.iter().map(payer).collect()),
        ("currency", condition.currency.clone()),
    ]
}

fn asked(condition: &ConditionFile) -> Vec<(&'static str, Vec<String>)> {
    lists(condition).into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

/// Whether nothing is asked but one of [`lists`].
fn is_only(condition: &ConditionFile) -> bool {
    crate::words::demands(condition).len() == 1
}

/// The step that ends the sequence before this one's day comes.
fn ended_before<'a>(campaign: &'a Campaign, n: usize, step: &Step, never: &BTreeSet<usize>) -> Option<&'a str> {
    // Invoices that are late at entry may have missed the step that ends it.
    if campaign.entry.mode == EntryMode::FromNow {
        return None;
    }
    let ends = |(m, other): &(usize, &Step)| {
        let is_certain = other.ends_with.is_some() && other.only_if.is_empty() && !never.contains(m);
        let follows = match &step.trigger {
            Trigger::AfterStep { base, .. } => base == m,
            Trigger::AfterPrevious(_) => m + 1 == n,
            trigger => is_later(trigger, &other.trigger),
        };
        *m != n && is_certain && follows
    };
    campaign.steps.iter().enumerate().find(ends).map(|(_, other)| other.key.as_str())
}

/// Whether one date is always later than another. A business day is at least a calendar day.
const fn is_later(trigger: &Trigger, than: &Trigger) -> bool {
    match (trigger, than) {
        (Trigger::FromDue(Offset::Days(a)), Trigger::FromDue(Offset::Days(b)))
        | (Trigger::FromDue(Offset::BusinessDays(a)), Trigger::FromDue(Offset::BusinessDays(b))) => *a > *b,
        (Trigger::FromDue(Offset::BusinessDays(a)), Trigger::FromDue(Offset::Days(b))) => *a > 0 && *a > *b,
        (Trigger::AfterMonthEnd(a), Trigger::AfterMonthEnd(b)) => *a > *b,
        _ => false,
    }
}

/// The step that it counts from, if that is never sent.
fn lost_base(campaign: &Campaign, n: usize, step: &Step, never: &BTreeSet<usize>) -> Option<String> {
    match step.trigger {
        Trigger::AfterStep { base, .. } if never.contains(&base) => {
            campaign.steps.get(base).map(|s| format!("step {}", s.key))
        }
        Trigger::AfterPrevious(_) if (0..n).all(|m| never.contains(&m)) => Some("the steps before it".to_owned()),
        _ => None,
    }
}

/// The step that is due last before another, both counted in calendar days after due, and the days between them. Only for
/// steps that ask nothing: others may be alternatives.
pub(super) fn right_before(campaign: &Campaign, n: usize) -> Option<(usize, i64)> {
    let day = |step: &Step| match step.trigger {
        Trigger::FromDue(Offset::Days(days)) if step.only_if.is_empty() => Some(i64::from(days)),
        _ => None,
    };
    let own = day(campaign.steps.get(n)?)?;
    let before = campaign.steps.iter().enumerate().filter_map(|(m, other)| Some((m, own - day(other)?)));
    before.filter(|(_, apart)| *apart > 0).min_by_key(|(_, apart)| *apart)
}

/// Whether whatever fits the second condition fits the first: all that the first asks is asked by the second too.
pub(super) fn covers(wide: &ConditionFile, narrow: &ConditionFile) -> bool {
    let subset = |wide: &[String], narrow: &[String]| {
        wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|value| wide.contains(value))
    };
    let by_value = |condition: &ConditionFile| {
        let segments = condition.segment.iter().map(|s| s.as_str().to_owned()).collect();
        let tags = [condition.customer_tag.clone(), condition.invoice_tag.clone(), condition.decline_code.clone()];
        let statics = lists(condition).into_iter().map(|(_, values)| values);
        statics.chain([segments]).chain(tags).collect::<Vec<Vec<String>>>()
    };
    let lists = by_value(wide).iter().zip(&by_value(narrow)).all(|(wide, narrow)| subset(wide, narrow));
    let same_or_none = |asks: bool, is_same: bool| !asks || is_same;
    lists
        && same_or_none(!wide.amount.is_empty(), wide.amount == narrow.amount)
        && same_or_none(!wide.balance.is_empty(), wide.balance == narrow.balance)
        && wide.failed_attempts.is_none_or(|n| narrow.failed_attempts.is_some_and(|m| m >= n))
        && same_or_none(!wide.all.is_empty(), wide.all == narrow.all)
        && same_or_none(!wide.any.is_empty(), wide.any == narrow.any)
        && same_or_none(wide.not.is_some(), wide.not == narrow.not)
}
