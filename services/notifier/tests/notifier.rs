//! The notifier on a real bus, with a real Postgres and a mail server that keeps what it accepts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "notifier/phases.rs"]
mod phases;
#[path = "notifier/race.rs"]
mod race;

use events::topology::{INGEST_INTAKE, SCHEDULER_TIMERS, TRACKER_PAGES};
use events::{AnyEvent, Event, Flow, Service, time, v1};
use jiff::Timestamp;
use kernel::{Clock, ManualClock};
use notifier::config::SmtpSettings;
use notifier::kept::Kept;
use notifier::render::Templates;
use notifier::store::Imminent;
use runtime::{Host, Merchant, Merchants};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::smtp::{Mail, Phase, Reaction};
use testkit::{SmtpServer, TestSystem, system, wait};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);
/// A Wednesday, ten o'clock in Berlin.
const NOW: &str = "2026-06-10T08:00:00Z";
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

struct Rig {
    system: TestSystem,
    clock: ManualClock,
    smtp: SmtpServer,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    merchants: Merchants,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    _watermarks: DropGuard,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(Path::new("/nowhere")).await
    }

    async fn start_with(templates: &Path) -> Self {
        Self::start_as(system::merchant("acme", "Europe/Berlin").unwrap(), templates).await
    }

    async fn start_as(merchant: Merchant, templates: &Path) -> Self {
        let smtp = SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let settings = impatient(&smtp);
        Self::start_on(smtp, settings, merchant, templates).await
    }

    async fn start_by(smtp: SmtpServer, settings: SmtpSettings) -> Self {
        let merchant = system::merchant("acme", "Europe/Berlin").unwrap();
        Self::start_on(smtp, settings, merchant, Path::new("/nowhere")).await
    }

    async fn start_on(smtp: SmtpServer, settings: SmtpSettings, merchant: Merchant, templates: &Path) -> Self {
        let others = [Service::Ingest, Service::Scheduler, Service::Tracker];
        let mut services: Vec<_> = others.map(|s| (s, &*NO_MIGRATIONS)).to_vec();
        services.push((Service::Notifier, &notifier::MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at(NOW));
        let mut merchants = Merchants::default();
        merchants.insert(merchant);
        merchants.insert(system::merchant("few", "Europe/Berlin").unwrap());
        let mut producers = BTreeMap::new();
        for service in others {
            producers.insert(service, system.host(service, &merchants, Arc::new(clock.clone())).await.unwrap());
        }
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let (stop, running) = notifier_by(settings, templates, &system, &merchants, &clock).await;
        let told = CancellationToken::new();
        tokio::spawn(bus::watermark::tell(producers[&Service::Ingest].bus.clone(), told.clone()));
        let _watermarks = told.drop_guard();
        Self { system, clock, smtp, producers, pool, merchants, stop, running, _watermarks }
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    async fn wait_for(&self, what: &str, expected: i64) {
        wait::until_true(&format!("{expected} of {what}"), SOON, || async {
            let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM notifier.{what}"));
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool).await.unwrap() == expected
        })
        .await;
    }

    async fn mails(&self, expected: usize) -> Vec<Arc<Mail>> {
        wait::until_true(&format!("{expected} mails"), SOON, || async { self.smtp.count() >= expected }).await;
        let mails = self.smtp.mails();
        assert_eq!(mails.len(), expected);
        mails
    }

    /// What was told about reminders: event and reason.
    async fn told(&self) -> Vec<String> {
        let events = self.system.emitted(Service::Notifier).await.unwrap();
        let tell = |e| match e {
            AnyEvent::ReminderSent(e) => format!("sent {}", e.invoice_ids.join(",")),
            AnyEvent::ReminderSuppressed(e) => format!("suppressed {}", e.reason),
            AnyEvent::ReminderFailed(e) => format!("failed {} {}", e.reason, e.status_code).trim().to_owned(),
            AnyEvent::ReminderUnknown(e) => format!("unknown {}", e.reason),
            other => format!("{other:?}"),
        };
        events.into_iter().map(tell).collect()
    }

    async fn wait_for_told(&self, expected: &[&str]) {
        let mut last = Vec::new();
        let begun = std::time::Instant::now();
        while begun.elapsed() < SOON {
            last = self.told().await;
            if last == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(last, expected);
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

type Running = (CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>);

async fn notifier(system: &TestSystem, merchants: &Merchants, clock: &ManualClock, smtp: &SmtpServer) -> Running {
    notifier_by(impatient(smtp), Path::new("/nowhere"), system, merchants, clock).await
}

fn impatient(smtp: &SmtpServer) -> SmtpSettings {
    SmtpSettings {
        connections: 4,
        hello_seconds: 1,
        envelope_seconds: 1,
        data_seconds: 1,
        reply_seconds: 2,
        ..SmtpSettings::new("127.0.0.1", smtp.address.port())
    }
}

async fn notifier_by(
    settings: SmtpSettings,
    templates: &Path,
    system: &TestSystem,
    merchants: &Merchants,
    clock: &ManualClock,
) -> Running {
    let host = system.host(Service::Notifier, merchants, Arc::new(clock.clone())).await.unwrap();
    notifier_on(host, settings, templates).await
}

async fn notifier_on(host: Host, settings: SmtpSettings, templates: &Path) -> Running {
    let templates = Templates::load(templates).unwrap();
    let mut config = notifier::Config::new(settings);
    // Bad addresses are part of many tests: only a sending domain that has no others is stopped.
    config.limits.bounce_percent = 100.0;
    // The clock stands still: nobody's turn would come.
    config.limits.domain_per_second = 0;
    let service = notifier::build(config, templates, host).await.unwrap();
    let stop = CancellationToken::new();
    (stop.clone(), tokio::spawn(service.run(stop)))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn invoice(id: &str, version: i64, open_minor: i64) -> v1::Invoice {
    let status = if open_minor > 0 { v1::InvoiceStatus::Open } else { v1::InvoiceStatus::Paid };
    v1::Invoice {
        merchant_id: "acme".into(),
        invoice_id: id.into(),
        customer_id: "cus_1".into(),
        version,
        epoch: 1,
        status: status.into(),
        number: format!("R-{id}"),
        currency: "EUR".into(),
        total_minor: 123_450,
        open_minor,
        issued_on: "2026-05-01".into(),
        due_on: "2026-06-01".into(),
        pay_url: format!("https://pay.example.com/{id}"),
        bill_to_name: "Ada Lovelace".into(),
        bill_to_email: "ada@example.com".into(),
        ..Default::default()
    }
}

fn issued(id: &str) -> v1::InvoiceIssued {
    v1::InvoiceIssued { invoice: Some(invoice(id, 1, 123_450)) }
}

fn received(id: &str, version: i64, open_minor: i64) -> v1::PaymentReceived {
    v1::PaymentReceived { invoice: Some(invoice(id, version, open_minor)), ..Default::default() }
}

fn due(invoices: &[&str]) -> v1::ReminderDue {
    let lines = invoices.iter().enumerate().map(|(n, id)| v1::ReminderLine {
        invoice_id: (*id).into(),
        epoch: 1,
        step: "overdue-7".into(),
        invoice_version: 1,
        carries: n == 0,
        tone: if n == 0 { v1::Tone::Final } else { v1::Tone::Friendly }.into(),
        ..Default::default()
    });
    v1::ReminderDue {
        reminder: Some(v1::Reminder {
            merchant_id: "acme".into(),
            reminder_id: kernel::id::at(at(NOW)).to_string(),
            customer_id: "cus_1".into(),
            campaign: "default".into(),
            campaign_version: "1".into(),
            step: "overdue-7".into(),
            tone: v1::Tone::Final.into(),
            currency: "EUR".into(),
            lines: lines.collect(),
            segment: v1::Segment::New.into(),
            ..Default::default()
        }),
        due_at: Some(time::to_wire(at(NOW))),
        contact_hours: Some(v1::ContactHours {
            time_zone: "Europe/Berlin".into(),
            weekdays: 0b1_1111,
            opens_minute: 9 * 60,
            closes_minute: 18 * 60,
            closed_on: Vec::new(),
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_reminder_says_who_what_when_and_how_to_pay() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let request = due(&["in_1"]);
    let id = request.reminder.as_ref().unwrap().reminder_id.clone();
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    let mails = rig.mails(1).await;
    let parsed = mail_parser::MessageParser::default().parse(&mails[0].data).unwrap();
    assert_eq!(parsed.subject(), Some("Last reminder: invoice R-in_1 from acme Ltd, €1,234.50 open"));
    assert_eq!(parsed.message_id(), Some(format!("{id}@acme.example").as_str()));
    assert_eq!(mails[0].to, ["ada@example.com"]);
    let (text, html) = bodies(&mails[0]);
    for body in [text, html] {
        for expected in
            ["Ada Lovelace", "R-in_1", "€1,234.50", "1 June 2026", "http://127.0.0.1:9/p/", "Anna from acme"]
        {
            assert!(body.contains(expected), "{expected:?} is missing in\n{body}");
        }
    }
    let header = |name| mails[0].headers(name).join("");
    assert!(header("List-Unsubscribe").starts_with("<http://127.0.0.1:9/u/"), "{}", header("List-Unsubscribe"));
    assert_eq!(header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    assert_eq!(header("Auto-Submitted"), "auto-generated");
    assert_eq!(header("Dunlin-Steps"), "in_1/1/overdue-7");
    rig.wait_for_told(&["sent in_1"]).await;

    // Kept as it was sent, for support.
    let (recipient, raw) =
        notifier::store::find_message(&rig.pool, id.parse::<Uuid>().unwrap()).await.unwrap().unwrap();
    assert_eq!((recipient.reveal().as_str(), raw.reveal()), ("ada@example.com", &mails[0].data));
    rig.end().await;
}

#[tokio::test]
async fn nothing_goes_out_after_the_payment_and_partial_payments_show() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, ["in_1", "in_2", "in_3"].map(issued)).await;
    rig.emit(&INGEST_INTAKE, [received("in_1", 2, 0), received("in_2", 2, 23_450)]).await;
    rig.wait_for("balance WHERE version = 2", 2).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["suppressed paid"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1", "in_2", "in_3"])]).await;
    let mails = rig.mails(1).await;
    let text = mail_parser::MessageParser::default().parse(&mails[0].data).unwrap().body_text(0).unwrap().into_owned();
    assert!(text.contains("(€1,234.50, of which €1,000.00 is paid)"), "{text}");
    assert!(text.contains("Invoice R-in_2: €234.50") && text.contains("Invoice R-in_3: €1,234.50"), "{text}");
    assert!(text.contains("€1,469.00") && !text.contains("R-in_1"), "{text}");
    rig.wait_for_told(&["suppressed paid", "sent in_2,in_3"]).await;
    rig.end().await;
}

/// Reminders that are claimed in this order.
fn one_after_the_other<'a>(invoices: impl IntoIterator<Item = &'a str>) -> Vec<v1::ReminderDue> {
    let due_at = |n: usize| at("2026-06-10T07:00:00Z") + jiff::SignedDuration::from_secs(n as i64);
    let reminders = invoices.into_iter().enumerate();
    reminders.map(|(n, id)| v1::ReminderDue { due_at: Some(time::to_wire(due_at(n))), ..due(&[id]) }).collect()
}

/// What follows on a connection begins behind the end of the mail before: a payment is seen all the same.
#[tokio::test]
async fn a_payment_is_seen_by_a_mail_that_has_begun_behind_another() {
    let smtp = SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let settings = SmtpSettings { connections: 1, reply_seconds: 9, ..impatient(&smtp) };
    let rig = Rig::start_by(smtp, settings).await;
    rig.emit(&INGEST_INTAKE, ["in_1", "in_2", "in_3"].map(issued)).await;
    rig.wait_for("balance", 3).await;
    // The server takes its time over the first end, when the next has begun, if it has.
    let ends = AtomicUsize::new(0);
    rig.smtp.script(move |phase, _| match phase {
        Phase::Dot if ends.fetch_add(1, Ordering::Relaxed) == 0 => Reaction::Delay(Duration::from_millis(600)),
        _ => Reaction::Proceed,
    });
    rig.emit(&SCHEDULER_TIMERS, one_after_the_other(["in_1", "in_2", "in_3"])).await;
    rig.wait_for("delivery WHERE state = 'imminent'", 1).await;
    rig.emit(&INGEST_INTAKE, [received("in_2", 2, 0)]).await;
    wait::until_true("the ends", SOON, || async { rig.told().await.len() == 3 }).await;
    let mut told = rig.told().await;
    told.sort();
    assert_eq!(told, ["sent in_1", "sent in_3", "suppressed paid"]);
    assert_eq!(rig.mails(2).await.len(), 2);
    assert_eq!(rig.smtp.connections(), 2, "inside DATA there is no other way back than to hang up");
    rig.end().await;
}

#[tokio::test]
async fn what_was_to_follow_a_mail_that_takes_its_time_goes_by_another_connection() {
    let smtp = SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let settings = SmtpSettings { connections: 3, reply_seconds: 9, ..impatient(&smtp) };
    let rig = Rig::start_by(smtp, settings).await;
    let invoices: Vec<String> = (0..12).map(|n| format!("in_{n}")).collect();
    let of = |customer: &str, invoice| v1::Invoice { bill_to_email: customer.to_owned(), ..invoice };
    let slow = of("slow@slow.example", invoice("slow", 1, 123_450));
    let others = invoices.iter().map(|id| of(&format!("x@{id}.example").replace('_', "-"), invoice(id, 1, 123_450)));
    let all = std::iter::once(slow).chain(others);
    rig.emit(&INGEST_INTAKE, all.map(|i| v1::InvoiceIssued { invoice: Some(i) })).await;
    rig.wait_for("balance", 13).await;
    rig.smtp.script(|phase, to| match (phase, to) {
        (Phase::Dot, [to]) if to == "slow@slow.example" => Reaction::Delay(Duration::from_secs(6)),
        _ => Reaction::Proceed,
    });
    let ids = std::iter::once("slow").chain(invoices.iter().map(String::as_str));
    rig.emit(&SCHEDULER_TIMERS, one_after_the_other(ids)).await;
    rig.wait_for("delivery WHERE state = 'handed_off'", 12).await;
    rig.wait_for("delivery WHERE state = 'imminent'", 1).await;
    rig.wait_for("delivery WHERE state = 'handed_off'", 13).await;
    assert_eq!(rig.mails(13).await.last().unwrap().to, ["slow@slow.example"]);
    rig.end().await;
}

/// An index that goes by a column which a claim or a permit writes makes both write all indexes.
#[tokio::test]
async fn claims_and_permits_change_no_index() {
    let rig = Rig::start().await;
    let sql = "SELECT array_agg(DISTINCT a.attname::text ORDER BY a.attname::text)
               FROM pg_index AS i
               JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
               JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
               WHERE i.indrelid = 'notifier.delivery'::regclass";
    let by: Vec<String> = sqlx::query_scalar(sql).fetch_one(&rig.pool).await.unwrap();
    let written = ["state", "owner", "attempts", "held_since", "reason", "tries", "status_code"];
    assert!(by.contains(&"open".to_owned()) && by.contains(&"unknown".to_owned()), "predicates are seen: {by:?}");
    assert!(written.iter().all(|column| !by.contains(&(*column).to_owned())), "{by:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_payment_between_rendering_and_the_dot_is_seen() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, ["in_1", "in_2"].map(issued)).await;
    rig.wait_for("balance", 2).await;
    // The server takes its time over DATA: the mail is rendered by then, its dot not written.
    rig.smtp.script(
        |phase, _| if phase == Phase::Data { Reaction::Delay(Duration::from_millis(400)) } else { Reaction::Proceed },
    );
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"]), due(&["in_1", "in_2"])]).await;
    rig.wait_for("delivery WHERE state = 'claimed'", 2).await;
    rig.emit(&INGEST_INTAKE, [received("in_1", 2, 0)]).await;
    rig.wait_for("balance WHERE version = 2", 1).await;
    let mails = rig.mails(1).await;
    let steps = mails[0].headers("Dunlin-Steps").join("");
    assert_eq!(steps, "in_2/1/overdue-7", "rendered anew without the paid invoice");
    let parsed = mail_parser::MessageParser::default().parse(&mails[0].data).unwrap();
    let subject = parsed.subject().unwrap();
    assert!(!subject.contains("Last reminder"), "that was how the paid one would have spoken: {subject}");
    wait::until_true("both ends", SOON, || async { rig.told().await.len() == 2 }).await;
    let mut told = rig.told().await;
    told.sort();
    assert_eq!(told, ["sent in_2", "suppressed paid"]);
    rig.wait_for("message", 1).await;
    rig.wait_for("message JOIN notifier.delivery ON id = delivery WHERE state = 'handed_off'", 1).await;
    rig.end().await;
}

fn unsubscribed() -> v1::CustomerResponded {
    v1::CustomerResponded {
        merchant_id: "acme".into(),
        customer_id: "cus_1".into(),
        kind: v1::ResponseKind::Unsubscribed.into(),
        ..Default::default()
    }
}

/// An address that nothing reaches is a reason to go on by another channel; a wish is none.
#[tokio::test]
async fn a_wish_goes_before_a_bounce_at_the_dot() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let bounced = "INSERT INTO notifier.suppression
                   SELECT merchant, 'email', 'address:' || lower(bill_to_email), 'bounced', '', now() FROM notifier.balance";
    assert_eq!(sqlx::query(bounced).execute(&rig.pool).await.unwrap().rows_affected(), 1);
    rig.smtp.script(
        |phase, _| if phase == Phase::Data { Reaction::Delay(Duration::from_millis(400)) } else { Reaction::Proceed },
    );
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE state = 'claimed'", 1).await;
    rig.emit(&TRACKER_PAGES, [unsubscribed()]).await;
    rig.wait_for_told(&["suppressed unsubscribed"]).await;
    rig.mails(0).await;
    rig.end().await;
}

#[tokio::test]
async fn an_unsubscribed_customer_hears_nothing_more() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.emit(&TRACKER_PAGES, [unsubscribed()]).await;
    rig.wait_for("balance", 1).await;
    rig.wait_for("suppression", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["suppressed unsubscribed"]).await;
    assert_eq!(rig.smtp.count(), 0);
    rig.end().await;
}

#[tokio::test]
async fn reminders_wait_for_balances_and_contact_hours() {
    let rig = Rig::start().await;
    rig.clock.set(at("2026-06-12T18:00:00Z")); // Friday evening
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE reason = 'balance_unknown'", 1).await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for(
        "delivery WHERE state = 'waiting' AND reason = 'contact_hours' AND next_attempt_at = '2026-06-15T07:00:00Z'",
        1,
    )
    .await;
    assert_eq!(rig.smtp.count(), 0);
    rig.clock.set(at("2026-06-15T07:00:00Z"));
    rig.mails(1).await;
    rig.wait_for_told(&["sent in_1"]).await;
    rig.end().await;
}

#[tokio::test]
async fn refusals_end_or_wait_and_bad_addresses_are_not_tried_again() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.smtp
        .script(|phase, _| if phase == Phase::Dot { Reaction::Reply("451 4.3.0 later") } else { Reaction::Proceed });
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE state = 'waiting' AND attempts = 1 AND status_code = '451 4.3.0'", 1).await;
    rig.smtp.script(|_, _| Reaction::Proceed);
    rig.clock.set(at("2026-06-10T08:05:00Z"));
    rig.mails(1).await;

    rig.smtp.script(
        |phase, _| if phase == Phase::Recipient { Reaction::Reply("550 5.1.1 who?") } else { Reaction::Proceed },
    );
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["sent in_1", "failed refused 550 5.1.1"]).await;
    rig.smtp.script(|_, _| Reaction::Proceed);
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["sent in_1", "failed refused 550 5.1.1", "suppressed bad_address"]).await;
    assert_eq!(rig.smtp.count(), 1);
    rig.end().await;
}

#[tokio::test]
async fn bad_addresses_and_missing_ones_have_named_ends() {
    let rig = Rig::start().await;
    let with_email = |id: &str, email: &str| v1::InvoiceIssued {
        invoice: Some(v1::Invoice {
            bill_to_email: email.into(),
            bill_to_name: "Eve\r\nBcc: all@example.com".into(),
            ..invoice(id, 1, 100)
        }),
    };
    rig.emit(
        &INGEST_INTAKE,
        [with_email("in_1", ""), with_email("in_2", "nobody at home"), with_email("in_3", "eve@example.com")],
    )
    .await;
    rig.wait_for("balance", 3).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["failed no_address"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_2"])]).await;
    rig.wait_for_told(&["failed no_address", "failed bad_address"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_3"])]).await;
    let mails = rig.mails(1).await;
    assert_eq!(mails[0].headers("Bcc"), [] as [&str; 0], "a name cannot start a header");
    assert_eq!(mails[0].to, ["eve@example.com"]);
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_unknown_and_never_sent_again() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.smtp.script(|phase, _| if phase == Phase::Dot { Reaction::AcceptAndClose } else { Reaction::Proceed });
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["unknown no_reply"]).await;
    rig.clock.set(at("2026-06-17T08:00:00Z"));
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await; // another reminder still goes
    rig.mails(2).await;
    rig.end().await;
}

/// A delivery as a sender has left it behind.
async fn left_behind(rig: &Rig, request: &v1::ReminderDue, state: &str, owner: Uuid) {
    sqlx::query(
        "INSERT INTO notifier.delivery
             (id, merchant, customer, channel, request, invoices, state, next_attempt_at, owner, attempts, created_at)
         VALUES ($1, 'acme', 'cus_1', 'email', $2, '{in_1}', $3, now() - interval '1 year', $4, 1, now())",
    )
    .bind(request.reminder.as_ref().unwrap().reminder_id.parse::<Uuid>().unwrap())
    .bind(prost::Message::encode_to_vec(request))
    .bind(state)
    .bind(owner)
    .execute(&rig.pool)
    .await
    .unwrap();
}

/// A sender whose lease ended so long ago.
async fn lease_ended(rig: &Rig, owner: Uuid, ago: &str) {
    sqlx::query("INSERT INTO notifier.sender VALUES ($1, now() - $2::text::interval)")
        .bind(owner)
        .bind(ago)
        .execute(&rig.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_dead_sender_held_is_taken_over() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let rig = Rig { running: tokio::spawn(async { Ok(()) }), ..rig };
    // One that has lived once, and one that has died before it could say so.
    let (dead, unheard_of) = (Uuid::from_u128(7), Uuid::from_u128(8));
    lease_ended(&rig, dead, "1 hour").await;
    for owner in [dead, unheard_of] {
        left_behind(&rig, &due(&["in_1"]), "claimed", owner).await;
        left_behind(&rig, &due(&["in_1"]), "imminent", owner).await;
    }
    let (stop, running) = notifier(&rig.system, &rig.merchants, &rig.clock, &rig.smtp).await;
    let rig = Rig { stop, running, ..rig };
    rig.mails(2).await;
    wait::until_true("all ends", SOON, || async { rig.told().await.len() == 4 }).await;
    let mut told = rig.told().await;
    told.sort();
    let expected = ["sent in_1", "sent in_1", "unknown crashed", "unknown crashed"];
    assert_eq!(told, expected, "the dot may have been written: never again");
    rig.end().await;
}

/// A claim that was committed unheard is in nobody's hands, and its owner lives.
#[tokio::test]
async fn a_claim_that_was_forgotten_ends() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let alive = Uuid::from_u128(7);
    lease_ended(&rig, alive, "-1 day").await;
    for state in ["claimed", "imminent"] {
        left_behind(&rig, &due(&["in_1"]), state, alive).await;
    }
    sqlx::query("UPDATE notifier.delivery SET held_since = now() - interval '61 minutes'")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.mails(1).await;
    rig.wait_for("delivery WHERE state = 'handed_off'", 1).await;
    rig.wait_for("delivery WHERE state = 'unknown'", 1).await;
    rig.end().await;
}

/// It is told that it may be unknown whether it was sent, somebody finds out that it was not and sends it again: then the
/// first sender must not go on where it fell asleep.
#[tokio::test]
async fn a_sender_that_slept_after_t1_does_not_write_the_dot() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let rig = Rig { running: tokio::spawn(async { Ok(()) }), ..rig };
    let host = rig.system.host(Service::Notifier, &rig.merchants, Arc::new(rig.clock.clone())).await.unwrap();
    let slow_pool = host.pool.clone();
    let (stop_slow, slow) = notifier_on(host, impatient(&rig.smtp), Path::new("/nowhere")).await;

    // It sleeps because it gets no connection for T2: we wait for them all while T1 waits for us.
    let mut before_t1 = rig.pool.begin().await.unwrap();
    let request = due(&["in_1"]);
    sqlx::query(
        "INSERT INTO notifier.message (delivery, recipient, raw, rendered_at) VALUES ($1::text::uuid, '', '', now())",
    )
    .bind(&request.reminder.as_ref().unwrap().reminder_id)
    .execute(&mut *before_t1)
    .await
    .unwrap();
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    wait::until_true("T1", SOON, || async {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%notifier.message%'";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&rig.pool).await.unwrap() == 1
    })
    .await;
    let size = slow_pool.options().get_max_connections();
    let mut waiting = JoinSet::new();
    for _ in 0..size {
        let pool = slow_pool.clone();
        waiting.spawn(async move { pool.acquire().await.unwrap() });
    }
    let mut taken = Vec::new();
    while taken.len() + 1 < size as usize {
        taken.push(waiting.join_next().await.unwrap().unwrap());
    }
    before_t1.rollback().await.unwrap();
    taken.push(waiting.join_next().await.unwrap().unwrap());
    rig.wait_for("delivery WHERE state = 'imminent'", 1).await;

    let (stop, running) = notifier(&rig.system, &rig.merchants, &rig.clock, &rig.smtp).await;
    rig.wait_for("delivery WHERE held_since < clock_timestamp() - interval '4 seconds'", 1).await;
    let lapse = "UPDATE notifier.sender SET alive_until = now() - interval '5 seconds'
                 WHERE owner = (SELECT owner FROM notifier.delivery)";
    sqlx::query(lapse).execute(&rig.pool).await.unwrap();
    rig.wait_for_told(&["unknown crashed"]).await;
    let again = "UPDATE notifier.delivery SET state = 'waiting', owner = NULL, settled_at = NULL";
    sqlx::query(again).execute(&rig.pool).await.unwrap();
    rig.wait_for_told(&["unknown crashed", "sent in_1"]).await;
    drop(taken);
    stop_slow.cancel();
    slow.await.unwrap().unwrap();
    rig.mails(1).await;
    let rig = Rig { stop, running, ..rig };
    rig.end().await;
}

#[tokio::test]
async fn without_a_lease_nothing_is_claimed_and_a_lapse_is_not_death() {
    let rig = Rig::start().await;
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let rig = Rig { running: tokio::spawn(async { Ok(()) }), ..rig };
    let (slow, new) = (Uuid::from_u128(7), Uuid::from_u128(8));
    lease_ended(&rig, slow, "2 seconds").await;
    left_behind(&rig, &due(&["in_1"]), "imminent", slow).await;
    left_behind(&rig, &due(&["in_1"]), "waiting", slow).await;
    let mut tx = rig.pool.begin().await.unwrap();
    assert_eq!(notifier::store::take_over(&mut tx, at(NOW)).await.unwrap().len(), 0, "it may only be late");
    let shares = [("acme".parse().unwrap(), 9)];
    let mut claimed =
        async |owner| notifier::store::claim(&mut tx, owner, &shares, Timestamp::MAX).await.unwrap().len();
    assert_eq!((claimed(slow).await, claimed(new).await), (0, 0));
    notifier::store::heartbeat(&mut tx, new, 6.0).await.unwrap();
    let claimed = notifier::store::claim(&mut tx, new, &shares, Timestamp::MAX).await.unwrap();
    assert_eq!(claimed.len(), 1);
    let message = Imminent {
        delivery: claimed[0].id,
        attempts: claimed[0].attempts,
        recipient: "a@b.example",
        message: &Kept::of(b""),
    };
    notifier::store::heartbeat(&mut tx, new, -1.0).await.unwrap();
    let marked = notifier::store::mark_imminent(&mut tx, new, &[message], at(NOW)).await.unwrap();
    assert!(marked.is_empty(), "others may take it over before its dot");
    notifier::store::heartbeat(&mut tx, new, 6.0).await.unwrap();
    let held_long = "UPDATE notifier.delivery SET held_since = now() - interval '2 hours' WHERE id = $1";
    sqlx::query(held_long).bind(message.delivery).execute(&mut *tx).await.unwrap();
    let marked = notifier::store::mark_imminent(&mut tx, new, &[message], at(NOW)).await.unwrap();
    assert_eq!(marked.len(), 1);
    assert_eq!(notifier::store::take_over(&mut tx, at(NOW)).await.unwrap().len(), 0, "not before its dot");
}

#[tokio::test]
async fn the_lease_lasts_until_the_last_answer_is_recorded() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.smtp.script(|phase, _| {
        if phase == Phase::Dot { Reaction::Delay(Duration::from_millis(1_800)) } else { Reaction::Proceed }
    });
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE state = 'imminent'", 1).await;
    let lease = async || {
        let until = sqlx::query_scalar("SELECT max(alive_until) FROM notifier.sender").fetch_one(&rig.pool).await;
        let until: jiff_sqlx::Timestamp = until.unwrap();
        until.to_jiff()
    };
    rig.stop.cancel();
    let before = lease().await;
    wait::until_true("a heartbeat", Duration::from_millis(1_500), || async { lease().await > before }).await;
    rig.wait_for_told(&["sent in_1"]).await;
    rig.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn waiting_for_ourselves_does_not_wear_a_delivery_out() {
    let rig = Rig::start().await;
    rig.smtp
        .script(|phase, _| if phase == Phase::Dot { Reaction::Reply("451 4.3.0 later") } else { Reaction::Proceed });
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE attempts > 45 AND tries = 0", 1).await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for(
        "delivery WHERE state = 'waiting' AND status_code = '451 4.3.0' AND tries = 1
             AND next_attempt_at = '2026-06-10T08:05:00Z'",
        1,
    )
    .await;
    rig.end().await;
}

#[tokio::test]
async fn a_permit_that_comes_too_late_is_asked_for_again_at_once() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let mut payment = rig.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM notifier.balance FOR UPDATE").execute(&mut *payment).await.unwrap();
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE state = 'imminent'", 1).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    payment.rollback().await.unwrap();
    rig.mails(1).await;
    rig.wait_for("delivery WHERE state = 'handed_off' AND tries = 0", 1).await;
    rig.end().await;
}

