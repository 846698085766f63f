//! The phase table with everything real but the mail server, which misbehaves once per row: what becomes of the delivery at
//! once and in the end, and how many copies were accepted. `Attempt::of_failure` has the table.

use super::*;
use kernel::Masked;
use notifier::config::{AuthMechanism, AuthSettings, Security};
use testkit::smtp::{Abilities, Encryption};
use testkit::tls;

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Accepted at once.
    Sent,
    /// Not accepted; accepted when it is tried again. With the code of the reply, if there was one.
    SentLater(&'static str),
    /// The same, but the recipient's domain is left alone for long: another replica, which knows nothing of that, sends it.
    SentByAnother(&'static str),
    /// Not accepted, and never will be: with that code.
    Failed(&'static str),
    /// The same, and nobody writes to that address again.
    Suppressed(&'static str),
    /// It may have been accepted, and is never sent again: so many copies were.
    Unknown(usize),
}
use Ends::{Failed, Sent, SentByAnother, SentLater, Suppressed, Unknown};

type Row = (Phase, Reaction, Ends);

const BUSY: Reaction = Reaction::Reply("421 4.3.2 shutting down");
const GARBAGE: Reaction = Reaction::Reply("hello there");
const SLOWLY: Reaction = Reaction::Trickle(Duration::from_millis(2));

async fn server(abilities: Abilities) -> SmtpServer {
    SmtpServer::start_with("127.0.0.1:0".parse().unwrap(), abilities).await.unwrap()
}

/// Lives through rows, one after the other, each with a payer of its own.
async fn run(smtp: SmtpServer, settings: SmtpSettings, rows: &[Row]) {
    let settings = SmtpSettings { connections: 1, ..settings };
    let rig = Rig::start_by(smtp, settings.clone()).await;
    let mut deliveries = Vec::new();
    // A sending domain of which everything bounces would be stopped.
    let rows: Vec<Row> = [(Phase::Mail, Reaction::Proceed, Sent)].iter().chain(rows).copied().collect();
    for (n, row) in rows.iter().enumerate() {
        deliveries.push((live(&rig, n, row).await, row));
    }

    // Nothing comes of it later either, whoever looks.
    rig.stop.cancel();
    rig.running.await.unwrap().unwrap();
    let (stop, running) = notifier_by(settings, Path::new("/nowhere"), &rig.system, &rig.merchants, &rig.clock).await;
    let rig = Rig { stop, running, ..rig };
    rig.clock.set(at("2026-06-11T08:00:00Z"));
    rig.emit(&INGEST_INTAKE, [issued("last")]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["last"])]).await;
    wait::until_true("the last", SOON, || async { copies(&rig, "ada@example.com") == 1 }).await;
    rig.wait_for("delivery WHERE state IN ('waiting', 'claimed', 'imminent')", 0).await;
    for (n, (delivery, row)) in deliveries.iter().enumerate() {
        let (state, _, _) = look(&rig, *delivery).await;
        let (expected, accepted) = match row.2 {
            Sent | SentLater(_) | SentByAnother(_) => ("handed_off", 1),
            Failed(_) | Suppressed(_) => ("failed", 0),
            Unknown(copies) => ("unknown", copies),
        };
        assert_eq!((state.as_str(), copies(&rig, &address(n))), (expected, accepted), "{row:?}");
    }
    let suppressed = rows.iter().filter(|row| matches!(row.2, Suppressed(_))).count();
    rig.wait_for("suppression WHERE reason = 'bad_address'", i64::try_from(suppressed).unwrap()).await;
    rig.end().await;
}

/// The row's delivery, after it was tried once with the row's reaction and once without.
async fn live(rig: &Rig, n: usize, row: &Row) -> Uuid {
    let (at_phase, reaction, ends) = *row;
    let (id, customer) = (format!("in_{n}"), format!("cus_{n}"));
    let billed = v1::Invoice { customer_id: customer.clone(), bill_to_email: address(n), ..invoice(&id, 1, 100) };
    rig.emit(&INGEST_INTAKE, [v1::InvoiceIssued { invoice: Some(billed) }]).await;
    rig.wait_for("balance", i64::try_from(n + 1).unwrap()).await;

    // Each begins on a connection of its own.
    rig.smtp.hang_up();
    rig.smtp.script(move |phase, _| if phase == at_phase { reaction } else { Reaction::Proceed });
    let mut request = due(&[&id]);
    let reminder = request.reminder.as_mut().unwrap();
    reminder.customer_id = customer;
    let delivery: Uuid = reminder.reminder_id.parse().unwrap();
    rig.emit(&SCHEDULER_TIMERS, [request]).await;
    let expected = match ends {
        Sent => ("handed_off", "250 2.0.0", 0),
        SentLater(code) | SentByAnother(code) => ("waiting", code, 1),
        Failed(code) | Suppressed(code) => ("failed", code, 0),
        Unknown(_) => ("unknown", "", 0),
    };
    wait_for_state(rig, delivery, row, expected).await;
    rig.smtp.script(|_, _| Reaction::Proceed);
    if let SentLater(_) | SentByAnother(_) = ends {
        assert_eq!(copies(rig, &address(n)), 0, "{row:?}");
    }
    if let SentLater(_) = ends {
        rig.clock.set(rig.clock.now() + jiff::SignedDuration::from_mins(5));
        wait_for_state(rig, delivery, row, ("handed_off", "250 2.0.0", 1)).await;
    }
    delivery
}

fn address(n: usize) -> String {
    // Each in a domain of its own: one that refuses is left alone for a while.
    format!("payer@{n}.example.com")
}

fn copies(rig: &Rig, address: &str) -> usize {
    rig.smtp.mails().iter().filter(|mail| mail.to.iter().any(|to| to == address)).count()
}

/// State, code of the reply, tries.
async fn look(rig: &Rig, delivery: Uuid) -> (String, String, i32) {
    let sql = "SELECT state, status_code, tries FROM notifier.delivery WHERE id = $1";
    let row = sqlx::query_as(sql).bind(delivery).fetch_optional(&rig.pool).await.unwrap();
    row.unwrap_or_default()
}

async fn wait_for_state(rig: &Rig, delivery: Uuid, row: &Row, expected: (&str, &str, i32)) {
    wait::until_true(&format!("{row:?} to be {expected:?}"), SOON, || async {
        let (state, code, tries) = look(rig, delivery).await;
        let is_expected = (state.as_str(), code.as_str(), tries) == expected;
        if !is_expected {
            // Where it stands still, those that wait for their domain would come again and again, and before the others.
            rig.clock.advance(jiff::SignedDuration::from_millis(50));
        }
        is_expected
    })
    .await;
}

#[tokio::test]
async fn greeting_and_hello() {
    use Phase::{Greeting, Hello};
    let smtp = server(Abilities::default()).await;
    let settings = impatient(&smtp);
    let rows = [
        (Greeting, BUSY, SentLater("421 4.3.2")),
        (Greeting, Reaction::Reply("554 5.7.1 go away"), SentLater("554 5.7.1")),
        (Greeting, Reaction::Close, SentLater("")),
        (Greeting, Reaction::Reset, SentLater("")),
        (Greeting, Reaction::Stall, SentLater("")),
        (Greeting, GARBAGE, SentLater("")),
        (Greeting, SLOWLY, Sent),
        (Greeting, Reaction::Words("220-a very\r\n220-long\r\n220 welcome"), Sent),
        (Hello, BUSY, SentLater("421 4.3.2")),
        (Hello, Reaction::Reply("550 5.7.1 who are you?"), SentLater("550 5.7.1")),
        (Hello, Reaction::Close, SentLater("")),
        (Hello, Reaction::Stall, SentLater("")),
        (Hello, GARBAGE, SentLater("")),
        (Hello, SLOWLY, Sent),
    ];
    run(smtp, settings, &rows).await;
}

#[tokio::test]
async fn encryption_and_login() {
    use Phase::{Auth, Tls};
    let (encryption, user, secret) = (Encryption::StartTls, "dunlin", "s3cret");
    let smtp = server(Abilities { encryption, mechanisms: &["PLAIN"], user, secret, ..Abilities::default() }).await;
    let settings = SmtpSettings {
        host: "localhost".into(),
        security: Security::Starttls,
        ca: Some(Masked::new(tls::CERTIFICATE.to_owned())),
        auth: Some(AuthSettings {
            mechanism: AuthMechanism::Auto,
            user: user.into(),
            password: Some(Masked::new(secret.to_owned())),
            token_path: None,
        }),
        ..impatient(&smtp)
    };
    let rows = [
        (Tls, Reaction::Reply("454 4.7.0 not now"), SentLater("454 4.7.0")),
        (Tls, Reaction::Reply("501 5.5.4 never"), SentLater("501 5.5.4")),
        (Tls, Reaction::Reply("220 2.0.0 and then talks on in plain text"), SentLater("")),
        (Tls, Reaction::Words("220 2.0.0 ok\r\n250 2.0.0 injected"), SentLater("")),
        (Tls, Reaction::Close, SentLater("")),
        (Tls, Reaction::Reset, SentLater("")),
        (Tls, Reaction::Stall, SentLater("")),
        (Auth, Reaction::Reply("535 5.7.8 wrong"), SentLater("535 5.7.8")),
        (Auth, Reaction::Reply("454 4.7.0 later"), SentLater("454 4.7.0")),
        (Auth, BUSY, SentLater("421 4.3.2")),
        (Auth, Reaction::Close, SentLater("")),
        (Auth, Reaction::Stall, SentLater("")),
        (Auth, GARBAGE, SentLater("")),
        (Phase::Dot, Reaction::AcceptAndReset, Unknown(1)),
        (Phase::Dot, Reaction::Stall, Unknown(0)),
        (Phase::Dot, SLOWLY, Sent),
    ];
    run(smtp.clone(), settings, &rows).await;
    assert!(smtp.mails().iter().all(|mail| mail.encrypted && mail.user == user), "never in plain text");
}

const ENVELOPE: [Row; 20] = [
    (Phase::Mail, Reaction::Reply("451 4.3.0 later"), SentLater("451 4.3.0")),
    (Phase::Mail, BUSY, SentByAnother("421 4.3.2")),
    (Phase::Mail, Reaction::Reply("550 5.7.1 not from you"), SentLater("550 5.7.1")),
    (Phase::Mail, Reaction::Close, SentLater("")),
    (Phase::Mail, Reaction::Reset, SentLater("")),
    (Phase::Mail, Reaction::Stall, SentLater("")),
    (Phase::Mail, GARBAGE, SentLater("")),
    (Phase::Mail, SLOWLY, Sent),
    (Phase::Recipient, Reaction::Reply("450 4.7.1 greylisted"), SentLater("450 4.7.1")),
    (Phase::Recipient, BUSY, SentByAnother("421 4.3.2")),
    (Phase::Recipient, Reaction::Reply("550 5.1.1 no such user"), Suppressed("550 5.1.1")),
    (Phase::Recipient, Reaction::Reply("550-5.2.1 this mailbox\r\n550 5.2.1 is disabled"), Suppressed("550 5.2.1")),
    (Phase::Recipient, Reaction::Reply("550 5.7.1 refused"), Failed("550 5.7.1")),
    (Phase::Recipient, Reaction::Reply("552 5.2.2 full"), Failed("552 5.2.2")),
    (Phase::Recipient, Reaction::Reply("550 no such user, perhaps"), Failed("550")),
    (Phase::Recipient, Reaction::Reply("550 5.1.8 your domain does not exist"), SentLater("550 5.1.8")),
    (Phase::Recipient, Reaction::Close, SentLater("")),
    (Phase::Recipient, Reaction::Reset, SentLater("")),
    (Phase::Recipient, Reaction::Stall, SentLater("")),
    (Phase::Recipient, GARBAGE, SentLater("")),
];

const BODY: [Row; 11] = [
    (Phase::Data, Reaction::Reply("452 4.3.1 no room"), SentLater("452 4.3.1")),
    (Phase::Data, Reaction::Reply("554 5.5.1 no"), Failed("554 5.5.1")),
    (Phase::Data, BUSY, SentByAnother("421 4.3.2")),
    (Phase::Data, Reaction::Close, SentLater("")),
    (Phase::Data, Reaction::Reset, SentLater("")),
    (Phase::Data, Reaction::Stall, SentLater("")),
    (Phase::Data, GARBAGE, SentLater("")),
    (Phase::Data, SLOWLY, Sent),
    (Phase::Body, Reaction::Stall, SentLater("")),
    (Phase::Body, Reaction::Close, SentLater("")),
    (Phase::Body, Reaction::Reset, SentLater("")),
];

const DOT: [Row; 15] = [
    (Phase::Dot, Reaction::Reply("451 4.3.0 later"), SentLater("451 4.3.0")),
    (Phase::Dot, BUSY, SentByAnother("421 4.3.2")),
    (Phase::Dot, Reaction::Reply("552 5.3.4 too big"), Failed("552 5.3.4")),
    (Phase::Dot, Reaction::Reply("554-5.7.1 this\r\n554 5.7.1 is spam"), Failed("554 5.7.1")),
    (Phase::Dot, Reaction::Close, Unknown(0)),
    (Phase::Dot, Reaction::Reset, Unknown(0)),
    (Phase::Dot, Reaction::Stall, Unknown(0)),
    (Phase::Dot, GARBAGE, Unknown(0)),
    (Phase::Dot, Reaction::AcceptAndClose, Unknown(1)),
    (Phase::Dot, Reaction::AcceptAndReset, Unknown(1)),
    (Phase::Dot, Reaction::AcceptAndStall, Unknown(1)),
    (Phase::Dot, Reaction::AcceptAndSay("it is done"), Unknown(1)),
    (Phase::Dot, Reaction::Words("250-2.0.0 well\r\n250 2.0.0 received"), Sent),
    (Phase::Dot, Reaction::Delay(Duration::from_millis(1_200)), Sent),
    (Phase::Dot, SLOWLY, Sent),
];

const NONE: &[&str] = &[];
const CHUNKING: &[&str] = &["PIPELINING", "8BITMIME", "SIZE 26214400", "DSN", "CHUNKING", "ENHANCEDSTATUSCODES"];

async fn run_with(extensions: &'static [&'static str], rows: &[Row]) {
    // A server that reads nothing of the body shows it: its kernel takes little.
    let smtp = server(Abilities { extensions, receive_buffer: Some(1), ..Abilities::default() }).await;
    let settings = impatient(&smtp);
    run(smtp, settings, rows).await;
}

