//! The RFC 5322 message: headers and parts.

use crate::kept::Pattern;
use crate::render::RenderError;
use crate::stationery::{Logo, Stationery, one_line};
use jiff::Timestamp;
use kernel::Masked;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as Part, Body, Mailbox, MultiPart, MultiPartBuilder, MultiPartKind, SinglePart};
use uuid::Uuid;

/// Where the HTML finds the logo that travels with it.
pub const LOGO_LINK: &str = "cid:logo@dunlin";
/// The Content-ID of the logo.
const LOGO_ID: &str = "logo@dunlin";

/// What a message consists of. Personal: it has no `Debug`.
pub struct Letter<'a> {
    /// The delivery: Message-ID and boundaries derive from it, so that every attempt gives the same message. Some mail
    /// stores drop a second copy by its Message-ID.
    pub id: Uuid,
    /// Of the case: mail programs show its reminders as one conversation.
    pub thread: String,
    /// Whose.
    pub stationery: &'a Stationery,
    /// May be empty.
    pub name: &'a Masked<String>,
    /// Where to.
    pub address: &'a Masked<String>,
    /// One line.
    pub subject: String,
    /// For people who read no HTML.
    pub text: String,
    /// For all others.
    pub html: String,
    /// For the Date header.
    pub now: Timestamp,
    /// Where a POST unsubscribes (RFC 8058).
    pub unsubscribe_url: String,
    /// Which steps it stands for: for support, and for whoever audits us from the outside.
    pub steps: String,
    /// What comes with it.
    pub attachments: Vec<Attachment>,
    /// Where answers go, if not where the stationery says.
    pub answers: Option<Mailbox>,
}

/// A file that comes with a message.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// As the reader sees it.
    pub name: String,
    /// Media type with its parameters.
    pub kind: &'static str,
    /// The file.
    pub bytes: Masked<Vec<u8>>,
}

impl Letter<'_> {
    /// The message as bytes.
    pub fn build(self) -> Result<Vec<u8>, RenderError> {
        let to = crate::stationery::address(self.address.reveal()).ok_or(RenderError::BadAddress)?;
        let name = Some(one_line(self.name.reveal())).filter(|name| !name.is_empty());
        let domain = self.stationery.domain();
        // The envelope is made elsewhere; without one the library would read the headers again for it.
        let envelope = Envelope::new(None, vec![to.clone()]).map_err(|_| RenderError::BadAddress)?;
        let mut builder = lettre::Message::builder()
            .envelope(envelope)
            .from(self.stationery.from.clone())
            .to(Mailbox::new(name, to))
            .subject(one_line(&self.subject))
            .date(std::time::SystemTime::from(self.now))
            .message_id(Some(format!("<{}@{domain}>", self.id)));
        if let Some(reply_to) = self.answers.or_else(|| self.stationery.reply_to.clone()) {
            builder = builder.reply_to(reply_to);
        }
        let thread = format!("<{}@{domain}>", self.thread);
        let headers = [
            ("In-Reply-To", thread.clone()),
            ("References", thread),
            ("Auto-Submitted", "auto-generated".to_owned()),
            ("List-Unsubscribe", format!("<{}>", self.unsubscribe_url)),
            ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
            ("Dunlin-Steps", one_line(&self.steps)),
        ];
        for (name, value) in headers {
            builder = builder.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value));
        }
        let boundary = |part: &str| format!("={part}-{}", self.id.simple());
        let multipart = |kind, part| MultiPart::builder().kind(kind).boundary(boundary(part));
        let html = SinglePart::builder().header(ContentType::TEXT_HTML).body(html_body(&self.html));
        let alternatives: MultiPartBuilder = multipart(MultiPartKind::Alternative, "alternative");
        let alternatives =
            alternatives.singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(self.text));
        let mut whole = match &self.stationery.logo {
            Some(Logo::File { kind, bytes }) if self.html.contains(LOGO_LINK) => {
                let logo = Part::new_inline(LOGO_ID.to_owned()).body(bytes.clone(), content_type(kind)?);
                let related = multipart(MultiPartKind::Related, "related").singlepart(html).singlepart(logo);
                alternatives.multipart(related)
            }
            _ => alternatives.singlepart(html),
        };
        if !self.attachments.is_empty() {
            let mut mixed = multipart(MultiPartKind::Mixed, "mixed").multipart(whole);
            for attachment in self.attachments {
                let kind = content_type(attachment.kind)?;
                mixed = mixed.singlepart(Part::new(attachment.name).body(attachment.bytes.into_inner(), kind));
            }
            whole = mixed;
        }
        let message = builder.multipart(whole).map_err(|e| RenderError::Template(e.to_string()))?;
        let message = message.formatted();
        let signatures: Vec<String> =
            self.stationery.signers.iter().filter_map(|signer| signer.sign(&message, self.now)).collect();
        if signatures.len() < self.stationery.signers.len() {
            return Err(RenderError::Template("message cannot be signed".to_owned()));
        }
        if signatures.is_empty() {
            return Ok(message);
        }
        let mut signed = signatures.concat().into_bytes();
        signed.extend(message);
        Ok(signed)
    }

    /// How many bytes HTML has on its way.
    pub fn html_size(html: &str) -> usize {
        html_body(html).as_ref().len()
    }
}

