//! The message: subject, text and HTML from templates, put together by lettre.

use crate::domain::Balance;
use events::v1::{Reminder, ReminderLine, Tone};
use jiff::Timestamp;
use jiff::civil::Date;
use kernel::{CustomerId, InvoiceId, Masked, Money};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder, MultiPart, SinglePart};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use runtime::Merchant;
use runtime::links::Link;
use runtime::settings::LinkSettings;
use serde::Serialize;
use std::path::Path;
use uuid::Uuid;

/// Steps of a template; a runaway one is stopped.
const FUEL: u64 = 50_000;

/// Why a message could not be made. No other attempt would make it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The payer's address is none.
    #[error("the payer's address is malformed")]
    BadAddress,
    /// The template or the message itself.
    #[error("{0}")]
    Template(String),
}

/// The built-in templates; files of the same names in `<config_dir>/templates` replace them.
const BUILT_IN: [(&str, &str); 8] = [
    ("friendly.subject", include_str!("../templates/friendly.subject")),
    ("friendly.opening", include_str!("../templates/friendly.opening")),
    ("firm.subject", include_str!("../templates/firm.subject")),
    ("firm.opening", include_str!("../templates/firm.opening")),
    ("final.subject", include_str!("../templates/final.subject")),
    ("final.opening", include_str!("../templates/final.opening")),
    ("body.txt", include_str!("../templates/body.txt")),
    ("body.html", include_str!("../templates/body.html")),
];

/// Compiled templates.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
}

/// What a reminder is rendered from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// From whom.
    pub merchant: &'a Merchant,
    /// To whom: the name may be empty.
    pub name: &'a Masked<String>,
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
    lines: Vec<Line>,
    total: String,
    many: bool,
    overdue: bool,
    payment_failed: bool,
    unsubscribe_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opening: Option<String>,
}

#[derive(Serialize)]
struct Line {
    number: String,
    amount: String,
    due_on: Option<String>,
    pay_url: Option<String>,
}

impl Templates {
    /// Compiles the built-in templates and those of a directory, if it is there.
    pub fn load(directory: &Path) -> anyhow::Result<Self> {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("length", minijinja::filters::length);
        // Only the HTML body is HTML; a subject or a text must show an ampersand as it is.
        environment.set_auto_escape_callback(
            |name| {
                if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
            },
        );
        for (name, built_in) in BUILT_IN {
            let own = directory.join(name);
            let source = if own.is_file() { std::fs::read_to_string(&own)? } else { built_in.to_owned() };
            environment.add_template_owned(name, source)?;
        }
        Ok(Self { environment })
    }

    /// The RFC 5322 message with its headers.
    pub fn render(&self, input: Input<'_>) -> Result<Vec<u8>, RenderError> {
        let (tone, mut context) = (tone(&input), context(&input)?);
        context.opening = Some(self.fill(&format!("{tone}.opening"), &context)?.trim().to_owned());
        let subject = one_line(&self.fill(&format!("{tone}.subject"), &context)?);
        let text = self.fill("body.txt", &context)?;
        let html = self.fill("body.html", &context)?;
        let message = headers(&input, &subject, &context.unsubscribe_url)?
            .multipart(
                MultiPart::alternative()
                    .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text))
                    .singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(html)),
            )
            .map_err(|e| RenderError::Template(e.to_string()))?;
        Ok(message.formatted())
    }

    fn fill(&self, name: &str, context: &Context<'_>) -> Result<String, RenderError> {
        let template = self.environment.get_template(name);
        let values = minijinja::Value::from(minijinja::value::Serde(context));
        template.and_then(|t| t.render(values)).map_err(|e| RenderError::Template(format!("{name}: {e}")))
    }
}

/// How the message speaks: as the step that carries it does, or, if that was left out in the last moment, as the furthest
/// of the others would.
fn tone(input: &Input<'_>) -> &'static str {
    let lines = || input.owed.iter().map(|(line, _)| line);
    let furthest = if lines().any(|l| l.carries) { None } else { lines().map(|l| l.tone()).max() };
    match furthest.filter(|tone| *tone != Tone::Unspecified).unwrap_or(input.reminder.tone()) {
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
    let line = |(line, balance): &(&ReminderLine, &Balance)| {
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
        }
    };
    let total: i64 = input.owed.iter().map(|(_, b)| b.open_minor).sum();
    let currency = input.owed.first().map(|(_, b)| b.currency);
    Ok(Context {
        merchant: &input.merchant.file.name,
        sender: &input.merchant.file.sender.name,
        customer: input.name.reveal(),
        lines: input.owed.iter().map(line).collect(),
        total: currency.map(|c| Money::new(total, c).to_string()).unwrap_or_default(),
        many: input.owed.len() > 1,
        overdue: input.owed.iter().any(|(_, b)| b.due_on.is_some_and(|due| due < input.today)),
        payment_failed: input.owed.iter().any(|(_, b)| b.failed_attempts > 0),
        unsubscribe_url: unsubscribe.url(input.links),
        opening: None,
    })
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
