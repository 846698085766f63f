//! The SMTP client against a server that misbehaves in every phase: what it reports, and how many copies exist.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use notifier::domain::Attempt;
use notifier::smtp::{Connection, Failure, Mail, Phase, Reply, Timeouts};
use std::time::Duration;
use testkit::SmtpServer;
use testkit::smtp::{Phase as ServerPhase, Reaction};
use tokio::time::Instant;

fn timeouts() -> Timeouts {
    let short = Duration::from_millis(300);
    Timeouts { hello: short, envelope: short, data: short, block: short, reply: short }
}

fn mail() -> Mail {
    let data = b"Subject: hello\r\n\r\n.starts with a dot\r\nends\r\n".to_vec();
    Mail { from: "billing@acme.example".into(), to: "ada@example.com".into(), data }
}

async fn open(server: &SmtpServer) -> Result<Connection, Failure> {
    Connection::open("127.0.0.1", server.address.port(), "test.example", timeouts()).await
}

/// Hands one mail over on a connection.
async fn hand_over(connection: Connection, mail: &Mail) -> Result<(Reply, Connection), (Failure, Option<Connection>)> {
    let prepared = connection.prepare(mail).await?;
    let committed = prepared.write_dot(Instant::now() + Duration::from_secs(1)).await.map_err(|f| (f, None))?;
    committed.verdict().await
}

async fn server() -> SmtpServer {
    SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap()
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
        let (at, does) = (phase, reaction.clone());
        server.script(move |phase, _| if phase == at { does.clone() } else { Reaction::Proceed });
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
    let failure = Connection::open("127.0.0.1", port, "test.example", timeouts()).await.err().unwrap();
    assert!(failure.to_string().contains("too long"), "{failure}");
    babble.await.unwrap();
}