fn content_type(kind: &str) -> Result<ContentType, RenderError> {
    kind.parse().map_err(|_| RenderError::Template(format!("{kind} is no media type")))
}

/// What the messages of two templates have in common, as it is on its way: headers, text and HTML.
pub fn pattern(text: String, html: &str) -> Pattern {
    const HEADERS: &str = "\r\nIn-Reply-To: <case-\r\nReferences: <case-\r\nAuto-Submitted: auto-generated\r\nList-Unsubscribe: <https://\r\n\
        List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nDunlin-Steps: \r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/alternative;\r\n boundary=\"=alternative-\r\n\r\n--=alternative-\
        \r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        \r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n";
    let text = Body::new(text);
    let parts = [HEADERS, &String::from_utf8_lossy(text.as_ref()), &ascii_html(html)];
    Pattern::new(parts.concat())
}

/// HTML in the encoding that costs the reader and us least: none, unless a line is longer than mail may have them.
fn html_body(html: &str) -> Body {
    /// RFC 5322 section 2.1.1, without the line end.
    const LONGEST_LINE: usize = 998;
    let ascii = ascii_html(html);
    let mut line_begins = 0;
    let long = memchr::memchr_iter(b'\n', ascii.as_bytes()).chain([ascii.len()]).any(|at| {
        let length = at - line_begins;
        line_begins = at + 1;
        // With the carriage return, which only the last line has not.
        length > LONGEST_LINE + usize::from(at < ascii.len())
    });
    if long {
        Body::new(ascii)
    } else {
        Body::dangerous_pre_encoded(ascii.into_bytes(), ContentTransferEncoding::SevenBit)
    }
}

/// HTML in ASCII, by character references, with the line ends of mail: no transfer encoding needs to be undone to read it,
/// and none can break it.
fn ascii_html(html: &str) -> String {
    use std::fmt::Write;
    let mut ascii = String::with_capacity(html.len() + html.len() / 8);
    for line in html.split_inclusive('\n') {
        let (line, end) =
            line.strip_suffix('\n').map_or((line, ""), |line| (line.strip_suffix('\r').unwrap_or(line), "\r\n"));
        if line.is_ascii() {
            ascii.push_str(line);
        } else {
            for c in line.chars() {
                let _ = if c.is_ascii() { ascii.write_char(c) } else { write!(ascii, "&#{};", u32::from(c)) };
            }
        }
        ascii.push_str(end);
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_goes_as_ascii() {
        assert_eq!(
            ascii_html("<p>10\u{a0}€ für Łódź 🙂</p>"),
            "<p>10&#160;&#8364; f&#252;r &#321;&#243;d&#378; &#128578;</p>"
        );
        assert_eq!(ascii_html("<p>&amp;</p>\n\r\n"), "<p>&amp;</p>\r\n\r\n");
    }

    #[test]
    fn html_is_encoded_only_where_a_line_is_too_long() {
        let encoding = |length| html_body(&format!("<p>é</p>\n{}\n", "=".repeat(length))).encoding();
        assert_eq!(encoding(998).to_string(), "7bit");
        assert_eq!(encoding(999).to_string(), "quoted-printable");
    }
}
