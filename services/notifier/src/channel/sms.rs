//! Text messages, by an HTTP provider of the form of Twilio's: a posted form, basic authentication, JSON back.

pub mod api;
pub mod segments;
pub mod store;
pub mod texts;

use super::{HandOver, Prepared, Transport, pay_link};
use crate::catalogue::{self, Format};
use crate::domain::Attempt;
use crate::flow::{Ticket, Verdict};
use crate::smtp::Reply;
use crate::webhook::client::{Client, Connection, TIMEOUT, asked_to_wait, post_to};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use events::v1::{Channel, Tone};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use jiff::{SignedDuration, Timestamp};
use kernel::{Masked, Money};
use runtime::merchant::sms::{Provider, SenderKind};
use runtime::{Host, Merchant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use texts::{Says, Texts};
use url::Url;
use uuid::Uuid;

/// Most of an answer that is read.
const MAX_ANSWER: usize = 16 * 1024;

/// Sends text messages.
#[derive(Clone)]
pub struct Sms {
    host: Host,
    client: Client,
    texts: Arc<Texts>,
    provider: Option<Arc<Provider>>,
}

impl Sms {
    /// With the account of merchants that have none of their own. Errors: TLS cannot be set up.
    pub fn try_new(host: Host, texts: Arc<Texts>, provider: Option<Provider>) -> anyhow::Result<Self> {
        Ok(Self { host, client: Client::try_new()?, texts, provider: provider.map(Arc::new) })
    }

    /// The account that a merchant's messages go by.
    fn provider<'a>(&'a self, merchant: &'a Merchant) -> Option<&'a Provider> {
        merchant.file.sms.as_ref()?.provider.as_ref().or(self.provider.as_deref())
    }

    fn retry(&self, ticket: &Ticket, reason: String) -> Verdict {
        let attempt = Attempt::Retry { reason, status_code: String::new(), relay: false };
        Verdict::of_attempt(attempt, ticket.tries, self.host.now())
    }

    /// The text, if it fits.
    fn text(&self, ticket: &Ticket, merchant: &Merchant, can_answer: bool, most: u8) -> Result<String, &'static str> {
        let numbers: Vec<&str> = ticket.owed.iter().map(|(_, balance)| balance.number.as_str()).collect();
        let total: i64 = ticket.owed.iter().map(|(_, balance)| balance.open_minor).sum();
        let currency = ticket.owed.first().map(|(_, balance)| balance.currency).ok_or("render")?;
        let locale = self.texts.locale(&ticket.locale, &merchant.file.locale);
        let total = amount(locale, Money::new(total, currency));
        let link = ticket.owed.iter().find_map(|(line, balance)| pay_link(ticket, line, balance, &self.host.links));
        let wording = crate::render::wording(&ticket.reminder.wording, &ticket.locale, &merchant.file.locale);
        let says = Says {
            merchant: &merchant.file.name,
            numbers: &numbers,
            total: &total,
            link: link.as_deref(),
            wording: &wording.iter().map(|required| required.text).collect::<Vec<_>>(),
            can_answer,
        };
        let text = self.texts.render(tone(ticket), &ticket.locale, &merchant.file.locale, &says).ok_or("render")?;
        if segments::count(&text).count > usize::from(most) { Err("too_long") } else { Ok(text) }
    }
}

/// An amount as the locale writes it; by the currency's code where its symbol would make the whole text cost double.
fn amount(locale: &str, money: Money) -> String {
    let Some(catalogue) = catalogue::built_in(locale) else { return money.to_string() };
    let written = catalogue.format.money(money);
    if !segments::count(&segments::plain(&written)).ucs2 {
        return written;
    }
    Format { symbols: BTreeMap::new(), ..catalogue.format.clone() }.money(money)
}

/// That of the step that carries the reminder, or, if that was left out in the last moment, of the furthest of the others.
fn tone(ticket: &Ticket) -> Tone {
    if ticket.owed.iter().any(|(line, _)| line.carries) {
        return ticket.reminder.tone();
    }
    ticket.owed.iter().map(|(line, _)| line.tone()).max().unwrap_or_else(|| ticket.reminder.tone())
}

impl Transport for Sms {
    const CHANNEL: Channel = Channel::Sms;
    type Open = (Connection, Request<Full<Bytes>>);

