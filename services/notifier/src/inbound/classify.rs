//! What a message that comes back is. Pure.

use super::parse::{DeliveryStatus, Fields, Parsed, parse};
use super::phrases::{self, cause, plain, says};
use super::status::{Fault, Status, reply_code};
use kernel::Masked;

/// What a message that comes back is, the most telling first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Not delivered: nobody can be written to there.
    HardBounce,
    /// Not delivered, but it may work another time.
    SoftBounce,
    /// Not delivered: who sent it or what it looks like is not wanted there.
    Blocked,
    /// Somebody wants no more of it.
    Complaint,
    /// Not delivered yet; it is being tried.
    Delayed,
    /// Delivered, or handed on to somebody who does not report.
    Delivered,
    /// A machine has answered: away, or to be sure that a person has written.
    AutoReply,
    /// About what a reader or a filter did: read, deleted, an alignment that failed.
    Notice,
    /// A person has written.
    Reply,
    /// From a mail server, but nobody can tell what it says.
    Unclear,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::HardBounce,
        Self::SoftBounce,
        Self::Blocked,
        Self::Complaint,
        Self::Delayed,
        Self::Delivered,
        Self::AutoReply,
        Self::Notice,
        Self::Reply,
        Self::Unclear,
    ];

    /// As it is stored and printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HardBounce => "hard_bounce",
            Self::SoftBounce => "soft_bounce",
            Self::Blocked => "blocked",
            Self::Complaint => "complaint",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::AutoReply => "auto_reply",
            Self::Notice => "notice",
            Self::Reply => "reply",
            Self::Unclear => "unclear",
        }
    }

    /// Whether the message was not delivered, and will not be.
    pub const fn is_bounce(self) -> bool {
        matches!(self, Self::HardBounce | Self::SoftBounce | Self::Blocked)
    }
}

/// What is said about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// As the report names it, lower case.
    pub address: Masked<String>,
    /// What became of it.
    pub class: Class,
    /// The code that says so, the reporter's own or of the words it uses.
    pub status: Option<Status>,
}

/// What a message that comes back says.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What it is: of several recipients, the most telling.
    pub class: Class,
    /// Of the recipient that decides.
    pub status: Option<Status>,
    /// Whom a report is about.
    pub outcomes: Vec<Outcome>,
    /// Of a complaint, such as `abuse`; of a notice, such as `auth-failure`.
    pub feedback: String,
    /// Addresses it came to or quotes, one of which may be a return path.
    pub addresses: Vec<Masked<String>>,
    /// The links to unsubscribe in what it returns.
    pub unsubscribe: Vec<Masked<String>>,
    /// Ids of messages that it returns or answers, without angle brackets.
    pub message_ids: Vec<String>,
    /// RFC 3461, as the report repeats it.
    pub envelope_id: Option<String>,
    /// Who sent it, lower case.
    pub from: Masked<String>,
}

/// Reads a message that came back.
pub fn read(raw: &[u8]) -> Reading {
    let parsed = parse(raw);
    let (class, status, outcomes, feedback) = classify(&parsed);
    let none = Fields::default();
    let returned = parsed.returned.as_ref().unwrap_or(&none);
    let report = parsed.delivery.as_ref().map_or(&none, |d| &d.message);
    let complaint = parsed.feedback.as_ref().unwrap_or(&none);
    let mut addresses = Vec::new();
    for (fields, names) in [
        (&parsed.headers, &["delivered-to", "x-original-to", "envelope-to", "to", "cc"][..]),
        (complaint, &["original-mail-from"]),
        (report, &["x-postfix-sender"]),
        (returned, &["return-path", "x-envelope-from", "reply-to", "sender"]),
    ] {
        addresses.extend(names.iter().flat_map(|name| fields.all(name)).flat_map(addresses_in));
    }
    let mut message_ids = Vec::new();
    for (fields, names) in [
        (&parsed.headers, &["in-reply-to", "references"][..]),
        (report, &["x-original-message-id", "original-message-id"]),
        (complaint, &["message-id", "original-message-id"]),
        (returned, &["message-id"]),
    ] {
        message_ids.extend(names.iter().flat_map(|name| fields.all(name)).flat_map(ids_in));
    }
    message_ids.dedup();
    Reading {
        class,
        status,
        outcomes,
        feedback,
        addresses,
        unsubscribe: returned.all("list-unsubscribe").flat_map(links_in).collect(),
        message_ids,
        envelope_id: report.get("original-envelope-id").map(|id| id.chars().take(200).collect()),
        from: parsed.from,
    }
}