#[tokio::test]
async fn words_that_cannot_be_stored_stop_nobody() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let answers = |words: &'static str| {
        rig.smtp.script(move |phase, _| if phase == Phase::Dot { Reaction::Reply(words) } else { Reaction::Proceed });
    };
    answers("250 2.0.0 queued\0as 1");
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE accepted_as = '2.0.0 queued as 1'", 1).await;

    // Whatever else the database may not like: the verdict stands, and the others with it.
    sqlx::query("ALTER TABLE notifier.delivery ADD CHECK (accepted_as NOT LIKE '%poison%')")
        .execute(&rig.pool)
        .await
        .unwrap();
    answers("250 2.0.0 poison");
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"]), due(&["in_1"])]).await;
    rig.wait_for_told(&["sent in_1"; 3]).await;
    rig.wait_for("delivery WHERE accepted_as = '' AND status_code = '250 2.0.0'", 2).await;
    rig.end().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_no_refusal() {
    const WORKERS: usize = 4;
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let (connections, mails, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let goodbye = refused.clone();
    rig.smtp.script(move |phase, _| {
        match phase {
            Phase::Greeting => _ = connections.fetch_add(1, Ordering::Relaxed),
            // The first message on a connection that had one before.
            Phase::Mail
                if mails.fetch_add(1, Ordering::Relaxed) == connections.load(Ordering::Relaxed)
                    && goodbye.fetch_add(1, Ordering::Relaxed) == 0 =>
            {
                return Reaction::Reply("421 4.4.2 idle too long");
            }
            _ => {}
        }
        Reaction::Proceed
    });
    for n in 1..=WORKERS + 1 {
        rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
        rig.mails(n).await;
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "no connection was used again");
    rig.wait_for("delivery WHERE state = 'handed_off' AND tries = 0", WORKERS as i64 + 1).await;
    rig.end().await;
}

#[tokio::test]
async fn a_merchant_that_is_not_configured_here_is_waited_for() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let (stop, running) = notifier(&rig.system, &Merchants::default(), &rig.clock, &rig.smtp).await;
    let rig = Rig { stop, running, ..rig };
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE state = 'waiting' AND reason = 'merchant_unknown'", 1).await;
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let (stop, running) = notifier(&rig.system, &rig.merchants, &rig.clock, &rig.smtp).await;
    let rig = Rig { stop, running, ..rig };
    rig.clock.set(at("2026-06-10T08:01:00Z"));
    rig.mails(1).await;
    rig.wait_for_told(&["sent in_1"]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_stored_request_that_cannot_be_read_ends_and_holds_nobody_up() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let rig = Rig { running: tokio::spawn(async { Ok(()) }), ..rig };
    let dead = Uuid::from_u128(7);
    lease_ended(&rig, dead, "1 hour").await;
    let hoursless = v1::ReminderDue { contact_hours: None, ..due(&["in_1"]) };
    left_behind(&rig, &hoursless, "waiting", dead).await;
    left_behind(&rig, &due(&["in_1"]), "imminent", dead).await;
    sqlx::query("UPDATE notifier.delivery SET request = 'garbage' WHERE state = 'imminent'")
        .execute(&rig.pool)
        .await
        .unwrap();
    left_behind(&rig, &due(&["in_1"]), "imminent", dead).await;
    let (stop, running) = notifier(&rig.system, &rig.merchants, &rig.clock, &rig.smtp).await;
    let rig = Rig { stop, running, ..rig };
    rig.wait_for_told(&["failed unreadable", "unknown crashed", "unknown crashed"]).await;
    rig.wait_for("delivery WHERE state IN ('claimed', 'waiting', 'imminent')", 0).await;
    rig.end().await;
}

#[tokio::test]
async fn holidays_are_waited_for_and_malformed_ones_refused() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let closed_on = |date: &str| {
        let mut request = due(&["in_1"]);
        request.contact_hours.as_mut().unwrap().closed_on = vec!["2026-06-11".into(), date.into()];
        request
    };
    rig.emit(&SCHEDULER_TIMERS, [closed_on("10.6.2026")]).await;
    rig.wait_for("dead_letter WHERE reason LIKE '%contact_hours%'", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [closed_on("2026-06-10")]).await;
    rig.wait_for("delivery WHERE reason = 'contact_hours' AND next_attempt_at = '2026-06-12T07:00:00Z'", 1).await;
    rig.clock.set(at("2026-06-11T10:00:00Z"));
    rig.clock.set(at("2026-06-12T07:00:00Z"));
    rig.mails(1).await;
    rig.end().await;
}

