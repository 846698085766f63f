//! The tracker on a real bus: figures from events, and what payers' clicks do.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod lift;
mod rig;

use events::topology::{INGEST_INTAKE, NOTIFIER_INBOUND, NOTIFIER_SENDER, SCHEDULER_TIMERS, SEGMENTER_PAYERS};
use events::{AnyEvent, Service, time, v1};
use kernel::Clock;
use rig::{Rig, at};
use runtime::links::Link;
use serde_json::Value;
use uuid::Uuid;

fn invoice(id: &str, due_on: &str, paid_at: Option<&str>) -> v1::InvoiceIssued {
    v1::InvoiceIssued {
        invoice: Some(v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: id.into(),
            customer_id: "cus_1".into(),
            version: 1,
            epoch: 1,
            status: if paid_at.is_some() { v1::InvoiceStatus::Paid } else { v1::InvoiceStatus::Open }.into(),
            number: format!("R-{id}"),
            currency: "EUR".into(),
            total_minor: 100,
            open_minor: if paid_at.is_some() { 0 } else { 100 },
            issued_on: "2026-05-01".into(),
            due_on: due_on.into(),
            closed_at: paid_at.map(|t| time::to_wire(at(t))),
            pay_url: format!("https://pay.example.com/{id}"),
            ..Default::default()
        }),
    }
}

fn reminder(id: u128, step: &str, invoices: &[&str]) -> Option<v1::Reminder> {
    let line =
        |i: &&str| v1::ReminderLine { invoice_id: (*i).into(), epoch: 1, step: step.into(), ..Default::default() };
    Some(v1::Reminder {
        merchant_id: "acme".into(),
        reminder_id: Uuid::from_u128(id).to_string(),
        customer_id: "cus_1".into(),
        campaign: "default".into(),
        step: step.into(),
        segment: v1::Segment::UsuallyLate.into(),
        lines: invoices.iter().map(line).collect(),
        ..Default::default()
    })
}

