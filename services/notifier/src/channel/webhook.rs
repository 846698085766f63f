//! The reminder itself for the merchant's own system, which reaches the payer in its way: `reminder.due`, posted and signed
//! as [Standard Webhooks](https://www.standardwebhooks.com) describes it. `webhook-id` is the reminder: however often it is
//! posted, it is one.

use super::{HandOver, Prepared, Transport, pay_link};
use crate::domain::Balance;
use crate::flow::webhooks::later;
use crate::flow::{Ticket, Verdict};
use crate::smtp::Reply;
use crate::webhook::client::{Client, Connection, Message, TIMEOUT, asked_to_wait, prepare};
use crate::webhook::domain::{Answer, Outcome, outcome};
use events::v1::{Channel, Charge, ChargeKind, ReminderLine, Tone};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use jiff::Timestamp;
use kernel::{Clock, Masked, SystemClock};
use runtime::Host;
use serde::Serialize;

/// Posts reminders to merchants' systems.
#[derive(Clone)]
pub struct Webhooks {
    host: Host,
    client: Client,
}

impl Webhooks {
    /// Errors: TLS cannot be set up.
    pub fn try_new(host: Host) -> anyhow::Result<Self> {
        Ok(Self { host, client: Client::try_new()? })
    }

    fn retry(&self, ticket: &Ticket, problem: String) -> Verdict {
        self.verdict(ticket, &Answer::Broken(problem))
    }

    fn verdict(&self, ticket: &Ticket, answer: &Answer) -> Verdict {
        let now = self.host.now();
        match (outcome(answer, ticket.tries), answer) {
            (Outcome::Delivered, Answer::Status { code, .. }) => {
                Verdict::Sent(Reply { code: *code, enhanced: None, text: Masked::default() })
            }
            (Outcome::Failed(reason), _) => {
                Verdict::Failed { reason, status_code: answer.to_string(), bad_address: reason == "gone" }
            }
            (Outcome::Retry { after, asked }, _) => {
                // What the merchant's system asks for is meant in its own time.
                let asked = self.host.clock.after(asked.try_into().unwrap_or_default());
                Verdict::PutBack {
                    at: later(&self.host, after, now).max(asked),
                    reason: answer.to_string(),
                    status_code: String::new(),
                    tried: true,
                }
            }
            (Outcome::Delivered, Answer::Broken(_)) => Verdict::Unknown("no_reply"),
        }
    }
}

impl Transport for Webhooks {
    const CHANNEL: Channel = Channel::Webhook;
    type Open = (Connection, Request<Full<Bytes>>);

    async fn prepare(&self, ticket: &Ticket) -> Result<Prepared<Self::Open>, Verdict> {
        let failed = |reason| Verdict::Failed { reason, status_code: String::new(), bad_address: false };
        let now = self.host.now();
        let merchant = self.host.merchants.get(&ticket.merchant).ok_or_else(|| Verdict::merchant_unknown(now))?;
        let webhook = merchant.file.webhook.as_ref().ok_or_else(|| failed("no_webhook"))?;
        let body = serde_json::to_string(&body(ticket, &self.host)).map_err(|_| failed("render"))?;
        let id = ticket.id.to_string();
        // The receiver compares it with its own clock: the machine's, whatever ours shows.
        let message = Message { id: &id, sent_at: SystemClock.now(), body: &body };
        let (url, request) = prepare(webhook, &message).map_err(|problem| self.retry(ticket, problem))?;
        let connection = self.client.open(&url).await.map_err(|problem| self.retry(ticket, problem))?;
        Ok(Prepared { raw: body.into_bytes(), open: (connection, request) })
    }

    async fn hand_over(&self, ticket: &Ticket, prepared: Prepared<Self::Open>) -> HandOver {
        let (connection, request) = prepared.open;
        let answer = match tokio::time::timeout(TIMEOUT, connection.send(request)).await {
            Ok(Ok(response)) => {
                Answer::Status { code: response.status().as_u16(), retry_after: asked_to_wait(&response) }
            }
            Ok(Err(problem)) => Answer::Broken(problem),
            Err(_) => Answer::Broken(format!("no answer within {} seconds", TIMEOUT.as_secs())),
        };
        self.verdict(ticket, &answer).into()
    }
}

/// What is posted. Personal.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: Option<String>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    reminder: &'a str,
    merchant: &'a str,
    customer: Customer<'a>,
    campaign: &'a str,
    campaign_version: &'a str,
    step: &'a str,
    tone: &'static str,
    template: &'a str,
    currency: &'a str,
    open_minor: i64,
    invoices: Vec<Invoice<'a>>,
    required_wording: Vec<Wording<'a>>,
}

#[derive(Serialize)]
struct Customer<'a> {
    id: &'a str,
    name: &'a str,
    email: &'a str,
    phone: &'a str,
    locale: &'a str,
}

#[derive(Serialize)]
struct Invoice<'a> {
    id: &'a str,
    epoch: i32,
    step: &'a str,
    number: &'a str,
    due_on: Option<String>,
    open_minor: i64,
    pay_url: Option<String>,
    charges: Vec<ShownCharge<'a>>,
}

#[derive(Serialize)]
struct ShownCharge<'a> {
    kind: &'static str,
    amount_minor: i64,
    rule: &'a str,
    as_of: &'a str,
}

#[derive(Serialize)]
struct Wording<'a> {
    locale: &'a str,
    text: &'a str,
}

fn body<'a>(ticket: &'a Ticket, host: &Host) -> Body<'a> {
    let reminder = &ticket.reminder;
    let invoice = |(line, balance): &'a (ReminderLine, Balance)| Invoice {
        id: &line.invoice_id,
        epoch: line.epoch,
        step: &line.step,
        number: &balance.number,
        due_on: balance.due_on.map(|due| due.to_string()),
        open_minor: balance.open_minor,
        pay_url: pay_link(ticket, line, balance, &host.links),
        charges: line.charges.iter().map(charge).collect(),
    };
    Body {
        r#type: "reminder.due",
        // Of the decision: the same at every attempt.
        timestamp: kernel::id::time_of(ticket.id).as_ref().map(Timestamp::to_string),
        data: Data {
            reminder: &reminder.reminder_id,
            merchant: &reminder.merchant_id,
            customer: Customer {
                id: &reminder.customer_id,
                name: ticket.name.reveal(),
                email: ticket.email.reveal(),
                phone: ticket.phone.reveal(),
                locale: &ticket.locale,
            },
            campaign: &reminder.campaign,
            campaign_version: &reminder.campaign_version,
            step: &reminder.step,
            tone: match reminder.tone() {
                Tone::Firm => "firm",
                Tone::Final => "final",
                Tone::Friendly | Tone::Unspecified => "friendly",
            },
            template: &reminder.template,
            currency: &reminder.currency,
            open_minor: ticket.owed.iter().map(|(_, balance)| balance.open_minor).sum(),
            invoices: ticket.owed.iter().map(invoice).collect(),
            required_wording: reminder.wording.iter().map(|w| Wording { locale: &w.locale, text: &w.text }).collect(),
        },
    }
}

fn charge(charge: &Charge) -> ShownCharge<'_> {
    ShownCharge {
        kind: match charge.kind() {
            ChargeKind::Interest => "interest",
            ChargeKind::FixedSum => "fixed_sum",
            ChargeKind::ReminderFee => "reminder_fee",
            ChargeKind::Unspecified => "charge",
        },
        amount_minor: charge.amount_minor,
        rule: &charge.rule,
        as_of: &charge.as_of,
    }
}