#[tokio::test]
async fn a_channel_from_the_future_fails_by_name() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    let by = |channel: i32| {
        let mut request = due(&["in_1"]);
        request.reminder.as_mut().unwrap().channel = channel;
        request
    };
    rig.emit(&SCHEDULER_TIMERS, [by(99)]).await;
    rig.wait_for_told(&["failed channel"]).await;
    rig.wait_for("delivery WHERE channel = 'unknown' AND state = 'failed'", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [by(v1::Channel::Email.into())]).await;
    rig.wait_for_told(&["failed channel", "sent in_1"]).await;
    rig.end().await;
}

/// A directory of templates that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("dunlin-templates-{}", kernel::id::new(&kernel::SystemClock)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A reminder of invoices, each with its template; the first line carries.
fn due_by(lines: &[(&str, &str)]) -> v1::ReminderDue {
    let invoices: Vec<_> = lines.iter().map(|(invoice, _)| *invoice).collect();
    let mut request = due(&invoices);
    let reminder = request.reminder.as_mut().unwrap();
    reminder.template = lines[0].1.into();
    for (line, (_, template)) in reminder.lines.iter_mut().zip(lines) {
        line.template = (*template).into();
    }
    request
}

fn speaks(locale: &str) -> v1::CustomerChanged {
    v1::CustomerChanged {
        customer: Some(v1::Customer {
            merchant_id: "acme".into(),
            customer_id: "cus_1".into(),
            version: 1,
            name: "Ada".into(),
            email: "ada@example.com".into(),
            locale: locale.into(),
            ..Default::default()
        }),
    }
}

