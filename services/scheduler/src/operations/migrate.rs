//! Puts running cases on another version of their campaign.
//!
//! A case keeps the version that it began with until an operator asks for this. Decisions stay: a step of the same key is
//! the same step. What came into the campaign and would have been due before a reminder that has gone out is spoken for by
//! that one; the rest goes on from the day of the migration.

use super::{Denied, store};
use crate::domain::CaseState;
use crate::flow::{Cases, Ready};
use crate::rules::{InForce, Rules};
use crate::store::{CaseChange, customers_of_cases, lock_customers, save_cases};
use bus::Work;
use campaign::Campaign;
use jiff::Timestamp;
use kernel::MerchantId;
use uuid::Uuid;

/// Cases per transaction: their customers are locked meanwhile.
pub const BATCH: i64 = 200;

/// Which cases to put on which version.
#[derive(Debug, Clone)]
pub struct Migration {
    /// The campaign's file name.
    pub campaign: String,
    /// The version to put them on.
    pub to: String,
    /// Only those of this merchant.
    pub merchant: Option<MerchantId>,
    /// Who asks for it.
    pub by: String,
}

/// What becomes of a case.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Whose.
    pub merchant: String,
    /// The invoice.
    pub invoice: String,
    /// The version that it was on.
    pub from: String,
    /// The step that was to come next, and when.
    pub next_before: Option<NextStep>,
    /// The step that comes next now.
    pub next_after: Option<NextStep>,
    /// Steps whose decisions stay.
    pub kept: Vec<String>,
    /// Undecided steps that the version does not have.
    pub gone: Vec<String>,
    /// Undecided steps that only the version has.
    pub new: Vec<String>,
}

/// A step that comes next.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NextStep {
    /// Which.
    pub step: String,
    /// When, if nothing comes in between.
    pub at: Timestamp,
}

/// A batch of cases that were moved.
#[derive(Debug, Default)]
pub struct Batch {
    /// What becomes of each.
    pub moved: Vec<Moved>,
    /// Where to go on; `None` after the last batch.
    pub last: Option<Uuid>,
}

/// Moves the next batch of cases after `after`. Without the commit of `work` nothing has happened: a dry run.
pub async fn migrate(rules: &Rules, work: &mut Work, wanted: &Migration, after: Option<Uuid>) -> Result<Batch, Denied> {
    let now = rules.now();
    let Migration { campaign, to, merchant, by } = wanted;
    let ids = store::running_on_others(work.tx(), campaign, to, merchant.as_ref(), after, BATCH).await?;
    let last = ids.last().copied();
    let customers = customers_of_cases(work.tx(), &ids).await?;
    lock_customers(work.tx(), &customers).await?;
    let ids = store::lock_cases_by_id(work.tx(), &ids).await?;
    let in_force = rules.in_force();
    let cases = rules.load_cases(work, &in_force, &ids, now).await?;
    let planner = Cases(rules.clone());
    let (mut moved, mut records, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for (before, case) in cases {
        // Something may have happened to it before it was locked.
        let is_running = case.end().is_none() && case.closed.is_none() && case.ended.is_none();
        if !is_running || case.campaign != *campaign || case.campaign_version == *to {
            continue;
        }
        let after = CaseState { campaign_version: to.clone(), ..case.clone() };
        moved.push(describe(rules, &in_force, &case, &after, now));
        records.push((case.id, case.campaign_version));
        pairs.push((before, after));
    }
    // Of which nothing is decided yet, that is drawn anew: the other version may have other arms.
    rules.enrol(work, &mut pairs, now).await?;
    let change = |(before, after): &(_, _)| planner.replan(&in_force, before, after, now, bus::trace::current());
    let changes: Vec<CaseChange> = pairs.iter().filter_map(change).collect();
    save_cases(work.tx(), &changes).await?;
    store::insert_migrations(work.tx(), &records, to, by, now).await?;
    Ok(Batch { moved, last })
}

fn describe(rules: &Rules, in_force: &InForce, before: &CaseState, after: &CaseState, now: Timestamp) -> Moved {
    let next = |case: &CaseState| {
        let ready = Ready::new(rules, case, now)?;
        let planned = ready.plan(in_force, now);
        let (step, at) = campaign::next_step(&planned.terms, &planned.case, now)?;
        // What is due may have to wait.
        Some(NextStep { step, at: planned.plan.deferred.as_ref().and_then(|d| d.until).unwrap_or(at) })
    };
    let is_decided = |step: &str| before.decided.iter().any(|d| d.step == step);
    let open = |case: &CaseState| -> Vec<String> {
        let campaign = rules.campaign(case);
        let steps = campaign.iter().flat_map(|campaign: &std::sync::Arc<Campaign>| &campaign.steps);
        steps.map(|s| s.key.clone()).filter(|step| !is_decided(step)).collect()
    };
    let (old, new) = (open(before), open(after));
    let only = |these: &[String], others: &[String]| these.iter().filter(|s| !others.contains(s)).cloned().collect();
    Moved {
        merchant: before.merchant.to_string(),
        invoice: before.invoice.to_string(),
        from: before.campaign_version.clone(),
        next_before: next(before),
        next_after: next(after),
        kept: before.decided.iter().map(|d| d.step.clone()).collect(),
        gone: only(&old, &new),
        new: only(&new, &old),
    }
}
