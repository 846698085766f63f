//! Every real report of the shared fixtures is what it says it is, and no bytes can upset the reader.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use notifier::inbound::{Class, read};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Class, code and recipients of each file, as a person reads it. `*`: whatever else is named there.
const EXPECTED: &str = "
flanker/bounce_broken-mime soft_bounce 5.0.0 info@example.net
flanker/bounce_delayed soft_bounce 4.4.1 foo@example.com
flanker/bounce_gmail-invalid-address hard_bounce 5.1.1 awfawfawfawfawfaw@someserverhere.com
flanker/bounce_mailbox-full soft_bounce 5.2.2 user@aol.com
flanker/bounce_zed hard_bounce 5.1.1 asdfasdfasdfasdfasdfasdfewrqertrtyrthsfgdfgadfqeadvxzvz@gmail.com
flanker/complaints_aol complaint abuse
flanker/messages_disposition-notification notice disposition
kumomta/rfc3464_1 soft_bounce 4.4.1 louisl@larry.slip.umd.edu
kumomta/rfc3464_3 hard_bounce 5.1.1
kumomta/rfc3464_5 soft_bounce 5.2.2 recipient@domain.com
kumomta/rfc3464_obsolete_arrival_date hard_bounce 5.1.1 user@example.com
kumomta/rfc5965_1 complaint abuse
kumomta/rfc5965_3 complaint abuse user@example.com
sisimai/arf-01 complaint abuse
sisimai/arf-11 complaint abuse
sisimai/arf-14 complaint abuse kijitora@y.example.com
sisimai/arf-16 complaint abuse kijitora@example.com,sironeko@example.com,mikeneko@example.com,sabatora@example.com,sirokiji@example.org,kuroneko@example.com,sabineko@example.com
sisimai/arf-18 notice auth-failure kijitora@example.com
sisimai/arf-20 notice auth-failure
sisimai/arf-22 complaint abuse
sisimai/arf-24 complaint abuse
sisimai/arf-26 complaint opt-out
sisimai/lhost-amazonses-01 blocked 5.7.1 shironeko@example.co.jp
sisimai/lhost-amazonses-03 soft_bounce 5.2.2 kijitora@example.jp
sisimai/lhost-amazonses-06 hard_bounce 5.1.1 bounce@simulator.amazonses.com
sisimai/lhost-exchange2007-01 hard_bounce 5.1.1 mikeneko@example.co.jp
sisimai/lhost-exchange2007-03 soft_bounce 5.2.3 kijitora@neko.example.com
sisimai/lhost-exim-01 blocked 5.7.0 kijitora@example.ed.jp
sisimai/lhost-exim-03 blocked 5.7.0 kijitora@example.jp
sisimai/lhost-exim-05 hard_bounce 5.1.1 kijitora@neko.example.co.jp
sisimai/lhost-exim-07 soft_bounce 5.2.2 shiba@example.com
sisimai/lhost-gmail-01 hard_bounce 5.1.1 userunknown@example.jp
sisimai/lhost-gmail-04 blocked 5.7.1 kijitora@example.com
sisimai/lhost-gmail-06 delayed 4.2.2 kijitora@example.jp
sisimai/lhost-office365-01 hard_bounce 5.1.10 kijitora@example.com
sisimai/lhost-office365-03 blocked 5.7.1 kijitora@example.com
sisimai/lhost-office365-05 blocked 5.1.8 kijitora@example.jp
sisimai/lhost-office365-07 hard_bounce 5.1.351 otsu-sakaba-hunter-neko-nyaaaaaaan@ezweb.ne.jp
sisimai/lhost-opensmtpd-01 hard_bounce 5.1.1 apdugoaidugoaidugoaeiudggadi@gmail.com
sisimai/lhost-opensmtpd-03 hard_bounce 5.1.2 kijitora@neko.example.jp
sisimai/lhost-outlook-01 soft_bounce 5.2.2 kijitora@example.jp
sisimai/lhost-outlook-03 soft_bounce 5.4.1 kijitora@example.jp
sisimai/lhost-postfix-01 hard_bounce 5.1.1 r@p351355.pool.example.ne.jp
sisimai/lhost-postfix-03 hard_bounce 5.1.1 kijitora@example.net
sisimai/lhost-postfix-05 soft_bounce 4.1.1 kijitora@example.org
sisimai/lhost-postfix-07 hard_bounce 5.1.1 kijitora@user.example.or.jp
sisimai/lhost-postfix-09 soft_bounce 4.3.2 kijitora@example.ne.jp
sisimai/lhost-postfix-11 blocked 5.1.8 kijitora@example.jp,noraneko@example.jp
sisimai/lhost-postfix-14 hard_bounce 5.1.1 kijitora@2jo.example.jp
sisimai/lhost-postfix-16 hard_bounce 5.1.6 kijitora@example.go.jp
sisimai/lhost-postfix-28 blocked 5.7.1 kijitora@gmail.example.com
sisimai/lhost-postfix-30 hard_bounce 5.4.1 kijitora@example.br
sisimai/lhost-qmail-01 hard_bounce 5.1.1 kijitora@example.ne.jp
sisimai/lhost-qmail-03 blocked 5.7.1 kijitora@example.org
sisimai/lhost-sendgrid-01 hard_bounce 5.1.1 kijitora@example.jp
sisimai/lhost-sendgrid-03 soft_bounce 4.4.1 kijitora@example.org
sisimai/lhost-sendmail-01 hard_bounce 5.1.1 userunknown@bouncehammer.jp
sisimai/lhost-sendmail-03 hard_bounce 5.1.1 bounce0@example.org
sisimai/lhost-sendmail-05 soft_bounce 5.2.3 kijitora@example.org
sisimai/lhost-yahoo-01 hard_bounce 5.1.1 kijitora@example.org
sisimai/lhost-yahoo-03 hard_bounce 5.1.1 kijitora@example.jp
sisimai/lhost-zoho-01 hard_bounce 5.1.1 kijitora@example.co.jp
sisimai/lhost-zoho-03 hard_bounce 5.1.1 shironeko@example.org
sisimai/rfc3464-01 hard_bounce 5.1.1 userunknown@bouncehammer.jp
sisimai/rfc3464-04 soft_bounce 5.5.0 kijitora@mailx-53.neko.example.edu
sisimai/rfc3464-07 delayed 4.4.0 kijitora@example.net
sisimai/rfc3464-09 delayed 4.3.0 kijitora-cat@mx4.gr3.example.jp
sisimai/rfc3464-26 hard_bounce 5.1.1 kijitora@example.or.jp
sisimai/rfc3464-29 soft_bounce 5.5.0 kijitora@example.com
sisimai/rfc3464-35 hard_bounce 5.1.1 kijitora@nyaan.example.com,sabatora@cat.example.net,mikeneko@neko.example.or.jp
sisimai/rfc3464-37 hard_bounce 5.1.2 kijitora@neko.nyaan.example.com
sisimai/rfc3464-39 soft_bounce 5.0.0 kijitora@nyaan.example.net
sisimai/rfc3464-42 hard_bounce 5.1.1 jane.doe@some-domain.net
sisimai/rfc3464-51 hard_bounce 5.1.1 kijitora@example.de
sisimai/rfc3464-53 hard_bounce 5.1.2 sironeko@example.jp
sisimai/rfc3464-55 delayed 4.4.1 sotoneko@nora.nyaan.jp
sisimai/rfc3464-57 hard_bounce 5.1.1 otsu-sakaba-hunter-neko-nyaaaaaaan@ezweb.ne.jp
sisimai/rfc3464-59 hard_bounce 5.1.10 neko@libsisimai.org
sisimai/rfc3464-61 blocked 5.7.1 kijitora@example.com
sisimai/rfc3464-63 hard_bounce 5.1.1 libsisimai-2@googlegroups.com
sisimai/rfc3464-65 hard_bounce 5.1.1 kijitora@example.it
sisimai/rfc3834-01 auto_reply
sisimai/rfc3834-03 auto_reply
sisimai/rfc3834-05 auto_reply
sisimai/rhost-google-01 hard_bounce 5.2.1 shironeko@example.ne.jp
sisimai/rhost-google-03 blocked 5.7.26 kijitora@google.example.com
sisimai/rhost-gsuite-03 hard_bounce 5.1.10 neko@libsisimai.org
sisimai/rhost-microsoft-01 blocked 5.7.606 kijitora@example.com
sisimai/rhost-microsoft-03 hard_bounce 5.1.10 kijitora@example.com
sisimai-crlf/arf-01 complaint abuse
sisimai-crlf/lhost-amazonses-01 blocked 5.7.1 shironeko@example.co.jp
sisimai-not-bounce/is-not-bounce-01 reply
sisimai-not-bounce/rb-issue-368-bug auto_reply
";