/// Most addresses, ids and links taken from a field.
const MAX_PER_FIELD: usize = 50;

fn addresses_in(text: &str) -> impl Iterator<Item = Masked<String>> + '_ {
    let is_between =
        |c: char| c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | ':' | '"' | '(' | ')' | '[' | ']');
    let words = text.split(is_between).map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    let is_address = |word: &&str| {
        let domain = word.rsplit_once('@').filter(|(local, _)| !local.is_empty()).map(|(_, domain)| domain);
        domain.is_some_and(|d| d.contains('.') && d.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-')))
    };
    words.filter(is_address).take(MAX_PER_FIELD).map(|word| Masked::new(word.to_lowercase()))
}

fn ids_in(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | ','));
    words.filter(|word| word.contains('@') && word.len() <= 300).take(MAX_PER_FIELD).map(str::to_owned)
}

fn links_in(text: &str) -> impl Iterator<Item = Masked<String>> + '_ {
    let inside = text.split('<').filter_map(|piece| piece.split_once('>'));
    inside.map(|(link, _)| link.trim()).filter(|link| link.starts_with("http")).take(MAX_PER_FIELD).map(|link| {
        // A folded link is one link.
        Masked::new(link.split_whitespace().collect())
    })
}

type Classified = (Class, Option<Status>, Vec<Outcome>, String);

fn classify(parsed: &Parsed) -> Classified {
    if let Some((class, feedback)) = complaint(parsed) {
        return (class, None, complained(parsed, class), feedback);
    }
    let outcomes = match &parsed.delivery {
        Some(report) => report_outcomes(report, parsed),
        None if parsed.disposition && !is_rejection(parsed) => Vec::new(),
        None => text_outcomes(parsed),
    };
    if let Some(decisive) = outcomes.iter().min_by_key(|outcome| outcome.class) {
        return (decisive.class, decisive.status, outcomes.clone(), String::new());
    }
    if parsed.disposition {
        return (Class::Notice, None, Vec::new(), "disposition".to_owned());
    }
    let class = if is_automatic(parsed) && !is_odd(parsed) {
        Class::AutoReply
    } else if is_of_mail_system(parsed) || parsed.from.reveal().is_empty() {
        Class::Unclear
    } else {
        Class::Reply
    };
    (class, None, Vec::new(), String::new())
}

/// What a filter of the recipient's refuses is told in the form of a disposition (RFC 5429), and so is a full mailbox by some.
fn is_rejection(parsed: &Parsed) -> bool {
    parsed.headers.get("auto-submitted").is_some_and(|auto| plain(auto).contains("rejected"))
        || plain(parsed.text.reveal()).contains("was automatically rejected")
}

/// Whether a mail server has written that does not say that it answers for somebody: a person should look.
fn is_odd(parsed: &Parsed) -> bool {
    let subject = plain(parsed.subject.reveal());
    let answers = parsed.headers.get("auto-submitted").is_some_and(|auto| plain(auto).starts_with("auto-replied"));
    is_of_mailer(parsed) && !answers && !begins_automatic(&subject) && !says(&subject, phrases::CHALLENGE_SUBJECTS)
}

/// A complaint, or a report in its form that is none.
fn complaint(parsed: &Parsed) -> Option<(Class, String)> {
    if let Some(kind) = parsed.feedback.as_ref().and_then(|fields| fields.get("feedback-type")) {
        let kind: String = kind.to_ascii_lowercase().chars().filter(char::is_ascii_graphic).take(40).collect();
        // RFC 5965, 6430, 6591: those who say that it was no spam, and filters that say whether it was aligned.
        let is_notice = ["not-spam", "auth-failure", "dkim", "dmarc", "dmarc-failure"].contains(&kind.as_str());
        return Some((if is_notice { Class::Notice } else { Class::Complaint }, kind));
    }
    let subject = plain(parsed.subject.reveal());
    let returned = parsed.returned.as_ref();
    // Microsoft's, which is older than the standard.
    let of_microsoft = returned.is_some_and(|r| r.has("x-hmxmroriginalrecipient"));
    if returned.is_some() && (of_microsoft || subject.starts_with("complaint about message from")) {
        return Some((Class::Complaint, "abuse".to_owned()));
    }
    // What mail programs send for their users.
    (subject == "unsubscribe" || parsed.headers.has("x-apple-unsubscribe"))
        .then(|| (Class::Complaint, "opt-out".to_owned()))
}