#[tokio::test]
async fn envelope() {
    run_with(Abilities::default().extensions, &ENVELOPE).await;
}

#[tokio::test]
async fn envelope_command_by_command() {
    run_with(NONE, &ENVELOPE).await;
}

#[tokio::test]
async fn envelope_with_chunks() {
    run_with(CHUNKING, &ENVELOPE).await;
}

#[tokio::test]
async fn body() {
    run_with(Abilities::default().extensions, &BODY).await;
}

#[tokio::test]
async fn body_in_chunks() {
    run_with(CHUNKING, &BODY).await;
}

#[tokio::test]
async fn final_dot() {
    run_with(Abilities::default().extensions, &DOT).await;
}

#[tokio::test]
async fn last_chunk() {
    run_with(CHUNKING, &DOT).await;
}

/// A server that is not there is waited for; a mail that the server cannot carry fails by name, untried.
#[tokio::test]
async fn nobody_there_and_what_cannot_be_carried() {
    let port = testkit::servers::free_port().unwrap();
    let smtp = server(Abilities::default()).await;
    let settings = SmtpSettings { port, ..impatient(&smtp) };
    let rig = Rig::start_by(smtp, settings).await;
    let billed = |id: &str, to: &str| v1::InvoiceIssued {
        invoice: Some(v1::Invoice { bill_to_email: to.into(), ..invoice(id, 1, 100) }),
    };
    rig.emit(&INGEST_INTAKE, [billed("in_1", "ada@bücher.example"), billed("in_2", "jürgen@example.com")]).await;
    rig.wait_for("balance", 2).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for("delivery WHERE state = 'waiting' AND tries = 1 AND reason LIKE '%refused%'", 1).await;
    let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
    let small = &["PIPELINING", "SIZE 1000"];
    let smtp = SmtpServer::start_with(address, Abilities { extensions: small, ..Abilities::default() }).await.unwrap();
    rig.clock.set(at("2026-06-10T08:05:00Z"));
    rig.wait_for_told(&["failed too_large"]).await;
    smtp.hang_up();
    drop(smtp);
    let smtp = wait::until("the port", SOON, || async { SmtpServer::start(address).await.ok() }).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_2"])]).await;
    rig.wait_for_told(&["failed too_large", "failed smtputf8"]).await;
    rig.emit(&SCHEDULER_TIMERS, [due(&["in_1"])]).await;
    rig.wait_for_told(&["failed too_large", "failed smtputf8", "sent in_1"]).await;
    let mails = smtp.mails();
    assert_eq!(mails[0].to, ["ada@xn--bcher-kva.example"], "needs no extension");
    assert!(mails[0].headers("To").join("").contains("ada@xn--bcher-kva.example"), "{:?}", mails[0].headers("To"));
    rig.wait_for("suppression", 0).await;
    rig.end().await;
}
