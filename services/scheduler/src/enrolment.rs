//! Which schedule a case follows, and which arms are drawn for its steps: once, before anything of it is sent. Pure.
//!
//! Draws are hashes of ids: no coordination, and the same again in a replay. What is drawn with which probability is kept
//! with the case, and told in `case-enrolled`; so whoever measures divides by the probability that was drawn with.

use crate::domain::CaseState;
use crate::rules::Policies;
use campaign::{Assign, Campaign, Choice, Facts, Offset, Step, Trigger};
use events::{time, v1};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use kernel::Segment;
use payer::advice::{self, Timing};
use payer::experiment::{Group, Holdouts, Split};
use serde::{Deserialize, Serialize};

/// One salt for all draws of holdouts: a customer that is held out stays so in whatever campaign.
const HOLDOUTS: &str = "dunlin";

/// What was drawn for a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The campaign it was drawn for.
    pub campaign: String,
    /// Its version.
    pub campaign_version: String,
    /// Treated, or held out for comparison.
    pub group: Group,
    /// The probability with which an invoice of this customer is treated; 0 for a customer that is held out for good.
    pub propensity: f64,
    /// The customer's segment then.
    pub segment: Segment,
    /// Probability of paying after the due date, as estimated then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<f32>,
    /// Version of the estimator; empty: nothing was known.
    pub model: String,
    /// The first day on which a step may be sent in either group: from then on the case stays with its campaign. A case that
    /// is sent something early must not be kept where its like that waits is let go.
    pub pinned_on: Option<Date>,
    /// The arms drawn for steps with an experiment.
    pub arms: Vec<Drawn>,
}

/// An arm that was drawn for a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The step's key.
    pub step: String,
    /// As the campaign writes it.
    pub arm: String,
    /// The probability with which it was drawn.
    pub propensity: f64,
}

/// Whether a case has to be drawn for its campaign: a campaign that suits itself to payers, of which nothing is decided yet.
pub fn is_wanting(case: &CaseState, campaign: &Campaign) -> bool {
    let drawn_for = |e: &Enrolment| (&e.campaign, &e.campaign_version) == (&case.campaign, &case.campaign_version);
    campaign.is_adaptive()
        && case.is_unpinned()
        && case.end().is_none()
        && !case.enrolment.as_ref().is_some_and(drawn_for)
}

/// Draws. `policies` has the propensities of the week in which the case was opened.
pub fn draw(case: &CaseState, campaign: &Campaign, policies: &Policies) -> Enrolment {
    let share = |percent: u16| f64::from(percent) / 100.0;
    let (invoices, customers) = (share(campaign.holdout.invoices_percent), share(campaign.holdout.customers_percent));
    let group = Holdouts::try_new(HOLDOUTS, invoices, customers)
        .map_or(Group::Treated, |holdouts| holdouts.group(&case.merchant, &case.customer, &case.invoice));
    let outlook = case.payer.outlook.as_ref();
    let segment = case.segment();
    let arms = match group {
        Group::Treated => campaign.steps.iter().filter_map(|step| draw_arm(case, step, segment, policies)).collect(),
        Group::InvoiceHeldOut | Group::CustomerHeldOut => Vec::new(),
    };
    Enrolment {
        campaign: case.campaign.clone(),
        campaign_version: case.campaign_version.clone(),
        group,
        propensity: if group == Group::CustomerHeldOut { 0.0 } else { 1.0 - invoices },
        segment,
        late: outlook.map(|o| o.delay.late()),
        model: outlook.map(|o| o.model.clone()).unwrap_or_default(),
        pinned_on: case.due_on.and_then(|due| due.checked_add(first_day(campaign)?.days()).ok()),
        arms,
    }
}

/// The first day on which a step may be sent, counted from the due date.
fn first_day(campaign: &Campaign) -> Option<i32> {
    campaign.steps.iter().filter_map(|step| Some(*step.days()?.start())).min()
}

fn draw_arm(case: &CaseState, step: &Step, segment: Segment, policies: &Policies) -> Option<Drawn> {
    let experiment = step.experiment.as_ref()?;
    let arms = &experiment.labels;
    let salt = format!("step/{}", step.key);
    // A case opened again is another draw.
    let id = format!("{}/{}", case.invoice, case.epoch);
    let drawn = match &experiment.assign {
        Assign::Split(weights) => {
            let weighted = arms.iter().cloned().zip(weights.iter().copied()).collect();
            Split::try_new(salt, weighted).ok()?.choose(&case.merchant, &id)?
        }
        Assign::Thompson => {
            let propensities = policies.propensities(case, step, segment)?;
            payer::experiment::Choice::draw(arms, propensities, &salt, &case.merchant, &id)?
        }
    };
    Some(Drawn { step: step.key.clone(), arm: drawn.arm, propensity: drawn.propensity })
}

/// What is chosen for the steps of a case today, and why.
pub fn choices(case: &CaseState, campaign: &Campaign, facts: &Facts<'_>, today: Date) -> Vec<Chosen> {
    let treated = case.enrolled().filter(|e| e.group == Group::Treated);
    let Some(enrolment) = treated else { return Vec::new() };
    let open = campaign.steps.iter().filter(|s| s.is_adaptive() && !case.decided.iter().any(|d| d.step == s.key));
    open.filter_map(|step| choose(case, enrolment, campaign, facts, step, today)).collect()
}