    async fn prepare(&self, ticket: &Ticket) -> Result<Prepared<Self::Open>, Verdict> {
        let failed = |reason| Verdict::Failed { reason, status_code: String::new(), bad_address: false };
        let merchant = self.host.merchants.get(&ticket.merchant);
        let merchant = merchant.ok_or_else(|| Verdict::merchant_unknown(self.host.now()))?;
        let settings = merchant.file.sms.as_ref().ok_or_else(|| failed("no_sms"))?;
        let provider = self.provider(merchant).ok_or_else(|| failed("no_sms"))?;
        let to = ticket.address.reveal();
        let (sender, kind) = settings.sender_for(to).map_err(|_| failed("sender_rule"))?;
        let text = self.text(ticket, merchant, kind != SenderKind::Name, settings.max_segments).map_err(failed)?;
        let url = provider.target().map_err(|problem| self.retry(ticket, format!("the provider's URL {problem}")))?;
        let form = form(provider, merchant, (to, sender, kind, &text), ticket.id);
        let request = request(provider, &url, form, ticket.id).ok_or_else(|| failed("render"))?;
        let connection = self.client.open(&url).await.map_err(|problem| self.retry(ticket, problem))?;
        Ok(Prepared { raw: text.into_bytes(), open: (connection, request) })
    }

    async fn hand_over(&self, ticket: &Ticket, prepared: Prepared<Self::Open>) -> HandOver {
        let (connection, request) = prepared.open;
        let provider = self.host.merchants.get(&ticket.merchant).and_then(|merchant| self.provider(merchant));
        let Some(provider) = provider else { return Verdict::Unknown("no_reply").into() };
        let answer = match tokio::time::timeout(TIMEOUT, connection.exchange(request, MAX_ANSWER)).await {
            Ok(Ok((response, body))) => {
                let field = |body: &serde_json::Value, name: &str| match body.get(name) {
                    Some(serde_json::Value::String(text)) => text.clone(),
                    Some(serde_json::Value::Number(number)) => number.to_string(),
                    _ => String::new(),
                };
                let body = serde_json::from_slice(&body).unwrap_or_default();
                Answer::Status {
                    status: response.status().as_u16(),
                    code: field(&body, &provider.fields.code),
                    id: field(&body, &provider.fields.id),
                    retry_after: asked_to_wait(&response),
                }
            }
            Ok(Err(problem)) => Answer::Broken(problem),
            Err(_) => Answer::Broken(format!("no answer within {} seconds", TIMEOUT.as_secs())),
        };
        outcome(provider, &answer, ticket.tries, self.host.now())
    }
}

fn form(
    provider: &Provider,
    merchant: &Merchant,
    (to, sender, kind, text): (&str, &str, SenderKind, &str),
    delivery: Uuid,
) -> String {
    let fields = &provider.fields;
    let from = if kind == SenderKind::Service { &fields.service } else { &fields.from };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair(&fields.to, to).append_pair(from, sender).append_pair(&fields.body, text);
    if let Some(public) = &provider.public_url {
        form.append_pair(&fields.status_callback, &format!("{public}/v1/sms/{}/status/{delivery}", merchant.id));
    }
    form.finish()
}

fn request(provider: &Provider, url: &Url, form: String, delivery: Uuid) -> Option<Request<Full<Bytes>>> {
    let credentials = STANDARD.encode(format!("{}:{}", provider.user, provider.password.reveal()));
    let mut request = post_to(url)?
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(AUTHORIZATION, format!("Basic {credentials}"));
    if let Some(header) = &provider.idempotency_header {
        request = request.header(header, delivery.to_string());
    }
    request.body(Full::from(form)).ok()
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With an answer.
    Status {
        /// HTTP's.
        status: u16,
        /// The provider's error code, if there is one.
        code: String,
        /// The provider's id of the message, if it took it.
        id: String,
        /// How long it asks us to wait.
        retry_after: Option<SignedDuration>,
    },
    /// Without one, and why: it may have been taken.
    Broken(String),
}

