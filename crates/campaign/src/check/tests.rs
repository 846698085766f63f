use super::*;
use crate::calendar::Calendar;
use std::sync::Arc;

const SAMPLE: &str = "
name: sample
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 15 }
steps:
  - { key: overdue-3, when: { days_after_due: 3 }, tone: friendly }
  - { key: follow-up, when: { after_step: { step: overdue-3, days: 3 } }, tone: firm }
  - { key: overdue-14, when: { days_after_due: 14 }, tone: final }
";

fn merchant(campaigns: &[&str]) -> Merchant {
    Merchant {
        id: "acme".to_owned(),
        campaigns: campaigns.iter().map(|c| (*c).to_owned()).collect(),
        zone: "Europe/Berlin".to_owned(),
        locale: "en".to_owned(),
        country: "DE".to_owned(),
        payers: PayerKind::Business,
        webhook: false,
        sms: false,
    }
}

fn found(files: &[(&str, String)], merchant: Merchant, today: &str) -> Vec<String> {
    let own = "{ name: OWN, title: Own, source: us, years: { 2026: [{ on: 2026-05-04, name: fair }] } }";
    let own = [("OWN".to_owned(), Arc::new(Calendar::parse(own).unwrap()))];
    let campaigns = files.iter().map(|(name, text)| ((*name).to_owned(), serde_saphyr::from_str(text).unwrap()));
    let locales = BTreeSet::from(["de".to_owned()]);
    let templates = ["friendly", "firm", "final"].map(|name| (name.to_owned(), locales.clone()));
    let input = Input {
        campaigns: &campaigns.collect(),
        unread: &BTreeSet::from(["unread".to_owned()]),
        merchants: &[merchant],
        calendars: &Calendars::new(own.into()),
        templates: Some(&templates.into()),
        today: today.parse().unwrap(),
    };
    let said = |f: Finding| format!("{}: {}: {}: {}", f.severity.as_str(), f.about, f.path, f.reason);
    check(&input).into_iter().map(said).collect()
}

fn after(from: &str, to: &str) -> Vec<String> {
    let text = SAMPLE.replace(from, to);
    assert_ne!(text, SAMPLE, "{from:?} is not in the sample");
    found(&[("main", text)], merchant(&["main"]), "2026-05-01")
}

#[test]
fn a_sound_configuration_has_no_findings() {
    assert_eq!(found(&[("main", SAMPLE.to_owned())], merchant(&["main"]), "2026-11-01"), Vec::<String>::new());
}

#[test]
fn what_can_hardly_be_meant_is_warned_of() {
    for (from, to, expected) in [
        (
            "tone: firm",
            "tone: firm, only_if: { country: [AT] } }\n  - { key: last, when: { after_step: { step: follow-up, days: 9 } }, tone: final",
            vec![],
        ),
        (
            "steps:",
            "audience: { country: [DE] }\nsteps:\n  - { key: at, when: { days_after_due: 1 }, only_if: { country: [AT] }, tone: firm }",
            vec!["steps.0.only_if.country: contradicts the audience, where it is DE: the step is never sent"],
        ),
        (
            "steps:",
            "audience: { country: [DE], payer: [business] }\nsteps:\n  - { key: a, when: { days_after_due: 1 }, only_if: { not: { payer: [business] } }, tone: firm }\n  - { key: b, when: { after_step: { step: a, days: 8 } }, tone: firm }",
            vec![
                "steps.0.only_if.payer: contradicts the audience, where it is business: the step is never sent",
                "steps.1.when: the step is never sent: it counts from step a, which never is",
            ],
        ),
        (
            "tone: friendly",
            "tone: friendly, only_if: { any: [{ country: [AT], not: { country: [AT] } }] }",
            vec![
                "steps.0.only_if.country: contradicts itself: the step is never sent",
                "steps.1.when: the step is never sent: it counts from step overdue-3, which never is",
            ],
        ),
        (
            "steps:",
            "audience: { all: [{ currency: [EUR] }, { currency: [USD] }] }\nsteps:",
            vec!["audience.currency: contradicts itself: no invoice ever fits"],
        ),
        (
            "tone: friendly",
            "tone: friendly, ends_with: stop",
            vec![
                "steps.1.when: the step is never sent in time: overdue-3 before it ends the sequence",
                "steps.2.when: the step is never sent in time: overdue-3 before it ends the sequence",
            ],
        ),
        ("tone: friendly", "tone: friendly, ends_with: stop, only_if: { segment: [usually_late] }", vec![]),
        ("tone: final", "tone: final, ends_with: stop", vec![]),
        (
            "min_gap_days: 2",
            "min_gap_days: 2, cap: { reminders: 5, days: 7 }",
            vec![
                "contact.cap: can never be reached: 2 days apart, at most 4 go out within 7 days; a lower cap or a smaller gap would have an effect",
            ],
        ),
        ("min_gap_days: 2", "min_gap_days: 2, cap: { reminders: 4, days: 7 }", vec![]),
        (
            "min_gap_days: 2",
            "min_gap_days: 4",
            vec!["steps.1.when: comes 3 days after overdue-3, within the gap of 4 days: it waits"],
        ),
        (
            "days_after_due: 14",
            "days_after_due: 4",
            vec!["steps.2.when: comes 1 day after overdue-3, within the gap of 2 days: it waits"],
        ),
    ] {
        let expected: Vec<String> = expected.into_iter().map(|e| format!("warning: campaign main: {e}")).collect();
        assert_eq!(after(from, to), expected, "{to}");
    }
}