fn subject(mail: &Mail) -> String {
    mail_parser::MessageParser::default().parse(&mail.data).unwrap().subject().unwrap().to_owned()
}

/// Text and HTML, with character references as characters.
fn bodies(mail: &Mail) -> (String, String) {
    let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
    let html = parsed.body_html(0).unwrap();
    let character = |part: &str| match part.split_once(';') {
        Some((code, rest)) => format!("{}{rest}", char::from_u32(code.parse().unwrap()).unwrap()),
        None => part.to_owned(),
    };
    let mut parts = html.split("&#");
    let html = parts.next().unwrap().to_owned() + &parts.map(character).collect::<String>();
    (parsed.body_text(0).unwrap().replace("\r\n", "\n"), html)
}

#[tokio::test]
async fn templates_are_found_by_name_and_language() {
    let directory = Directory::new();
    for (file, text) in [
        ("nudge.subject", "Nudge"),
        ("nudge.opening", "we nudge."),
        ("nudge.de.subject", "Anstups"),
        ("nudge.de.opening", "wir stupsen an."),
        ("shove.subject", "Shove"),
        ("shove.opening", "we shove."),
        ("half.subject", "Half"),
    ] {
        directory.write(file, text);
    }
    let rig = Rig::start_with(&directory.0).await;
    rig.emit(&INGEST_INTAKE, [issued("in_1"), issued("in_2")]).await;
    rig.wait_for("balance", 2).await;
    rig.emit(&SCHEDULER_TIMERS, [due_by(&[("in_1", "nudge")])]).await;
    assert_eq!(subject(&rig.mails(1).await[0]), "Nudge");
    rig.emit(&INGEST_INTAKE, [speaks("de_AT")]).await;
    rig.wait_for("customer", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due_by(&[("in_1", "nudge")])]).await;
    let mails = rig.mails(2).await;
    assert_eq!(subject(&mails[1]), "Anstups");
    assert!(bodies(&mails[1]).0.contains("wir stupsen an."));

    // What carried is left out: the other speaks, with its own template.
    rig.emit(&INGEST_INTAKE, [received("in_1", 2, 0)]).await;
    rig.wait_for("balance WHERE version = 2", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due_by(&[("in_1", "nudge"), ("in_2", "shove")])]).await;
    assert_eq!(subject(&rig.mails(3).await[2]), "Shove");
    rig.end().await;
}

