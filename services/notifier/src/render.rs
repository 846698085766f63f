//! What a message says: a template filled with what is owed, in the payer's language.

pub use crate::templates::Templates;

use crate::calendar::{self, Entry};
use crate::catalogue::{Format, Plural};
use crate::domain::Balance;
use crate::kept::Pattern;
use crate::locale;
use crate::message::{Attachment, LOGO_LINK, Letter};
use crate::stationery::{Logo, Stationery, one_line};
use crate::templates::{Set, Voice};
use events::time;
use events::v1::{Charge, ChargeKind, Reminder, ReminderLine, Tone, Wording};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{CustomerId, InvoiceId, Masked, MerchantId, Money};
use lettre::message::Mailbox;
use minijinja::value::Serde;
use minijinja::{Value, context};
use runtime::Merchant;
use runtime::links::Link;
use runtime::settings::LinkSettings;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::sync::Arc;
use uuid::Uuid;

/// More invoices than that are counted, not listed: Gmail cuts long messages off.
const LISTED: usize = 40;
/// More invoices than that do not fit into a link.
const LINKED: usize = 20;

/// Why a message could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The payer's address is none.
    #[error("the payer's address is malformed")]
    BadAddress,
    /// The template or the message itself. It may be repaired: only then will another attempt make the message.
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
    /// Of that merchant.
    pub stationery: &'a Stationery,
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
    /// What comes with it.
    pub attachments: &'a [Attachment],
    /// Where answers go, if not where the stationery says.
    pub answers: Option<&'a str>,
}

/// What templates can say. Personal: it has no `Debug`.
#[derive(Serialize)]
struct Context<'a> {
    language: &'a str,
    merchant: &'a str,
    sender: &'a str,
    customer: &'a str,
    /// Of the first line.
    number: &'a str,
    count: usize,
    plural: &'static str,
    /// The earliest.
    due_on: Option<String>,
    lines: Vec<Line<'a>>,
    more: Option<More>,
    total: String,
    total_with_charges: Option<String>,
    many: bool,
    overdue: bool,
    payment_failed: bool,
    pay_url: Option<String>,
    unsubscribe_url: &'a str,
    wording: Vec<Required<'a>>,
    logo: Option<&'a str>,
    colour: &'a str,
    on_colour: &'static str,
    footer: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    number: &'a str,
    amount: String,
    /// What was billed and what of it is paid, if something is.
    total: Option<String>,
    paid: Option<String>,
    due_on: Option<String>,
    pay_url: Option<String>,
    charges: Vec<ShownCharge<'a>>,
}

/// Invoices that are not listed.
#[derive(Debug, Serialize)]
struct More {
    count: usize,
    plural: &'static str,
    amount: String,
}

/// A text that a rule requires.
#[derive(Debug, Serialize)]
pub struct Required<'a> {
    locale: &'a str,
    /// What it says.
    pub text: &'a str,
}

#[derive(Debug, Serialize)]
struct ShownCharge<'a> {
    what: &'a str,
    amount: String,
    rule: &'a str,
    as_of: Option<String>,
}

/// A message as a reader sees it. Personal: it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// For people who read no HTML.
    pub text: String,
    /// For all others.
    pub html: String,
    /// The language that was chosen.
    pub locale: String,
    /// Where a POST unsubscribes.
    pub unsubscribe_url: String,
}

impl Templates {
    /// The RFC 5322 message with its headers, and what it has in common with others.
    pub fn render(&self, input: Input<'_>) -> Result<(Vec<u8>, Arc<Pattern>), RenderError> {
        let (said, voice) = self.speak(&input)?;
        let mut attachments = input.attachments.to_vec();
        attachments.extend(self.calendar(&input, voice)?);
        let steps = input.owed.iter().map(|(line, _)| format!("{}/{}/{}", line.invoice_id, line.epoch, line.step));
        let letter = Letter {
            id: reminder_id(input.reminder)?,
            thread: thread(&input.merchant.id, input.owed.iter().map(|(line, _)| *line)),
            stationery: input.stationery,
            name: input.name,
            address: input.address,
            subject: said.subject,
            text: said.text,
            html: said.html,
            now: input.now,
            unsubscribe_url: said.unsubscribe_url,
            steps: steps.collect::<Vec<_>>().join(", "),
            attachments,
            answers: input.answers.and_then(|address| address.parse().ok()).map(|address| Mailbox::new(None, address)),
        };
        Ok((letter.build()?, voice.pattern.clone()))
    }

