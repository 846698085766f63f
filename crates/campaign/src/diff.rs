//! What differs between two campaigns, in words: one sentence for each thing.

use crate::condition::ConditionFile;
use crate::file::{
    CampaignFile, CapFile, ChargesFile, ConsolidationFile, ContactFile, Day, EndFile, EntryFile, EntryMode,
    HoldoutFile, HoldsFile, StepFile, Timing, WhenFile, WindowFile,
};
use crate::words::{self, all_of, count};
use std::fmt::Display;

/// Says what changes from one campaign to another; nothing if they say the same.
pub fn diff(before: &CampaignFile, after: &CampaignFile) -> Vec<String> {
    let mut said = Said(Vec::new());
    // Taken apart: whoever adds a key has to say here how its change is told.
    let CampaignFile { name, audience, entry, contact, holds, charges, holdout, steps, end } = before;
    said.moves("the name", "is", name, &after.name);
    said.condition("audience", audience, &after.audience);
    said.entry(entry, &after.entry);
    said.contact(contact, &after.contact);
    said.holds(*holds, after.holds);
    said.charges(*charges, after.charges);
    said.holdout(*holdout, after.holdout);
    said.steps(steps, &after.steps);
    said.end(*end, after.end);
    said.0
}

struct Said(Vec<String>);

impl Said {
    fn say(&mut self, sentence: String) {
        self.0.push(sentence);
    }

    /// `<what> <verb> <after> instead of <before>`.
    fn moves<T: PartialEq + Display>(&mut self, what: &str, verb: &str, before: &T, after: &T) {
        if before != after {
            self.say(format!("{what} {verb} {after} instead of {before}"));
        }
    }

    /// A number of days.
    fn days(&mut self, what: &str, before: u16, after: u16) {
        if before != after {
            self.say(format!("{what} is {} instead of {before}", count(after, "day")));
        }
    }

    /// A list.
    fn list(&mut self, what: &str, verb: &str, before: &[String], after: &[String]) {
        if before != after {
            self.say(format!("{what} {verb} {} instead of {}", all_of(after), all_of(before)));
        }
    }

    /// Something that is there or is not, in words.
    fn option(&mut self, what: &str, before: Option<String>, after: Option<String>) {
        match (before, after) {
            (None, Some(after)) => self.say(format!("{what} is {after}; there was none")),
            (Some(before), None) => self.say(format!("{what} is gone; it was {before}")),
            (Some(before), Some(after)) => self.moves(what, "is", &before, &after),
            (None, None) => {}
        }
    }

    fn switch(&mut self, what: &str, before: bool, after: bool) {
        if before != after {
            self.say(format!(
                "{what} {} shown {}",
                if after { "is" } else { "is not" },
                if after { "now" } else { "any more" }
            ));
        }
    }

    /// Key by key.
    fn condition(&mut self, whose: &str, before: &ConditionFile, after: &ConditionFile) {
        let (was, is) = (words::demands(before), words::demands(after));
        let of = |demands: &[(&str, String)], key: &str| {
            demands.iter().find(|(k, _)| *k == key).map(|(_, words)| words.clone())
        };
        for (key, words) in &was {
            match of(&is, key) {
                None => self.say(format!("{whose} no longer asks that {words}")),
                Some(now) if now != *words => self.say(format!("{whose} asks that {now}; before, that {words}")),
                Some(_) => {}
            }
        }
        for (_, words) in is.iter().filter(|(key, _)| of(&was, key).is_none()) {
            self.say(format!("{whose} now asks that {words}"));
        }
    }

    fn entry(&mut self, before: &EntryFile, after: &EntryFile) {
        let EntryFile { mode, at_most_per_day } = before;
        if *mode != after.mode {
            let (was, is) = (entry_mode(*mode), entry_mode(after.mode));
            self.say(format!("invoices that are late at entry begin {is} instead of {was}"));
        }
        let ramp = |limit: &Option<u32>| limit.map(|n| n.to_string());
        self.option(
            "the number of late invoices that begin on a day",
            ramp(at_most_per_day),
            ramp(&after.at_most_per_day),
        );
    }