#[test]
fn a_campaign_that_another_leaves_nothing_of_is_warned_of() {
    let with = |audience: &str| format!("{SAMPLE}audience: {audience}\n");
    let order = |first: &str, second: &str| {
        let files = [("first", with(first)), ("second", with(second))];
        found(&files, merchant(&["first", "second"]), "2026-05-01")
    };
    let all = "warning: merchant acme: campaigns.1: is never reached: first before it takes all invoices";
    let its = "warning: merchant acme: campaigns.1: is never reached: first before it takes all of its invoices";
    assert_eq!(order("{}", "{ country: [DE] }"), [all]);
    assert_eq!(order("{ country: [DE, AT] }", "{ country: [DE], segment: [usually_late] }"), [its]);
    assert_eq!(order("{ country: [DE] }", "{ country: [DE, AT] }"), Vec::<String>::new());
    assert_eq!(order("{ segment: [usually_late] }", "{}"), Vec::<String>::new());
    assert_eq!(
        order("{ amount: { EUR: { at_least: 5 } } }", "{ amount: { EUR: { at_least: 9 } } }"),
        Vec::<String>::new()
    );
    assert_eq!(order("{ merchant: [acme] }", "{ segment: [usually_late] }"), [its], "of this merchant's it takes all");
    let other = order("{ merchant: [globex] }", "{}");
    assert_eq!(
        other,
        ["warning: merchant acme: campaigns.0: is never followed: the audience of first leaves this merchant out"]
    );
}

