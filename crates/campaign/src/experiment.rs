//! Ways to do a step that are tried against each other.

use crate::campaign::{Fault, Offset, Step, Trigger, check_template};
use crate::file::{ArmFile, Assign, ExperimentFile, Without};
use std::fmt::Display;

/// Ways to do a step that are tried against each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// At least two.
    pub arms: Vec<Arm>,
    /// What each is called, in the same order: as it is written, such as `day -7 with template kind`.
    pub labels: Vec<String>,
    /// How they are given to invoices.
    pub assign: Assign,
}

/// One way to do a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arm {
    /// Without it.
    None,
    /// With it.
    With {
        /// Moved by so many calendar days; negative is earlier.
        days: i32,
        /// The template.
        template: String,
    },
}

/// Checks what is written about a step.
pub(crate) fn read(file: &ExperimentFile, step: &Step, path: &str, faults: &mut Vec<Fault>) -> Experiment {
    let count = file.arms.len();
    if count < 2 {
        faults.push(Fault::new(format!("{path}.arms"), "needs at least two, such as [{ days: -7 }, { days: -3 }]"));
    }
    if let Assign::Split(weights) = &file.assign {
        if weights.len() != count {
            let reason = format!("has {} weights for {count} arms: one for each, such as [50, 50]", weights.len());
            faults.push(Fault::new(format!("{path}.assign.split"), reason));
        }
        for n in (0..weights.len()).filter(|n| weights.get(*n) == Some(&0)) {
            let reason = "must be above 0: leave out the arm that nobody should get";
            faults.push(Fault::new(format!("{path}.assign.split.{n}"), reason));
        }
    }
    let mut arm = |(n, arm): (usize, &ArmFile)| read_arm(arm, step, &format!("{path}.arms.{n}"), faults);
    let labels = file.arms.iter().map(crate::words::arm).collect();
    let arms = file.arms.iter().enumerate().map(&mut arm).collect();
    // What worked is counted against the due date, and known a fixed number of days after it.
    if file.assign == Assign::Thompson && !matches!(step.trigger, Trigger::FromDue(Offset::Days(_))) {
        let reason = "is for steps in calendar days before or after the due date: what works is judged from there; \
                      give fixed weights instead, such as { split: [50, 50] }";
        faults.push(Fault::new(format!("{path}.assign"), reason));
    }
    Experiment { arms, labels, assign: file.assign.clone() }
}