#[tokio::test]
async fn figures_say_what_happened() {
    let rig = Rig::start().await;
    // 22:30 UTC on the due date is past midnight in Berlin: late.
    let invoices = [
        invoice("on-time", "2026-06-01", Some("2026-05-30T10:00:00Z")),
        invoice("late", "2026-06-01", Some("2026-06-01T22:30:00Z")),
        invoice("open", "2026-06-08", None),
        invoice("soon", "2026-06-08", Some("2026-06-13T10:00:00Z")),
        invoice("future", "2026-06-20", None), // due today: not over yet
    ];
    rig.emit(&INGEST_INTAKE, at("2026-05-01T00:00:00Z"), invoices).await;
    let sent = |id, step: &str, invoices: &[&str]| v1::ReminderSent {
        reminder: reminder(id, step, invoices),
        invoice_ids: invoices.iter().map(|i| (*i).to_owned()).collect(),
        ..Default::default()
    };
    rig.emit(&NOTIFIER_SENDER, at("2026-06-11T09:00:00Z"), [sent(1, "overdue-3", &["open", "soon"])]).await;
    let failed = v1::ReminderFailed {
        reminder: reminder(2, "overdue-3", &["open"]),
        reason: "refused".into(),
        ..Default::default()
    };
    rig.emit(&NOTIFIER_SENDER, at("2026-06-15T09:00:00Z"), [failed]).await;
    let suppressed = v1::ReminderSuppressed {
        reminder: reminder(3, "overdue-7", &["soon"]),
        reason: "paid".into(),
        ..Default::default()
    };
    rig.emit(&NOTIFIER_SENDER, at("2026-06-15T09:00:00Z"), [suppressed]).await;
    let unknown = v1::ReminderUnknown { reminder: reminder(4, "overdue-7", &["open"]), ..Default::default() };
    rig.emit(&NOTIFIER_SENDER, at("2026-06-15T09:00:00Z"), [unknown]).await;
    let overdue = v1::InvoiceOverdue {
        merchant_id: "acme".into(),
        invoice_id: "open".into(),
        customer_id: "cus_1".into(),
        epoch: 1,
        ..Default::default()
    };
    rig.emit(&SCHEDULER_TIMERS, at("2026-06-09T00:00:00Z"), [overdue]).await;
    let merged = v1::StepDecided {
        merchant_id: "acme".into(),
        invoice_id: "open".into(),
        customer_id: "cus_1".into(),
        epoch: 1,
        step: "follow-up".into(),
        outcome: v1::StepOutcome::Merged.into(),
        decided_at: Some(time::to_wire(at("2026-06-15T09:00:00Z"))),
        ..Default::default()
    };
    rig.emit(&SCHEDULER_TIMERS, at("2026-06-15T09:00:00Z"), [merged]).await;
    let segmented = v1::CustomerSegmented {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        version: 1,
        segment: v1::Segment::ChronicallyLate.into(),
        ..Default::default()
    };
    rig.emit(&SEGMENTER_PAYERS, at("2026-06-15T09:00:00Z"), [segmented]).await;
    let hard = v1::BounceKind::Hard.into();
    let bounced =
        v1::ReminderBounced { reminder: reminder(1, "overdue-3", &["open"]), kind: hard, ..Default::default() };
    rig.emit(&NOTIFIER_INBOUND, at("2026-06-15T09:00:00Z"), [bounced.clone(), bounced]).await;
    for (table, rows) in
        [("invoice", 5), ("reminder", 4), ("overdue", 1), ("step", 1), ("customer", 1), ("returned", 1)]
    {
        rig.wait_for(table, rows).await;
    }

    let stats = rig.stats().await;
    assert_eq!(
        (stats["invoices"].as_i64(), stats["became_overdue"].as_i64(), stats["merged_steps"].as_i64()),
        (Some(5), Some(1), Some(1))
    );
    assert_eq!(stats["suppressed_because_paid"], 1);
    assert_eq!(stats["on_time"], serde_json::json!({"count": 1, "of": 4, "share": 0.25}));
    let merchant = &stats["by_merchant"][0];
    assert_eq!(
        merchant["reminders"],
        serde_json::json!({"sent": 1, "suppressed": 1, "failed": 1, "unknown": 1, "bounced": 1, "complained": 0})
    );
    assert_eq!(merchant["bounce_rate"], serde_json::json!({"count": 1, "of": 1, "share": 1.0}));
    assert_eq!(merchant["delivery_rate"]["of"], 3, "a suppressed reminder was not tried");
    // "soon" was paid two days after; "open" was not, and its seven days are over.
    assert_eq!(merchant["paid_within_7_days"], serde_json::json!({"count": 1, "of": 2, "share": 0.5}));
    let steps: Vec<_> = stats["by_step"].as_array().unwrap().iter().map(|g| g["key"].as_str().unwrap()).collect();
    assert_eq!(steps, ["overdue-3", "overdue-7"]);
    assert_eq!(stats["by_segment"][0]["key"], "usually_late");
    let delays = stats["delays_by_segment"].as_array().unwrap();
    let segments: Vec<_> = delays.iter().map(|d| d["segment"].as_str().unwrap()).collect();
    assert_eq!(segments, ["new", "prompt", "mixed", "usually_late", "chronically_late", "at_risk"]);
    let of = |n: usize| ["on_time", "a_week", "a_month", "later", "open"].map(|what| delays[n][what].as_i64().unwrap());
    assert_eq!((of(4), of(0)), ([1, 2, 0, 0, 1], [0; 5]), "the same four invoices");
    assert_eq!(stats["weeks"].as_array().unwrap().len(), 2);

    // The evidence comes late: what was unknown was sent.
    rig.emit(&NOTIFIER_SENDER, at("2026-06-15T09:00:00Z"), [sent(4, "overdue-7", &["open"])]).await;
    rig.wait_for("reminder WHERE outcome = 'sent'", 2).await;

    let (status, page) = rig.get(rig.dashboard.clone()).await;
    assert_eq!(status, 200);
    for expected in [
        "25 %",
        "Of 4 invoices that fell due, 1 were paid on time, 2 late, and 1 are still open.",
        "<svg",
        "overdue-7",
        "<td>usually late</td>",
        "<td>chronically late</td><td>4</td><td>25 %</td><td>50 %</td>",
    ] {
        assert!(page.contains(expected), "{expected:?} is missing in\n{page}");
    }
    assert!(!page.contains("<script"), "works without");
    rig.end().await;
}

#[tokio::test]
async fn an_empty_system_shows_its_next_step() {
    let rig = Rig::start().await;
    assert_eq!(rig.stats().await["on_time"]["share"], Value::Null, "no whole, no share");
    let (_, page) = rig.get(rig.dashboard.clone()).await;
    assert!(page.contains("dunlin import"));
    let (status, openapi) = rig.get(format!("{}/openapi.json", rig.dashboard)).await;
    assert!(status == 200 && openapi.contains("/v1/stats"));
    for bad in ["from=2026-07-01", "from=yesterday", "merchant=nobody", "colour=red", "from=2020-01-01"] {
        let (status, body) = rig.get(format!("{}/v1/stats?{bad}", rig.dashboard)).await;
        assert_eq!((status, body.contains("bad-query")), (400, true), "{bad}: {body}");
    }
    rig.end().await;
}