    /// The due dates as a calendar entry, if they lie ahead and the merchant wants it.
    fn calendar(&self, input: &Input<'_>, voice: &Voice) -> Result<Option<Attachment>, RenderError> {
        if !input.merchant.file.brand.calendar_entry {
            return Ok(None);
        }
        let set = self.of(input.merchant.id.as_str());
        let mut entries = Vec::new();
        for owed @ (line, balance) in input.owed {
            let Some(day) = balance.due_on.filter(|due_on| *due_on > input.today) else { continue };
            let url = pay_url(input, owed)?;
            let shown = self::line(owed, voice, url.clone());
            let values = context! { merchant => &input.merchant.file.name, line => Value::from(Serde(shown)) };
            let title = set.fill(&voice.calendar_title, values).map_err(RenderError::Template)?;
            let uid = format!("{}@{}", thread(&input.merchant.id, std::iter::once(*line)), input.stationery.domain());
            entries.push(Entry { uid, day, title, url });
        }
        let bytes = Masked::new(calendar::file(&entries, input.now).into_bytes());
        let kind = "text/calendar; charset=utf-8; method=PUBLISH";
        Ok((!entries.is_empty()).then(|| Attachment { name: "due.ics".to_owned(), kind, bytes }))
    }

    /// Subject, text and HTML.
    pub fn say(&self, input: &Input<'_>) -> Result<Rendered, RenderError> {
        self.speak(input).map(|(said, _)| said)
    }

    fn speak(&self, input: &Input<'_>) -> Result<(Rendered, &Voice), RenderError> {
        let set = self.of(input.merchant.id.as_str());
        let name = template(input);
        let found = set.text(name, input.locale, &input.merchant.file.locale);
        let (text, voice) = found.ok_or_else(|| RenderError::NoTemplate(name.to_owned()))?;
        let fill = |name: &str, values: &Value| set.fill(name, values.clone()).map_err(RenderError::Template);
        let unsubscribe_url = unsubscribe(input)?.url(input.links);
        let context = Value::from(Serde(context(input, voice, &unsubscribe_url)?));
        let subject = one_line(&fill(&text.subject, &context)?);
        let opening = fill(&text.opening, &context)?;
        let paragraphs: Vec<String> = paragraphs(&opening).collect();
        let values =
            context! { subject => subject.as_str(), opening => opening.trim(), paragraphs => paragraphs, ..context };
        let (text, html) = (fill(&voice.text, &values)?, fill(&voice.html, &values)?);
        Ok((Rendered { subject, text, html, locale: voice.locale.clone(), unsubscribe_url }, voice))
    }
}

/// What stands between empty lines, each on one line.
fn paragraphs(opening: &str) -> impl Iterator<Item = String> {
    let joined = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    opening.split("\n\n").map(move |paragraph| joined(paragraph.trim())).filter(|paragraph| !paragraph.is_empty())
}

/// Which template speaks: that of the step that carries the message, or, if that was left out in the last moment, of the
/// furthest of the others. One without a template of its own speaks as its tone does, and as things are.
fn template<'a>(input: &Input<'a>) -> &'a str {
    let lines = || input.owed.iter().map(|(line, _)| *line);
    let named = |template: &'a str, tone| if template.is_empty() { tone_name(tone) } else { template };
    let reminder = || named(&input.reminder.template, input.reminder.tone());
    let name = if lines().any(|line| line.carries) {
        reminder()
    } else {
        match lines().min_by_key(|line| Reverse(line.tone())) {
            Some(line) if !line.template.is_empty() || line.tone() != Tone::Unspecified => {
                named(&line.template, line.tone())
            }
            _ => reminder(),
        }
    };
    as_things_are(name, input)
}

/// The three tones speak of what is overdue. What is not, or could not be collected, has words of its own.
fn as_things_are<'a>(name: &'a str, input: &Input<'_>) -> &'a str {
    if !["friendly", "firm", "final"].contains(&name) {
        return name;
    }
    let failed = input.owed.iter().any(|(_, balance)| balance.failed_attempts > 0);
    let due_on = || input.owed.iter().filter_map(|(_, balance)| balance.due_on);
    match due_on().min() {
        _ if failed && name != "final" => "payment-failed",
        _ if failed => name,
        Some(due_on) if due_on < input.today => name,
        Some(due_on) if due_on == input.today => "due-today",
        _ => "upcoming",
    }
}

const fn tone_name(tone: Tone) -> &'static str {
    match tone {
        Tone::Firm => "firm",
        Tone::Final => "final",
        Tone::Friendly | Tone::Unspecified => "friendly",
    }
}

fn reminder_id(reminder: &Reminder) -> Result<Uuid, RenderError> {
    reminder.reminder_id.parse().map_err(|_| RenderError::Template("reminder id is no UUID".to_owned()))
}

fn customer_id(reminder: &Reminder) -> Result<CustomerId, RenderError> {
    CustomerId::try_new(&reminder.customer_id).map_err(|e| RenderError::Template(e.to_string()))
}

