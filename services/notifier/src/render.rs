//! The message: subject, text and HTML from templates, put together by lettre.

pub use crate::templates::Templates;

use crate::domain::Balance;
use crate::locale;
use crate::templates::BODY;
use events::time;
use events::v1::{Charge, ChargeKind, Reminder, ReminderLine, Tone, Wording};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{Currency, CustomerId, InvoiceId, Masked, Money};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder, MultiPart, SinglePart};
use runtime::Merchant;
use runtime::links::Link;
use runtime::settings::LinkSettings;
use serde::Serialize;
use std::cmp::Reverse;
use uuid::Uuid;

/// Why a message could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The payer's address is none.
    #[error("the payer's address is malformed")]
    BadAddress,
    /// The template or the message itself.
    #[error("{0}")]
    Template(String),
    /// There is no such template. It may come: only then will another attempt make the message.
    #[error("there is no template {0:?}")]
    NoTemplate(String),
}

/// What a reminder is rendered from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// From whom.
    pub merchant: &'a Merchant,
    /// To whom: the name may be empty.
    pub name: &'a Masked<String>,
    /// The payer's language, BCP 47; empty if it is not known.
    pub locale: &'a str,
    /// Where to.
    pub address: &'a Masked<String>,
    /// About what.
    pub reminder: &'a Reminder,
    /// What is owed.
    pub owed: &'a [(&'a ReminderLine, &'a Balance)],
    /// The payer's date: what is overdue is so by this day.
    pub today: Date,
    /// For the Date header.
    pub now: Timestamp,
    /// Links.
    pub links: &'a LinkSettings,
}

#[derive(Serialize)]
struct Context<'a> {
    merchant: &'a str,
    sender: &'a str,
    customer: &'a str,
    lines: Vec<Line<'a>>,
    total: String,
    total_with_charges: Option<String>,
    many: bool,
    overdue: bool,
    payment_failed: bool,
    unsubscribe_url: String,
    wording: Vec<Required<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opening: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    number: String,
    amount: String,
    due_on: Option<String>,
    pay_url: Option<String>,
    charges: Vec<ShownCharge<'a>>,
}

#[derive(Serialize)]
struct Required<'a> {
    locale: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct ShownCharge<'a> {
    what: &'static str,
    amount: String,
    rule: &'a str,
    as_of: Option<String>,
}

impl Templates {
    /// The RFC 5322 message with its headers.
    pub fn render(&self, input: Input<'_>) -> Result<Vec<u8>, RenderError> {
        let name = template(&input);
        let text = self.text(name, input.locale, &input.merchant.file.locale);
        let text = text.ok_or_else(|| RenderError::NoTemplate(name.to_owned()))?;
        let fill = |file: &str, context: &Context<'_>| self.fill(file, context).map_err(RenderError::Template);
        let mut context = context(&input)?;
        context.opening = Some(fill(&text.opening, &context)?.trim().to_owned());
        let subject = one_line(&fill(&text.subject, &context)?);
        let [text, html] = BODY;
        let (text, html) = (fill(text, &context)?, fill(html, &context)?);
        let message = headers(&input, &subject, &context.unsubscribe_url)?
            .multipart(
                MultiPart::alternative()
                    .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text))
                    .singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(html)),
            )
            .map_err(|e| RenderError::Template(e.to_string()))?;
        Ok(message.formatted())
    }
}

/// Which template speaks: that of the step that carries the message, or, if that was left out in the last moment, of the
/// furthest of the others. One without a template of its own speaks as its tone does.
fn template<'a>(input: &Input<'a>) -> &'a str {
    let lines = || input.owed.iter().map(|(line, _)| *line);
    let named = |template: &'a str, tone| if template.is_empty() { tone_name(tone) } else { template };
    let reminder = || named(&input.reminder.template, input.reminder.tone());
    if lines().any(|line| line.carries) {
        return reminder();
    }
    match lines().min_by_key(|line| Reverse(line.tone())) {
        Some(line) if !line.template.is_empty() || line.tone() != Tone::Unspecified => {
            named(&line.template, line.tone())
        }
        _ => reminder(),
    }
}

const fn tone_name(tone: Tone) -> &'static str {
    match tone {
        Tone::Firm => "firm",
        Tone::Final => "final",
        Tone::Friendly | Tone::Unspecified => "friendly",
    }
}