/// What an answer means.
///
/// | answer | means |
/// |---|---|
/// | accepted | sent |
/// | 429, or code 20429 | later; this merchant's messages pause |
/// | 401, 403 | our account: later; this merchant's messages pause |
/// | 5xx | later |
/// | code 21211, 21217, 21614 | no mobile number: nobody writes there again |
/// | code 21610 | the payer has opted out with the provider |
/// | code 21212, 21408, 21603, 21606, 21612 | this sender may not send there |
/// | code 21617 | too long |
/// | other 4xx | refused |
/// | none | **unknown**; with an idempotency key later |
pub fn outcome(provider: &Provider, answer: &Answer, tries: i32, now: Timestamp) -> HandOver {
    const PAUSE: SignedDuration = SignedDuration::from_secs(30);
    let retry = |reason: String, status_code: String| {
        Verdict::of_attempt(Attempt::Retry { reason, status_code, relay: false }, tries, now)
    };
    let (status, code, id, asked) = match answer {
        Answer::Broken(problem) if provider.idempotency_header.is_some() => {
            return retry(problem.clone(), String::new()).into();
        }
        Answer::Broken(_) => return Verdict::Unknown("no_reply").into(),
        Answer::Status { status, code, id, retry_after } => (*status, code.as_str(), id, *retry_after),
    };
    if provider.accepted.contains(&status) {
        let text = Masked::new(id.clone());
        return Verdict::Sent(Reply { code: status, enhanced: None, text }).into();
    }
    let status_code = [&status.to_string(), code].join(" ").trim_end().to_owned();
    if status == 429 || code == "20429" {
        let pause = asked.unwrap_or(PAUSE).max(PAUSE);
        let at = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let verdict = Verdict::PutBack { at, reason: "too_fast".to_owned(), status_code, tried: false };
        return HandOver { verdict, pause: Duration::try_from(pause).ok() };
    }
    if matches!(status, 401 | 403) {
        tracing::error!(status_code, "the provider of text messages refuses our account");
        return HandOver { verdict: retry("account".to_owned(), status_code), pause: Duration::try_from(PAUSE).ok() };
    }
    if status >= 500 {
        return retry("refused".to_owned(), status_code).into();
    }
    let (reason, bad_address) = match code {
        "21211" | "21217" | "21614" => ("bad_number", true),
        "21610" => ("unsubscribed", true),
        "21212" | "21408" | "21603" | "21606" | "21612" => ("sender_rule", false),
        "21617" => ("too_long", false),
        _ => ("refused", false),
    };
    Verdict::Failed { reason, status_code, bad_address }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(idempotency_header: Option<&str>) -> Provider {
        Provider {
            url: "https://sms.example.com/".to_owned(),
            user: "AC1".to_owned(),
            password: Masked::new("secret-token".to_owned()),
            public_url: None,
            fields: Default::default(),
            accepted: vec![200, 201],
            idempotency_header: idempotency_header.map(str::to_owned),
        }
    }

    fn of(status: u16, code: &str) -> HandOver {
        let answer = Answer::Status { status, code: code.to_owned(), id: "SM1".to_owned(), retry_after: None };
        outcome(&provider(None), &answer, 0, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn answers_mean_what_the_table_says() {
        assert!(matches!(of(201, "").verdict, Verdict::Sent(reply) if reply.text.reveal() == "SM1"));
        for (code, expected, suppresses) in [
            ("21211", "bad_number", true),
            ("21614", "bad_number", true),
            ("21610", "unsubscribed", true),
            ("21408", "sender_rule", false),
            ("21617", "too_long", false),
            ("99999", "refused", false),
            ("", "refused", false),
        ] {
            let HandOver { verdict, pause } = of(400, code);
            let is_so = matches!(&verdict, Verdict::Failed { reason, bad_address, .. }
                if *reason == expected && *bad_address == suppresses);
            assert!(is_so && pause.is_none(), "{code}: {verdict:?}");
        }
        for (status, code, tried) in [(429, "", false), (400, "20429", false), (401, "20003", true)] {
            let HandOver { verdict, pause } = of(status, code);
            assert!(matches!(verdict, Verdict::PutBack { tried: t, .. } if t == tried), "{status} {code}: {verdict:?}");
            assert_eq!(pause, Some(Duration::from_secs(30)));
        }
        assert!(matches!(of(503, "").verdict, Verdict::PutBack { tried: true, .. }));
    }

    #[test]
    fn amounts_cost_no_second_segment() {
        let amount = |locale, code: &str| amount(locale, Money::new(123_450, code.parse().unwrap()));
        assert_eq!(amount("en", "EUR"), "€1,234.50");
        assert_eq!(segments::plain(&amount("pl", "PLN")), "1234,50 PLN", "zl has a letter of its own");
        assert_eq!(amount("xx", "EUR"), "€1,234.50");
    }

    #[test]
    fn without_an_answer_only_a_key_makes_a_second_try_safe() {
        let broken = Answer::Broken("reset".to_owned());
        let verdict = |header| outcome(&provider(header), &broken, 0, Timestamp::UNIX_EPOCH).verdict;
        assert_eq!(verdict(None), Verdict::Unknown("no_reply"));
        assert!(matches!(verdict(Some("Idempotency-Key")), Verdict::PutBack { tried: true, .. }));
    }
}