/// What is chosen for a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chosen {
    /// Its key.
    #[serde(skip)]
    pub step: String,
    /// What planning does about it.
    #[serde(skip)]
    pub choice: Choice,
    /// What it was chosen on.
    #[serde(flatten)]
    pub why: Why,
    /// Both in words.
    pub words: String,
}

/// What a step's choice was made on, for the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Why {
    /// An experiment drew it.
    Drawn {
        /// As the campaign writes it.
        arm: String,
        /// The probability with which it was drawn.
        propensity: f64,
    },
    /// What is known of the payer.
    Advised {
        /// Version of the estimator.
        model: String,
        /// The rule that applies, with its values.
        #[serde(flatten)]
        because: advice::Reason,
    },
}

fn choose(
    case: &CaseState,
    enrolment: &Enrolment,
    campaign: &Campaign,
    facts: &Facts<'_>,
    step: &Step,
    today: Date,
) -> Option<Chosen> {
    let (choice, why, words) = if let Some(experiment) = &step.experiment {
        let drawn = enrolment.arms.iter().find(|d| d.step == step.key)?;
        // By name: in another version of the campaign it may stand elsewhere, or not at all.
        let place = experiment.labels.iter().position(|arm| *arm == drawn.arm)?;
        let words = format!("arm {:?}, drawn with probability {:.2}", drawn.arm, drawn.propensity);
        (Choice::Arm(place), Why::Drawn { arm: drawn.arm.clone(), propensity: drawn.propensity }, words)
    } else {
        let advice = advise(case, campaign, facts, step, today)?;
        let choice = match advice.timing {
            Timing::Keep => Choice::Move(0),
            Timing::Move(days) => Choice::Move(days),
            Timing::Skip => Choice::Skip,
        };
        let timing = match advice.timing {
            Timing::Keep => "as written".to_owned(),
            Timing::Move(days) => format!("moved by {days:+} days"),
            Timing::Skip => "left out".to_owned(),
        };
        let model = case.payer.outlook.as_ref().map(|o| o.model.clone()).unwrap_or_default();
        (choice, Why::Advised { model, because: advice.because }, format!("{timing}: {}", advice.because))
    };
    Some(Chosen { step: step.key.clone(), choice, why, words })
}

/// What the customer's history says about a step that counts from the due date. A debt that was opened again has no due
/// date ahead of it.
fn advise(
    case: &CaseState,
    campaign: &Campaign,
    facts: &Facts<'_>,
    step: &Step,
    today: Date,
) -> Option<advice::Advice> {
    let outlook = case.payer.outlook.as_ref()?;
    let due_on = case.due_on.filter(|_| case.epoch_began_at.is_none())?;
    let day = |step: &Step| step.day().filter(|_| matches!(step.trigger, Trigger::FromDue(_)));
    let offset = day(step)?;
    let known = advice::Known { label: case.segment(), prediction: &outlook.delay, portfolio: outlook.pooled.as_ref() };
    let allowed = advice::Step {
        offset,
        earlier: step.window.earlier_days,
        later: step.window.later_days,
        may_skip: step.window.may_skip,
        is_followed: campaign.steps.iter().any(|other| {
            let is_later = day(other).is_some_and(|day| offset < day && day < 0);
            is_later && other.only_if.holds(facts) && !case.decided.iter().any(|d| d.step == other.key)
        }),
    };
    let today = due_on.until(today).ok()?.get_days();
    Some(advice::advise(&known, &allowed, today, None))
}

/// `case-enrolled`, if the case was drawn just now.
pub fn event(before: &CaseState, after: &CaseState, campaign: &Campaign, now: Timestamp) -> Option<v1::CaseEnrolled> {
    let enrolment = after.enrolment.as_ref().filter(|_| before.enrolment != after.enrolment)?;
    let schedule = match enrolment.group {
        Group::Treated => v1::Schedule::Adaptive,
        Group::InvoiceHeldOut => v1::Schedule::HeldOutInvoice,
        Group::CustomerHeldOut => v1::Schedule::HeldOutCustomer,
    };
    // What was drawn for other steps cannot be judged from the due date.
    let arm = |drawn: &Drawn| {
        let Trigger::FromDue(Offset::Days(day)) = campaign.step(&drawn.step)?.trigger else { return None };
        let (step, arm) = (drawn.step.clone(), drawn.arm.clone());
        Some(v1::Arm { step, arm, propensity: drawn.propensity, days_before_due: -day })
    };
    // What was due before we heard of it cannot be paid on time, whatever is done.
    let in_time = after.due_on.is_some_and(|due| due >= now.to_zoned(jiff::tz::TimeZone::UTC).date());
    Some(v1::CaseEnrolled {
        merchant_id: after.merchant.to_string(),
        customer_id: after.customer.to_string(),
        invoice_id: after.invoice.to_string(),
        epoch: after.epoch,
        campaign: enrolment.campaign.clone(),
        campaign_version: enrolment.campaign_version.clone(),
        schedule: schedule.into(),
        propensity: enrolment.propensity,
        segment: events::snapshot::segment_to_wire(enrolment.segment).into(),
        late: enrolment.late,
        due_on: time::date_to_wire(after.due_on),
        arms: enrolment.arms.iter().filter_map(arm).collect(),
        model: enrolment.model.clone(),
        reminds_before_due: in_time && campaign.steps.iter().any(|step| step.is_adaptive() && step.is_by_due()),
        enrolled_at: Some(time::to_wire(now)),
    })
}
