//! The SMTP client against a server that misbehaves in every phase: what it reports, and how many copies exist.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use kernel::Masked;
use notifier::config::{AuthMechanism, AuthSettings, Security, SmtpSettings};
use notifier::domain::Attempt;
use notifier::smtp::{Connection, Failure, Mail, Phase, Reply, Timeouts};
use std::time::Duration;
use testkit::smtp::{Abilities, Encryption, Phase as ServerPhase, Reaction};
use testkit::{SmtpServer, tls};
use tokio::time::Instant;

fn timeouts() -> Timeouts {
    let short = Duration::from_millis(300);
    Timeouts { hello: short, envelope: short, data: short, block: short, reply: short }
}

fn mail() -> Mail {
    let data = b"Subject: hello\r\n\r\n.starts with a dot\r\nends\r\n".to_vec();
    Mail { from: "billing@acme.example".into(), to: "ada@example.com".into(), envid: "0198-1".into(), data }
}

fn settings(server: &SmtpServer) -> SmtpSettings {
    SmtpSettings::new("127.0.0.1", server.address.port())
}

async fn open(server: &SmtpServer) -> Result<Connection, Failure> {
    open_with(settings(server)).await
}

async fn open_with(settings: SmtpSettings) -> Result<Connection, Failure> {
    let mut server = settings.server().unwrap();
    server.timeouts = timeouts();
    Connection::open(&server).await
}

/// Hands one mail over on a connection.
async fn hand_over(connection: Connection, mail: &Mail) -> Result<(Reply, Connection), (Failure, Option<Connection>)> {
    let prepared = connection.prepare(mail).await?;
    let committed = prepared.write_dot(Instant::now() + Duration::from_secs(1)).await.map_err(|f| (f, None))?;
    committed.verdict().await
}

async fn server() -> SmtpServer {
    server_with(Abilities::default()).await
}

async fn server_with(abilities: Abilities) -> SmtpServer {
    SmtpServer::start_with("127.0.0.1:0".parse().unwrap(), abilities).await.unwrap()
}