#[tokio::test]
async fn pay_links_lead_to_the_page_and_note_the_visit() {
    let rig = Rig::start().await;
    let mut void = invoice("void", "2026-06-01", Some("2026-06-02T00:00:00Z"));
    void.invoice.as_mut().unwrap().status = v1::InvoiceStatus::Void.into();
    rig.emit(
        &INGEST_INTAKE,
        at("2026-05-01T00:00:00Z"),
        [invoice("open", "2026-06-01", None), invoice("paid", "2026-06-01", Some("2026-06-02T00:00:00Z")), void],
    )
    .await;
    rig.wait_for("invoice", 3).await;
    let pay = |invoice: &str| Link::Pay {
        merchant: "acme".parse().unwrap(),
        customer: "cus_1".parse().unwrap(),
        invoice: invoice.parse().unwrap(),
        reminder: Uuid::from_u128(1),
    };
    let url = rig.link(&pay("open"));
    let head = rig.client.head(&url).send().await.unwrap();
    assert_eq!(head.headers()["location"], "https://pay.example.com/open");
    rig.wait_for("response", 0).await; // A scanner is no visitor.
    let response = rig.client.get(&url).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (303, &"https://pay.example.com/open".parse().unwrap())
    );
    assert_eq!(response.headers()["referrer-policy"], "no-referrer");
    let (status, page) = rig.get(rig.link(&pay("paid"))).await;
    assert!(status == 200 && page.contains("Already settled"), "{page}");
    let (status, page) = rig.get(rig.link(&pay("unheard-of"))).await;
    assert!(status == 404 && page.contains("Unknown link"), "{page}");
    let (_, page) = rig.get(rig.link(&pay("void"))).await;
    assert!(page.contains("Nothing to pay") && !page.contains("Thank you"), "nobody has paid it: {page}");
    let danish = rig.client.get(rig.link(&pay("paid"))).header("accept-language", "da-DK,en;q=0.5");
    let page = danish.send().await.unwrap().text().await.unwrap();
    assert!(page.contains(r#"lang="da""#) && page.contains("Allerede betalt") && page.contains("acme Ltd"), "{page}");
    let (status, _) = rig.get(url.replace("/p/", "/p/x")).await;
    assert_eq!(status, 404, "a changed link is no link");

    let all = Link::PayAll {
        merchant: "acme".parse().unwrap(),
        customer: "cus_1".parse().unwrap(),
        invoices: ["open", "paid", "void", "unheard-of"].map(|invoice| invoice.parse().unwrap()).to_vec(),
        reminder: Uuid::from_u128(1),
    };
    let (status, page) = rig.get(rig.link(&all)).await;
    let links = page.replace("&#x2f;", "/").matches("/p/").count();
    assert_eq!((status, links), (200, 1), "the one that is settled needs no link: {page}");
    assert!(page.contains(&url[url.rfind('/').unwrap() + 1..]), "it is that of the invoice: {page}");

    let events = rig.system.emitted(Service::Tracker).await.unwrap();
    let kinds: Vec<_> = events
        .iter()
        .map(|e| if let AnyEvent::CustomerResponded(r) = e { r.kind() } else { Default::default() })
        .collect();
    assert_eq!(kinds, [v1::ResponseKind::VisitedPayPage; 4]);
    rig.end().await;
}

#[tokio::test]
async fn only_a_post_unsubscribes_and_twice_is_once() {
    let rig = Rig::start().await;
    let link = Link::Unsubscribe {
        merchant: "acme".parse().unwrap(),
        customer: "cus_1".parse().unwrap(),
        reminder: Uuid::from_u128(1),
    };
    let url = rig.link(&link);
    let (status, page) = rig.get(url.clone()).await;
    assert!(status == 200 && page.contains("<form") && page.contains(r#"lang="en""#), "{page}");
    assert_eq!(rig.system.emitted(Service::Tracker).await.unwrap().len(), 0, "a GET never unsubscribes");
    for _ in 0..2 {
        let one_click = rig
            .client
            .post(&url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body("List-Unsubscribe=One-Click");
        assert_eq!(one_click.send().await.unwrap().status(), 200);
    }
    let events = rig.system.emitted(Service::Tracker).await.unwrap();
    let [AnyEvent::CustomerResponded(event)] = &events[..] else { unreachable!("{events:?}") };
    assert_eq!((event.kind(), event.customer_id.as_str()), (v1::ResponseKind::Unsubscribed, "cus_1"));
    assert_eq!(rig.clock.now(), time::from_wire(event.responded_at).unwrap());
    rig.end().await;
}

#[tokio::test]
async fn who_goes_on_after_the_last_reminder_is_known() {
    let rig = Rig::start().await;
    let ended = |invoice: &str, epoch: i32, outcome: v1::SequenceOutcome| v1::SequenceEnded {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        invoice_id: invoice.into(),
        epoch,
        outcome: outcome.into(),
        campaign: "default".into(),
        currency: "EUR".into(),
        open_minor: 100,
        ended_at: Some(time::to_wire(at("2026-06-19T09:00:00Z"))),
        ..Default::default()
    };
    use v1::SequenceOutcome::{HandOver, Stop, Webhook};
    let sequences = [
        ended("by-hand", 1, HandOver),
        ended("by-hand", 1, HandOver), // told twice
        ended("paid-since", 1, HandOver),
        ended("begun-anew", 1, HandOver),
        ended("by-webhook", 1, Webhook),
        ended("given-up", 1, Stop),
        v1::SequenceEnded { outcome: 99, ..ended("by-hand", 2, Stop) },
    ];
    rig.emit(&SCHEDULER_TIMERS, at("2026-06-19T09:00:00Z"), sequences).await;
    rig.wait_for("sequence", 5).await;
    rig.wait_for("dead_letter WHERE reason LIKE '%outcome%'", 1).await;
    let mut invoices: Vec<_> =
        ["by-hand", "by-webhook", "given-up", "begun-anew"].map(|i| invoice(i, "2026-06-01", None)).into();
    invoices[3].invoice.as_mut().unwrap().epoch = 2;
    invoices.push(invoice("paid-since", "2026-06-01", Some("2026-06-19T10:00:00Z")));
    rig.emit(&INGEST_INTAKE, at("2026-06-19T10:00:00Z"), invoices).await;
    rig.wait_for("invoice", 5).await;
    assert_eq!(rig.stats().await["waiting_for_a_person"], 1, "one is paid, one has a case of its own again");

    let story = tracker::store::story(&rig.pool, "acme", "by-hand").await.unwrap();
    let lines: Vec<_> = story.iter().map(|l| (l.at, l.what.as_str(), l.detail.as_str(), l.id.is_some())).collect();
    let expected = "sequence of epoch 1 ended: hand_over";
    assert_eq!(lines, [(at("2026-06-19T09:00:00Z"), expected, "campaign default", true)]);
    let (_, page) = rig.get(rig.dashboard.clone()).await;
    assert!(page.contains("<dt>Waiting for a person</dt><dd>1 ") && page.contains("sequence ended: webhook"), "{page}");
    rig.end().await;
}

#[tokio::test]
async fn steps_without_a_message_have_a_reason_and_a_rule() {
    let rig = Rig::start().await;
    let decided = |invoice: &str, outcome: v1::StepOutcome, reason: &str, rule: &str| v1::StepDecided {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        invoice_id: invoice.into(),
        epoch: 1,
        step: "overdue-3".into(),
        outcome: outcome.into(),
        reason: reason.into(),
        rule: rule.into(),
        decided_at: Some(time::to_wire(at("2026-06-15T09:00:00Z"))),
        ..Default::default()
    };
    use v1::StepOutcome::{Merged, Skipped};
    let steps = [
        decided("in_1", Merged, "later_step", ""),
        decided("in_2", Skipped, "law", "law.consumer_grace_days"),
        decided("in_3", Skipped, "law", "law.consumer_grace_days"),
    ];
    rig.emit(&SCHEDULER_TIMERS, at("2026-06-15T09:00:00Z"), steps).await;
    rig.wait_for("step WHERE rule <> ''", 2).await;
    rig.wait_for("step", 3).await;
    let expected = serde_json::json!([
        {"outcome": "skipped", "reason": "law", "rule": "law.consumer_grace_days", "count": 2},
        {"outcome": "merged", "reason": "later_step", "rule": "", "count": 1},
    ]);
    assert_eq!(rig.stats().await["step_reasons"], expected);
    let (_, page) = rig.get(rig.dashboard.clone()).await;
    assert!(page.contains("<td>law</td><td>skipped</td><td>law.consumer_grace_days</td><td>2</td>"), "{page}");
    rig.end().await;
}
