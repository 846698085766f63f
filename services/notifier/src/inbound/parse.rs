//! Takes a message apart: its own words, what reports in it say, and the headers of the message it returns. Pure; whatever
//! the bytes are, something comes out.

use kernel::Masked;
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

/// More text than this says nothing new.
const MAX_TEXT: usize = 64 * 1024;
/// More fields than this no report has.
const MAX_FIELDS: usize = 2_000;
/// Reports name one recipient each, or a few.
const MAX_GROUPS: usize = 200;

/// What a person has written, without what they quote; empty if it is no text.
pub fn words(raw: &[u8]) -> Masked<String> {
    let message = MessageParser::default().parse(raw);
    let text = message.as_ref().and_then(|message| message.body_text(0)).unwrap_or_default();
    let own = text.lines().map(str::trim_end).filter(|line| !line.starts_with('>'));
    // Terminals obey some characters.
    let shown = |line: &str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let own = own.map(shown).collect::<Vec<_>>().join("\n");
    Masked::new(own.trim().chars().take(MAX_TEXT).collect())
}

/// Header fields, or those of a report: names in lower case, values unfolded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, Masked<String>)>);

impl Fields {
    /// Reads fields up to the first blank line. Lines that are none are left out.
    pub fn read(text: &str) -> Self {
        Self::read_lines(&mut text.lines())
    }

    fn read_lines<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Self {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines {
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            match field(line) {
                Some((name, value)) if fields.len() < MAX_FIELDS => {
                    fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None if line.starts_with([' ', '\t']) => {
                    if let Some((_, value)) = fields.last_mut().filter(|(_, value)| value.len() < MAX_TEXT) {
                        value.push(' ');
                        value.push_str(line.trim());
                    }
                }
                _ => {}
            }
        }
        Self(fields.into_iter().map(|(name, value)| (name, Masked::new(value))).collect())
    }

    /// The first field of a name (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.reveal().as_str())
    }

    /// All fields of a name (in lower case).
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.reveal().as_str())
    }

    /// Whether there is a field of a name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Splits a header line. A name has no spaces, and no other line begins like one by accident too often.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && name.len() <= 78 && name.bytes().all(|b| b.is_ascii_graphic());
    is_name.then_some((name, value))
}

/// A report about deliveries (RFC 3464): per message, and per recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// Of the message.
    pub message: Fields,
    /// Of each recipient.
    pub recipients: Vec<Fields>,
}

impl DeliveryStatus {
    /// Reads groups of fields, separated by blank lines. `None` if none of them is about a recipient.
    fn read(text: &str) -> Option<Self> {
        let mut status = Self::default();
        let mut lines = text.lines().peekable();
        while lines.peek().is_some() {
            let group = Fields::read_lines(&mut lines);
            let about_recipient =
                ["final-recipient", "original-recipient", "action"].iter().any(|name| group.has(name));
            if about_recipient && status.recipients.len() < MAX_GROUPS {
                status.recipients.push(group);
            } else if status.message.is_empty() {
                status.message = group;
            }
        }
        (!status.recipients.is_empty()).then_some(status)
    }
}

/// A message taken apart.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// Its headers, as they stand there.
    pub headers: Fields,
    /// Decoded.
    pub subject: Masked<String>,
    /// Lower case; empty if there is none.
    pub from: Masked<String>,
    /// The name beside it.
    pub from_name: Masked<String>,
    /// Its own words without those of the message that it returns.
    pub text: Masked<String>,
    /// A report about deliveries.
    pub delivery: Option<DeliveryStatus>,
    /// A report of a complaint (RFC 5965).
    pub feedback: Option<Fields>,
    /// A report about what a reader did (RFC 8098).
    pub disposition: bool,
    /// Headers of the message that it returns.
    pub returned: Option<Fields>,
}

/// Takes a message apart.
pub fn parse(raw: &[u8]) -> Parsed {
    let raw = without_mbox_line(raw);
    let mut parsed = Parsed { headers: Fields::read(&String::from_utf8_lossy(header_block(raw))), ..Parsed::default() };
    let Some(message) = MessageParser::default().parse(raw) else { return parsed };
    parsed.subject = Masked::new(one_line(message.subject().unwrap_or_default()));
    if let Some(from) = message.from().and_then(|from| from.first()) {
        parsed.from = Masked::new(one_line(from.address().unwrap_or_default()).to_lowercase());
        parsed.from_name = Masked::new(one_line(from.name().unwrap_or_default()));
    }
    let mut text = own_text(&message);
    for part in &message.parts {
        let Some(content) = part.content_type() else { continue };
        let kind = |main: &str, sub: &[&str]| {
            let is_sub = content.subtype().is_some_and(|s| sub.iter().any(|known| s.eq_ignore_ascii_case(known)));
            content.ctype().eq_ignore_ascii_case(main) && is_sub
        };
        let body = || String::from_utf8_lossy(bounded(part.contents())).replace("\r\n", "\n");
        if kind("message", &["delivery-status", "global-delivery-status"]) {
            parsed.delivery = parsed.delivery.take().or_else(|| DeliveryStatus::read(&body()));
        } else if kind("message", &["feedback-report"]) {
            // Some put MIME headers and a blank line before it.
            let fields = body().split("\n\n").map(Fields::read).find(|fields| fields.has("feedback-type"));
            parsed.feedback = parsed.feedback.take().or(fields);
        } else if kind("message", &["disposition-notification", "global-disposition-notification"]) {
            parsed.disposition = true;
        } else if kind("message", &["rfc822", "global"]) && !matches!(part.body, PartType::Multipart(_)) {
            let (from, to) = (part.raw_body_offset() as usize, part.raw_end_offset() as usize);
            let nested = message.raw_message().get(from..to).unwrap_or_default();
            keep_returned(&mut parsed, &String::from_utf8_lossy(header_block(nested)));
        } else if kind("text", &["rfc822-headers"]) || kind("message", &["global-headers"]) {
            keep_returned(&mut parsed, &body());
        }
    }
    if text.trim().is_empty() {
        // A multipart message without its boundaries.
        let body = raw.get(header_block(raw).len()..).unwrap_or_default();
        text = String::from_utf8_lossy(bounded(body)).replace("\r\n", "\n");
    }
    if parsed.delivery.is_none()
        && let Some(at) = text.to_ascii_lowercase().find("final-recipient:")
    {
        // A report whose MIME is broken is part of the text.
        let begin = text.get(..at).and_then(|before| before.rfind("\n\n")).unwrap_or(0);
        parsed.delivery = text.get(begin..).map(str::trim_start).and_then(DeliveryStatus::read);
    }
    if let Some(at) = returned_from(&text) {
        let headers = text.get(at..).unwrap_or_default().trim_start().to_owned();
        keep_returned(&mut parsed, &headers);
        text.truncate(at);
    }
    parsed.text = Masked::new(text);
    parsed
}