fn context<'a>(input: &Input<'a>) -> Result<Context<'a>, RenderError> {
    let reminder_id: Uuid =
        input.reminder.reminder_id.parse().map_err(|_| RenderError::Template("reminder id is no UUID".to_owned()))?;
    let customer =
        CustomerId::try_new(&input.reminder.customer_id).map_err(|e| RenderError::Template(e.to_string()))?;
    let merchant = input.merchant.id.clone();
    let unsubscribe =
        Link::Unsubscribe { merchant: merchant.clone(), customer: customer.clone(), reminder: reminder_id };
    let line = |&(line, balance): &(&'a ReminderLine, &'a Balance)| {
        let invoice = InvoiceId::try_new(&line.invoice_id).ok();
        let link = |invoice| {
            let (merchant, customer) = (merchant.clone(), customer.clone());
            Link::Pay { merchant, customer, invoice, reminder: reminder_id }.url(input.links)
        };
        Line {
            number: balance.number.clone(),
            amount: Money::new(balance.open_minor, balance.currency).to_string(),
            due_on: balance.due_on.map(long_date),
            pay_url: invoice.filter(|_| is_safe(balance.pay_url.reveal())).map(link),
            charges: charges(line).map(|charge| shown_charge(charge, balance.currency)).collect(),
        }
    };
    let total: i64 = input.owed.iter().map(|(_, b)| b.open_minor).sum();
    let charged = input.owed.iter().flat_map(|(line, _)| charges(line)).map(|charge| charge.amount_minor);
    let with_charges = charged.reduce(i64::saturating_add).map(|charged| total.saturating_add(charged));
    let currency = input.owed.first().map(|(_, b)| b.currency);
    let money = |minor| currency.map(|c| Money::new(minor, c).to_string());
    Ok(Context {
        merchant: &input.merchant.file.name,
        sender: &input.merchant.file.sender.name,
        customer: input.name.reveal(),
        lines: input.owed.iter().map(line).collect(),
        total: money(total).unwrap_or_default(),
        total_with_charges: with_charges.and_then(money),
        many: input.owed.len() > 1,
        overdue: input.owed.iter().any(|(_, b)| b.due_on.is_some_and(|due| due < input.today)),
        payment_failed: input.owed.iter().any(|(_, b)| b.failed_attempts > 0),
        unsubscribe_url: unsubscribe.url(input.links),
        wording: wording(&input.reminder.wording, input.locale, &input.merchant.file.locale),
        opening: None,
    })
}

/// The charges of a line that there is something to say about.
fn charges(line: &ReminderLine) -> impl Iterator<Item = &Charge> {
    line.charges.iter().filter(|charge| charge.amount_minor != 0)
}

fn shown_charge(charge: &Charge, currency: Currency) -> ShownCharge<'_> {
    ShownCharge {
        what: match charge.kind() {
            ChargeKind::Interest => "Interest for late payment",
            ChargeKind::FixedSum => "Fixed sum for the cost of recovery",
            ChargeKind::ReminderFee => "Fee for this reminder",
            ChargeKind::Unspecified => "Charge",
        },
        amount: Money::new(charge.amount_minor, currency).to_string(),
        rule: &charge.rule,
        as_of: time::date_from_wire(&charge.as_of).ok().flatten().map(long_date),
    }
}

/// The texts that a rule requires, each once: those in the payer's language, or the merchant's, English, or whichever comes
/// first. If another language has more of them, some are not translated: then all of that one's are printed too.
fn wording<'a>(texts: &'a [Wording], payer: &str, merchant: &str) -> Vec<Required<'a>> {
    let mut distinct: Vec<&Wording> = Vec::with_capacity(texts.len());
    for text in texts {
        if !text.text.trim().is_empty() && distinct.iter().all(|known| known.text != text.text) {
            distinct.push(text);
        }
    }
    let of = |locale: &str| distinct.iter().filter(|text| locale::same(&text.locale, locale)).count();
    let chosen = locale::choose(&[payer, merchant, "en"], &distinct, |text| &text.locale).or(distinct.first());
    let fullest = distinct.iter().min_by_key(|text| Reverse(of(&text.locale)));
    let (Some(chosen), Some(fullest)) = (chosen, fullest) else { return Vec::new() };
    let mut locales = vec![chosen.locale.as_str()];
    if of(&fullest.locale) > of(&chosen.locale) {
        locales.push(&fullest.locale);
    }
    let in_locale = |locale: &'a str| distinct.iter().filter(move |text| locale::same(&text.locale, locale));
    let required = |text: &&'a Wording| Required { locale: &text.locale, text: &text.text };
    locales.into_iter().flat_map(in_locale).map(required).collect()
}

