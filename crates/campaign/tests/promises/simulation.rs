//! Lives through a script under the virtual clock of `simulate`. There is no news in it but invoices and payments.

use crate::arbitrary::{Event, Script, calendar, plus};
use campaign::{Calendars, Campaign, Happening, Payer, SimulatedInvoice, simulate};
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kernel::{Currency, PayerKind, Segment};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tells what happened, line by line.
pub(crate) fn live(script: &Script) -> Vec<String> {
    let zone = TimeZone::get(script.zone).unwrap();
    let start = script.start.to_zoned(zone.clone()).unwrap().timestamp();
    let campaigns: Vec<Campaign> = script.campaigns.iter().map(|file| Campaign::try_new(file, "").unwrap()).collect();
    let of = |n: usize| script.invoices[n].campaign % campaigns.len();
    let calendars = ["OWN", "DE"].into_iter().zip(&script.closed);
    let calendars = calendars.map(|(name, closed)| (name.to_owned(), Arc::new(calendar(name, script.start, closed))));
    let calendars = Calendars::new(calendars.collect());
    let mut payer = Payer {
        merchant: "acme".to_owned(),
        customer: "cus_1".to_owned(),
        zone: zone.clone(),
        country: script.country.to_owned(),
        kind: PayerKind::Consumer,
        segment: Segment::UsuallyLate,
        tags: Vec::new(),
        opted_out: false,
        contacts: Vec::new(),
        spread: script.spread,
    };
    let at = |minute: i64| start + SignedDuration::from_mins(minute);
    let paid = |n: usize| {
        let payments = script.events.iter().filter(|(_, event)| matches!(event, Event::Pay(m) if *m == n));
        payments.map(|(minute, _)| at(*minute)).min()
    };
    let invoice = |(n, i): (usize, &crate::arbitrary::Invoice)| {
        let opened_at = at(i.opened_minute);
        let opened_on = zone.to_datetime(opened_at).date();
        SimulatedInvoice {
            invoice: format!("in_{n}"),
            currency: Currency::try_new(i.currency).unwrap(),
            open_minor: i.open_minor,
            due_on: i.due.map(|days| plus(script.start, days)),
            opened_at,
            opened_on,
            closes_at: paid(n).map(|at| at.max(opened_at)),
            not_before: i.turn.map(|days| plus(opened_on, days)),
            reopened_on: None,
            tags: Vec::new(),
            failed_attempts: 1,
            decline_code: "expired_card".to_owned(),
            last_failed_on: Some(opened_on),
            promised_on: None,
            pending_since: None,
            collects_itself: false,
            holds: Vec::new(),
            decided: Vec::new(),
            choices: Vec::new(),
            ended: false,
        }
    };
    let mut invoices: Vec<SimulatedInvoice> = script.invoices.iter().enumerate().map(invoice).collect();
    let chosen: Vec<&Campaign> = (0..invoices.len()).map(|n| &campaigns[of(n)]).collect();

    let mut story = Vec::new();
    let mut last: Option<Timestamp> = None;
    let mut contacts: Vec<(Timestamp, Date)> = Vec::new();
    let mut decided: BTreeSet<(usize, String)> = BTreeSet::new();
    let mut closed: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ended: BTreeSet<usize> = BTreeSet::new();
    let mut at_once = BTreeSet::new();
    let until = at(20 * 366 * 1440);
    simulate(&chosen, &calendars, &mut payer, &mut invoices, until, |now, invoices, happening| {
        assert!(last.is_none_or(|last| last <= now), "time goes on");
        if last != Some(now) {
            at_once.clear();
        }
        last = Some(now);
        story.push(format!("{now} {happening:?}"));
        assert!(story.len() < 3000, "does not come to rest");
        let mut decide = |n: usize, step: &str| assert!(decided.insert((n, step.to_owned())), "{step} of in_{n} twice");
        match happening {
            Happening::Skip { invoice, step, .. } => decide(invoice, step),
            Happening::End { invoice, .. } => assert!(ended.insert(invoice), "the end is told once"),
            Happening::Close { invoice, cancelled } => _ = closed.insert(invoice, cancelled),
            Happening::Wait { until, .. } => assert!(until.is_none_or(|until| until > now)),
            Happening::Reminder { message, steps, .. } => {
                assert_eq!(message.lines.len(), steps.len());
                let currency = invoices[message.speaker].currency;
                assert!(at_once.insert((currency, message.channel)), "two reminders at once for {currency}");
                for (n, (step, merged)) in message.lines.iter().zip(steps) {
                    assert!(!closed.contains_key(n), "in_{n} is paid");
                    assert_eq!(invoices[*n].currency, currency);
                    decide(*n, step);
                    merged.iter().for_each(|step| decide(*n, step));
                    judge(&script.campaigns[of(*n)], zone.to_datetime(now), now, &contacts);
                }
                let today = zone.to_datetime(now).date();
                contacts.push((now, today));
            }
        }
    });
    for (n, campaign) in chosen.iter().enumerate() {
        let count = decided.iter().filter(|(m, _)| *m == n).count() + closed.get(&n).copied().unwrap_or_default();
        let steps = campaign.steps.len();
        assert!(
            count == steps || !closed.contains_key(&n) && !ended.contains(&n),
            "in_{n}: {count} of {steps} decided"
        );
    }
    story
}

fn judge(file: &campaign::CampaignFile, local: jiff::civil::DateTime, now: Timestamp, contacts: &[(Timestamp, Date)]) {
    let (contact, today) = (&file.contact, local.date());
    let clock = format!("{:02}:{:02}", local.hour(), local.minute());
    assert!(contact.from <= clock && clock < contact.to, "{clock} is outside {} to {}", contact.from, contact.to);
    assert!(contact.weekdays.iter().any(|day| Weekday::from(*day) == today.weekday()), "{today}");
    let earlier: Vec<i32> =
        contacts.iter().filter(|(at, _)| *at != now).map(|(_, on)| (today - *on).get_days()).collect();
    assert!(earlier.iter().all(|days| *days >= contact.min_gap_days.into()), "{earlier:?} days after another");
    if let Some(cap) = contact.cap {
        let recent = contacts.iter().filter(|(_, on)| (today - *on).get_days() < cap.days.into()).count();
        assert!(recent < cap.reminders.into(), "{recent} reminders in the last {} days already", cap.days);
    }
}