fn keep_returned(parsed: &mut Parsed, headers: &str) {
    if parsed.returned.is_none() {
        parsed.returned = Some(Fields::read(headers.trim_start())).filter(|fields| !fields.is_empty());
    }
}

/// Mail stores put a line before each message, which is not part of it.
fn without_mbox_line(raw: &[u8]) -> &[u8] {
    let end = raw.starts_with(b"From ").then(|| raw.iter().position(|b| *b == b'\n')).flatten();
    end.and_then(|end| raw.get(end + 1..)).unwrap_or(raw)
}

fn bounded(bytes: &[u8]) -> &[u8] {
    bytes.get(..MAX_TEXT).unwrap_or(bytes)
}

/// Up to the first blank line, whichever line ends there are.
fn header_block(raw: &[u8]) -> &[u8] {
    let raw = bounded(raw);
    let blank = |window: &[u8]| window == b"\n\n" || window.starts_with(b"\n\r\n");
    let end = raw.windows(3).position(|w| w.get(..2).is_some_and(blank) || blank(w));
    end.and_then(|end| raw.get(..end)).unwrap_or(raw)
}

fn one_line(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text parts that are not attached, or what an HTML part says; line ends are LF.
fn own_text(message: &Message<'_>) -> String {
    let mut text = String::new();
    for part in message.text_bodies() {
        if part.content_type().and_then(|c| c.subtype()).is_some_and(|s| s.eq_ignore_ascii_case("rfc822-headers")) {
            continue;
        }
        let piece = match &part.body {
            PartType::Text(text) => text.replace("\r\n", "\n"),
            PartType::Html(html) => mail_parser::decoders::html::html_to_text(html),
            _ => continue,
        };
        text.push_str(&piece);
        text.push('\n');
        if text.len() >= MAX_TEXT {
            break;
        }
    }
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

/// Where the returned message begins in a text: after a line that announces it, or with its headers.
fn returned_from(text: &str) -> Option<usize> {
    let mut at = 0;
    let mut headers = 0;
    let mut begin = 0;
    let mut named = false;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let announced = trimmed.len() < 120
            && (trimmed.starts_with(['-', '|', '=', '*', '>', '_']) || trimmed.ends_with([':', '.']))
            && super::phrases::says(&super::phrases::plain(trimmed), super::phrases::RETURNED);
        // "The original message was received at ..." is about the report.
        if announced && !trimmed.contains(" was ") && at > 0 {
            return Some(at + line.len());
        }
        match field(trimmed).filter(|_| !line.starts_with([' ', '\t'])) {
            Some((name, _)) => {
                if headers == 0 {
                    begin = at;
                }
                headers += 1;
                let known = ["received", "message-id", "return-path", "from", "mime-version", "dkim-signature"];
                named |= known.iter().any(|known| name.eq_ignore_ascii_case(known));
            }
            None if headers > 0 && line.starts_with([' ', '\t']) && !trimmed.is_empty() => {}
            None => (headers, named) = (0, false),
        }
        if headers >= 3 && named {
            return Some(begin);
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unfolded_and_found_in_any_case() {
        let fields =
            Fields::read("Status: 5.1.1\nDIAGNOSTIC-code: smtp;\n  550 no\n\tsuch user\nnonsense\n\nLater: x\n");
        assert_eq!(fields.get("diagnostic-code"), Some("smtp; 550 no such user"));
        assert_eq!(fields.get("later"), None);
    }

    #[test]
    fn the_returned_message_is_told_from_the_report() {
        let text = "Sorry.\nThe original message was received at noon\n\n--- Below this line is a copy of the message.\n\n\
                    Message-ID: <a@b>\nFrom: x\n";
        let at = returned_from(text).unwrap();
        assert!(text[at..].trim_start().starts_with("Message-ID"));
        let bare = "user unknown\n\nReceived: by a\n\twith b\nFrom: x\nTo: y\n\nHi";
        assert!(bare[returned_from(bare).unwrap()..].starts_with("Received"));
        assert_eq!(returned_from("To: a\n\nSubject: b\n\nnothing more\n"), None);
    }

    #[test]
    fn anything_can_be_taken_apart() {
        for raw in [
            &b""[..],
            b"\n\n",
            b"From \n",
            b"From ",
            b"Subject",
            b"\xff\xfe\x00",
            b"Content-Type: multipart/x; boundary=\n\n--",
        ] {
            parse(raw);
        }
        assert_eq!(parse(b"From x\nSubject: a\r\n b\n\nc").subject.reveal(), "a b");
    }
}