#[tokio::test]
async fn a_reminder_is_held_until_its_template_is_there() {
    let directory = Directory::new();
    let rig = Rig::start_with(&directory.0).await;
    rig.emit(&INGEST_INTAKE, [issued("in_1"), issued("in_2")]).await;
    rig.wait_for("balance", 2).await;
    rig.emit(&SCHEDULER_TIMERS, [due_by(&[("in_1", "later")]), due_by(&[("in_2", "later")])]).await;
    let held = "delivery WHERE state = 'waiting' AND reason = 'template_missing' AND tries = 0 AND next_attempt_at";
    rig.wait_for(&format!("{held} = '2026-06-10T08:01:00Z'"), 2).await;
    let deliveries = notifier::store::list_deliveries(&rig.pool, Some("waiting"), 9).await.unwrap();
    assert_eq!(deliveries[0].reason, "template_missing");
    let story = notifier::store::story(&rig.pool, "acme", "in_1").await.unwrap();
    assert!(story.iter().any(|line| line.detail.contains("template_missing")), "{story:?}");

    // Held, not forgotten: a payment cancels it.
    rig.emit(&INGEST_INTAKE, [received("in_1", 2, 0)]).await;
    rig.wait_for("balance WHERE version = 2", 1).await;
    rig.clock.set(at("2026-06-10T08:01:00Z"));
    rig.wait_for_told(&["suppressed paid"]).await;
    rig.wait_for(&format!("{held} = '2026-06-10T08:02:00Z'"), 1).await;
    directory.write("later.subject", "Later");
    directory.write("later.opening", "better late than never.");
    let mut minute = 2;
    wait::until_true("the mail", SOON, || {
        minute += 1;
        rig.clock.set(at(NOW) + jiff::SignedDuration::from_mins(minute));
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.smtp.count() == 1
        }
    })
    .await;
    assert_eq!(subject(&rig.mails(1).await[0]), "Later");
    rig.wait_for_told(&["suppressed paid", "sent in_2"]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_reminder_is_held_while_its_template_does_not_work() {
    let directory = Directory::new();
    directory.write("nudge.subject", "Nudge");
    directory.write("nudge.opening", "Hello{% if number != \"R-1\" %} {{ lines[7].number }}{% endif %}");
    let rig = Rig::start_with(&directory.0).await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [due_by(&[("in_1", "nudge")])]).await;
    let held = "delivery WHERE state = 'waiting' AND reason = 'template_broken' AND tries = 0 AND next_attempt_at";
    rig.wait_for(&format!("{held} = '2026-06-10T08:01:00Z'"), 1).await;
    directory.write("nudge.opening", "repaired.");
    let mut minute = 1;
    wait::until_true("the mail", SOON, || {
        minute += 1;
        rig.clock.set(at(NOW) + jiff::SignedDuration::from_mins(minute));
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.smtp.count() == 1
        }
    })
    .await;
    assert!(bodies(&rig.mails(1).await[0]).0.contains("repaired."));
    rig.wait_for_told(&["sent in_1"]).await;
    rig.end().await;
}

