//! What an adaptive schedule brings, from events to the report: worlds whose truth is known.

use crate::rig::{Rig, at};
use events::topology::{INGEST_INTAKE, NOTIFIER_SENDER, SCHEDULER_CASES};
use events::{time, v1};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use runtime::links::Link;
use serde_json::Value;
use uuid::Uuid;

/// Weeks in which invoices of a world fall due. All are over on the day of the rig's clock.
const WEEKS: u32 = 22;

/// A world in which every tenth invoice is held out, and every twentieth customer for good.
#[derive(Clone, Copy)]
struct World {
    merchant: &'static str,
    invoices: u32,
    /// Of a hundred treated invoices so many are paid on time, not by chance but exactly.
    treated: u32,
    /// The same of those held out.
    held_out: u32,
    reminds_before_due: bool,
}

const WORLD: World = World { merchant: "acme", invoices: 4_000, treated: 70, held_out: 60, reminds_before_due: true };

/// Invoices of each customer.
const EACH: u32 = 8;

struct Events {
    enrolments: Vec<v1::CaseEnrolled>,
    invoices: Vec<v1::InvoiceClosed>,
}

impl World {
    fn schedule(n: u32) -> v1::Schedule {
        match n {
            n if (n / EACH).is_multiple_of(20) => v1::Schedule::HeldOutCustomer,
            n if n % 10 == 3 => v1::Schedule::HeldOutInvoice,
            _ => v1::Schedule::Adaptive,
        }
    }

    fn due_on(&self, n: u32) -> Date {
        "2026-01-05".parse::<Date>().unwrap().checked_add(i64::from(n * WEEKS * 7 / self.invoices).days()).unwrap()
    }

    fn events(&self) -> Events {
        let mut drawn = [0_u32; 4];
        let (mut enrolments, mut invoices) = (Vec::new(), Vec::new());
        for n in 0..self.invoices {
            let schedule = Self::schedule(n);
            let of_schedule = &mut drawn[schedule as usize];
            *of_schedule += 1;
            let on_time = if schedule == v1::Schedule::Adaptive { self.treated } else { self.held_out };
            let is_on_time = *of_schedule * 37 % 100 < on_time;
            let days = if is_on_time { -1 } else { 4 };
            enrolments.push(self.enrolment(n, schedule));
            invoices.push(self.invoice(n, Some(self.due_on(n).checked_add(days.days()).unwrap())));
        }
        Events { enrolments, invoices }
    }

    fn enrolment(&self, n: u32, schedule: v1::Schedule) -> v1::CaseEnrolled {
        let due_on = self.due_on(n);
        let arm = if n.is_multiple_of(4) { "none" } else { "day -5" };
        let arm = v1::Arm {
            step: "upcoming".into(),
            arm: arm.into(),
            propensity: if arm == "none" { 0.25 } else { 0.75 },
            days_before_due: 5,
        };
        v1::CaseEnrolled {
            merchant_id: self.merchant.into(),
            customer_id: format!("cus_{}", n / EACH),
            invoice_id: format!("in_{n}"),
            epoch: 1,
            campaign: "adaptive".into(),
            campaign_version: "v1".into(),
            schedule: schedule.into(),
            propensity: if schedule == v1::Schedule::HeldOutCustomer { 0.0 } else { 0.9 },
            segment: [v1::Segment::New, v1::Segment::Prompt, v1::Segment::AtRisk][n as usize % 3].into(),
            late: (!n.is_multiple_of(3)).then_some(0.3 + (n % 10) as f32 / 50.0),
            due_on: due_on.to_string(),
            arms: if schedule == v1::Schedule::Adaptive { vec![arm] } else { Vec::new() },
            model: "bins-1".into(),
            reminds_before_due: self.reminds_before_due,
            enrolled_at: Some(time::to_wire(noon(due_on.checked_sub(14.days()).unwrap()))),
        }
    }

    fn invoice(&self, n: u32, paid_on: Option<Date>) -> v1::InvoiceClosed {
        let status = if paid_on.is_some() { v1::InvoiceStatus::Paid } else { v1::InvoiceStatus::Open };
        v1::InvoiceClosed {
            invoice: Some(v1::Invoice {
                merchant_id: self.merchant.into(),
                invoice_id: format!("in_{n}"),
                customer_id: format!("cus_{}", n / EACH),
                version: 2,
                epoch: 1,
                status: status.into(),
                currency: "EUR".into(),
                issued_on: "2025-12-01".into(),
                due_on: self.due_on(n).to_string(),
                closed_at: paid_on.map(|day| time::to_wire(noon(day))),
                ..Default::default()
            }),
        }
    }