fn complained(parsed: &Parsed, class: Class) -> Vec<Outcome> {
    let Some(fields) = &parsed.feedback else { return Vec::new() };
    let outcome = |address| Outcome { address, class, status: None };
    ["original-rcpt-to", "removal-recipient"]
        .iter()
        .flat_map(|n| fields.all(n))
        .flat_map(addresses_in)
        .map(outcome)
        .collect()
}

/// What a report in the standard form says about each recipient.
fn report_outcomes(report: &DeliveryStatus, parsed: &Parsed) -> Vec<Outcome> {
    let only = report.recipients.len() == 1;
    report.recipients.iter().map(|recipient| recipient_outcome(recipient, only.then_some(parsed))).collect()
}

fn recipient_outcome(fields: &Fields, parsed: Option<&Parsed>) -> Outcome {
    let action = fields.get("action").unwrap_or_default().trim().to_ascii_lowercase();
    let diagnostic = fields.get("diagnostic-code").unwrap_or_default();
    let told = fields.get("status").unwrap_or_default();
    let (own, quoted) = (Status::find(told), Status::find(diagnostic));
    // A gateway's code is often one that says nothing, and the diagnosis quotes the one that does.
    let status = match (own, quoted) {
        (Some(own), Some(quoted)) if own.telling() < 2 && quoted.telling() > own.telling() => Some(quoted),
        (own, quoted) => own.or(quoted),
    };
    let (class, status) = match action.split([' ', ';', '(']).next().unwrap_or_default() {
        "delayed" => (Class::Delayed, status),
        "delivered" | "relayed" | "expanded" => (Class::Delivered, status),
        // `failed`, and what is in no standard.
        _ => {
            let words = plain(&format!("{diagnostic} {told}"));
            let words = if cause(&words).is_none() {
                parsed.map(|p| plain(p.text.reveal())).unwrap_or_default()
            } else {
                words
            };
            failure(status, reply_code(diagnostic), &words)
        }
    };
    let address = ["final-recipient", "original-recipient", "x-actual-recipient"].iter();
    let address = address.filter_map(|name| fields.get(name)).map(|text| text.split_once(';').map_or(text, |(_, a)| a));
    let address = address.map(|a| a.trim().trim_matches(['<', '>']).to_lowercase()).find(|a| a.contains('@'));
    Outcome { address: Masked::new(address.unwrap_or_default()), class, status }
}

/// What a final failure means: by its code, and by the words (see [`plain`]) where the code does not say.
fn failure(status: Option<Status>, reply: Option<u16>, words: &str) -> (Class, Option<Status>) {
    let class = |fault| match fault {
        Fault::Address => Class::HardBounce,
        Fault::Passing => Class::SoftBounce,
        Fault::Policy => Class::Blocked,
    };
    if let Some(fault) = status.and_then(|s| s.fault()) {
        return (class(fault), status);
    }
    if let Some((fault, told)) = cause(words) {
        // What is wrong with an address is wrong for good, whatever the reporter hoped.
        let digit = status.filter(|_| fault != Fault::Address).map_or(told.class, |s| s.class);
        let told = Status { class: digit, ..told };
        return (class(fault), status.filter(|s| s.telling() == 2).or(Some(told)));
    }
    let by_reply = || match reply {
        Some(452) => Status::new(4, 2, 2),
        Some(552) => Status::new(5, 2, 2),
        Some(400..500) => Status::new(4, 0, 0),
        _ => Status::new(5, 0, 0),
    };
    (Class::SoftBounce, Some(status.unwrap_or_else(by_reply)))
}