#[tokio::test]
async fn the_invoice_is_attached_where_it_can_be_had() {
    // A server of documents that counts what it is asked for.
    let asked = Arc::new(std::sync::Mutex::new(BTreeMap::<String, usize>::new()));
    let log = asked.clone();
    let serve = move |uri: axum::http::Uri| {
        let log = log.clone();
        async move {
            use axum::http::header::{CONTENT_TYPE, LOCATION};
            use axum::response::IntoResponse;
            *log.lock().unwrap().entry(uri.path().to_owned()).or_default() += 1;
            let pdf = |body: Vec<u8>| ([(CONTENT_TYPE, "application/pdf")], body).into_response();
            match uri.path() {
                "/moved" => (axum::http::StatusCode::FOUND, [(LOCATION, "/good")]).into_response(),
                "/good" => pdf(b"%PDF-1.7 harmless".to_vec()),
                "/huge" => pdf([b"%PDF-1.7".as_slice(), &vec![b' '; 2 * 1_024 * 1_024]].concat()),
                "/script" => pdf(b"%PDF-1.7 /JavaScript".to_vec()),
                "/page" => ([(CONTENT_TYPE, "text/html")], "<html>").into_response(),
                _ => axum::http::StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(axum::serve(listener, axum::Router::new().fallback(serve)).into_future());

    let rig = Rig::start().await;
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    let private = "https://10.0.0.1/secret".to_owned();
    let all =
        [url("moved"), url("huge"), url("script"), url("page"), url("gone"), private, "ftp://x.example/".to_owned()];
    for (n, document_url) in all.into_iter().enumerate() {
        let id = format!("in_{n}");
        let invoice = v1::Invoice { document_url, ..invoice(&id, 1, 123_450) };
        rig.emit(&INGEST_INTAKE, [v1::InvoiceIssued { invoice: Some(invoice) }]).await;
    }
    rig.wait_for("balance", 7).await;
    let attached = |mail: &Mail| -> Vec<(String, Vec<u8>)> {
        use mail_parser::MimeHeaders;
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        parsed.attachments().map(|a| (a.attachment_name().unwrap().to_owned(), a.contents().to_vec())).collect()
    };
    for count in [1, 2] {
        rig.emit(&SCHEDULER_TIMERS, [due(&["in_0"])]).await;
        let mail = rig.mails(count).await.pop().unwrap();
        assert_eq!(attached(&mail), [("R-in_0.pdf".to_owned(), b"%PDF-1.7 harmless".to_vec())]);
    }
    assert_eq!(asked.lock().unwrap()["/good"], 1, "fetched once");
    let reasons = [
        "is larger than 1048576 bytes",
        "contains scripts",
        "is not served as a PDF",
        "the server says 404",
        "unreachable: address refused: the host leads to one that is not public",
        "the address does not begin with https://",
    ];
    for (n, reason) in reasons.into_iter().enumerate() {
        let id = format!("in_{}", n + 1);
        rig.emit(&SCHEDULER_TIMERS, [due(&[&id])]).await;
        let mail = rig.mails(n + 3).await.pop().unwrap();
        assert_eq!(attached(&mail), [], "{reason}");
        let story = notifier::store::story(&rig.pool, "acme", &id).await.unwrap();
        let told = story.iter().find(|line| line.what == "went without the invoice as PDF");
        assert_eq!(told.map(|line| line.detail.as_str()), Some(reason));
    }
    server.abort();
    rig.end().await;
}

#[tokio::test]
async fn what_comes_from_outside_stays_in_its_place() {
    const EVIL: &str = "A\r\nBcc: all@example.com\r\n\r\n<script>x</script> =?utf-8?q?=0D=0ABcc:?= {{ 1 }}";
    let rig = Rig::start().await;
    let strange = |id: &str, pay_url: &str, email: &str| v1::InvoiceIssued {
        invoice: Some(v1::Invoice {
            number: EVIL.into(),
            bill_to_name: EVIL.into(),
            bill_to_email: email.into(),
            pay_url: pay_url.into(),
            ..invoice(id, 1, 123_450)
        }),
    };
    let addresses = ["user@bücher.example", "eve@example.com", "eve@example.com\r\nRCPT TO:<all@example.com>"];
    let urls = ["https://pay.example.com/1", "javascript:alert(1)", "http://pay.example.com/3"];
    for ((id, email), url) in ["in_1", "in_2", "in_3"].iter().zip(addresses).zip(urls) {
        rig.emit(&INGEST_INTAKE, [strange(id, url, email)]).await;
    }
    rig.wait_for("balance", 3).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    let mails = rig.mails(1).await;
    assert_eq!(mails[0].to, ["user@xn--bcher-kva.example"], "what every mail server understands");
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_2"])]).await;
    let mails = rig.mails(2).await;
    for mail in &mails {
        assert_eq!((mail.headers("Bcc"), mail.headers("From").len()), (Vec::new(), 1));
        assert!(!subject(mail).contains(['\r', '\n']), "{}", subject(mail));
        let (text, html) = bodies(mail);
        assert!(text.contains("{{ 1 }}") && !html.contains("<script>"), "{html}");
    }
    let (text, html) = bodies(&mails[1]);
    for body in [&text, &html] {
        assert!(body.contains("Please pay as stated on the invoice.") && !body.contains("javascript"), "{body}");
    }
    assert_eq!(mails[1].pay_links(), [] as [String; 0], "nobody is led astray");
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_3"])]).await;
    rig.wait_for_told(&["sent in_1", "sent in_2", "failed bad_address"]).await;
    rig.end().await;
}

#[tokio::test]
async fn reminders_of_a_case_are_one_conversation() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, ["in_1", "in_2"].map(issued)).await;
    rig.wait_for("balance", 2).await;
    let mut threads = Vec::new();
    for (n, invoices) in [&["in_1"][..], &["in_1", "in_2"], &["in_2"]].into_iter().enumerate() {
        rig.emit(&SCHEDULER_TIMERS, [due(invoices)]).await;
        let mail = rig.mails(n + 1).await.remove(n);
        assert_eq!(mail.headers("References"), mail.headers("In-Reply-To"));
        threads.push(mail.headers("References").join(""));
    }
    assert_eq!(threads[0], threads[1], "the one that carries decides");
    assert_ne!(threads[0], threads[2]);
    assert!(threads[0].starts_with("<case-") && threads[0].ends_with("@acme.example>"), "{}", threads[0]);
    rig.end().await;
}

fn charged() -> v1::ReminderDue {
    let charge = |kind: v1::ChargeKind, amount_minor, rule: &str| v1::Charge {
        kind: kind.into(),
        amount_minor,
        rule: rule.into(),
        as_of: "2026-06-09".into(),
    };
    let mut request = due(&["in_1", "in_2"]);
    let reminder = request.reminder.as_mut().unwrap();
    reminder.lines[0].charges = vec![
        charge(v1::ChargeKind::Interest, 1_234, "§ 288 BGB <b>9</b> points & more"),
        charge(v1::ChargeKind::FixedSum, 4_000, "Directive 2011/7/EU, article 6"),
        charge(v1::ChargeKind::ReminderFee, 0, "nothing at all"),
    ];
    let wording = |locale: &str, text: &str| v1::Wording { locale: locale.into(), text: text.into() };
    reminder.wording = vec![
        wording("en", "You may object <within> a month."),
        wording("de", "Sie können <binnen> eines Monats widersprechen."),
        wording("de", "Zinsen laufen weiter."),
        wording("de", "Zinsen laufen weiter."),
        wording("en", "Interest goes on."),
    ];
    request
}

#[tokio::test]
async fn charges_and_required_wording_are_printed() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1"), issued("in_2")]).await;
    rig.emit(&INGEST_INTAKE, [speaks("de-CH")]).await;
    rig.wait_for("balance", 2).await;
    rig.wait_for("customer", 1).await;
    rig.emit(&SCHEDULER_TIMERS, [charged()]).await;
    let (text, html) = bodies(&rig.mails(1).await[0]);
    let (text, html) = (text.replace('\u{a0}', " "), html.replace('\u{a0}', " "));
    let expected = "\
Rechnung R-in_1: EUR 1'234.50, fällig am 1. Juni 2026
  + Verzugszinsen: EUR 12.34, § 288 BGB <b>9</b> points & more, Stand 9. Juni 2026
  + Verzugspauschale: EUR 40.00, Directive 2011/7/EU, article 6, Stand 9. Juni 2026
Hier bezahlen: ";
    assert!(text.contains(expected), "{text}");
    let expected = "\n\nSumme der Rechnungen: EUR 2'469.00\nSumme mit Nebenforderungen: EUR 2'521.34\nAlle bezahlen: ";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.contains("acme Ltd\n\nSie können <binnen> eines Monats widersprechen.\n\nZinsen laufen weiter.\n\n--\n"),
        "{text}"
    );
    for expected in [
        "EUR 12.34",
        "§ 288 BGB &lt;b&gt;9&lt;/b&gt; points &amp; more",
        "Stand 9. Juni 2026",
        "EUR 2'521.34",
        "Sie können &lt;binnen&gt; eines Monats",
    ] {
        assert!(html.contains(expected), "{expected:?} is missing in\n{html}");
    }
    for body in [&text, &html] {
        assert!(!body.contains("nothing at all") && !body.contains("Interest goes on"), "{body}");
    }
    let mut strange = charged();
    strange.reminder.as_mut().unwrap().lines[0].charges[0].kind = 99;
    rig.emit(&SCHEDULER_TIMERS, [strange]).await;
    rig.wait_for("dead_letter WHERE reason LIKE '%charges.kind%'", 1).await;

    // Nothing is charged: nothing is said about it.
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    let (text, html) = bodies(&rig.mails(2).await[1]);
    for body in [&text, &html] {
        assert!(!body.contains("Summe") && !body.contains("Nebenforderung"), "{body}");
    }
    rig.end().await;
}