    fn contact(&mut self, before: &ContactFile, after: &ContactFile) {
        let ContactFile { weekdays, from, to, holidays, min_gap_days, cap, consolidation, spread_minutes } = before;
        let days = |days: &[Day]| -> Vec<String> { days.iter().map(|d| weekday(*d).to_owned()).collect() };
        self.list("contact weekdays", "are", &days(weekdays), &days(&after.weekdays));
        self.moves("contact hours", "begin at", from, &after.from);
        self.moves("contact hours", "end at", to, &after.to);
        self.list("holiday calendars", "are", holidays, &after.holidays);
        self.days("the least time between two reminders to a customer", *min_gap_days, after.min_gap_days);
        let said = |cap: &Option<CapFile>| {
            cap.map(|CapFile { reminders, days }| format!("{} in {}", count(reminders, "reminder"), count(days, "day")))
        };
        self.option("the cap for a customer", said(cap), said(&after.cap));
        let ConsolidationFile { enabled, wait_days } = *consolidation;
        if enabled != after.consolidation.enabled {
            let word = if enabled { "each go out by themselves" } else { "go out together" };
            self.say(format!(
                "consolidation changes: invoices of a customer that are due in the same window now {word}"
            ));
        }
        let wait = after.consolidation.wait_days;
        self.days("the longest wait for another invoice of the customer", wait_days, wait);
        if *spread_minutes != after.spread_minutes {
            let minutes = count(after.spread_minutes, "minute");
            self.say(format!("sends are spread over {minutes} instead of {spread_minutes}"));
        }
    }

    fn holds(&mut self, before: HoldsFile, after: HoldsFile) {
        let HoldsFile { promise_grace_days, pending_payment_days } = before;
        self.days("the grace after a promised date", promise_grace_days, after.promise_grace_days);
        self.days("the longest hold for money under way", pending_payment_days, after.pending_payment_days);
    }

    fn charges(&mut self, before: ChargesFile, after: ChargesFile) {
        let ChargesFile { interest, fixed_sum, reminder_fee } = before;
        self.switch("statutory interest", interest, after.interest);
        self.switch("the fixed sum for recovery", fixed_sum, after.fixed_sum);
        self.switch("the reminder fee", reminder_fee, after.reminder_fee);
    }

    fn holdout(&mut self, before: HoldoutFile, after: HoldoutFile) {
        let HoldoutFile { invoices_percent, customers_percent } = before;
        let percent = |n: u16| format!("{n}%");
        self.moves("the holdout of invoices", "is", &percent(invoices_percent), &percent(after.invoices_percent));
        self.moves("the holdout of customers", "is", &percent(customers_percent), &percent(after.customers_percent));
    }

    fn end(&mut self, before: EndFile, after: EndFile) {
        let EndFile { after_days, outcome } = before;
        self.days("the end after the last step", after_days, after.after_days);
        if outcome != after.outcome {
            let (was, is) = (words::ending(outcome), words::ending(after.outcome));
            self.say(format!("at the end {is}; before, {was}"));
        }
    }

    fn steps(&mut self, before: &[StepFile], after: &[StepFile]) {
        let find = |steps: &[StepFile], key: &str| steps.iter().position(|s| s.key == key);
        for step in before.iter().filter(|s| find(after, &s.key).is_none()) {
            self.say(format!("step {} is gone (it was due {})", step.key, words::when(&step.when)));
        }
        for step in after.iter().filter(|s| find(before, &s.key).is_none()) {
            let what = format!("{}, {}", words::when(&step.when), step.tone.as_str());
            self.say(format!("step {} is new: {what}", step.key));
        }
        let kept = |steps: &[StepFile], others: &[StepFile]| -> Vec<String> {
            steps.iter().filter(|s| find(others, &s.key).is_some()).map(|s| s.key.clone()).collect()
        };
        let (was, is) = (kept(before, after), kept(after, before));
        if was != is {
            self.say(format!("the order of steps, by their weight, is {} instead of {}", all_of(&is), all_of(&was)));
        }
        for step in before {
            if let Some(now) = after.iter().find(|s| s.key == step.key) {
                self.step(step, now);
            }
        }
    }

    fn step(&mut self, before: &StepFile, after: &StepFile) {
        let StepFile { key, when, only_if, timing, window, experiment, channels, tone, template, ends_with } = before;
        let what = format!("step {key}");
        if *when != after.when {
            self.say(moved(&what, when, &after.when));
        }
        self.condition(&what, only_if, &after.only_if);
        let movable = |timing: Timing, window: Option<WindowFile>| match (timing, window) {
            (Timing::Fixed, _) => None,
            (Timing::Adaptive, window) => {
                let WindowFile { earlier_days, later_days, may_skip } = window.unwrap_or_default();
                let skip = if may_skip { ", or left out" } else { "" };
                Some(format!("{earlier_days} earlier to {} later{skip}", count(later_days, "day")))
            }
        };
        let (was, is) = (movable(*timing, *window), movable(after.timing, after.window));
        self.option(&format!("{what}'s window to adapt"), was, is);
        let (was, is) = (experiment.as_ref().map(words::experiment), after.experiment.as_ref().map(words::experiment));
        self.option(&format!("{what}'s experiment"), was, is);
        let (was, is) = (words::channels(channels), words::channels(&after.channels));
        self.moves(&what, "goes by", &was, &is);
        self.moves(&what, "speaks in the tone", &tone.as_str(), &after.tone.as_str());
        // A template that is left out is the tone's: with the tone it changes, and that is said already.
        if *template != after.template {
            let own = |template: &Option<String>| template.clone().unwrap_or_else(|| "its tone's own".to_owned());
            self.moves(&what, "uses the template", &own(template), &own(&after.template));
        }
        if *ends_with != after.ends_with {
            self.say(match (ends_with, after.ends_with) {
                (_, None) => format!("{what} no longer ends the sequence"),
                (None, Some(end)) => format!("{what} now ends the sequence: {}", words::ending(end)),
                (Some(was), Some(is)) => {
                    format!("{what} ends the sequence so that {}; before, {}", words::ending(is), words::ending(*was))
                }
            });
        }
    }
}

