//! What operators do about running cases: hold, release, skip, send now, put on another version of the campaign.
//!
//! The command line and the gRPC edge both come here, so both check the same. Each function works in the caller's
//! transaction, takes locks in the order in which [`crate::flow`] does (customers, cases, timers), leaves a record of who
//! did it and why, and plans the cases that it touches anew before it returns.

pub mod migrate;
pub mod store;

use crate::domain::{self, CaseState};
use crate::flow::{Cases, Ready, Round};
use crate::rules::{InForce, Rules};
use crate::store::{CaseChange, CustomerKey, InvoiceKey, lock_cases, lock_customers, save_cases};
use bus::{Failure, Work, trace};
use campaign::{Decided, Reason, Refusal};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::MerchantId;
use std::collections::{BTreeSet, HashSet};
use store::{Kind, NewHold, Which};
use uuid::Uuid;

/// Why an operator's wish was not fulfilled. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The wish itself makes no sense.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Something stands in the way.
    #[error("{0}")]
    Refused(Refusal),
    /// The database, or a configuration that lacks something: try again.
    #[error("{0}")]
    Failed(Failure),
}

impl From<Failure> for Denied {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<sqlx::Error> for Denied {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Who acts, and why. Kept as it is said, so it has to be of a bearable length and printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    by: String,
    reason: String,
}

impl Operator {
    /// Who and why; both are needed.
    pub fn try_new(by: &str, reason: &str) -> Result<Self, Denied> {
        Ok(Self { by: words("by", by, 100)?, reason: words("reason", reason, 500)? })
    }

    /// Who, where the deed speaks for itself.
    pub fn try_without_reason(by: &str, reason: &str) -> Result<Self, Denied> {
        let reason = if reason.trim().is_empty() { String::new() } else { words("reason", reason, 500)? };
        Ok(Self { by: words("by", by, 100)?, reason })
    }

    /// Who.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// Why.
    pub fn words(&self) -> &str {
        &self.reason
    }

    /// As the rule of a decision.
    pub fn rule(&self) -> String {
        format!("operator {}", self.by)
    }
}

fn words(field: &'static str, text: &str, most: usize) -> Result<String, Denied> {
    let text = text.trim();
    let problem = if text.is_empty() {
        "is missing".to_owned()
    } else if text.chars().count() > most {
        format!("is longer than {most} characters")
    } else if text.chars().any(char::is_control) {
        "contains a line break or another control character".to_owned()
    } else {
        return Ok(text.to_owned());
    };
    Err(Denied::Invalid { field, problem })
}

/// What a hold holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All invoices of a customer, also future ones.
    Customer(CustomerKey),
    /// One invoice.
    Invoice(InvoiceKey),
}

/// A hold that is placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What operators call it.
    pub id: i64,
    /// How many open invoices it holds now.
    pub invoices: usize,
}

/// Places a hold until the end of a day of the payer, or until somebody releases it; with `promise` a promise to pay by
/// that day.
pub async fn hold(
    rules: &Rules,
    work: &mut Work,
    target: &Target,
    until: Option<Date>,
    promise: bool,
    operator: &Operator,
) -> Result<Placed, Denied> {
    if promise && until.is_none() {
        return Err(Denied::Invalid { field: "until", problem: "is missing: until when is the promise?".to_owned() });
    }
    let now = rules.now();
    let customer = customer_of(work, target).await?;
    let zones = lock_customers(work.tx(), &BTreeSet::from([customer.clone()])).await?;
    let merchant = rules.merchant(&customer.0).ok_or_else(|| unknown_merchant(&customer.0))?;
    let zone = domain::payer_zone(zones.get(&customer).map_or("", String::as_str), &merchant.zone);
    let today = zone.to_datetime(now).date();
    if let Some(past) = until.filter(|until| *until < today) {
        return Err(Denied::Invalid {
            field: "until",
            problem: format!("{past} is past: for the payer it is {today}"),
        });
    }
    let new = NewHold { target, customer: &customer, until, promise, operator, placed_at: now };
    let id = store::insert_hold(work.tx(), &new).await?;
    let invoices = replan(rules, work, target, now).await?;
    Ok(Placed { id, invoices })
}