#[tokio::test]
async fn one_merchants_many_do_not_delay_anothers_few() {
    const MANY: usize = 300;
    let rig = Rig::start().await;
    let few = |request: v1::ReminderDue| {
        let reminder = v1::Reminder { merchant_id: "few".into(), ..request.reminder.unwrap() };
        v1::ReminderDue { reminder: Some(reminder), ..request }
    };
    let of_few = invoice("in_few", 1, 1);
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    let of_few = v1::InvoiceIssued { invoice: Some(v1::Invoice { merchant_id: "few".into(), ..of_few }) };
    rig.emit(&INGEST_INTAKE, [of_few]).await;
    rig.wait_for("balance", 2).await;
    // A mail server that takes its time.
    rig.smtp.script(|phase, _| match phase {
        Phase::Dot => Reaction::Delay(Duration::from_millis(10)),
        _ => Reaction::Proceed,
    });
    rig.emit(&SCHEDULER_TIMERS, (0..MANY).map(|_| due(&["in_1"]))).await;
    rig.wait_for("delivery", MANY as i64).await;
    rig.emit(&SCHEDULER_TIMERS, (0..10).map(|_| few(due(&["in_few"])))).await;
    let mails = rig.mails(MANY + 10).await;
    let of_few = mails.iter().filter(|m| m.lines().iter().any(|l| l.invoice == "in_few"));
    let last = of_few.map(|mail| mail.number).max().unwrap();
    assert!(last < MANY as u64 - 50, "the last of ten came as number {last}");
    rig.end().await;
}