/// What a report that is written for people says.
fn text_outcomes(parsed: &Parsed) -> Vec<Outcome> {
    let subject = plain(parsed.subject.reveal());
    let words = plain(parsed.text.reveal());
    let named = parsed.headers.all("x-failed-recipients").flat_map(addresses_in).collect::<Vec<_>>();
    let known_subject = says(&subject, phrases::BOUNCE_SUBJECTS);
    let is_report = !named.is_empty()
        || says_it_is_a_report(parsed)
        || !begins_automatic(&subject) && {
            let (by_mailer, known_text) = (is_of_mailer(parsed), says(&words, phrases::BOUNCE_TEXTS));
            is_of_mail_system(parsed) && known_subject
                || known_text && (by_mailer || known_subject && !answers(&subject))
        };
    if !is_report {
        return Vec::new();
    }
    let says_why = cause(&words).is_some() || says(&words, phrases::BOUNCE_TEXTS);
    let status = Status::find(parsed.text.reveal()).filter(|status| status.class != 2 || !says_why);
    let delayed = says(&subject, phrases::DELAYS) || says(&words, phrases::DELAYS);
    let (class, status) = match status {
        Some(status) if status.class == 2 => (Class::Delivered, Some(status)),
        status if delayed => (Class::Delayed, status.or_else(|| cause(&words).map(|(_, told)| told))),
        status => failure(status, reply_code(parsed.text.reveal()), &words),
    };
    let mut addresses = named;
    if addresses.is_empty() {
        let own = parsed.headers.get("to").map(plain).unwrap_or_default();
        let own = |a: &Masked<String>| !a.reveal().contains("mailer-daemon") && !own.contains(a.reveal().as_str());
        // `<address>: why`, or a line of its own; what stands inside a sentence may be whoever can help.
        let text = || parsed.text.reveal().lines();
        let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let announced = text().map(first).filter(|word| word.ends_with(':'));
        let words = announced.chain(text().map(first)).collect::<Vec<_>>().join(" ");
        let lines = addresses_in(&words);
        let anywhere = addresses_in(parsed.text.reveal());
        addresses = lines.chain(anywhere).filter(own).take(1).collect();
    }
    if addresses.is_empty() {
        addresses.push(Masked::default());
    }
    addresses.into_iter().map(|address| Outcome { address, class, status }).collect()
}

/// `multipart/report; report-type=delivery-status`, though the report itself is not there.
fn says_it_is_a_report(parsed: &Parsed) -> bool {
    let kind = parsed.headers.get("content-type").map(plain).unwrap_or_default();
    kind.starts_with("multipart/report") && kind.contains("delivery-status")
}

/// Whether a mail server has written, by its name.
fn is_of_mailer(parsed: &Parsed) -> bool {
    const NAMES: [&str; 8] = [
        "mailer-daemon",
        "mailerdaemon",
        "mail-daemon",
        "postmaster",
        "mailer_daemon",
        "mdaemon",
        "mailsystem",
        "mail.daemon",
    ];
    let local = parsed.from.reveal().split('@').next().unwrap_or_default();
    let name = plain(parsed.from_name.reveal());
    NAMES.contains(&local)
        || says(&name, &["mail delivery s", "mailer-daemon", "mailer daemon", "postmaster", "mail administrator"])
}

/// Whether a mail server has written, by its name or by the empty return path that only reports have.
fn is_of_mail_system(parsed: &Parsed) -> bool {
    let empty = |name| parsed.headers.get(name).is_some_and(|path| path.trim() == "<>");
    is_of_mailer(parsed) || empty("return-path") || empty("x-envelope-from")
}

/// Whether somebody answers a report, or passes it on.
fn answers(subject: &str) -> bool {
    ["re:", "aw:", "fw:", "fwd:", "wg:", "tr:", "sv:", "vs:", "rv:", "antw:", "odp:", "i:", "r:"]
        .iter()
        .any(|re| subject.starts_with(re))
}

fn begins_automatic(subject: &str) -> bool {
    let bare = subject.trim_start_matches(|c: char| !c.is_alphanumeric());
    phrases::AUTO_SUBJECTS.iter().any(|auto| bare.starts_with(auto))
}

/// RFC 3834 and what came before it: an answer that no person has written.
fn is_automatic(parsed: &Parsed) -> bool {
    let header = |name| parsed.headers.get(name).map(plain);
    let subject = plain(parsed.subject.reveal());
    header("auto-submitted").is_some_and(|auto| !auto.is_empty() && auto.split([';', ' ', '(']).next() != Some("no"))
        || [
            "x-autoreply",
            "x-autorespond",
            "x-autoresponder",
            "x-auto-reply-from",
            "x-autogenerated",
            "x-mail-autoreply",
        ]
        .iter()
        .any(|name| header(name).is_some_and(|value| value != "no"))
        || header("x-apple-action").is_some_and(|action| action == "vacation")
        || header("delivered-to").is_some_and(|to| to == "autoresponder")
        || header("precedence")
            .is_some_and(|p| ["auto_reply", "auto-reply", "autoreply", "junk", "bulk", "list"].contains(&p.as_str()))
        || begins_automatic(&subject)
        || says(&subject, phrases::CHALLENGE_SUBJECTS)
        || !is_of_mailer(parsed) && is_of_mail_system(parsed)
}