fn unsubscribe(input: &Input<'_>) -> Result<Link, RenderError> {
    let (merchant, customer) = (input.merchant.id.clone(), customer_id(input.reminder)?);
    Ok(Link::Unsubscribe { merchant, customer, reminder: reminder_id(input.reminder)? })
}

/// Names the case that a message belongs to: that of the line that carries, else of the first.
fn thread<'a>(merchant: &MerchantId, lines: impl Iterator<Item = &'a ReminderLine> + Clone) -> String {
    let line = lines.clone().find(|line| line.carries).or_else(|| lines.clone().next());
    let (invoice, epoch) = line.map_or(("", 0), |line| (line.invoice_id.as_str(), line.epoch));
    let digest = Sha256::digest(format!("{merchant}\n{invoice}\n{epoch}"));
    let hex = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    format!("case-{}", hex.collect::<String>())
}

fn context<'a>(input: &'a Input<'a>, voice: &'a Voice, unsubscribe_url: &'a str) -> Result<Context<'a>, RenderError> {
    let format = &voice.catalogue.format;
    let listed = input.owed.get(..LISTED).unwrap_or(input.owed);
    let rest = input.owed.get(LISTED..).unwrap_or_default();
    let line = |owed: &(&'a ReminderLine, &'a Balance)| Ok(line(owed, voice, pay_url(input, owed)?));
    let lines = listed.iter().map(line).collect::<Result<Vec<_>, RenderError>>()?;
    let all: Vec<InvoiceId> = input.owed.iter().filter_map(payable).take(LINKED).collect();
    let pay_url = match &all[..] {
        [] => None,
        [_] => lines.iter().find_map(|line| line.pay_url.clone()),
        _ => {
            let (merchant, customer) = (input.merchant.id.clone(), customer_id(input.reminder)?);
            let reminder = reminder_id(input.reminder)?;
            Some(Link::PayAll { merchant, customer, invoices: all, reminder }.url(input.links))
        }
    };
    let sum =
        |owed: &[(&ReminderLine, &Balance)]| owed.iter().fold(0, |sum: i64, (_, b)| sum.saturating_add(b.open_minor));
    let total = sum(input.owed);
    let charged = input.owed.iter().flat_map(|(line, _)| charges(line)).map(|charge| charge.amount_minor);
    let with_charges = charged.reduce(i64::saturating_add).map(|charged| total.saturating_add(charged));
    let currency = input.owed.first().map(|(_, b)| b.currency);
    let money = |minor| currency.map(|c| format.money(Money::new(minor, c))).unwrap_or_default();
    let due_on = input.owed.iter().filter_map(|(_, balance)| balance.due_on).min();
    let plural = |n| Plural::of(&voice.locale, n).as_str();
    Ok(Context {
        language: &voice.locale,
        merchant: &input.merchant.file.name,
        sender: &input.merchant.file.sender.name,
        customer: input.name.reveal().trim(),
        number: input.owed.first().map_or("", |(_, balance)| &balance.number),
        count: input.owed.len(),
        plural: plural(input.owed.len()),
        due_on: due_on.map(|due_on| format.date(due_on)),
        lines,
        more: (!rest.is_empty()).then(|| More {
            count: rest.len(),
            plural: plural(rest.len()),
            amount: money(sum(rest)),
        }),
        total: money(total),
        total_with_charges: with_charges.map(money),
        many: input.owed.len() > 1,
        overdue: due_on.is_some_and(|due_on| due_on < input.today),
        payment_failed: input.owed.iter().any(|(_, b)| b.failed_attempts > 0),
        pay_url,
        unsubscribe_url,
        wording: wording(&input.reminder.wording, input.locale, &input.merchant.file.locale),
        logo: match &input.stationery.logo {
            Some(Logo::Link(link)) => Some(link),
            Some(Logo::File { .. }) => Some(LOGO_LINK),
            None => None,
        },
        colour: &input.stationery.colour,
        on_colour: input.stationery.on_colour,
        footer: &input.merchant.file.brand.footer,
    })
}

/// The invoice of a line, if there is somewhere to pay it.
fn payable((line, balance): &(&ReminderLine, &Balance)) -> Option<InvoiceId> {
    InvoiceId::try_new(&line.invoice_id).ok().filter(|_| is_safe(balance.pay_url.reveal()))
}

fn pay_url(input: &Input<'_>, owed: &(&ReminderLine, &Balance)) -> Result<Option<String>, RenderError> {
    let Some(invoice) = payable(owed) else { return Ok(None) };
    let (merchant, customer) = (input.merchant.id.clone(), customer_id(input.reminder)?);
    let reminder = reminder_id(input.reminder)?;
    Ok(Some(Link::Pay { merchant, customer, invoice, reminder }.url(input.links)))
}

