//! A payment processor that speaks as Stripe does: the objects of its webhooks, their signature, and its patience.

use anyhow::bail;
use hmac::{KeyInit, Mac};
use jiff::Timestamp;
use kernel::{Clock, Masked, SystemClock};
use serde_json::{Value, json};
use std::time::Duration;

/// An invoice, as the processor sees it now.
#[derive(Debug, Clone)]
pub struct Invoice {
    /// The processor's id.
    pub id: String,
    /// The number printed on it.
    pub number: String,
    /// The processor's id of the customer.
    pub customer: String,
    /// The customer's name.
    pub name: String,
    /// The customer's address.
    pub email: String,
    /// ISO 4217, in small letters as Stripe writes it.
    pub currency: &'static str,
    /// In minor units.
    pub total_minor: i64,
    /// In minor units.
    pub paid_minor: i64,
    /// When it is issued.
    pub issued_at: Timestamp,
    /// A moment of the due date. Without one the processor charges a card.
    pub due_at: Option<Timestamp>,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`.
    pub status: &'static str,
    /// Failed charges.
    pub attempts: i32,
    /// When it was paid in full.
    pub paid_at: Option<Timestamp>,
}

impl Invoice {
    /// A draft of 100.00 EUR for a customer.
    pub fn draft(id: &str, customer: &str, issued_at: Timestamp, due_at: Option<Timestamp>) -> Self {
        Self {
            id: id.to_owned(),
            number: id.to_uppercase().replace('_', "-"),
            customer: customer.to_owned(),
            name: format!("Customer {customer}"),
            email: format!("{customer}@payers.example"),
            currency: "eur",
            total_minor: 10_000,
            paid_minor: 0,
            issued_at,
            due_at,
            status: "draft",
            attempts: 0,
            paid_at: None,
        }
    }

    /// Takes a payment: in full if `amount_minor` covers what is owed.
    pub fn pay(&mut self, amount_minor: i64, at: Timestamp) {
        self.paid_minor += amount_minor.min(self.total_minor - self.paid_minor);
        if self.paid_minor == self.total_minor {
            (self.status, self.paid_at) = ("paid", Some(at));
        }
    }

    /// The invoice object of a webhook.
    pub fn object(&self) -> Value {
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        json!({
            "id": self.id, "object": "invoice", "number": self.number, "customer": self.customer,
            "customer_name": self.name, "customer_email": self.email, "currency": self.currency,
            "amount_due": self.total_minor, "amount_paid": self.paid_minor,
            "amount_remaining": self.total_minor - self.paid_minor, "created": self.issued_at.as_second(),
            "due_date": second(self.due_at), "charge": self.charge(),
            "collection_method": if self.due_at.is_some() { "send_invoice" } else { "charge_automatically" },
            "status": self.status, "attempt_count": self.attempts,
            "hosted_invoice_url": format!("https://pay.example.com/{}", self.id),
            "status_transitions": {"finalized_at": self.issued_at.as_second(), "paid_at": second(self.paid_at)},
        })
    }

    /// The id of its charge.
    pub fn charge(&self) -> String {
        format!("ch_{}", self.id)
    }

    /// The dispute object of a webhook: the payer contests the charge. `needs_response`, `won` or `lost`.
    pub fn dispute(&self, status: &str) -> Value {
        json!({
            "id": format!("dp_{}", self.id), "object": "dispute", "charge": self.charge(),
            "amount": self.total_minor, "currency": self.currency, "status": status,
        })
    }
}

/// The customer object of a webhook.
pub fn customer(id: &str, name: &str, email: &str, time_zone: Option<&str>) -> Value {
    let metadata = time_zone.map_or_else(|| json!({}), |zone| json!({"time_zone": zone}));
    json!({"id": id, "object": "customer", "name": name, "email": email, "metadata": metadata})
}

/// A webhook's event.
pub fn event(id: &str, kind: &str, created: Timestamp, object: Value) -> Value {
    json!({"id": id, "object": "event", "type": kind, "created": created.as_second(), "data": {"object": object}})
}

/// A `Stripe-Signature` header for a body, signed now.
pub fn sign(secret: &str, body: &[u8]) -> String {
    sign_at(secret, body, SystemClock.now())
}

/// The same, signed at a moment.
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
pub fn sign_at(secret: &str, body: &[u8], at: Timestamp) -> String {
    let seconds = at.as_second();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// The end of the processor that posts webhooks of one merchant.
#[derive(Debug, Clone)]
pub struct Webhooks {
    client: reqwest::Client,
    merchant: String,
    url: String,
    secret: Masked<String>,
}

impl Webhooks {
    /// `base` is `http://host:port` of ingest.
    pub fn new(client: reqwest::Client, base: &str, merchant: &str, secret: Masked<String>) -> Self {
        Self { client, merchant: merchant.to_owned(), url: format!("{base}/v1/webhooks/{merchant}/stripe"), secret }
    }

    /// Whose webhooks these are.
    pub fn merchant(&self) -> &str {
        &self.merchant
    }

    /// Posts a body once.
    pub async fn post_once(&self, body: String) -> reqwest::Result<reqwest::Response> {
        let signature = sign(self.secret.reveal(), body.as_bytes());
        self.client.post(&self.url).header("stripe-signature", signature).body(body).send().await
    }

    /// Posts an event until it is taken, as a processor does, for `patience`. Returns the machine time of the 2xx.
    ///
    /// Errors: the event is refused, or was not taken in time.
    pub async fn post(&self, event: &Value, patience: Duration) -> anyhow::Result<Timestamp> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut pause = Duration::from_millis(50);
        loop {
            let problem = match self.post_once(event.to_string()).await {
                Ok(response) if response.status().is_success() => return Ok(SystemClock.now()),
                Ok(response) if response.status().is_client_error() => {
                    bail!("webhook refused: {} {}", response.status(), response.text().await?);
                }
                Ok(response) => response.status().to_string(),
                Err(error) => error.to_string(),
            };
            if tokio::time::Instant::now() > deadline {
                bail!("webhook not taken within {patience:?}: {problem}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