/// Kinds of reports that the fixtures have none of, in the words of those who send them.
const OTHERS: &[(&str, &str, &str)] = &[
    (
        "Exchange 2003",
        "From: System Administrator <postmaster@ex.example>\nSubject: Undeliverable: Invoice\n\nYour message\n\n  To:      ada@example.com\n  \
         Subject: Invoice\n\ndid not reach the following recipient(s):\n\nada@example.com on Thu, 29 Apr 2007 23:34:45 -0700\n    \
         The recipient name is not recognized\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "Domino",
        "From: Postmaster@example.com\nSubject: DELIVERY FAILURE: User ada (ada@example.com) not listed in Domino Directory\n\n\
         Your message\n\n  Subject: Invoice\n\nwas not delivered to:\n\n  ada@example.com\n\nbecause:\n\n  User ada (ada@example.com) not \
         listed in Domino Directory\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "sendmail before RFC 1894",
        "From: MAILER-DAEMON@old.example (Mail Delivery Subsystem)\nSubject: Returned mail: User unknown\n\n   ----- Transcript of session \
         follows -----\nWhile talking to mx.example.com:\n>>> RCPT To:<ada@example.com>\n<<< 550 User unknown\n\n   ----- Unsent message \
         follows -----\nMessage-Id: <1@ours.example>\n",
        "hard_bounce 5.1.1",
    ),
    (
        "sendmail's warning",
        "From: Mail Delivery Subsystem <MAILER-DAEMON@old.example>\nSubject: Warning: could not send message for past 4 hours\n\n\
         **  THIS IS A WARNING MESSAGE ONLY  **\n\n<ada@example.com>... Deferred: Connection timed out\n",
        "delayed 4.4.1 ada@example.com",
    ),
    (
        "Exim's warning",
        "From: Mail Delivery System <Mailer-Daemon@mx.example>\nAuto-Submitted: auto-replied\nSubject: Warning: message 1abcde-000000-00 delayed \
         24 hours\n\nThis message was created automatically by mail delivery software.\nA message that you sent has not yet been delivered to \
         one or more of its\nrecipients after more than 24 hours on the queue.\n\nThe address to which the message has not yet been \
         delivered is:\n\n  ada@example.com\n    host mx.example.com: 451 4.7.1 Greylisted\n",
        "delayed 4.7.1 ada@example.com",
    ),
    (
        "mfilter",
        "From: MAILER-DAEMON@mf.example\nSubject: failure notice\n\n-------server message\n550 5.1.1 unknown user <ada@example.com>\n\
         -------SMTP command\nRCPT TO:<ada@example.com>\n-------original message\nMessage-ID: <1@ours.example>\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "KDDI",
        "From: Postmaster@kddi.example\nSubject: Mail System Error - Returned Mail\n\nYour mail sent on: Thu, 29 Apr 2010\n    Could not be \
         delivered to: <ada@example.com>\n    As their mailbox is full.\n",
        "soft_bounce 5.2.2 ada@example.com",
    ),
    (
        "a delivery that was asked for",
        "From: postmaster@mx.example\nSubject: Delivery Status Notification (Relay)\nContent-Type: multipart/report; report-type=delivery-status; \
         boundary=b\n\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\nOriginal-Envelope-Id: 42\n\n\
         Final-Recipient: rfc822; ada@example.com\nAction: relayed\nStatus: 2.1.9\n\n--b--\n",
        "delivered 2.1.9 ada@example.com",
    ),
    (
        "an internationalised report (RFC 6533)",
        "From: postmaster@mx.example\nSubject: x\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\
         Content-Type: message/global-delivery-status\n\nReporting-MTA: dns; mx.example\n\nFinal-Recipient: utf-8; jörg@example.com\n\
         Action: failed\nStatus: 5.1.1\n\n--b--\n",
        "hard_bounce 5.1.1 jörg@example.com",
    ),
    (
        "away, German",
        "From: Ada <ada@example.com>\nSubject: Automatische Antwort: Rechnung\n\nBin weg.\n",
        "auto_reply",
    ),
    (
        "away, with an empty return path",
        "Return-Path: <>\nFrom: ada@example.com\nSubject: Re: Rechnung\n\nBin weg.\n",
        "auto_reply",
    ),
    (
        "away, Exchange",
        "From: ada@example.com\nSubject: Re: x\nAuto-Submitted: auto-replied (vacation)\n\nAway.\n",
        "auto_reply",
    ),
    ("challenge", "From: ada@example.com\nSubject: Please confirm your message\n\nClick here.\n", "auto_reply"),
    (
        "a person",
        "From: Ada <ada@example.com>\nAuto-Submitted: no\nSubject: Re: Invoice\n\nI could not be reached, already paid.\n",
        "reply",
    ),
    (
        "a person about a report",
        "From: Ada <ada@example.com>\nSubject: Fwd: Undeliverable: x\n\nIt could not be delivered?\n",
        "reply",
    ),
    (
        "a version number is no code of success",
        "From: System Administrator <postmaster@ex.example>\nSubject: Undeliverable: Release 2.0.12\n\nYour message\n\n  Subject: \
         Release 2.0.12\n\ndid not reach the following recipient(s):\n\nada@example.com\n    Unknown Recipient\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "a service by another name",
        "From: smtp-service@host.example\nSubject: Returned Mail\n\n--- Failed Recipients ---\n\n<ada@example.com>: Requested action not \
         taken: mailbox unavailable. [SMTP Error Code 550]\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "a subject like that of a challenge",
        "From: Campus <MAILER-DAEMON@campus.example>\nSubject: Your message to ada@example.com could not be delivered.\n\nThe address \
         ada@example.com is no longer valid. The message has NOT been delivered.\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "Dovecot's refusal of a full mailbox",
        "From: Mail Delivery Subsystem <postmaster@dove.example>\nSubject: Automatically rejected mail\nAuto-Submitted: auto-replied (rejected)\n\
         Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b\nContent-Type: text/plain\n\nYour message to \
         <ada@example.com> was automatically rejected:\nQuota exceeded\n--b\nContent-Type: message/disposition-notification\n\n\
         Final-Recipient: rfc822; ada@example.com\nDisposition: automatic-action/MDN-sent-automatically; deleted\n\n--b--\n",
        "soft_bounce 5.2.2 ada@example.com",
    ),
    (
        "a warning in other words",
        "From: postmaster@mx.example\nSubject: Mail Delivery Warning\n\nDelivery to\n<ada@example.com>\nhas been postponed due to a full \
         mailbox.\n",
        "delayed 5.2.2 ada@example.com",
    ),
    (
        "a loop",
        "From: MAILER-DAEMON@mx.example\nSubject: Returned mail\n\n<ada@example.com>: 554 Too many hops 26 (25 max)\n",
        "soft_bounce 5.4.6 ada@example.com",
    ),
    (
        "French",
        "From: postmaster@mx.example\nSubject: Non remis : Facture\n\nada@example.com\nCette adresse n'existe pas.\n",
        "hard_bounce 5.1.1 ada@example.com",
    ),
    (
        "a person about goods",
        "From: Ada <ada@example.com>\nSubject: Delivery problem\n\nThe box of 550 screws is no longer available, and the address was not found.\n",
        "reply",
    ),
    (
        "a mail server that says nothing known",
        "From: MAILER-DAEMON@mx.example\nPrecedence: bulk\nSubject: x\n\n<ada@example.com>:\n",
        "unclear",
    ),
    (
        "a postmaster on holiday",
        "From: postmaster@mx.example\nAuto-Submitted: auto-replied\nSubject: Re: Invoice\n\nAway.\n",
        "auto_reply",
    ),
    (
        "a mail server, about something else",
        "From: postmaster@example.com\nSubject: Quota report\n\nAll is well.\n",
        "unclear",
    ),
];