#[test]
fn names_that_lead_nowhere_are_faults() {
    assert_eq!(
        after("tone: firm", "tone: firm, template: rude"),
        [r#"fault: campaign main: steps.1.template: there is no template "rude": it is final, firm or friendly"#]
    );
    let holidays = after("min_gap_days: 2", "min_gap_days: 2, holidays: [ED]");
    assert!(
        holidays[0].starts_with(
            r#"fault: campaign main: contact.holidays.0: there is no calendar "ED": it is payer, OWN, DE"#
        )
    );
    let lost = Merchant { zone: "Mars/Base".to_owned(), ..merchant(&["main", "gone", "unread"]) };
    assert_eq!(
        found(&[("main", SAMPLE.to_owned())], lost, "2026-05-01"),
        [
            "fault: merchant acme: campaigns.1: there is no campaigns/gone.yaml",
            r#"fault: merchant acme: time_zone: "Mars/Base" is not a time zone such as Europe/Berlin"#,
        ]
    );
    let broken = after("days_after_due: 14", "days_after_due: 0");
    assert_eq!(broken.len(), 1, "the rules of the campaign itself: {broken:?}");
}

#[test]
fn a_locale_that_a_template_lacks_is_warned_of() {
    let speaks = |locale: &str| {
        let merchant = Merchant { locale: locale.to_owned(), ..merchant(&["main"]) };
        found(&[("main", SAMPLE.to_owned())], merchant, "2026-05-01").len()
    };
    assert_eq!((speaks("de-AT"), speaks("en-GB"), speaks("fr")), (0, 0, 3), "one for each step");
}

#[test]
fn calendars_know_this_year_and_in_autumn_the_next() {
    let text = SAMPLE.replace("min_gap_days: 2", "min_gap_days: 2, holidays: [OWN]");
    let on = |today| found(&[("main", text.clone())], merchant(&["main"]), today);
    assert_eq!(on("2026-09-30"), Vec::<String>::new());
    let next = "warning: calendar OWN: years: lacks 2027: from January on, reminders that depend on it will be held";
    assert_eq!(on("2026-10-01"), [next]);
    assert_eq!(on("2027-01-01"), ["fault: calendar OWN: years: lacks 2027: reminders that depend on it are held"]);
}

#[test]
fn hours_that_the_law_forbids_are_warned_of() {
    let text = SAMPLE.replace("'09:00', to: '18:00'", "'05:00', to: '07:00'");
    let consumer = Merchant { country: "US".to_owned(), payers: PayerKind::Consumer, ..merchant(&["main"]) };
    let night = found(&[("main", text)], consumer, "2026-05-01");
    assert!(night.len() == 1 && night[0].contains("leaves no time at which payers in US"), "{night:?}");
}

#[test]
fn a_campaign_that_may_end_with_webhook_needs_one() {
    let by_end = format!("{SAMPLE}end: {{ after_days: 7, outcome: webhook }}\n");
    let by_step = SAMPLE.replace("tone: friendly", "tone: friendly, ends_with: webhook");
    for (text, key) in [(&by_end, "end.outcome"), (&by_step, "steps.0.ends_with")] {
        let expected = format!(
            "fault: merchant acme: campaigns.0: main may end with webhook ({key}), and this merchant has none: \
             add webhook, or end otherwise"
        );
        let faults = |merchant: Merchant| {
            let mut found = found(&[("main", text.clone())], merchant, "2026-05-01");
            found.retain(|line| line.starts_with("fault"));
            found
        };
        assert_eq!(faults(merchant(&["main"])), [expected]);
        assert_eq!(faults(Merchant { webhook: true, ..merchant(&["main"]) }), Vec::<String>::new());
    }
    let for_others = format!("{by_end}audience: {{ merchant: [globex] }}\n");
    let found = found(&[("main", for_others)], merchant(&["main"]), "2026-05-01");
    assert!(!found.iter().any(|line| line.starts_with("fault")), "never followed by this one: {found:?}");
}

#[test]
fn a_campaign_needs_something_to_send_by() {
    let said = |channels: &str, merchant: Merchant| {
        let text = SAMPLE.replace("tone: firm", &format!("tone: firm, channels: {channels}"));
        let mut found = found(&[("main", text)], merchant, "2026-05-01");
        found.retain(|line| line.contains("channels"));
        found
    };
    let lacks = |severity: &str, channel: &str| {
        format!(
            "{severity}: merchant acme: campaigns.0: main reaches payers by {channel} (steps.1.channels), and this \
             merchant has none: add {channel}, or leave it out"
        )
    };
    let acme = || merchant(&["main"]);
    assert_eq!(said("[email, task]", acme()), [] as [&str; 0]);
    assert_eq!(said("[sms, task]", acme()), [lacks("warning", "sms")]);
    assert_eq!(said("[sms, webhook]", acme()), [lacks("fault", "sms"), lacks("fault", "webhook")]);
    assert_eq!(said("[sms, webhook]", Merchant { sms: true, ..acme() }), [lacks("warning", "webhook")]);
    assert_eq!(said("[webhook]", Merchant { webhook: true, ..acme() }), [] as [&str; 0]);
}

const ADAPTIVE: &str = "
name: adaptive
contact: { weekdays: [mon, tue, wed, thu, fri], from: '09:00', to: '18:00', min_gap_days: 2, spread_minutes: 15 }
steps:
  - key: before-5
    when: { days_before_due: 5 }
    timing: adaptive
    window: { earlier_days: 2, later_days: 3, may_skip: true }
    tone: friendly
  - { key: due, when: { on_due_date: true }, tone: friendly }
  - key: after-3
    when: { days_after_due: 3 }
    tone: friendly
    experiment: { arms: [{ template: friendly }, { template: firm }], assign: thompson }
  - { key: after-7, when: { days_after_due: 7 }, timing: adaptive, window: { later_days: 3 }, tone: firm }
  - { key: after-14, when: { days_after_due: 14 }, tone: final }
";

#[test]
fn what_of_adapting_can_hardly_be_meant_is_warned_of() {
    for (from, to, expected) in [
        ("name", "name", vec![]),
        (
            "later_days: 3, may",
            "later_days: 9, may",
            vec!["steps.0.window: reaches that of due: one of them may speak for both"],
        ),
        (
            "later_days: 3, may",
            "later_days: 4, may",
            vec!["steps.0.window: ends 1 day before that of due, within the gap of 2 days: that may wait"],
        ),
        (
            "{ later_days: 3 }",
            "{ later_days: 7 }",
            vec!["steps.3.window: reaches that of after-14: one of them may speak for both"],
        ),
        (
            "{ later_days: 3 }",
            "{ earlier_days: 4 }",
            vec!["steps.2.window: reaches that of after-7: one of them may speak for both"],
        ),
        ("{ later_days: 3 }", "{ later_days: 30 }, only_if: { segment: [usually_late] }", vec![]),
        (
            "{ days_after_due: 7 }, timing",
            "{ failed_attempts: 2 }, timing",
            vec!["steps.3.window: moves nothing: only a step whose day counts from the due date can be moved"],
        ),
        (
            "{ template: firm }]",
            "{ template: firm }, { template: friendly }]",
            vec![
                "steps.2.experiment.arms.2: does the same as arm 0 (template friendly): leave it out, or give it more weight",
            ],
        ),
        (
            "{ template: firm }]",
            "{ days: 3 }]",
            vec![
                "steps.2.experiment.arms.1: does the same as arm 0 (template friendly): leave it out, or give it more weight",
            ],
        ),
        (
            "    tone: friendly\n    experiment",
            "    tone: friendly\n    timing: adaptive\n    window: { earlier_days: 1 }\n    experiment",
            vec!["steps.2.timing: has no effect: the experiment decides, and none of its arms has days"],
        ),
        (
            "{ on_due_date: true }",
            "{ after_step: { step: before-5, days: 2 } }",
            vec!["steps.1.when: counts from before-5, which may be left out: then this step is not sent either"],
        ),
        (
            "{ on_due_date: true }",
            "{ days_after_previous: 2 }",
            vec![
                "steps.1.when: counts from what comes before it, which may be left out: then this step is not sent either",
            ],
        ),
        (
            "steps:",
            "holdout: { invoices_percent: 0 }\nsteps:",
            vec![
                "holdout.invoices_percent: is 0: without invoices on the schedule as written, nobody can say what adapting it brings",
            ],
        ),
    ] {
        let text = ADAPTIVE.replacen(from, to, 1);
        let expected: Vec<String> = expected.into_iter().map(|e| format!("warning: campaign main: {e}")).collect();
        assert_eq!(found(&[("main", text)], merchant(&["main"]), "2026-05-01"), expected, "{to}");
    }
    assert_eq!(
        after("steps:", "holdout: { invoices_percent: 0 }\nsteps:"),
        [
            "warning: campaign main: holdout: has no effect: no step adapts, so all invoices follow the schedule as written"
        ]
    );
    let rude = ADAPTIVE.replace("template: firm", "template: rude");
    assert_eq!(
        found(&[("main", rude)], merchant(&["main"]), "2026-05-01"),
        [
            r#"fault: campaign main: steps.2.experiment.arms.1.template: there is no template "rude": it is final, firm or friendly"#
        ]
    );
}