const ALL: &[&str] = &["PIPELINING", "8BITMIME", "SIZE 1000", "DSN", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES"];

fn chunking() -> Abilities {
    Abilities { extensions: ALL, ..Abilities::default() }
}

#[tokio::test]
async fn mails_arrive_as_they_are_over_one_connection() {
    let server = server().await;
    let mut connection = open(&server).await.unwrap();
    for _ in 0..5 {
        let (reply, next) = hand_over(connection, &mail()).await.map_err(|(f, _)| f).unwrap();
        assert_eq!((reply.code, reply.enhanced.as_deref()), (250, Some("2.0.0")));
        connection = next;
    }
    connection.quit().await;
    let mails = server.mails();
    assert_eq!((mails.len(), server.connections()), (5, 1));
    assert_eq!(mails.first().unwrap().data, mail().data, "dots come out as they went in");
    assert_eq!(mails.first().unwrap().to, ["ada@example.com"]);
}

#[tokio::test]
async fn a_prepared_mail_that_is_dropped_does_not_exist() {
    let server = server().await;
    let prepared = open(&server).await.unwrap().prepare(&mail()).await.map_err(|(f, _)| f).unwrap();
    drop(prepared);
    let connection = open(&server).await.unwrap();
    hand_over(connection, &mail()).await.map_err(|(f, _)| f).unwrap();
    assert_eq!(server.count(), 1, "only the second one");
}

#[tokio::test]
async fn a_dot_after_its_deadline_is_not_written() {
    let server = server().await;
    let prepared = open(&server).await.unwrap().prepare(&mail()).await.map_err(|(f, _)| f).unwrap();
    let late = prepared.write_dot(Instant::now()).await;
    assert!(matches!(Attempt::of_failure(&late.err().unwrap()), Attempt::Retry { .. }), "nothing was handed over");
    hand_over(open(&server).await.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
    assert_eq!(server.count(), 1);
}

/// The phase table: for each thing a server may do, what the client makes of it, and the copies that were accepted.
#[tokio::test]
async fn every_row_of_the_phase_table() {
    use Reaction::{AcceptAndClose, Close, Reply as Says, Stall};
    let retry = |a: &Attempt| matches!(a, Attempt::Retry { relay: false, .. });
    let relay = |a: &Attempt| matches!(a, Attempt::Retry { relay: true, .. });
    let failed = |a: &Attempt| matches!(a, Attempt::Failed { bad_address: false, .. });
    let bad_address = |a: &Attempt| matches!(a, Attempt::Failed { bad_address: true, .. });
    let unknown = |a: &Attempt| *a == Attempt::Unknown;
    type Check<'a> = &'a dyn Fn(&Attempt) -> bool;
    let rows: Vec<(ServerPhase, Reaction, Check<'_>, usize)> = vec![
        (ServerPhase::Greeting, Says("421 busy"), &relay, 0),
        (ServerPhase::Greeting, Says("554 5.7.1 go away"), &relay, 0),
        (ServerPhase::Greeting, Close, &relay, 0),
        (ServerPhase::Greeting, Stall, &relay, 0),
        (ServerPhase::Greeting, Says("hello there"), &relay, 0),
        (ServerPhase::Hello, Says("550 5.7.1 who are you?"), &relay, 0),
        (ServerPhase::Hello, Close, &relay, 0),
        (ServerPhase::Mail, Says("451 4.3.0 later"), &retry, 0),
        (ServerPhase::Mail, Says("421 4.3.2 shutting down"), &retry, 0),
        (ServerPhase::Mail, Says("550 5.7.1 not from you"), &relay, 0),
        (ServerPhase::Mail, Close, &retry, 0),
        (ServerPhase::Recipient, Says("450 4.7.1 greylisted"), &retry, 0),
        (ServerPhase::Recipient, Says("550 5.1.1 no such user"), &bad_address, 0),
        (ServerPhase::Recipient, Says("550 5.7.1 refused"), &failed, 0),
        (ServerPhase::Recipient, Says("550 5.1.0 sender or recipient"), &failed, 0),
        (ServerPhase::Recipient, Says("550 5.1.8 your domain does not exist"), &relay, 0),
        (ServerPhase::Recipient, Says("550-5.2.1 this mailbox\r\n550 5.2.1 is disabled"), &bad_address, 0),
        (ServerPhase::Recipient, Says("421 4.3.2 shutting down"), &retry, 0),
        (ServerPhase::Recipient, Stall, &retry, 0),
        (ServerPhase::Data, Says("452 4.3.1 no room"), &retry, 0),
        (ServerPhase::Data, Says("554 5.5.1 no"), &failed, 0),
        (ServerPhase::Data, Close, &retry, 0),
        (ServerPhase::Dot, Says("451 4.3.0 later"), &retry, 0),
        (ServerPhase::Dot, Says("552 5.3.4 too big"), &failed, 0),
        (ServerPhase::Dot, Close, &unknown, 0),
        (ServerPhase::Dot, Stall, &unknown, 0),
        (ServerPhase::Dot, AcceptAndClose, &unknown, 1),
        (ServerPhase::Dot, Says("garbage"), &unknown, 0),
    ];
    for (phase, reaction, check, copies) in rows {
        let server = server().await;
        let (at, does) = (phase, reaction);
        server.script(move |phase, _| if phase == at { does } else { Reaction::Proceed });
        let attempt = match open(&server).await {
            Err(failure) => Attempt::of_failure(&failure),
            Ok(connection) => match hand_over(connection, &mail()).await {
                Ok((reply, _)) => Attempt::Accepted(reply),
                Err((failure, _)) => Attempt::of_failure(&failure),
            },
        };
        assert!(check(&attempt), "{phase:?} {reaction:?}: {attempt:?}");
        assert_eq!(server.count(), copies, "{phase:?} {reaction:?}");
    }
}

#[tokio::test]
async fn a_refused_recipient_leaves_the_connection_usable() {
    let server = server().await;
    server.script(|phase, to| match phase {
        ServerPhase::Recipient if to.iter().any(|t| t == "nobody@example.com") => Reaction::Reply("550 5.1.1 no"),
        ServerPhase::Data if to.iter().any(|t| t == "nobody@example.com") => Reaction::Reply("503 5.5.1 no recipient"),
        _ => Reaction::Proceed,
    });
    let connection = open(&server).await.unwrap();
    let nobody = Mail { to: "nobody@example.com".into(), ..mail() };
    let (failure, connection) = hand_over(connection, &nobody).await.err().unwrap();
    assert!(matches!(failure, Failure::Refused { phase: Phase::Recipient, .. }));
    hand_over(connection.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
    assert_eq!((server.count(), server.connections()), (1, 1));
}

#[tokio::test]
async fn a_server_that_wants_the_body_of_a_mail_to_nobody_is_hung_up_on() {
    let server = server().await;
    server.script(
        |phase, _| if phase == ServerPhase::Recipient { Reaction::Reply("550 5.1.1 no") } else { Reaction::Proceed },
    );
    let (failure, connection) = hand_over(open(&server).await.unwrap(), &mail()).await.err().unwrap();
    assert!(matches!(failure, Failure::Refused { phase: Phase::Recipient, .. }));
    assert!(connection.is_none(), "it expects a body now");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_goodbye_ends_the_conversation_whatever_was_asked_after_it() {
    let server = server().await;
    server.script(
        |phase, _| if phase == ServerPhase::Mail { Reaction::Reply("421 4.4.2 bye") } else { Reaction::Proceed },
    );
    let (failure, connection) = hand_over(open(&server).await.unwrap(), &mail()).await.err().unwrap();
    assert!(matches!(failure, Failure::Refused { phase: Phase::Mail, .. }), "{failure}");
    assert!(connection.is_none());
}

#[tokio::test]
async fn an_endless_reply_is_not_read_to_its_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let babble = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        // Never a line end.
        while tokio::io::AsyncWriteExt::write_all(&mut socket, &[b'2'; 4096]).await.is_ok() {}
    });
    let failure = open_with(SmtpSettings::new("127.0.0.1", port)).await.err().unwrap();
    assert!(failure.to_string().contains("too long"), "{failure}");
    babble.await.unwrap();
}

#[tokio::test]
async fn a_mail_on_an_open_connection_takes_two_round_trips() {
    for (extensions, each) in
        [(&["PIPELINING"] as &[&str], 2), (&["PIPELINING", "CHUNKING"], 2), (&[], 4), (&["CHUNKING"], 4)]
    {
        let server = server_with(Abilities { extensions, ..Abilities::default() }).await;
        let mut connection = open(&server).await.unwrap();
        let mut before = None;
        for n in 1..=5 {
            connection = hand_over(connection, &mail()).await.map_err(|(f, _)| f).unwrap().1;
            assert_eq!(server.mails().last().unwrap().data, mail().data, "{extensions:?}");
            // The wait for the last reply is counted when the next command comes.
            let trips = server.round_trips();
            if let Some(before) = before {
                assert_eq!(trips - before, each, "{extensions:?}, mail {n}");
            }
            before = Some(trips);
        }
    }
}

/// The mail with another subject, to somebody else.
fn next_mail(to: &str) -> Mail {
    let data = b"Subject: next\r\n\r\n..\r\n".to_vec();
    Mail { to: to.into(), envid: "0198-2".into(), data, ..mail() }
}

/// Hands a mail over with the beginning of the next one behind its end.
async fn hand_over_and_begin(
    server: &SmtpServer,
    next: &Mail,
) -> Result<(Reply, Connection), (Failure, Option<Connection>)> {
    let mut prepared = open(server).await.unwrap().prepare(&mail()).await?;
    prepared.and_begin(next);
    let committed = prepared.write_dot(Instant::now() + Duration::from_secs(1)).await.map_err(|f| (f, None))?;
    committed.verdict().await
}

#[tokio::test]
async fn the_next_mail_begins_behind_the_end_of_one() {
    for (extensions, saved) in [(&["PIPELINING"] as &[&str], 1), (&["PIPELINING", "CHUNKING"], 1), (&[], 0)] {
        let server = server_with(Abilities { extensions, ..Abilities::default() }).await;
        let next = next_mail("grace@example.com");
        let (_, connection) = hand_over(open(&server).await.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
        hand_over(connection, &next).await.map_err(|(f, _)| f).unwrap();
        let one_by_one = server.round_trips();

        let (reply, connection) = hand_over_and_begin(&server, &next).await.map_err(|(f, _)| f).unwrap();
        assert_eq!((reply.code, server.count()), (250, 3), "the end of the next one is still to come");
        assert_eq!(connection.has_begun(), saved > 0, "{extensions:?}");
        let (_, connection) = hand_over(connection, &next).await.map_err(|(f, _)| f).unwrap();
        assert!(!connection.has_begun());
        assert_eq!(server.round_trips() - one_by_one, one_by_one - saved, "{extensions:?}");
        assert_eq!((server.count(), server.connections()), (4, 2));
        let last = server.mails().last().unwrap().clone();
        assert_eq!((&last.data, &last.to[..]), (&next.data, &["grace@example.com".to_owned()][..]), "{extensions:?}");
    }
}

#[tokio::test]
async fn what_has_begun_has_no_part_in_what_becomes_of_the_mail_before() {
    for (extensions, stays) in [(&["PIPELINING"] as &[&str], true), (&["PIPELINING", "CHUNKING"], false)] {
        let server = server_with(Abilities { extensions, ..Abilities::default() }).await;
        server.script(|at, to| match (at, to) {
            (ServerPhase::Dot, [to]) if to == "ada@example.com" => Reaction::Reply("552 5.3.4 too big"),
            _ => Reaction::Proceed,
        });
        let next = next_mail("grace@example.com");
        let (failure, connection) = hand_over_and_begin(&server, &next).await.err().unwrap();
        assert!(matches!(failure, Failure::Refused { phase: Phase::Dot, .. }), "{failure}");
        assert_eq!(connection.is_some(), stays, "{extensions:?}: without a reset all that follows a chunk is refused");
        let connection = match connection {
            Some(connection) => connection,
            None => open(&server).await.unwrap(),
        };
        hand_over(connection, &next).await.map_err(|(f, _)| f).unwrap();
        assert_eq!(server.mails().iter().map(|m| m.to.join("")).collect::<Vec<_>>(), ["grace@example.com"]);
    }
}

#[tokio::test]
async fn what_has_begun_is_refused_for_itself_and_is_nothing_without_its_end() {
    let nobody = next_mail("nobody@example.com");
    for extensions in [&["PIPELINING"] as &[&str], &["PIPELINING", "CHUNKING"]] {
        let server = server_with(Abilities { extensions, ..Abilities::default() }).await;
        server.script(|at, to| match (at, to) {
            (ServerPhase::Recipient, [to]) if to == "nobody@example.com" => Reaction::Reply("550 5.1.1 no such user"),
            (ServerPhase::Data, [to]) if to == "nobody@example.com" => Reaction::Reply("503 5.5.1 no recipient"),
            _ => Reaction::Proceed,
        });
        let (_, connection) = hand_over_and_begin(&server, &nobody).await.map_err(|(f, _)| f).unwrap();
        let (failure, connection) = connection.prepare(&nobody).await.err().unwrap();
        let Failure::Refused { phase: Phase::Recipient, reply } = failure else { unreachable!("{failure}") };
        assert_eq!(reply.to_string(), "550 5.1.1");
        hand_over(connection.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
        assert_eq!((server.count(), server.connections()), (2, 1));

        let next = next_mail("grace@example.com");
        drop(hand_over_and_begin(&server, &next).await.map_err(|(f, _)| f).unwrap());
        let (_, connection) = hand_over_and_begin(&server, &next).await.map_err(|(f, _)| f).unwrap();
        drop(connection.prepare(&next).await.map_err(|(f, _)| f).unwrap());
        let (_, connection) = hand_over_and_begin(&server, &next).await.map_err(|(f, _)| f).unwrap();
        let (failure, connection) = connection.prepare(&mail()).await.err().unwrap();
        assert!(matches!(failure, Failure::Broken { phase: Phase::Mail, .. }), "good for that mail only: {failure}");
        assert!(connection.is_none());
        hand_over(open(&server).await.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
        assert_eq!(server.count(), 6, "{extensions:?}");
        assert!(server.mails().iter().all(|m| m.to == ["ada@example.com"]), "nothing of those without an end");
    }
}

#[tokio::test]
async fn a_large_mail_does_not_begin_behind_another() {
    let server = server().await;
    let large = Mail { data: vec![b'x'; 40_000], ..next_mail("grace@example.com") };
    let (_, connection) = hand_over_and_begin(&server, &large).await.map_err(|(f, _)| f).unwrap();
    assert!(!connection.has_begun(), "the end of the one before must not queue with it");
    hand_over(connection, &large).await.map_err(|(f, _)| f).unwrap();
    assert_eq!((server.count(), server.connections()), (2, 1));
}

#[tokio::test]
async fn what_the_server_offers_is_used_and_nothing_else() {
    let server = server_with(chunking()).await;
    let eight_bit = Mail { data: "Subject: hi\r\n\r\n.hallö\r\n.\r\n\r\n".into(), ..mail() };
    let (_, connection) = hand_over(open(&server).await.unwrap(), &eight_bit).await.map_err(|(f, _)| f).unwrap();
    let international = Mail { to: "jürgen@bücher.example".into(), ..mail() };
    let (_, connection) = hand_over(connection, &international).await.map_err(|(f, _)| f).unwrap();
    let large = Mail { data: vec![b'x'; 1001], ..mail() };
    let (failure, connection) = hand_over(connection, &large).await.err().unwrap();
    assert!(matches!(failure, Failure::Unfit { reason: "too_large" }), "{failure}");
    hand_over(connection.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
    let mails = server.mails();
    assert_eq!(mails[0].data, eight_bit.data, "chunks come out as they went in");
    assert_eq!(
        mails[0].envelope,
        [
            "MAIL FROM:<billing@acme.example> SIZE=29 BODY=8BITMIME RET=HDRS ENVID=0198-1",
            "RCPT TO:<ada@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;ada@example.com",
        ]
    );
    assert!(mails[1].envelope[0].contains(" SMTPUTF8"), "{:?}", mails[1].envelope);
    assert_eq!(mails[1].to, ["jürgen@xn--bcher-kva.example"]);
    assert_eq!((mails.len(), server.connections()), (3, 1));

    let plain = server_with(Abilities { extensions: &[], ..Abilities::default() }).await;
    let (_, connection) = hand_over(open(&plain).await.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
    let (failure, connection) = hand_over(connection, &international).await.err().unwrap();
    assert!(matches!(failure, Failure::Unfit { reason: "smtputf8" }), "{failure}");
    let (failure, connection) = hand_over(connection.unwrap(), &eight_bit).await.err().unwrap();
    assert!(matches!(failure, Failure::Unfit { reason: "8bitmime" }), "{failure}");
    hand_over(connection.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
    assert_eq!(plain.mails()[0].envelope, ["MAIL FROM:<billing@acme.example>", "RCPT TO:<ada@example.com>"]);
    assert_eq!(plain.count(), 2);
}

#[tokio::test]
async fn a_mail_in_chunks_can_be_taken_back_without_hanging_up() {
    let server = server_with(chunking()).await;
    let prepared = open(&server).await.unwrap().prepare(&mail()).await.map_err(|(f, _)| f).unwrap();
    let connection = prepared.take_back().await.unwrap();
    let (_, connection) = hand_over(connection, &mail()).await.map_err(|(f, _)| f).unwrap();
    drop(connection.prepare(&mail()).await.map_err(|(f, _)| f).unwrap());
    hand_over(open(&server).await.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
    assert_eq!((server.count(), server.connections()), (2, 2));
    assert!(server.mails().iter().all(|m| m.data == mail().data), "nothing of the one that was taken back");

    let in_data = self::server().await;
    let prepared = open(&in_data).await.unwrap().prepare(&mail()).await.map_err(|(f, _)| f).unwrap();
    assert!(prepared.take_back().await.is_none(), "inside DATA there is no other way than to hang up");
}

#[tokio::test]
async fn a_refused_chunk_leaves_the_connection_usable() {
    for (refused, says, phase) in [
        (ServerPhase::Mail, "451 4.3.0 later", Phase::Mail),
        (ServerPhase::Recipient, "550 5.1.1 no such user", Phase::Recipient),
        (ServerPhase::Data, "452 4.3.1 no room", Phase::Data),
        (ServerPhase::Dot, "552 5.2.2 full", Phase::Dot),
    ] {
        let server = server_with(chunking()).await;
        server.script(move |at, to| {
            let hit = at == refused && (to.is_empty() || to.iter().any(|to| to == "nobody@example.com"));
            if hit { Reaction::Reply(says) } else { Reaction::Proceed }
        });
        let nobody = Mail { to: "nobody@example.com".into(), ..mail() };
        let (failure, connection) = hand_over(open(&server).await.unwrap(), &nobody).await.err().unwrap();
        assert!(matches!(&failure, Failure::Refused { phase: at, .. } if *at == phase), "{failure}");
        server.script(|_, _| Reaction::Proceed);
        hand_over(connection.unwrap(), &mail()).await.map_err(|(f, _)| f).unwrap();
        assert_eq!((server.count(), server.connections()), (1, 1), "{phase:?}");
    }
}

#[tokio::test]
async fn a_server_that_reads_no_more_gets_no_dot() {
    let server = server_with(Abilities { receive_buffer: Some(1), ..Abilities::default() }).await;
    server.script(|phase, _| if phase == ServerPhase::Body { Reaction::Stall } else { Reaction::Proceed });
    let large = Mail { data: vec![b'x'; 20_000], ..mail() };
    let (failure, connection) = open(&server).await.unwrap().prepare(&large).await.err().unwrap();
    assert!(matches!(failure, Failure::Broken { phase: Phase::Body, .. }), "{failure}");
    assert!(failure.to_string().contains("takes no more"), "{failure}");
    assert!(connection.is_none());
}

#[tokio::test]
async fn what_a_server_says_before_the_dot_is_no_answer_to_it() {
    for (says, failed) in [("250 2.0.0 thank you", false), ("451 4.3.0 enough", false), ("552 5.3.4 too big", true)] {
        let server = server().await;
        server
            .script(move |phase, _| if phase == ServerPhase::Body { Reaction::Reply(says) } else { Reaction::Proceed });
        // Said during the body or right before the dot.
        let failure = match open(&server).await.unwrap().prepare(&mail()).await {
            Err((failure, _)) => failure,
            Ok(prepared) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                prepared.write_dot(Instant::now() + Duration::from_secs(1)).await.err().unwrap()
            }
        };
        let attempt = Attempt::of_failure(&failure);
        let broken = matches!(attempt, Attempt::Retry { .. });
        assert!(broken || failed, "{says}: {attempt:?}");
        assert_eq!(server.count(), 0);
    }
    let server = server().await;
    server.script(|phase, _| if phase == ServerPhase::Body { Reaction::Close } else { Reaction::Proceed });
    let failure = match open(&server).await.unwrap().prepare(&mail()).await {
        Err((failure, _)) => failure,
        Ok(prepared) => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            prepared.write_dot(Instant::now() + Duration::from_secs(1)).await.err().unwrap()
        }
    };
    assert!(matches!(failure, Failure::Broken { phase: Phase::Body, .. }), "nothing was handed over: {failure}");
}

/// Settings for a server of the test certificate, which is for `localhost`.
fn encrypted(server: &SmtpServer, security: Security) -> SmtpSettings {
    SmtpSettings {
        host: "localhost".into(),
        security,
        ca: Some(Masked::new(tls::CERTIFICATE.to_owned())),
        ..settings(server)
    }
}

#[tokio::test]
async fn encrypted_from_the_first_byte_or_by_command() {
    for (encryption, security) in
        [(Encryption::StartTls, Security::Starttls), (Encryption::Implicit, Security::Implicit)]
    {
        for extensions in [Abilities::default().extensions, ALL] {
            let server = server_with(Abilities { encryption, extensions, ..Abilities::default() }).await;
            let mut connection = open_with(encrypted(&server, security)).await.unwrap();
            for _ in 0..3 {
                connection = hand_over(connection, &mail()).await.map_err(|(f, _)| f).unwrap().1;
            }
            drop(connection.prepare(&mail()).await.map_err(|(f, _)| f).unwrap());
            open_with(encrypted(&server, security)).await.unwrap().quit().await;
            let mails = server.mails();
            assert_eq!((mails.len(), server.connections()), (3, 2));
            assert!(mails.iter().all(|m| m.encrypted && m.data == mail().data));
        }
    }
}

#[tokio::test]
async fn nothing_is_said_to_a_server_that_cannot_prove_who_it_is() {
    let relay = |failure: &Failure| matches!(Attempt::of_failure(failure), Attempt::Retry { relay: true, .. });
    for (encryption, security) in
        [(Encryption::StartTls, Security::Starttls), (Encryption::Implicit, Security::Implicit)]
    {
        let server = server_with(Abilities { encryption, ..Abilities::default() }).await;
        let good = encrypted(&server, security);
        let unknown = SmtpSettings { ca: None, ..good.clone() };
        let other_name = SmtpSettings { host: "127.0.0.1".into(), ..good };
        for settings in [unknown, other_name] {
            let failure = open_with(settings).await.err().unwrap();
            assert!(relay(&failure) && matches!(failure, Failure::Broken { phase: Phase::Tls, .. }), "{failure}");
        }
        assert_eq!(server.count(), 0);
    }
    let plain = server().await;
    let failure = open_with(encrypted(&plain, Security::Starttls)).await.err().unwrap();
    assert!(relay(&failure) && failure.to_string().contains("does not offer STARTTLS"), "{failure}");
    let failure = open_with(encrypted(&plain, Security::Implicit)).await.err().unwrap();
    assert!(relay(&failure) && matches!(failure, Failure::Broken { phase: Phase::Tls, .. }), "{failure}");

    let server = server_with(Abilities { encryption: Encryption::StartTls, ..Abilities::default() }).await;
    for (reaction, word) in [
        (Reaction::Reply("454 4.7.0 no TLS now"), "454"),
        (Reaction::Words("220 2.0.0 go ahead\r\n250 2.0.0 as if it were encrypted"), "plain text"),
        (Reaction::Reply("220 2.0.0 go ahead"), "Tls"),
        (Reaction::Close, "hung up"),
        (Reaction::Stall, "no reply in time"),
    ] {
        server.script(move |phase, _| if phase == ServerPhase::Tls { reaction } else { Reaction::Proceed });
        let failure = open_with(encrypted(&server, Security::Starttls)).await.err().unwrap();
        assert!(relay(&failure) && failure.to_string().contains(word), "{reaction:?}: {failure}");
    }
}

#[tokio::test]
async fn logs_in_as_the_server_likes_it() {
    let directory = std::env::temp_dir().join(format!("dunlin-token-{}", kernel::id::new(&kernel::SystemClock)));
    std::fs::create_dir(&directory).unwrap();
    let token = directory.join("token");
    std::fs::write(&token, "s3cret \n").unwrap();
    let by = |mechanism, password: Option<&str>| AuthSettings {
        mechanism,
        user: "dunlin".into(),
        password: password.map(|p| Masked::new(p.to_owned())),
        token_path: password.is_none().then(|| token.clone()),
    };
    use AuthMechanism::{Auto, Login, Plain, Xoauth2};
    let rows: [(&'static [&'static str], AuthSettings, Option<&str>); 11] = [
        (&["PLAIN", "LOGIN"], by(Auto, Some("s3cret")), None),
        (&["LOGIN"], by(Auto, Some("s3cret")), None),
        (&["XOAUTH2"], by(Auto, None), None),
        (&["LOGIN", "PLAIN"], by(Login, Some("s3cret")), None),
        (&["XOAUTH2", "PLAIN"], by(Xoauth2, None), None),
        (&["PLAIN"], by(Plain, Some("wrong")), Some("535")),
        (&["LOGIN"], by(Login, Some("wrong")), Some("535")),
        (&["LOGIN"], by(Plain, Some("s3cret")), Some("does not offer AUTH PLAIN")),
        (&["CRAM-MD5"], by(Auto, Some("s3cret")), Some("does not offer AUTH PLAIN or LOGIN")),
        (&["PLAIN"], by(Xoauth2, None), Some("does not offer AUTH XOAUTH2")),
        (&[], by(Auto, Some("s3cret")), Some("does not offer AUTH")),
    ];
    for (mechanisms, auth, problem) in rows {
        let (encryption, user, secret) = (Encryption::StartTls, "dunlin", "s3cret");
        let abilities = Abilities { encryption, mechanisms, user, secret, ..Abilities::default() };
        let server = server_with(abilities).await;
        let settings = SmtpSettings { auth: Some(auth.clone()), ..encrypted(&server, Security::Starttls) };
        match (open_with(settings).await, problem) {
            (Ok(connection), None) => {
                hand_over(connection, &mail()).await.map_err(|(f, _)| f).unwrap();
                assert_eq!(server.mails()[0].user, "dunlin", "{auth:?}");
            }
            (Err(failure), Some(problem)) => {
                assert!(failure.to_string().contains(problem), "{failure}");
                assert!(matches!(Attempt::of_failure(&failure), Attempt::Retry { relay: true, .. }), "{failure}");
            }
            (result, _) => panic!("{auth:?}: {result:?}"),
        }
    }

    // A token is fresh for each connection.
    let (encryption, user, secret) = (Encryption::Implicit, "dunlin", "s3cret");
    let abilities = Abilities { encryption, mechanisms: &["XOAUTH2"], user, secret, ..Abilities::default() };
    let server = server_with(abilities).await;
    let settings = SmtpSettings { auth: Some(by(Auto, None)), ..encrypted(&server, Security::Implicit) };
    open_with(settings.clone()).await.unwrap().quit().await;
    std::fs::write(&token, "stale").unwrap();
    let failure = open_with(settings.clone()).await.err().unwrap();
    assert!(failure.to_string().contains("535"), "{failure}");
    std::fs::remove_dir_all(directory).unwrap();
    let failure = open_with(settings).await.err().unwrap();
    assert!(failure.to_string().contains("token cannot be read"), "{failure}");
}

#[tokio::test]
async fn a_password_leaves_the_machine_only_encrypted() {
    // An address of this machine that is not loopback, if it has one: no packet is sent to find it.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let found = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|address| address.ip());
    let Some(address) = found.ok().filter(|ip| !ip.is_loopback()) else {
        eprintln!("\n*** SKIPPED: this machine has no address but loopback, so this test has checked nothing ***\n");
        return;
    };
    let abilities = || Abilities { mechanisms: &["PLAIN"], user: "dunlin", secret: "s3cret", ..Abilities::default() };
    let auth = AuthSettings {
        mechanism: AuthMechanism::Auto,
        user: "dunlin".into(),
        password: Some(Masked::new("s3cret".to_owned())),
        token_path: None,
    };
    let server = SmtpServer::start_with((address, 0).into(), abilities()).await.unwrap();
    let settings = SmtpSettings { auth: Some(auth), ..SmtpSettings::new(address.to_string(), server.address.port()) };
    let failure = open_with(settings.clone()).await.err().unwrap();
    assert!(failure.to_string().contains("not encrypted"), "{failure}");
    let local = server_with(abilities()).await;
    let settings = SmtpSettings { host: "127.0.0.1".into(), port: local.address.port(), ..settings };
    open_with(settings).await.unwrap().quit().await;
}
