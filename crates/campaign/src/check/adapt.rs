//! Steps that adapt: windows that reach into other steps, arms that do the same, what is said to no effect.

use super::Of;
use crate::campaign::{Campaign, Step, Trigger};
use crate::file::{ArmFile, CampaignFile, HoldoutFile, StepFile, Timing};
use crate::words::{arm, count};
use std::mem::discriminant;

/// What of adapting can hardly be meant.
pub(super) fn check_adapt(file: &CampaignFile, campaign: &Campaign, of: &mut Of<'_>) {
    let HoldoutFile { invoices_percent, .. } = campaign.holdout;
    if !campaign.is_adaptive() && campaign.holdout != HoldoutFile::default() {
        of.warn("holdout", "has no effect: no step adapts, so all invoices follow the schedule as written".to_owned());
    }
    if campaign.is_adaptive() && invoices_percent == 0 {
        let reason = "is 0: without invoices on the schedule as written, nobody can say what adapting it brings";
        of.warn("holdout.invoices_percent", reason.to_owned());
    }
    for (n, (step, said)) in campaign.steps.iter().zip(&file.steps).enumerate() {
        check_window(campaign, n, step, of);
        check_experiment(n, step, said, of);
        if let Some(base) = follows_what_may_be_left_out(campaign, n, step) {
            let reason = format!("counts from {base}, which may be left out: then this step is not sent either");
            of.warn(format!("steps.{n}.when"), reason);
        }
    }
}

/// The days of a step should keep clear of those of the next one: where they meet, one of them speaks for both or waits.
/// Only for steps that ask nothing: others may be alternatives.
fn check_window(campaign: &Campaign, n: usize, step: &Step, of: &mut Of<'_>) {
    let path = format!("steps.{n}.window");
    if !step.is_dated() && (step.window.earlier_days > 0 || step.window.later_days > 0) {
        let reason = "moves nothing: only a step whose day counts from the due date can be moved";
        return of.warn(path, reason.to_owned());
    }
    let days = |step: &Step| Some((step.day()?, step.days()?)).filter(|_| step.only_if.is_empty());
    let Some((day, own)) = days(step) else { return };
    // Days from the due date and days from the end of its month cannot be compared.
    let is_alike = |other: &&Step| discriminant(&other.trigger) == discriminant(&step.trigger);
    let later = campaign.steps.iter().filter(is_alike).filter_map(|other| Some((other, days(other)?)));
    let next = later.filter(|(_, (its_day, _))| *its_day > day).min_by_key(|(_, (its_day, _))| *its_day);
    let Some((next, (its_day, its))) = next else { return };
    let gap = campaign.min_gap_days.max(1);
    let apart = its.start() - own.end();
    if apart >= gap.into() || its_day - day < gap.into() {
        return; // That their own days are that near is said elsewhere.
    }
    let reason = if apart > 0 {
        let apart = count(apart.unsigned_abs(), "day");
        format!("ends {apart} before that of {}, within the gap of {}: that may wait", next.key, count(gap, "day"))
    } else {
        format!("reaches that of {}: one of them may speak for both", next.key)
    };
    of.warn(path, reason);
}

fn check_experiment(n: usize, step: &Step, said: &StepFile, of: &mut Of<'_>) {
    let (Some(experiment), Some(file)) = (&step.experiment, &said.experiment) else { return };
    for (m, own) in experiment.arms.iter().enumerate() {
        if let Some(first) = experiment.arms.iter().take(m).position(|other| other == own) {
            let same = file.arms.get(first).map(arm).unwrap_or_default();
            let reason = format!("does the same as arm {first} ({same}): leave it out, or give it more weight");
            of.warn(format!("steps.{n}.experiment.arms.{m}"), reason);
        }
    }
    let needs_window = |arm: &ArmFile| match arm {
        ArmFile::Without(_) => true,
        ArmFile::With(with) => with.days.is_some(),
    };
    if said.timing == Timing::Adaptive && !file.arms.iter().any(needs_window) {
        let reason = "has no effect: the experiment decides, and none of its arms has days";
        of.warn(format!("steps.{n}.timing"), reason.to_owned());
    }
}

/// What a step counts from, if that may be left out.
fn follows_what_may_be_left_out<'a>(campaign: &'a Campaign, n: usize, step: &Step) -> Option<&'a str> {
    match step.trigger {
        Trigger::AfterStep { base, .. } => {
            campaign.steps.get(base).filter(|base| base.window.may_skip).map(|base| base.key.as_str())
        }
        Trigger::AfterPrevious(_) => {
            campaign.steps.iter().take(n).all(|before| before.window.may_skip).then_some("what comes before it")
        }
        _ => None,
    }
}