fn told(raw: &[u8]) -> String {
    let reading = read(raw);
    let status = reading.status.map(|status| status.to_string());
    let mut addresses: Vec<_> = reading.outcomes.iter().map(|o| o.address.reveal().as_str()).collect();
    addresses.retain(|address| !address.is_empty());
    let parts = [reading.class.name(), &status.unwrap_or_default(), &reading.feedback, &addresses.join(",")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// All messages of the shared fixtures, by folder and name.
fn fixtures() -> Option<&'static BTreeMap<String, Vec<u8>>> {
    static FIXTURES: LazyLock<Option<BTreeMap<String, Vec<u8>>>> = LazyLock::new(read_fixtures);
    FIXTURES.as_ref()
}

fn read_fixtures() -> Option<BTreeMap<String, Vec<u8>>> {
    let directory: PathBuf = testkit::shared("fixtures/dsn")?;
    let mut found = BTreeMap::new();
    for folder in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_dir()) {
        for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|ending| ending == "eml") {
                let name = |path: &std::path::Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
                let folder = folder.file_name().unwrap().to_str().unwrap();
                found.insert(format!("{folder}/{}", name(&file)), std::fs::read(&file).unwrap());
            }
        }
    }
    Some(found)
}

#[test]
fn every_fixture_is_what_a_person_reads_in_it() {
    let Some(fixtures) = fixtures() else { return };
    let expected: BTreeMap<&str, &str> = EXPECTED.trim().lines().map(|line| line.split_once(' ').unwrap()).collect();
    let read: BTreeMap<&str, String> = fixtures.iter().map(|(name, raw)| (name.as_str(), told(raw))).collect();
    assert_eq!(read.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let wrong: Vec<_> = read.iter().filter(|(name, told)| expected.get(*name) != Some(&told.as_str())).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn line_ends_make_no_difference() {
    let Some(fixtures) = fixtures() else { return };
    for (name, raw) in fixtures {
        let lf: Vec<u8> = raw.iter().copied().filter(|byte| *byte != b'\r').collect();
        let crlf: Vec<u8> = lf.iter().flat_map(|b| if *b == b'\n' { vec![b'\r', b'\n'] } else { vec![*b] }).collect();
        assert_eq!((told(&lf), told(&crlf)), (told(raw), told(raw)), "{name}");
    }
}

#[test]
fn other_reports_are_understood_by_the_same_rules() {
    for (name, raw, expected) in OTHERS {
        let told = told(raw.as_bytes());
        let told = if expected.contains('@') {
            told
        } else {
            told.split(' ').take(expected.split(' ').count()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told, *expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// Cut, doubled, overwritten: something comes out, and it is never a hard bounce or a complaint made of nothing.
    #[test]
    fn no_bytes_upset_the_reader(seed in any::<prop::sample::Index>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..40)) {
        let Some(fixtures) = fixtures() else { return Ok(()) };
        let all: Vec<&Vec<u8>> = fixtures.values().collect();
        let mut raw = (*seed.get(&all)).clone();
        raw.truncate(16_000);
        for (at, byte, how) in edits {
            if raw.is_empty() { break }
            let at = at.index(raw.len());
            match how {
                0 => { raw.truncate(at.max(1)); }
                1 => raw.insert(at, byte),
                2 => { let tail: Vec<u8> = raw.iter().skip(at).copied().take(500).collect(); raw.extend(tail); }
                _ => if let Some(place) = raw.get_mut(at) { *place = byte },
            }
        }
        let reading = read(&raw);
        prop_assert!(Class::ALL.contains(&reading.class));
    }

    #[test]
    fn noise_is_nobodys_bounce(raw in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let class = read(&raw).class;
        prop_assert!(!class.is_bounce() && class != Class::Complaint, "{class:?}");
    }
}

#[test]
fn a_hostile_message_takes_no_time() {
    let nested = "Content-Type: multipart/mixed; boundary=a\n\n--a\n".repeat(20_000);
    let folded = format!("From: a@b\nSubject: x\n{}\n\nbody", " x\n".repeat(200_000));
    let recipients = format!(
        "Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n{}",
        "Final-Recipient: rfc822; a@b\nAction: failed\nStatus: 5.1.1\n\n".repeat(100_000)
    );
    for raw in [nested, folded, recipients, "@".repeat(1_000_000), "\n".repeat(1_000_000), "a:b\n".repeat(300_000)] {
        read(raw.as_bytes());
    }
}