/// Fills a file with what messages can be about, everything and next to nothing; says what goes wrong.
pub fn try_out(templates: &Templates, file: &str) -> Result<(), String> {
    const REQUIRED: &str = "required wording";
    let charge = || ShownCharge { what: "Interest", amount: "€1.00".to_owned(), rule: "rule", as_of: None };
    let line = |full: bool| Line {
        number: "R-1".to_owned(),
        amount: "€1.00".to_owned(),
        due_on: full.then(|| "1 June 2026".to_owned()),
        pay_url: full.then(|| "https://example.com/".to_owned()),
        charges: if full { vec![charge()] } else { Vec::new() },
    };
    for full in [true, false] {
        let context = Context {
            merchant: "Acme",
            sender: "Anna",
            customer: if full { "Ada" } else { "" },
            lines: if full { vec![line(true), line(false)] } else { vec![line(false)] },
            total: "€2.00".to_owned(),
            total_with_charges: full.then(|| "€3.00".to_owned()),
            many: full,
            overdue: full,
            payment_failed: full,
            unsubscribe_url: "https://example.com/".to_owned(),
            wording: vec![Required { locale: "en", text: REQUIRED }],
            opening: BODY.contains(&file).then(String::new),
        };
        let filled = templates.fill(file, &context)?;
        if BODY.contains(&file) && !filled.contains(REQUIRED) {
            return Err(format!("{file}: leaves out the wording that a rule requires"));
        }
    }
    Ok(())
}

fn headers(input: &Input<'_>, subject: &str, unsubscribe_url: &str) -> Result<MessageBuilder, RenderError> {
    let sender = &input.merchant.file.sender;
    let ours = |e: lettre::address::AddressError| RenderError::Template(format!("merchant's sender: {e}"));
    let from = Mailbox::new(Some(one_line(&sender.name)), sender.email.parse().map_err(ours)?);
    let name = Some(one_line(input.name.reveal())).filter(|n| !n.is_empty());
    let to = Mailbox::new(name, input.address.reveal().parse().map_err(|_| RenderError::BadAddress)?);
    let mut builder = lettre::Message::builder().from(from).to(to).subject(subject);
    if let Some(reply_to) = &sender.reply_to {
        builder = builder.reply_to(Mailbox::new(None, reply_to.parse().map_err(ours)?));
    }
    builder = builder.date(std::time::SystemTime::from(input.now)).message_id(Some(message_id(input)));
    let mut extra = vec![
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("List-Unsubscribe", format!("<{unsubscribe_url}>")),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
    ];
    // Which steps this message stands for: for support, and for whoever audits us from the outside.
    let steps = input.owed.iter().map(|(line, _)| format!("{}/{}/{}", line.invoice_id, line.epoch, line.step));
    extra.push(("Dunlin-Steps", one_line(&steps.collect::<Vec<_>>().join(", "))));
    for (name, value) in extra {
        let name = HeaderName::new_from_ascii_str(name);
        builder = builder.raw_header(HeaderValue::new(name, value));
    }
    Ok(builder)
}

/// The Message-ID: the same for every attempt, since some mail stores drop a second copy by it.
pub fn message_id(input: &Input<'_>) -> String {
    let domain = input.merchant.file.sender.email.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    format!("<{}@{domain}>", input.reminder.reminder_id)
}

/// Whether a payer may be sent there. Plain HTTP only on this machine, for demos.
fn is_safe(pay_url: &str) -> bool {
    ["https://", "http://127.0.0.1", "http://localhost"].iter().any(|scheme| pay_url.starts_with(scheme))
}

/// One line without control characters: what stands in a header must not be able to start another one.
fn one_line(text: &str) -> String {
    let cleaned: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cleaned.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `1 June 2026`.
fn long_date(date: Date) -> String {
    date.strftime("%-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_wording_is_in_one_language_and_whole() {
        let text = |text: &str| Wording { locale: text[..2].to_owned(), text: text.to_owned() };
        let all = ["fr 1", "de 1", "en 1", "de 2", "fr 2", "de 1"].map(text);
        let printed = |texts: &[Wording], payer: &str, merchant: &str| -> Vec<String> {
            wording(texts, payer, merchant).into_iter().map(|w| w.text.to_owned()).collect()
        };
        assert_eq!(printed(&all, "de-AT", "fr"), ["de 1", "de 2"]);
        assert_eq!(printed(&all, "it", "fr"), ["fr 1", "fr 2"]);
        assert_eq!(printed(&all, "en", "de"), ["en 1", "fr 1", "fr 2"], "one of them is not translated");
        assert_eq!(printed(&all[..2], "it", "es"), ["fr 1"], "whichever comes first");
        assert_eq!(printed(&all[..3], "it", "es"), ["en 1"]);
        assert_eq!(printed(&[], "en", "en"), [] as [String; 0]);
    }
}