#[tokio::test]
async fn a_sending_domain_that_bounces_too_often_is_stopped() {
    let rig = Rig::start().await;
    rig.emit(&INGEST_INTAKE, [issued("in_1")]).await;
    rig.wait_for("balance", 1).await;
    // Five bounces are needed, whatever the rate.
    for n in 0..5 {
        let (address, id) = (format!("gone{n}@example.com"), format!("in_gone{n}"));
        let invoice = v1::Invoice { bill_to_email: address, customer_id: format!("cus_gone{n}"), ..invoice(&id, 1, 5) };
        rig.emit(&INGEST_INTAKE, [v1::InvoiceIssued { invoice: Some(invoice) }]).await;
        rig.wait_for("balance", n + 2).await;
        rig.smtp.script(|phase, to| match phase {
            Phase::Recipient if to.iter().any(|to| to.contains("gone")) => Reaction::Reply("550 5.1.1 no such user"),
            _ => Reaction::Proceed,
        });
        assert_eq!(notifier::store::open_breakers(&rig.pool).await.unwrap().len(), 0);
        rig.emit(&SCHEDULER_TIMERS, [due(&[&id])]).await;
        rig.wait_for("delivery WHERE status_code = '550 5.1.1'", n + 1).await;
    }
    let open = notifier::store::open_breakers(&rig.pool).await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(
        (&*open[0].domain, &*open[0].reason),
        ("acme.example", "5 bounced and 0 complained about of 5 sent in 7 days")
    );

    // Known by the next heartbeat; what comes later waits and says why.
    wait::until_true("a delivery that waits for the breaker", SOON, || async {
        rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
        let sql = "SELECT count(*) > 0 FROM notifier.delivery WHERE state = 'waiting' AND reason = 'breaker_open'";
        sqlx::query_scalar(sql).fetch_one(&rig.pool).await.unwrap()
    })
    .await;
    assert!(!notifier::store::close_breaker(&rig.pool, "other.example", "Eve", at(NOW)).await.unwrap());
    assert!(notifier::store::close_breaker(&rig.pool, "Acme.example", "Eve", at(NOW)).await.unwrap());
    rig.wait_for("delivery WHERE state NOT IN ('handed_off', 'failed')", 0).await;
    rig.end().await;
}

/// What keeps news of payments from the notifier.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// Ingest has committed a payment and does not get it published.
    Relay,
    /// The notifier does not get it recorded.
    Feed,
    /// The broker is gone.
    Broker,
}

/// While the feed of payments is cut, reminders go on becoming due. None is accepted later than the bound after a payment's
/// commit; what nobody paid goes out by itself when the feed is back.
async fn nothing_is_sent_on_stale_knowledge(cut: Cut) {
    const INVOICES: usize = 90;
    let mut merchant = system::merchant("acme", "Europe/Berlin").unwrap();
    merchant.file.freshness_seconds = 2;
    let bound = merchant.file.freshness();
    let mut rig = Rig::start_as(merchant, Path::new("/nowhere")).await;
    let names: Vec<String> = (0..INVOICES).map(|n| format!("in_{n}")).collect();
    rig.emit(&INGEST_INTAKE, names.iter().map(|name| issued(name))).await;
    rig.wait_for("balance", INVOICES as i64).await;
    let minute = |n: usize| at(NOW) + jiff::SignedDuration::from_mins(1 + n as i64);
    let requests = names.iter().enumerate().map(|(n, name)| {
        let request = due(&[name]);
        v1::ReminderDue { due_at: Some(time::to_wire(minute(n))), ..request }
    });
    rig.emit(&SCHEDULER_TIMERS, requests).await;
    rig.wait_for("delivery", INVOICES as i64).await;
    rig.clock.set(minute(2));
    rig.mails(3).await;

    // Every second of the others is paid.
    let paid = || names[3..].iter().step_by(2);
    let payments: Vec<_> = paid().map(|name| received(name, 2, 0)).collect();
    let ingest = rig.producers[&Service::Ingest].clone();
    let mut lock = rig.pool.begin().await.unwrap();
    match cut {
        Cut::Relay => {
            // Its sweep would publish them after five seconds: that is the end of this cut.
            let mut work = bus::Work::begin_without_relay(&ingest.pool, &INGEST_INTAKE).await.unwrap();
            for payment in &payments {
                work.emit(rig.clock.now(), payment).unwrap();
            }
            work.commit().await.unwrap();
        }
        Cut::Feed => {
            // Balances can be read and locked, and not be written.
            sqlx::query("LOCK TABLE notifier.balance IN SHARE MODE").execute(&mut *lock).await.unwrap();
            rig.emit(&INGEST_INTAKE, payments).await;
        }
        Cut::Broker => {
            rig.system.nats.kill().unwrap();
            rig.emit(&INGEST_INTAKE, payments).await;
        }
    }
    let committed = kernel::SystemClock.now();
    for n in 3..INVOICES {
        rig.clock.set(minute(n));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait::until_true("held deliveries that say so", SOON, || async {
        let sql = "SELECT count(*) > 20 FROM notifier.delivery WHERE state = 'waiting' AND reason = 'stale_knowledge'";
        sqlx::query_scalar(sql).fetch_one(&rig.pool).await.unwrap()
    })
    .await;
    let late = |mail: &Arc<Mail>| mail.accepted_at > committed.saturating_add(bound).unwrap();
    let paid_ones: std::collections::BTreeSet<&String> = paid().collect();
    let after_the_bound = |mails: Vec<Arc<Mail>>| {
        mails.into_iter().filter(late).filter(|m| m.lines().iter().any(|l| paid_ones.contains(&l.invoice))).count()
    };
    assert_eq!(after_the_bound(rig.smtp.mails()), 0, "accepted too long after the payment");

    drop(lock);
    if cut == Cut::Broker {
        rig.system.nats.launch().await.unwrap();
    }
    rig.wait_for("delivery WHERE state NOT IN ('handed_off', 'suppressed')", 0).await;
    let unpaid = INVOICES - paid().count();
    let sent_in_time = rig.smtp.count() - unpaid;
    assert!(sent_in_time <= paid().count() && rig.smtp.count() >= unpaid, "{} mails", rig.smtp.count());
    assert_eq!(after_the_bound(rig.smtp.mails()), 0, "accepted too long after the payment");
    rig.wait_for("delivery WHERE state = 'suppressed' AND reason = 'paid'", (paid().count() - sent_in_time) as i64)
        .await;
    rig.end().await;
}

#[tokio::test]
async fn a_payment_that_is_not_published_holds_reminders() {
    nothing_is_sent_on_stale_knowledge(Cut::Relay).await;
}

#[tokio::test]
async fn a_payment_that_is_not_recorded_holds_reminders() {
    nothing_is_sent_on_stale_knowledge(Cut::Feed).await;
}

#[tokio::test]
async fn a_broker_that_is_gone_holds_reminders() {
    nothing_is_sent_on_stale_knowledge(Cut::Broker).await;
}