/// `step overdue-7 moves from 7 to 10 days after due`.
fn moved(what: &str, before: &WhenFile, after: &WhenFile) -> String {
    let (was, is) = (words::when(before), words::when(after));
    let split = |text: &str| text.split_once(' ').map(|(n, unit)| (n.to_owned(), unit.replacen("days", "day", 1)));
    match (split(&was), split(&is), is.split_once(' ')) {
        (Some((from, unit)), Some((to, same)), Some((_, said)))
            if unit == same && from.parse::<u16>().is_ok() && to.parse::<u16>().is_ok() =>
        {
            format!("{what} moves from {from} to {to} {said}")
        }
        _ => format!("{what} is due {is} instead of {was}"),
    }
}

const fn entry_mode(mode: EntryMode) -> &'static str {
    match mode {
        EntryMode::FromNow => "with the steps still to come",
        EntryMode::CatchUp => "with their first step",
        EntryMode::LatestStep => "with their latest step",
    }
}

const fn weekday(day: Day) -> &'static str {
    match day {
        Day::Mon => "mon",
        Day::Tue => "tue",
        Day::Wed => "wed",
        Day::Thu => "thu",
        Day::Fri => "fri",
        Day::Sat => "sat",
        Day::Sun => "sun",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Campaign;

    const FULL: &str = "
name: full
audience: { segment: [usually_late], country: [DE, AT] }
entry: { mode: from-now, at_most_per_day: 20 }
contact:
  weekdays: [mon, tue]
  from: '09:00'
  to: '17:00'
  holidays: [payer]
  min_gap_days: 2
  cap: { reminders: 3, days: 7 }
  consolidation: { enabled: true, wait_days: 1 }
  spread_minutes: 15
holds: { promise_grace_days: 2, pending_payment_days: 14 }
charges: { interest: false, fixed_sum: true, reminder_fee: false }
holdout: { invoices_percent: 20, customers_percent: 5 }
steps:
  - { key: first, when: { days_after_due: 3 }, tone: friendly }
  - key: overdue-7
    when: { days_after_due: 7 }
    only_if: { payer: [business] }
    timing: adaptive
    window: { earlier_days: 1, later_days: 2 }
    experiment: { arms: [{ days: 6 }, { days: 9, template: kind }], assign: { split: [70, 30] } }
    channels: [email]
    tone: firm
    template: seven
    ends_with: hand_over
end: { after_days: 5, outcome: stop }
";

    fn parse(text: &str) -> CampaignFile {
        serde_saphyr::from_str(text).unwrap()
    }

    fn changes(from: &str, to: &str) -> Vec<String> {
        let text = FULL.replacen(from, to, 1);
        assert_ne!(text, FULL, "{from:?} is not in the sample");
        diff(&parse(FULL), &parse(&text))
    }

    #[test]
    fn every_field_has_its_sentence() {
        for (from, to, sentence) in [
            ("name: full", "name: other", "the name is other instead of full"),
            ("segment: [usually_late], ", "", "audience no longer asks that segment is usually_late"),
            (
                "country: [DE, AT]",
                "country: [DE]",
                "audience asks that country is DE; before, that country is DE or AT",
            ),
            ("audience: {", "audience: { payer: [consumer],", "audience now asks that payer is consumer"),
            (
                "mode: from-now",
                "mode: catch-up",
                "invoices that are late at entry begin with their first step instead of with the steps still to come",
            ),
            (
                "at_most_per_day: 20",
                "at_most_per_day: 5",
                "the number of late invoices that begin on a day is 5 instead of 20",
            ),
            (", at_most_per_day: 20", "", "the number of late invoices that begin on a day is gone; it was 20"),
            ("[mon, tue]", "[mon]", "contact weekdays are mon instead of mon and tue"),
            ("09:00", "08:00", "contact hours begin at 08:00 instead of 09:00"),
            ("17:00", "18:00", "contact hours end at 18:00 instead of 17:00"),
            ("holidays: [payer]", "holidays: []", "holiday calendars are none instead of payer"),
            (
                "min_gap_days: 2",
                "min_gap_days: 1",
                "the least time between two reminders to a customer is 1 day instead of 2",
            ),
            (
                "reminders: 3",
                "reminders: 1",
                "the cap for a customer is 1 reminder in 7 days instead of 3 reminders in 7 days",
            ),
            ("  cap: { reminders: 3, days: 7 }\n", "", "the cap for a customer is gone; it was 3 reminders in 7 days"),
            (
                "enabled: true",
                "enabled: false",
                "consolidation changes: invoices of a customer that are due in the same window now each go out by themselves",
            ),
            (
                "wait_days: 1",
                "wait_days: 3",
                "the longest wait for another invoice of the customer is 3 days instead of 1",
            ),
            ("spread_minutes: 15", "spread_minutes: 30", "sends are spread over 30 minutes instead of 15"),
            ("promise_grace_days: 2", "promise_grace_days: 1", "the grace after a promised date is 1 day instead of 2"),
            (
                "pending_payment_days: 14",
                "pending_payment_days: 7",
                "the longest hold for money under way is 7 days instead of 14",
            ),
            ("interest: false", "interest: true", "statutory interest is shown now"),
            ("fixed_sum: true", "fixed_sum: false", "the fixed sum for recovery is not shown any more"),
            ("reminder_fee: false", "reminder_fee: true", "the reminder fee is shown now"),
            ("key: first", "key: zeroth", "step first is gone (it was due 3 days after due)"),
            ("days_after_due: 7", "days_after_due: 10", "step overdue-7 moves from 7 to 10 days after due"),
            ("days_after_due: 3", "days_after_due: 1", "step first moves from 3 to 1 day after due"),
            (
                "days_after_due: 7",
                "business_days_after_due: 7",
                "step overdue-7 is due 7 business days after due instead of 7 days after due",
            ),
            ("only_if: { payer: [business] }", "only_if: {}", "step overdue-7 no longer asks that payer is business"),
            (
                "earlier_days: 1",
                "earlier_days: 3",
                "step overdue-7's window to adapt is 3 earlier to 2 days later instead of 1 earlier to 2 days later",
            ),
            (
                "    timing: adaptive\n    window: { earlier_days: 1, later_days: 2 }\n",
                "",
                "step overdue-7's window to adapt is gone; it was 1 earlier to 2 days later",
            ),
            (
                "later_days: 2",
                "later_days: 2, may_skip: true",
                "step overdue-7's window to adapt is 1 earlier to 2 days later, or left out instead of 1 earlier to 2 days later",
            ),
            (
                "[{ days: 6 }, { days: 9, template: kind }], assign: { split: [70, 30] }",
                "[none, { template: kind }], assign: thompson",
                "step overdue-7's experiment is none or template kind, by Thompson sampling instead of day 6 or day 9 with template kind, split 70 to 30",
            ),
            ("invoices_percent: 20, ", "", "the holdout of invoices is 10% instead of 20%"),
            ("customers_percent: 5", "customers_percent: 0", "the holdout of customers is 0% instead of 5%"),
            (
                "channels: [email]",
                "channels: [email, sms, task]",
                "step overdue-7 goes by email, then sms, then task instead of email",
            ),
            ("tone: firm", "tone: final", "step overdue-7 speaks in the tone final instead of firm"),
            ("template: seven", "template: eight", "step overdue-7 uses the template eight instead of seven"),
            ("    template: seven\n", "", "step overdue-7 uses the template its tone's own instead of seven"),
            (
                "ends_with: hand_over",
                "ends_with: webhook",
                "step overdue-7 ends the sequence so that the merchant's system takes over; before, a person takes over",
            ),
            ("    ends_with: hand_over\n", "", "step overdue-7 no longer ends the sequence"),
            ("after_days: 5", "after_days: 6", "the end after the last step is 6 days instead of 5"),
            (
                "outcome: stop",
                "outcome: webhook",
                "at the end the merchant's system takes over; before, nothing more is done",
            ),
        ] {
            let changes = changes(from, to);
            let expected = if to == "key: zeroth" { 2 } else { 1 };
            assert_eq!(changes.first().map(String::as_str), Some(sentence), "{to}");
            assert_eq!(changes.len(), expected, "{changes:?}");
        }
    }

    #[test]
    fn the_same_is_the_same_and_order_is_said() {
        assert_eq!(diff(&parse(FULL), &parse(FULL)), Vec::<String>::new());
        let mut turned = parse(FULL);
        turned.steps.reverse();
        let order = "the order of steps, by their weight, is overdue-7 and first instead of first and overdue-7";
        assert_eq!(diff(&parse(FULL), &turned), [order]);
        assert!(Campaign::try_new(&parse(FULL), "").is_ok(), "the sample makes sense");
    }
}