/// Ends holds: one by its number (of this merchant, if one is given), or all of a target. Returns which.
pub async fn release(
    rules: &Rules,
    work: &mut Work,
    merchant: Option<&MerchantId>,
    which: &Which,
    operator: &Operator,
) -> Result<Vec<i64>, Denied> {
    let now = rules.now();
    let target = match which {
        Which::All(target) => target.clone(),
        Which::One(id) => {
            let found = store::find_hold(work.tx(), *id).await?;
            let found = found.filter(|found| merchant.is_none_or(|merchant| found.customer.0 == *merchant));
            let found = found.ok_or_else(|| Denied::NotFound(format!("there is no hold {id}")))?;
            if let Some(by) = found.released_by {
                return Err(Refusal::new(Reason::AlreadyDecided, format!("hold {id} was released by {by}")).into());
            }
            found.target()
        }
    };
    let customer = customer_of(work, &target).await?;
    lock_customers(work.tx(), &BTreeSet::from([customer])).await?;
    let released = store::release_holds(work.tx(), which, operator, now).await?;
    if released.is_empty() {
        return Err(Denied::NotFound("there is no open hold of it by itself".to_owned()));
    }
    // Holds of a customer include those of its invoices, so all of them are planned anew.
    replan(rules, work, &target, now).await?;
    Ok(released)
}

/// Decides that a step of an invoice's open case is never sent.
pub async fn skip(
    rules: &Rules,
    work: &mut Work,
    invoice: &InvoiceKey,
    step: &str,
    operator: &Operator,
) -> Result<(), Denied> {
    let now = rules.now();
    let in_force = rules.in_force();
    let (before, case) = lock_open_case(rules, work, &in_force, invoice, now).await?;
    let ready = ready(rules, &case, now)?;
    known_step(&ready, step)?;
    if case.decided.iter().any(|d| d.step == step) {
        return Err(Refusal::new(Reason::AlreadyDecided, format!("steps.{step}")).into());
    }
    let mut round = Round::new(now);
    round.skip_asked(work, &ready, step, operator)?;
    let mut after = case.clone();
    after.decided.push(Decided { step: step.to_owned(), on: ready.today(now), reminded: false });
    let moved = Cases(rules.clone()).replan(&in_force, &before, &after, now, trace::current());
    round.changes.extend(moved);
    Ok(round.save(work).await?)
}

/// A reminder that an operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub reminder: Uuid,
    /// The step that it is.
    pub step: String,
    /// Steps before it that it speaks for.
    pub merged: Vec<String>,
}

/// Sends the next step of an invoice's open case now, or a named one, if nothing stands in the way.
pub async fn send_now(
    rules: &Rules,
    work: &mut Work,
    invoice: &InvoiceKey,
    step: Option<&str>,
    operator: &Operator,
) -> Result<Sent, Denied> {
    let now = rules.now();
    let in_force = rules.in_force();
    let (before, case) = lock_open_case(rules, work, &in_force, invoice, now).await?;
    let ready = ready(rules, &case, now)?;
    step.map_or(Ok(()), |step| known_step(&ready, step))?;
    let mut planned = ready.plan(&in_force, now);
    planned.plan = campaign::send_now(&planned.terms, &planned.case, step, now)?;
    let send = planned.plan.send.clone();
    let mut round = Round::new(now);
    round.send_asked(work, &before, &ready, planned, operator)?;
    round.save(work).await?;
    match (send, round.reminded.first()) {
        (Some(send), Some((_, reminder, _))) => Ok(Sent { reminder: *reminder, step: send.step, merged: send.merged }),
        _ => Err(Failure::Reject("planning gave nothing to send".to_owned()).into()),
    }
}

/// What holds reminders, or waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OpenHold {
    /// Which kind.
    pub kind: Kind,
    /// Of a hold or promise: what operators call it.
    pub id: Option<i64>,
    /// Whose.
    pub merchant: String,
    /// The customer.
    pub customer: String,
    /// The invoice, if it is about a single one.
    pub invoice: Option<String>,
    /// The payer's last day; without it, it does not end by itself.
    pub until: Option<Date>,
    /// It ends only when a person does something.
    pub waits_for_person: bool,
    /// Why, in words.
    pub reason: String,
    /// Who placed it, if somebody did.
    pub by: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

/// What holds, and what waits for a person, oldest first: holds and promises that have not ended, disputes, invoices whose
/// sequence ended with a person, invoices without a campaign, customers in zones that do not exist.
pub async fn list(
    rules: &Rules,
    db: &mut sqlx::PgConnection,
    merchant: Option<&MerchantId>,
    waiting_only: bool,
    limit: i64,
) -> Result<Vec<OpenHold>, Denied> {
    let now = rules.now();
    let zones = store::time_zones(&mut *db).await?;
    let unknown: Vec<String> = zones.into_iter().filter(|zone| kernel::contact::zone(zone).is_err()).collect();
    let rows = store::list(db, merchant, waiting_only, &unknown, limit, now).await?;
    let is_over = |hold: &store::Listed| {
        let merchant_zone = hold.merchant.parse().ok().and_then(|id| rules.merchant(&id)).map(|m| m.zone.clone());
        let zone = domain::payer_zone(&hold.time_zone, &merchant_zone.unwrap_or(jiff::tz::TimeZone::UTC));
        hold.until.is_some_and(|until| until < zone.to_datetime(now).date())
    };
    Ok(rows.into_iter().filter(|hold| !is_over(hold)).map(store::Listed::into_open_hold).collect())
}