fn read_arm(file: &ArmFile, step: &Step, path: &str, faults: &mut Vec<Fault>) -> Arm {
    let mut fault = |key: &str, reason: &dyn Display| faults.push(Fault::new(format!("{path}{key}"), reason));
    let file = match file {
        ArmFile::Without(Without::None) => {
            if !step.window.may_skip {
                fault(
                    "",
                    &"leaves the step out: say `may_skip: true` in its window, or give the arm a day or a template",
                );
            }
            return Arm::None;
        }
        ArmFile::With(file) => file,
    };
    if file.days.is_none() && file.template.is_none() {
        fault("", &"says nothing: write days, template or both; or none, to leave the step out");
    }
    let mut moved = 0;
    if let Some(days) = file.days {
        match (step.day(), step.days(), &step.trigger) {
            (Some(day), Some(window), _) if window.contains(&days) => moved = days - day,
            (Some(_), Some(window), _) => {
                let (first, last) = (window.start(), window.end());
                let reason = format!(
                    "{days} lies outside the window, which goes from {first} to {last}: widen `window` of \
                     `timing: adaptive`, or take a day inside it; no step crosses the due date"
                );
                fault(".days", &reason);
            }
            (.., Trigger::FromDue(Offset::BusinessDays(_))) => {
                let reason = "counts calendar days, and the step business days: write its `when` in calendar days";
                fault(".days", &reason);
            }
            _ => fault(
                ".days",
                &"counts from the due date, and the step from what happens later: only template may differ",
            ),
        }
    }
    let template = file.template.as_ref().unwrap_or(&step.template);
    check_template(template, &format!("{path}.template"), faults);
    Arm::With { days: moved, template: template.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Campaign;
    use crate::campaign::tests::parse;

    const CAMPAIGN: &str = "
name: tried
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 15 }
steps:
  - key: upcoming
    when: { days_before_due: 5 }
    timing: adaptive
    window: { earlier_days: 2, later_days: 7, may_skip: true }
    tone: friendly
    experiment: { arms: [{ days: -7 }, { days: -1, template: kind }, none], assign: thompson }
  - key: overdue-3
    when: { days_after_due: 3 }
    tone: friendly
    experiment: { arms: [{ template: friendly }, { template: firm }], assign: { split: [70, 30] } }
";

    fn faults(from: &str, to: &str) -> Vec<(String, String)> {
        let text = CAMPAIGN.replacen(from, to, 1);
        assert_ne!(text, CAMPAIGN, "{from:?} is not in the sample");
        let found = Campaign::try_new(&serde_saphyr::from_str(&text).unwrap(), &text).err().unwrap_or_default();
        found.into_iter().map(|f| (f.path, f.reason)).collect()
    }

    #[test]
    fn arms_say_how_far_they_move_the_step_and_what_they_write() {
        let campaign = parse(CAMPAIGN);
        let with = |days, template: &str| Arm::With { days, template: template.to_owned() };
        let first = campaign.steps[0].experiment.as_ref().unwrap();
        assert_eq!(first.arms, [with(-2, "friendly"), with(4, "kind"), Arm::None]);
        assert_eq!(first.assign, Assign::Thompson);
        let second = campaign.steps[1].experiment.as_ref().unwrap();
        assert_eq!(second.arms, [with(0, "friendly"), with(0, "firm")], "templates differ without a window too");
        assert_eq!(second.assign, Assign::Split(vec![70, 30]));
        assert!(campaign.is_adaptive() && !crate::campaign::tests::sample().is_adaptive());
    }

    #[test]
    fn what_works_is_only_learned_where_it_can_be_judged() {
        let found = faults("days_before_due", "business_days_before_due");
        let (path, reason) = found.last().unwrap();
        assert_eq!(path, "steps.0.experiment.assign");
        assert!(reason.contains("split"), "the way out is named: {reason}");
        assert_eq!(faults("days_after_due", "business_days_after_due"), [], "fixed weights need no judge");
    }

    #[test]
    fn arms_that_the_step_does_not_allow_are_named() {
        let (first, second) = ("steps.0.experiment", "steps.1.experiment");
        let arms = "[{ days: -7 }, { days: -1, template: kind }, none]";
        for (from, to, path, words) in [
            (arms, "[{ days: -7 }]", format!("{first}.arms"), "at least two"),
            (arms, "[{}, none]", format!("{first}.arms.0"), "says nothing"),
            (
                "days: -7",
                "days: -8",
                format!("{first}.arms.0.days"),
                "-8 lies outside the window, which goes from -7 to 0:",
            ),
            ("days: -7", "days: 1", format!("{first}.arms.0.days"), "no step crosses the due date"),
            (", may_skip: true", "", format!("{first}.arms.2"), "may_skip: true"),
            ("days_before_due", "business_days_before_due", format!("{first}.arms.0.days"), "calendar days"),
            ("template: kind", "template: ../x", format!("{first}.arms.1.template"), "letters"),
            ("{ template: friendly }", "{ days: 3 }", String::new(), ""),
            ("{ template: friendly }", "{ days: 2 }", format!("{second}.arms.0.days"), "from 3 to 3"),
            ("{ template: friendly }", "none", format!("{second}.arms.0"), "may_skip"),
            ("[70, 30]", "[70, 20, 10]", format!("{second}.assign.split"), "3 weights for 2 arms"),
            ("[70, 30]", "[70, 0]", format!("{second}.assign.split.1"), "above 0"),
            (
                "when: { days_after_due: 3 }\n    tone: friendly\n    experiment: { arms: [{ template: friendly }",
                "when: { failed_attempts: 2 }\n    tone: friendly\n    experiment: { arms: [{ days: 3 }",
                format!("{second}.arms.0.days"),
                "only template may differ",
            ),
            ("tone: friendly", "tone: final", "steps.0.window.may_skip".to_owned(), "last call"),
            ("tone: friendly", "tone: firm, ends_with: stop", "steps.0.window.may_skip".to_owned(), "last call"),
        ] {
            let to = to.replace("firm, ends", "firm\n    ends");
            let found = faults(from, &to);
            match found.first() {
                None => assert_eq!(path, "", "{to} has no fault"),
                Some((at, reason)) => assert!(*at == path && reason.contains(words), "{to}: {found:?}"),
            }
        }
        let side = faults("days_before_due: 5", "days_after_due: 2");
        assert!(side[0].1.contains("from 1 to 9"), "after the due date it stays after it: {side:?}");
    }

    #[test]
    fn arms_that_cannot_be_read_are_refused() {
        for (from, to) in [("none]", "nothing]"), ("days: -7", "day: -7"), ("thompson", "random"), ("70", "-70")] {
            let text = CAMPAIGN.replacen(from, to, 1);
            assert!(serde_saphyr::from_str::<crate::CampaignFile>(&text).is_err(), "{to}");
        }
    }
}
