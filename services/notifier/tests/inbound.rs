//! What comes back of reminders, on a real bus and Postgres: reports that prove where they are from act, others do not.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bus::Work;
use events::topology::{INGEST_INTAKE, NOTIFIER_INBOUND, SCHEDULER_TIMERS};
use events::{AnyEvent, Event, Flow, Service, time, v1};
use jiff::ToSpan;
use kernel::{Clock, ManualClock, Masked};
use notifier::config::{InboundProtocol, InboundSettings, SmtpSettings};
use notifier::flow::inbound::{Mail, Proofs, Taken, take};
use notifier::inbound::store;
use notifier::render::Templates;
use notifier::return_path::ReturnPath;
use runtime::links::Link;
use runtime::merchant::RepliesThrough;
use runtime::{Host, Merchants};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{SmtpServer, TestSystem, system, wait};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);
/// A Wednesday, ten o'clock in Berlin.
const NOW: &str = "2026-06-10T08:00:00Z";
const DOMAIN: &str = "bounces.example.com";
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

struct Rig {
    system: TestSystem,
    clock: ManualClock,
    smtp: SmtpServer,
    producers: BTreeMap<Service, Host>,
    pool: PgPool,
    proofs: Proofs,
    inbound: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    _watermarks: DropGuard,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(InboundProtocol::Lmtp).await
    }

    async fn start_with(protocol: InboundProtocol) -> Self {
        let mut services: Vec<_> = [Service::Ingest, Service::Scheduler].map(|s| (s, &*NO_MIGRATIONS)).to_vec();
        services.push((Service::Notifier, &notifier::MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(NOW.parse().unwrap());
        let smtp = SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut merchants = Merchants::default();
        let mut acme = system::merchant("acme", "Europe/Berlin").unwrap();
        acme.file.replies.through = RepliesThrough::Dunlin;
        merchants.insert(acme);
        let mut producers = BTreeMap::new();
        for service in [Service::Ingest, Service::Scheduler] {
            producers.insert(service, system.host(service, &merchants, Arc::new(clock.clone())).await.unwrap());
        }
        let host = system.host(Service::Notifier, &merchants, Arc::new(clock.clone())).await.unwrap();
        let mut config = notifier::Config::new(SmtpSettings::new("127.0.0.1", smtp.address.port()));
        // The clock stands still: nobody's turn would come.
        config.limits.domain_per_second = 0;
        let settings = InboundSettings {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            protocol,
            max_message_kib: 64,
            idle_seconds: 5,
            ..InboundSettings::new(DOMAIN)
        };
        config.inbound = Some(settings);
        let proofs = config.proofs(&host.links, host.merchants.clone());
        let service = notifier::build(config, Templates::load(Path::new("/nowhere")).unwrap(), host).await.unwrap();
        let inbound = service.address("inbound").unwrap();
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(service.run(stop.clone()));
        let told = CancellationToken::new();
        tokio::spawn(bus::watermark::tell(producers[&Service::Ingest].bus.clone(), told.clone()));
        let _watermarks = told.drop_guard();
        Self { system, clock, smtp, producers, pool, proofs, inbound, stop, running, _watermarks }
    }

    async fn emit<E: Event>(&self, flow: &'static Flow, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(self.clock.now(), &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    /// Sends a reminder about an invoice to each of these customers; returns the deliveries in their order.
    async fn remind(&self, customers: &[&str]) -> Vec<Uuid> {
        let before = self.smtp.count();
        self.emit(&INGEST_INTAKE, customers.iter().map(|c| issued(c))).await;
        let requests: Vec<_> = customers.iter().map(|c| due(c)).collect();
        let ids = requests.iter().map(|r| r.reminder.as_ref().unwrap().reminder_id.parse().unwrap()).collect();
        self.emit(&SCHEDULER_TIMERS, requests).await;
        let expected = before + customers.len();
        wait::until_true("the mails", SOON, || async { self.smtp.count() == expected }).await;
        let sql = "SELECT count(*) FROM notifier.delivery WHERE state = 'handed_off'";
        wait::until_true("the ends", SOON, || async { self.count(sql).await == expected as i64 }).await;
        ids
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn feed(&self, mails: &[String]) -> Vec<Taken> {
        let mails: Vec<_> = mails
            .iter()
            .map(|raw| Mail { raw: Masked::new(raw.clone().into_bytes()), recipients: Vec::new() })
            .collect();
        let pool = sqlx::PgPool::connect_with(self.producers_pool_options()).await.unwrap();
        let mut work = Work::begin_without_relay(&pool, &NOTIFIER_INBOUND).await.unwrap();
        let taken = take(&mut work, &self.proofs, &mails, self.clock.now()).await.unwrap();
        work.commit().await.unwrap();
        taken
    }

    /// As the notifier's role: tables of the bus are found by its search path.
    fn producers_pool_options(&self) -> sqlx::postgres::PgConnectOptions {
        let options: sqlx::postgres::PgConnectOptions = self.system.database.admin_url.parse().unwrap();
        options.options([("search_path", "notifier")])
    }

    fn path(&self) -> &ReturnPath {
        self.proofs.return_path.as_ref().unwrap()
    }

    async fn suppressed(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT subject, reason FROM notifier.suppression ORDER BY subject")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// What was told of what came back.
    async fn told(&self) -> Vec<String> {
        let events = self.system.emitted(Service::Notifier).await.unwrap();
        let tell = |e| match e {
            AnyEvent::ReminderBounced(e) => Some(format!(
                "{} {} {}",
                e.reminder.as_ref().unwrap().customer_id,
                e.kind().as_str_name(),
                e.status_code
            )),
            AnyEvent::ReminderComplained(e) => {
                Some(format!("{} complained {}", e.reminder.as_ref().unwrap().customer_id, e.feedback_type))
            }
            AnyEvent::CustomerReplied(e) => Some(format!("{} replied {}", e.customer_id, e.invoice_ids.join(","))),
            _ => None,
        };
        let mut told: Vec<String> = events.into_iter().filter_map(tell).collect();
        told.sort();
        told
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn issued(customer: &str) -> v1::InvoiceIssued {
    v1::InvoiceIssued {
        invoice: Some(v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: format!("in_{customer}"),
            customer_id: customer.into(),
            version: 1,
            epoch: 1,
            status: v1::InvoiceStatus::Open.into(),
            number: "R-1".into(),
            currency: "EUR".into(),
            total_minor: 100,
            open_minor: 100,
            issued_on: "2026-05-01".into(),
            due_on: "2026-06-01".into(),
            bill_to_name: "Ada".into(),
            bill_to_email: format!("{customer}@payer.example"),
            ..Default::default()
        }),
    }
}

fn due(customer: &str) -> v1::ReminderDue {
    v1::ReminderDue {
        fallbacks: Vec::new(),
        reminder: Some(v1::Reminder {
            merchant_id: "acme".into(),
            reminder_id: kernel::id::at(NOW.parse().unwrap()).to_string(),
            customer_id: customer.into(),
            step: "overdue-7".into(),
            tone: v1::Tone::Friendly.into(),
            currency: "EUR".into(),
            lines: vec![v1::ReminderLine {
                invoice_id: format!("in_{customer}"),
                epoch: 1,
                step: "overdue-7".into(),
                invoice_version: 1,
                carries: true,
                tone: v1::Tone::Friendly.into(),
                ..Default::default()
            }],
            segment: v1::Segment::New.into(),
            ..Default::default()
        }),
        due_at: Some(time::to_wire(NOW.parse().unwrap())),
        contact_hours: Some(v1::ContactHours {
            time_zone: "Europe/Berlin".into(),
            weekdays: 0b111_1111,
            opens_minute: 0,
            closes_minute: 1440,
            closed_on: Vec::new(),
        }),
    }
}

/// A report in the standard form, to whom it is addressed.
fn report(to: &str, action: &str, status: &str, note: &str) -> String {
    format!(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.payer.example\nTo: <{to}>\nSubject: Delivery Status Notification\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: text/plain\n\n{note}\n--b\n\
         Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.payer.example\n\n\
         Final-Recipient: rfc822; x@payer.example\nAction: {action}\nStatus: {status}\n\n--b--\n"
    )
}

fn complaint(original_from: &str, unsubscribe: &str) -> String {
    format!(
        "From: fbl@mailbox.example\nTo: complaints@{DOMAIN}\nSubject: FW: reminder\nContent-Type: multipart/report; \
         report-type=feedback-report; boundary=b\n\n--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\n\
         User-Agent: x\nVersion: 1\nOriginal-Mail-From: <{original_from}>\n\n--b\nContent-Type: message/rfc822\n\n\
         List-Unsubscribe: <{unsubscribe}>\nSubject: reminder\n\nx\n--b--\n"
    )
}

#[tokio::test]
async fn reports_with_proof_act_and_forged_ones_do_nothing() {
    let rig = Rig::start().await;
    let ids = rig.remind(&["hard", "soft", "policy", "spam", "forged"]).await;
    let from = |n: usize| {
        rig.smtp
            .mails()
            .iter()
            .find(|m| m.to[0].starts_with(["hard", "soft", "policy", "spam", "forged"][n]))
            .unwrap()
            .from
            .clone()
    };
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(from(n), rig.path().bounce(*id), "each reminder has a return path of its own");
        let answers = rig.path().reply(*id);
        assert!(
            rig.smtp.mails().iter().any(|m| m.headers("Reply-To").join("").contains(&answers)),
            "and a way to answer"
        );
    }
    let unsubscribe =
        Link::Unsubscribe { merchant: "acme".parse().unwrap(), customer: "spam".parse().unwrap(), reminder: ids[3] };
    let forged_path = rig.path().bounce(ids[4]).replace("@bounces", "0@bounces");
    let forged = format!(
        "{}Message-ID: <{}@acme.example>\n\n--b--\n",
        report(&forged_path, "failed", "5.1.1", "")
            .replace("\n--b--\n", "\n--b\nContent-Type: text/rfc822-headers\n\n"),
        ids[4],
    )
    .replace(
        "Reporting-MTA: dns; mx.payer.example\n",
        &format!("Reporting-MTA: dns; x\nOriginal-Envelope-Id: {}\n", ids[4]),
    );
    let mails = [
        report(&rig.path().bounce(ids[0]).to_uppercase(), "failed", "5.1.1", "no such user"),
        report(&rig.path().bounce(ids[1]), "failed", "5.2.2", "full"),
        report(&rig.path().bounce(ids[2]), "failed", "5.7.1", "policy"),
        complaint("somebody@else.example", &unsubscribe.url(&rig.proofs.links)),
        forged,
        report(&rig.path().bounce(Uuid::from_u128(7)), "failed", "5.1.1", "of no reminder"),
        report("nobody@acme.example", "failed", "5.1.1", "of nobody"),
        report(&rig.path().bounce(ids[1]), "delayed", "4.4.1", "not yet"),
    ];
    let taken = rig.feed(&mails).await;
    let effects: Vec<_> =
        taken.iter().map(|t| t.about.as_ref().map_or(("none", "none"), |a| (a.matched, a.effect))).collect();
    let (authentic, claimed) = ("authentic", "claimed");
    assert_eq!(
        effects,
        [
            (authentic, "suppressed"),
            (authentic, "counted"),
            (authentic, "counted"),
            (authentic, "suppressed"),
            (claimed, "none"),
            ("none", "none"),
            ("none", "none"),
            (authentic, "none"),
        ]
    );
    let suppressed = [
        ("address:hard@payer.example", "bounced"),
        ("address:spam@payer.example", "complained"),
        ("customer:spam", "complained"),
    ];
    assert_eq!(rig.suppressed().await, suppressed.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let expected = [
        "hard BOUNCE_KIND_HARD 5.1.1",
        "policy BOUNCE_KIND_BLOCKED 5.7.1",
        "soft BOUNCE_KIND_SOFT 5.2.2",
        "spam complained abuse",
    ];
    assert_eq!(rig.told().await, expected);

    let counted: (i64, i64) = sqlx::query_as("SELECT sum(bounced)::int8, sum(complained)::int8 FROM notifier.sending")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(counted, (1, 1), "for the breaker of the sending domain");

    // The same again, and another report of the same: nothing more.
    assert!(rig.feed(&mails).await.iter().all(|t| t.known));
    rig.feed(&[report(&rig.path().bounce(ids[0]), "failed", "5.1.1", "and again")]).await;
    assert_eq!(rig.told().await, expected);
    let unproven = store::list(&rig.pool, true, None, 50).await.unwrap();
    assert_eq!(unproven.len(), 3, "kept apart, and listed");
    rig.end().await;
}

#[tokio::test]
async fn the_third_soft_bounce_within_a_month_suppresses() {
    let rig = Rig::start().await;
    let soft = |id: Uuid, note: &str| report(&rig.path().bounce(id), "failed", "4.4.7", note);
    let first = rig.remind(&["a"]).await[0];
    rig.feed(&[soft(first, "1"), soft(first, "the same reminder again")]).await;
    rig.clock.set(rig.clock.now() + 40 * 24.hours());
    let second = rig.remind(&["b"]).await[0];
    // Deliveries of one customer: the second and third belong to the first's customer too.
    sqlx::query("UPDATE notifier.delivery SET customer = 'a' WHERE id = $1")
        .bind(second)
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.feed(&[soft(second, "2")]).await;
    assert_eq!(rig.suppressed().await, []);
    let more = rig.remind(&["c", "d"]).await;
    for id in &more {
        sqlx::query("UPDATE notifier.delivery SET customer = 'a' WHERE id = $1")
            .bind(id)
            .execute(&rig.pool)
            .await
            .unwrap();
    }
    rig.feed(&[soft(more[0], "3")]).await;
    assert_eq!(rig.suppressed().await, [], "the first one is too long ago");
    rig.feed(&[soft(more[1], "4")]).await;
    assert_eq!(rig.suppressed().await, [("address:d@payer.example".to_owned(), "bounced".to_owned())]);
    rig.end().await;
}

#[tokio::test]
async fn whatever_comes_back_proves_that_it_had_been_accepted() {
    let rig = Rig::start().await;
    let ids = rig.remind(&["a", "b"]).await;
    sqlx::query("UPDATE notifier.delivery SET state = 'unknown'").execute(&rig.pool).await.unwrap();
    let claimed = report("x@acme.example", "delivered", "2.0.0", "")
        .replace("Reporting-MTA", &format!("Original-Envelope-Id: {}\nReporting-MTA", ids[1]));
    let taken = rig.feed(&[report(&rig.path().bounce(ids[0]), "relayed", "2.0.0", ""), claimed]).await;
    let effects: Vec<_> = taken.iter().map(|t| t.about.as_ref().unwrap().effect).collect();
    assert_eq!(effects, ["resolved", "none"]);
    assert_eq!(rig.count("SELECT count(*) FROM notifier.delivery WHERE state = 'unknown'").await, 1);
    let sent = |e: &AnyEvent| matches!(e, AnyEvent::ReminderSent(_));
    let all = rig.system.emitted(Service::Notifier).await.unwrap();
    assert_eq!(all.iter().filter(|e| sent(e)).count(), 3, "two when they were sent, one more by the report");
    rig.end().await;
}

#[tokio::test]
async fn answers_of_people_hold_and_those_of_machines_do_not() {
    let rig = Rig::start().await;
    let ids = rig.remind(&["a", "b"]).await;
    let answer = |from: &str, to: &str, id: Uuid, more: &str| {
        format!(
            "From: <{from}>\nTo: <{to}>\nIn-Reply-To: <{id}@acme.example>\nSubject: Re: R-1\n{more}\nalready paid\n"
        )
    };
    let merchant = "billing@acme.example";
    let taken = rig
        .feed(&[
            answer("stranger@elsewhere.example", &rig.path().reply(ids[0]), ids[0], ""),
            answer("B@payer.example", merchant, ids[1], ""),
            answer("stranger@elsewhere.example", merchant, ids[1], "X-Note: no proof\n"),
            answer("b@payer.example", merchant, ids[1], "Auto-Submitted: auto-replied\n"),
        ])
        .await;
    let effects: Vec<_> = taken.iter().map(|t| t.about.as_ref().map(|a| (a.matched, a.effect)).unwrap()).collect();
    assert_eq!(effects, [("authentic", "held"), ("authentic", "held"), ("claimed", "none"), ("authentic", "none")]);
    assert_eq!(rig.told().await, ["a replied in_a", "b replied in_b"]);
    let story = store::story(&rig.pool, "acme", "in_b").await.unwrap();
    let lines: Vec<_> = story.iter().map(|l| (l.what.as_str(), l.detail.as_str())).collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines.contains(&("payer answered", "held")) && lines.contains(&("payer answered", "unproven, without effect"))
    );
    assert!(lines.contains(&("a machine answered", "")));
    assert!(!format!("{story:?}").contains("already paid"));
    rig.end().await;
}

#[tokio::test]
async fn a_flood_has_exactly_the_right_effects() {
    let rig = Rig::start().await;
    let names: Vec<String> = (0..40).map(|n| format!("c{n:02}")).collect();
    let ids = rig.remind(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut flood = Vec::new();
    for n in 0..2_000 {
        let (id, note) = (ids[n % 40], format!("number {n}"));
        flood.push(match (n % 40, n % 7) {
            // One real report among many, for a quarter of the customers.
            (0..10, 0) => report(&rig.path().bounce(id), "failed", "5.1.1", &note),
            (10..20, 0) => report(&rig.path().bounce(id), "delayed", "4.4.1", &note),
            (_, 1) => format!("From: x@payer.example\nSubject: Out of office {n}\n\naway\n"),
            (_, 2) => complaint("other@elsewhere.example", "https://elsewhere.example/u/AAAA").replace("FW:", &note),
            _ => report("billing@acme.example", "failed", "5.1.1", &note),
        });
    }
    for chunk in flood.chunks(200) {
        rig.feed(chunk).await;
    }
    assert_eq!(rig.count("SELECT count(*) FROM notifier.inbound").await, 2_000);
    let suppressed: Vec<String> = rig.suppressed().await.into_iter().map(|(subject, _)| subject).collect();
    let expected: Vec<String> = names[..10].iter().map(|name| format!("address:{name}@payer.example")).collect();
    assert_eq!(suppressed, expected);
    assert_eq!(rig.told().await.len(), 10);
    rig.end().await;
}

/// Says lines to the listener and reads one reply each.
async fn talk(stream: &mut BufReader<TcpStream>, say: &str) -> String {
    stream.write_all(say.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    hear(stream).await
}

/// One reply, its last line.
async fn hear(stream: &mut BufReader<TcpStream>) -> String {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(SOON, stream.read_line(&mut line)).await.unwrap().unwrap();
        if read == 0 || line.as_bytes().get(3) != Some(&b'-') {
            return line.trim_end().to_owned();
        }
    }
}

#[tokio::test]
async fn the_listener_takes_what_is_ours_and_nothing_else() {
    let rig = Rig::start().await;
    let id = rig.remind(&["a"]).await[0];
    let mut lmtp = BufReader::new(TcpStream::connect(rig.inbound).await.unwrap());
    assert!(hear(&mut lmtp).await.starts_with("220 "));
    assert!(talk(&mut lmtp, "MAIL FROM:<>\r\n").await.starts_with("503 5.5.1"), "hello first");
    assert!(talk(&mut lmtp, "EHLO x\r\n").await.starts_with("500"), "this is LMTP");
    assert!(talk(&mut lmtp, "LHLO mx.example\r\n").await.starts_with("250"));
    assert!(talk(&mut lmtp, "MAIL FROM:<> SIZE=900000\r\n").await.starts_with("552 5.3.4"));
    assert!(talk(&mut lmtp, "MAIL FROM:<> SIZE=500\r\n").await.starts_with("250"));
    let forged = rig.path().bounce(id).replace('@', "0@");
    for stranger in [forged.as_str(), "ada@payer.example", &format!("bounce+x.y@{DOMAIN}")] {
        assert!(talk(&mut lmtp, &format!("RCPT TO:<{stranger}>\r\n")).await.starts_with("550 5.1.1"), "{stranger}");
    }
    assert!(talk(&mut lmtp, "DATA\r\n").await.starts_with("503"), "nobody to take it for");
    assert!(talk(&mut lmtp, &format!("RCPT TO:<{}>\r\n", rig.path().bounce(id))).await.starts_with("250"));
    assert!(talk(&mut lmtp, &format!("RCPT TO:<postmaster@{DOMAIN}>\r\n")).await.starts_with("250"));
    assert!(talk(&mut lmtp, "DATA\r\n").await.starts_with("354"));
    // Only the envelope says whose it is. A bare line feed ends nothing.
    let raw = report("hidden@mx.example", "failed", "5.1.1", ".dot\n.\nsmuggled").replace('\n', "\r\n");
    let raw = raw.replace("..", ".").replace("\r\n.\r\nsmuggled", "\n.\nsmuggled").replace("\r\n.dot", "\r\n..dot");
    let first = talk(&mut lmtp, &format!("{raw}.\r\n")).await;
    assert!(first.starts_with("250") && hear(&mut lmtp).await.starts_with("250"), "one answer for each: {first}");
    // Taken means on disk.
    let kept: Vec<u8> = sqlx::query_scalar("SELECT raw FROM notifier.inbound").fetch_one(&rig.pool).await.unwrap();
    assert!(String::from_utf8(kept).unwrap().contains("\r\n.dot\n.\nsmuggled"));
    assert_eq!(rig.suppressed().await[0].0, "address:a@payer.example");

    assert!(talk(&mut lmtp, "MAIL FROM:<>\r\n").await.starts_with("250"));
    assert!(talk(&mut lmtp, &format!("RCPT TO:<abuse@{DOMAIN}>\r\n")).await.starts_with("250"));
    assert!(talk(&mut lmtp, "DATA\r\n").await.starts_with("354"));
    let large = "x".repeat(100 * 1024);
    assert!(talk(&mut lmtp, &format!("Subject: x\r\n\r\n{large}\r\n.\r\n")).await.starts_with("552 5.3.4"));
    assert!(talk(&mut lmtp, "QUIT\r\n").await.starts_with("221"));
    assert_eq!(rig.count("SELECT count(*) FROM notifier.inbound").await, 1);
    rig.end().await;
}

#[tokio::test]
async fn the_listener_speaks_smtp_too_and_promises_nothing_without_a_database() {
    let rig = Rig::start_with(InboundProtocol::Smtp).await;
    let mut smtp = BufReader::new(TcpStream::connect(rig.inbound).await.unwrap());
    hear(&mut smtp).await;
    let mut deliver = async |subject: &str| {
        let mut last = String::new();
        for line in ["EHLO x\r\n", "MAIL FROM:<>\r\n", &format!("RCPT TO:<abuse@{DOMAIN}>\r\n"), "DATA\r\n"] {
            last = talk(&mut smtp, line).await;
        }
        assert!(last.starts_with("354"), "{last}");
        talk(&mut smtp, &format!("From: a@b.example\r\nSubject: {subject}\r\n\r\nx\r\n.\r\n")).await
    };
    assert!(deliver("1").await.starts_with("250 2.0.0"));
    sqlx::query("ALTER TABLE notifier.inbound RENAME TO away").execute(&rig.pool).await.unwrap();
    assert!(deliver("2").await.starts_with("451 4.3.0"));
    sqlx::query("ALTER TABLE notifier.away RENAME TO inbound").execute(&rig.pool).await.unwrap();
    assert!(deliver("2").await.starts_with("250 2.0.0"));
    assert_eq!(rig.count("SELECT count(*) FROM notifier.inbound").await, 2);
    rig.end().await;
}