fn line<'a>((line, balance): &(&'a ReminderLine, &'a Balance), voice: &'a Voice, pay_url: Option<String>) -> Line<'a> {
    let format = &voice.catalogue.format;
    let money = |minor| format.money(Money::new(minor, balance.currency));
    let paid = balance.total_minor.saturating_sub(balance.open_minor);
    Line {
        number: &balance.number,
        amount: money(balance.open_minor),
        total: (paid > 0).then(|| money(balance.total_minor)),
        paid: (paid > 0).then(|| money(paid)),
        due_on: balance.due_on.map(|due_on| format.date(due_on)),
        pay_url,
        charges: charges(line).map(|charge| shown_charge(charge, balance, voice)).collect(),
    }
}

/// The charges of a line that there is something to say about.
fn charges(line: &ReminderLine) -> impl Iterator<Item = &Charge> {
    line.charges.iter().filter(|charge| charge.amount_minor != 0)
}

fn shown_charge<'a>(charge: &'a Charge, balance: &Balance, voice: &'a Voice) -> ShownCharge<'a> {
    let format: &Format = &voice.catalogue.format;
    ShownCharge {
        what: voice.catalogue.plain(match charge.kind() {
            ChargeKind::Interest => "interest",
            ChargeKind::FixedSum => "fixed_sum",
            ChargeKind::ReminderFee => "reminder_fee",
            ChargeKind::Unspecified => "charge",
        }),
        amount: format.money(Money::new(charge.amount_minor, balance.currency)),
        rule: &charge.rule,
        as_of: time::date_from_wire(&charge.as_of).ok().flatten().map(|as_of| format.date(as_of)),
    }
}

/// The texts that a rule requires, each once: those in the payer's language, or the merchant's, English, or whichever comes
/// first. If another language has more of them, some are not translated: then all of that one's are printed too.
pub fn wording<'a>(texts: &'a [Wording], payer: &str, merchant: &str) -> Vec<Required<'a>> {
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

/// Fills a compiled template with what messages can be about, everything and next to nothing; says what goes wrong.
pub fn try_out(set: &Set, name: &str) -> Result<(), String> {
    const REQUIRED: &str = "required wording";
    let is_body = name.ends_with("body.txt") || name.ends_with("body.html");
    let charge = || ShownCharge {
        what: "Interest",
        amount: "€1.00".to_owned(),
        rule: "rule",
        as_of: Some("1 June 2026".to_owned()),
    };
    let line = |full: bool| Line {
        number: "R-1",
        amount: "€1.00".to_owned(),
        total: full.then(|| "€3.00".to_owned()),
        paid: full.then(|| "€2.00".to_owned()),
        due_on: full.then(|| "1 June 2026".to_owned()),
        pay_url: full.then(|| "https://example.com/".to_owned()),
        charges: if full { vec![charge()] } else { Vec::new() },
    };
    for (full, plural) in [(true, Plural::Other), (true, Plural::Few), (true, Plural::Many), (false, Plural::One)] {
        let context = Context {
            language: "en",
            merchant: "Acme",
            sender: "Anna",
            customer: if full { "Ada" } else { "" },
            number: "R-1",
            count: if full { 2 } else { 1 },
            plural: plural.as_str(),
            due_on: full.then(|| "1 June 2026".to_owned()),
            lines: if full { vec![line(true), line(false)] } else { vec![line(false)] },
            more: full.then(|| More { count: 2, plural: plural.as_str(), amount: "€2.00".to_owned() }),
            total: "€2.00".to_owned(),
            total_with_charges: full.then(|| "€3.00".to_owned()),
            many: full,
            overdue: full,
            payment_failed: full,
            pay_url: full.then(|| "https://example.com/".to_owned()),
            unsubscribe_url: "https://example.com/",
            wording: vec![Required { locale: "en", text: REQUIRED }],
            logo: full.then_some("https://example.com/logo.png"),
            colour: "#12513f",
            on_colour: "#ffffff",
            footer: "",
        };
        let values = Value::from(Serde(context));
        let values = if is_body {
            context! { subject => "Subject", opening => "Opening", paragraphs => ["Opening"], ..values }
        } else if name.ends_with("calendar.title") {
            context! { line => Value::from(Serde(line(full))), ..values }
        } else {
            values
        };
        let filled = set.fill(name, values)?;
        if is_body && !filled.contains(REQUIRED) {
            return Err("leaves out the wording that a rule requires".to_owned());
        }
    }
    Ok(())
}

/// Whether a payer may be sent there. Plain HTTP only on this machine, for demos.
pub fn is_safe(pay_url: &str) -> bool {
    ["https://", "http://127.0.0.1", "http://localhost"].iter().any(|scheme| pay_url.starts_with(scheme))
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