/// Whose the target is; that it is known.
async fn customer_of(work: &mut Work, target: &Target) -> Result<CustomerKey, Denied> {
    match target {
        Target::Invoice(key) => {
            let customer = store::customer_of_invoice(work.tx(), key).await?;
            customer.ok_or_else(|| Denied::NotFound(format!("nothing is known of invoice {}/{}", key.0, key.1)))
        }
        Target::Customer(key) if store::is_customer_known(work.tx(), key).await? => Ok(key.clone()),
        Target::Customer(key) => Err(Denied::NotFound(format!("nothing is known of customer {}/{}", key.0, key.1))),
    }
}

fn unknown_merchant(id: &MerchantId) -> Denied {
    Denied::NotFound(format!("merchant {id} is not configured here"))
}

/// Plans the cases of a target anew; its customer is locked. Returns how many of them are open.
pub(crate) async fn replan(rules: &Rules, work: &mut Work, target: &Target, now: Timestamp) -> Result<usize, Denied> {
    let ids = match target {
        Target::Invoice(key) => lock_cases(work.tx(), &HashSet::from([key.clone()]), &BTreeSet::new()).await?,
        Target::Customer(key) => lock_cases(work.tx(), &HashSet::new(), &BTreeSet::from([key.clone()])).await?,
    };
    let in_force = rules.in_force();
    let cases = rules.load_cases(work, &in_force, &ids, now).await?;
    let planner = Cases(rules.clone());
    let change =
        |(before, case): &(CaseState, CaseState)| planner.replan(&in_force, before, case, now, trace::current());
    let changes: Vec<CaseChange> = cases.iter().filter_map(change).collect();
    save_cases(work.tx(), &changes).await?;
    Ok(cases.iter().filter(|(_, case)| case.end().is_none()).count())
}

/// The invoice's open case, locked, as it is stored and as it is from now on.
async fn lock_open_case(
    rules: &Rules,
    work: &mut Work,
    in_force: &InForce,
    invoice: &InvoiceKey,
    now: Timestamp,
) -> Result<(CaseState, CaseState), Denied> {
    let customer = customer_of(work, &Target::Invoice(invoice.clone())).await?;
    lock_customers(work.tx(), &BTreeSet::from([customer])).await?;
    let ids = lock_cases(work.tx(), &HashSet::from([invoice.clone()]), &BTreeSet::new()).await?;
    let cases = rules.load_cases(work, in_force, &ids, now).await?;
    let open = cases.into_iter().find(|(_, case)| case.end().is_none() && case.closed.is_none());
    Ok(open.ok_or_else(|| Refusal::new(Reason::NotOpen, "invoice.status"))?)
}

/// A case that can be planned here, or why not.
fn ready<'a>(rules: &'a Rules, case: &'a CaseState, now: Timestamp) -> Result<Ready<'a>, Denied> {
    if case.campaign.is_empty() {
        let unknown = case.chosen_by == Reason::UnknownCampaign.as_str();
        let reason = if unknown { Reason::UnknownCampaign } else { Reason::NoCampaign };
        return Err(Refusal::new(reason, "campaigns").into());
    }
    Ready::new(rules, case, now).ok_or_else(|| {
        let (merchant, name, version) = (&case.merchant, &case.campaign, &case.campaign_version);
        Failure::Retry(format!("merchant {merchant} or campaign {name}@{version} is not known here")).into()
    })
}

fn known_step(ready: &Ready<'_>, step: &str) -> Result<(), Denied> {
    let steps = &ready.campaign.steps;
    // A step of an earlier version has its decision, even if this version does not know it.
    if steps.iter().any(|s| s.key == step) || ready.case.decided.iter().any(|d| d.step == step) {
        return Ok(());
    }
    let keys: Vec<&str> = steps.iter().map(|s| s.key.as_str()).collect();
    let campaign = &ready.case.campaign;
    Err(Denied::NotFound(format!("campaign {campaign} has no step {step:?}: there are {}", keys.join(", "))))
}