    async fn happen(&self, rig: &Rig) {
        let Events { enrolments, invoices } = self.events();
        rig.emit(&SCHEDULER_CASES, at("2026-01-01T00:00:00Z"), enrolments).await;
        rig.emit(&INGEST_INTAKE, at("2026-01-01T00:00:00Z"), invoices).await;
        let of = |table: &str| format!("{table} WHERE merchant = '{}'", self.merchant);
        rig.wait_for(&of("enrolment"), self.invoices.into()).await;
        rig.wait_for(&of("invoice"), self.invoices.into()).await;
    }
}

fn noon(day: Date) -> Timestamp {
    day.at(12, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
}

async fn report(rig: &Rig, of: &str) -> Value {
    let (status, body) = rig.get(format!("{}/v1/merchants/{of}", rig.dashboard)).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn page(rig: &Rig, of: &str) -> String {
    let (status, body) = rig.get(format!("{}/merchants/{of}", rig.dashboard)).await;
    assert_eq!(status, 200, "{body}");
    assert!(!body.contains("<script"), "works without");
    body
}

#[tokio::test]
async fn a_lift_is_found_and_none_is_made_up() {
    let rig = Rig::start().await;
    WORLD.happen(&rig).await;
    let same = World { merchant: "globex", treated: 60, ..WORLD };
    same.happen(&rig).await;

    let lifted = report(&rig, "acme/lift").await;
    let on_time = &lifted["on_time"];
    assert_eq!(on_time["verdict"]["verdict"], "higher", "{on_time}");
    let now = &on_time["weeks"].as_array().unwrap().last().unwrap()["interval"];
    let (low, high) = (now["low"].as_f64().unwrap(), now["high"].as_f64().unwrap());
    assert!(0.0 < low && low < 0.1 && 0.1 < high, "{now}");
    assert_eq!(on_time["treated"]["n"].as_u64().unwrap() + on_time["held_out"]["n"].as_u64().unwrap(), 3_800);
    let finding = lifted["finding"].as_str().unwrap();
    assert!(finding.starts_with("More is paid on time than on the static schedule"), "{finding}");
    assert_eq!(lifted["comparator"], "against invoices of the same customers on the campaign's static schedule");
    assert_eq!(lifted["left_out"]["customer_held_out"], 200, "in a comparison of their own");
    assert_eq!(lifted["customers"]["held_out"]["n"], 200);
    assert_eq!(lifted["customers"]["unit"], "customer");
    // 60 days after the due date.
    let days = &lifted["days"];
    let known = days["treated"]["n"].as_u64().unwrap() + days["held_out"]["n"].as_u64().unwrap();
    assert!((2_300..2_700).contains(&known), "{known}");
    let arms: Vec<_> = lifted["arms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["arm"].as_str().unwrap(), a["n"].as_u64().unwrap()))
        .collect();
    let drawn = arms.iter().map(|(_, n)| n).sum::<u64>();
    assert_eq!((arms[0].0, arms[1].0, drawn), ("day -5", "none", on_time["treated"]["n"].as_u64().unwrap()));
    for of in ["calibration", "calibration_held_out"] {
        let bins = lifted[of].as_array().unwrap();
        assert!(
            (9..=10).contains(&bins.len()) && bins[0]["predicted"].as_f64() < bins[8]["predicted"].as_f64(),
            "{bins:?}"
        );
    }
    let segments: Vec<_> = lifted["delays"].as_array().unwrap().iter().map(|d| &d["label"]).collect();
    assert_eq!(segments, ["new", "prompt", "at_risk"]);

    let page = page(&rig, "acme/lift").await;
    for expected in [
        finding,
        "<svg",
        "invoices of the same customers on the campaign&#39;s static schedule",
        "href=\"/\"",
        "at risk",
    ] {
        assert!(page.contains(expected), "{expected:?} is missing in\n{page}");
    }
    let (_, figures) = rig.get(rig.dashboard.clone()).await;
    assert!(figures.contains("href=\"/merchants/acme/lift\""), "{figures}");

    let nothing = report(&rig, "globex/lift").await;
    let interval = &nothing["on_time"]["weeks"].as_array().unwrap().last().unwrap()["interval"];
    assert_eq!(nothing["on_time"]["verdict"]["verdict"], "not_measurable", "{}", nothing["on_time"]["verdict"]);
    assert!(interval["low"].as_f64().unwrap() < 0.0 && interval["high"].as_f64().unwrap() > 0.0, "{interval}");
    rig.end().await;
}

#[tokio::test]
async fn too_little_is_not_measurable_yet() {
    let rig = Rig::start().await;
    World { invoices: 100, ..WORLD }.happen(&rig).await;
    let report = report(&rig, "acme/lift").await;
    let verdict = &report["on_time"]["verdict"];
    assert_eq!((&verdict["verdict"], &verdict["n"]), (&"not_measurable".into(), &92.into()), "{verdict}");
    assert!(verdict["needed"].as_u64().unwrap() > 2_000, "{verdict}");
    let finding = report["finding"].as_str().unwrap();
    assert!(
        finding.starts_with("Not measurable yet: 92 of about ") && finding.ends_with("invoices needed."),
        "{finding}"
    );
    assert!(page(&rig, "acme/lift").await.contains(finding));

    let nobody = self::report(&rig, "globex/lift").await;
    assert_eq!((&nobody["on_time"]["verdict"]["n"], &nobody["campaigns"]), (&0.into(), &Value::Array(Vec::new())));
    assert!(page(&rig, "globex/lift").await.contains("Not measurable yet: 0 of about "));
    rig.end().await;
}

#[tokio::test]
async fn a_schedule_after_the_due_date_has_no_lift_on_time() {
    let rig = Rig::start().await;
    // Even if, by whatever mistake, the treated group looks better.
    World { invoices: 400, treated: 90, held_out: 10, reminds_before_due: false, ..WORLD }.happen(&rig).await;
    let report = report(&rig, "acme/lift").await;
    assert_eq!(report["on_time"]["verdict"]["verdict"], "zero_by_definition");
    assert_eq!(report["on_time"]["treated"]["n"], 0);
    assert_eq!((&report["left_out"]["decided_after_due"], &report["registered"]), (&400.into(), &Value::Null));
    let page = page(&rig, "acme/lift").await;
    assert!(
        page.contains("Exactly zero by definition") && page.contains("has exactly no effect, by definition"),
        "{page}"
    );
    rig.end().await;
}

#[tokio::test]
async fn order_and_repetition_do_not_matter() {
    let world = World { invoices: 300, ..WORLD };
    let Events { enrolments, invoices } = world.events();
    // Every third was enrolled in another campaign before; every fifth invoice was open, and a few end in another way.
    let before = |e: &v1::CaseEnrolled| {
        let due_on: Date = e.due_on.parse().unwrap();
        v1::CaseEnrolled {
            campaign: "earlier".into(),
            schedule: v1::Schedule::HeldOutInvoice.into(),
            arms: Vec::new(),
            enrolled_at: Some(time::to_wire(noon(due_on.checked_sub(15.days()).unwrap()))),
            ..e.clone()
        }
    };
    // Two of those that end have begun anew: an enrolment of a later epoch is of no other invoice.
    let anew = enrolments[6..8].iter().map(|e| v1::CaseEnrolled { epoch: 2, campaign: "later".into(), ..e.clone() });
    let enrolments: Vec<_> = enrolments.iter().step_by(3).map(before).chain(anew).chain(enrolments.clone()).collect();
    let open = (0..300).step_by(5).map(|n| {
        let mut event = world.invoice(n, None);
        event.invoice.as_mut().unwrap().version = 1;
        event
    });
    let mut ended: Vec<_> = (0..8).map(|n| world.invoice(n, None)).collect();
    for (n, event) in ended.iter_mut().enumerate() {
        let invoice = event.invoice.as_mut().unwrap();
        invoice.version = 3;
        match n {
            0..3 => invoice.status = v1::InvoiceStatus::Void.into(),
            3..5 => invoice.status = v1::InvoiceStatus::WrittenOff.into(),
            5 => invoice.disputed = true,
            _ => invoice.epoch = 2,
        }
    }
    let invoices: Vec<_> = open.chain(invoices.clone()).chain(ended).collect();

    let mut reports = Vec::new();
    for seed in [None, Some(1), Some(2)] {
        let rig = Rig::start().await;
        let times = if seed.is_some() { 2 } else { 1 };
        let emitted = times * (enrolments.len() + invoices.len());
        // Small units of work, so that what is shuffled also arrives in several batches.
        let mut enrolments = vec![enrolments.clone(); times].concat();
        let mut invoices = vec![invoices.clone(); times].concat();
        if let Some(seed) = seed {
            shuffle(&mut enrolments, seed);
            shuffle(&mut invoices, seed + 10);
        }
        for part in enrolments.chunks(90) {
            rig.emit(&SCHEDULER_CASES, at("2026-01-01T00:00:00Z"), part.to_vec()).await;
        }
        for part in invoices.chunks(90) {
            rig.emit(&INGEST_INTAKE, at("2026-01-01T00:00:00Z"), part.to_vec()).await;
        }
        rig.wait_for("inbox", emitted as i64).await;
        reports.push(report(&rig, "acme/lift").await);
        rig.end().await;
    }
    let first = &reports[0];
    assert_eq!(first["campaigns"], serde_json::json!(["adaptive"]), "the latest enrolment wins");
    let by = |treated: u32, held_out: u32, customers_held_out: u32| serde_json::json!({"treated": treated, "held_out": held_out, "customers_held_out": customers_held_out});
    // The first customer, with its eight invoices, is held out.
    assert_eq!(first["excluded"]["void"], by(0, 0, 3));
    assert_eq!(first["excluded"]["begun_anew"], by(0, 0, 2));
    assert_eq!((&first["written_off"], &first["disputed"]), (&by(0, 0, 2), &by(0, 0, 1)));
    assert!(reports.iter().all(|report| report == first), "{reports:#?}");
}

/// Fisher and Yates, with a hash as its chance.
fn shuffle<T>(list: &mut [T], seed: u64) {
    for n in (1..list.len()).rev() {
        let chance = kernel::id::stable_hash(&[&seed.to_string(), &n.to_string()]);
        list.swap(n, (chance % (n as u64 + 1)) as usize);
    }
}

#[tokio::test]
async fn guards_count_messages_and_opt_outs_and_know_no_complaints() {
    let rig = Rig::start().await;
    let world = World { invoices: 100, ..WORLD };
    world.happen(&rig).await;
    // Invoice 11 is treated, 13 is held out.
    let sent = |id: u128, n: u32, days_after_due: i64| {
        let sent_at = noon(world.due_on(n).checked_add(days_after_due.days()).unwrap());
        let line = v1::ReminderLine { invoice_id: format!("in_{n}"), epoch: 1, step: "s".into(), ..Default::default() };
        let event = v1::ReminderSent {
            reminder: Some(v1::Reminder {
                merchant_id: "acme".into(),
                reminder_id: Uuid::from_u128(id).to_string(),
                customer_id: "cus_1".into(),
                segment: v1::Segment::New.into(),
                lines: vec![line],
                ..Default::default()
            }),
            invoice_ids: vec![format!("in_{n}")],
            ..Default::default()
        };
        (sent_at, event)
    };
    for (sent_at, event) in [sent(1, 11, -5), sent(2, 11, 0), sent(3, 11, 3), sent(4, 13, 3)] {
        rig.emit(&NOTIFIER_SENDER, sent_at, [event]).await;
    }
    rig.wait_for("reminder_line", 4).await;
    let link = Link::Unsubscribe {
        merchant: "acme".parse().unwrap(),
        customer: "cus_1".parse().unwrap(),
        reminder: Uuid::from_u128(3),
    };
    assert_eq!(rig.client.post(rig.link(&link)).send().await.unwrap().status(), 200);

    let report = report(&rig, "acme/lift").await;
    let guards = &report["guards"];
    let effort = |of: &str| ["messages", "messages_by_due", "recovered"].map(|what| guards[of][what].as_u64().unwrap());
    assert_eq!(effort("treated"), [3, 2, 1]);
    assert_eq!(effort("held_out"), [1, 0, 1]);
    let treated = guards["opt_outs"]["treated"]["n"].as_f64().unwrap();
    assert!(treated < guards["treated"]["invoices"].as_f64().unwrap(), "30 days after the due date");
    assert_eq!(guards["opt_outs"]["treated"]["mean"].as_f64(), Some(1.0 / treated));
    assert_eq!(guards["opt_outs"]["held_out"]["mean"].as_f64(), Some(0.0));
    assert_eq!(guards["complaints"], Value::Null);
    let page = page(&rig, "acme/lift").await;
    assert!(page.contains("Complaints: not collected yet.") && !page.contains("<td>complained</td>"), "{page}");
    rig.end().await;
}

#[tokio::test]
async fn what_does_not_exist_is_a_problem() {
    let rig = Rig::start().await;
    World { invoices: 100, ..WORLD }.happen(&rig).await;
    for (of, status, code) in [
        ("nobody/lift", 404, "unknown-merchant"),
        ("Not%20an%20id/lift", 404, "unknown-merchant"),
        ("acme/lift?campaign=unheard-of", 404, "unknown-campaign"),
        ("acme/lift?colour=red", 400, "bad-query"),
    ] {
        for edge in ["/v1/merchants", "/merchants"] {
            let response = rig.client.get(format!("{}{edge}/{of}", rig.dashboard)).send().await.unwrap();
            let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
            let (found, problem) = (response.status().as_u16(), response.text().await.unwrap());
            assert_eq!((found, kind.as_str()), (status, "application/problem+json"), "{edge}/{of}: {problem}");
            let problem: Value = serde_json::from_str(&problem).unwrap();
            assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()));
        }
    }
    let one = report(&rig, "acme/lift?campaign=adaptive").await;
    assert_eq!((&one["campaign"], &one["on_time"]["verdict"]["n"]), (&"adaptive".into(), &92.into()));
    let (_, openapi) = rig.get(format!("{}/openapi.json", rig.dashboard)).await;
    assert!(openapi.contains("/v1/merchants/{merchant}/lift") && openapi.contains("not_measurable"));
    rig.end().await;
}

#[tokio::test]
async fn an_enrolment_that_would_spoil_the_figures_is_rejected() {
    let rig = Rig::start().await;
    let good = || WORLD.enrolment(1, v1::Schedule::HeldOutInvoice);
    let impossible = v1::Arm { propensity: 0.0, ..WORLD.enrolment(1, v1::Schedule::Adaptive).arms[0].clone() };
    let bad = [
        v1::CaseEnrolled { schedule: 99, ..good() },
        v1::CaseEnrolled { propensity: 1.5, ..good() },
        v1::CaseEnrolled { propensity: f64::NAN, ..good() },
        v1::CaseEnrolled { late: Some(-0.1), ..good() },
        v1::CaseEnrolled { due_on: "soon".into(), ..good() },
        v1::CaseEnrolled { enrolled_at: None, ..good() },
        v1::CaseEnrolled { arms: vec![impossible], ..good() },
    ];
    let count = bad.len() as i64;
    rig.emit(&SCHEDULER_CASES, at("2026-01-01T00:00:00Z"), bad).await;
    rig.emit(&SCHEDULER_CASES, at("2026-01-01T00:00:00Z"), [good()]).await;
    rig.wait_for("enrolment", 1).await;
    rig.wait_for("dead_letter", count).await;
    let unheard = &report(&rig, "acme/lift").await["excluded"]["unheard_of"];
    assert_eq!(unheard["held_out"], 1, "its invoice has not come yet");
    rig.end().await;
}

#[tokio::test]
async fn a_report_is_kept_for_a_minute_or_until_the_day_is_over() {
    let rig = Rig::start().await;
    World { invoices: 100, ..WORLD }.happen(&rig).await;
    let n = async || report(&rig, "acme/lift").await["on_time"]["verdict"]["n"].clone();
    assert_eq!(n().await, 92);
    let extra = World { invoices: 101, ..WORLD };
    rig.emit(&SCHEDULER_CASES, at("2026-01-01T00:00:00Z"), [extra.enrolment(100, v1::Schedule::Adaptive)]).await;
    rig.emit(&INGEST_INTAKE, at("2026-01-01T00:00:00Z"), [extra.invoice(100, None)]).await;
    rig.wait_for("enrolment", 101).await;
    rig.wait_for("invoice", 101).await;
    assert_eq!(n().await, 92, "made less than a minute ago");
    rig.clock.set(at("2026-06-20T22:00:00Z")); // midnight in Berlin
    assert_eq!(n().await, 93, "another day is another report");
    // That there is no such campaign is kept as well.
    let status = async || rig.get(format!("{}/v1/merchants/acme/lift?campaign=later", rig.dashboard)).await.0;
    assert_eq!(status().await, 404);
    let later = v1::CaseEnrolled { campaign: "later".into(), ..extra.enrolment(101, v1::Schedule::Adaptive) };
    rig.emit(&SCHEDULER_CASES, at("2026-01-01T00:00:00Z"), [later]).await;
    rig.wait_for("enrolment", 102).await;
    assert_eq!(status().await, 404, "made less than a minute ago");
    rig.clock.set(at("2026-06-21T22:00:00Z"));
    assert_eq!(status().await, 200);
    rig.end().await;
}
