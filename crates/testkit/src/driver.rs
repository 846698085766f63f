//! Lets a simulated [`World`] happen to a running dunlin, through its front doors only: signed webhooks over HTTP in, mail
//! over SMTP out. What was confirmed, and when, is written down, to be compared with what arrived.

use crate::audit::Payments;
use crate::smtp::Mail;
use crate::stripe::Webhooks;
use crate::world::{Deed, World, chance};
use jiff::{SignedDuration, Timestamp};
use kernel::{Clock, SharedClock, SystemClock};
use runtime::Merchant;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Webhooks on their way at the same time, as a processor would have.
const CONCURRENCY: usize = 32;

/// How much of a world happens.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Customers.
    pub customers: usize,
    /// Invoices.
    pub invoices: usize,
    /// The business time at which it begins.
    pub start: Timestamp,
    /// For how many days of business time.
    pub days: f64,
}

impl Scope {
    /// When it ends.
    pub fn end(&self) -> Timestamp {
        let span = SignedDuration::try_from_secs_f64(self.days * 86_400.0).unwrap_or_default();
        self.start.saturating_add(span).unwrap_or(Timestamp::MAX)
    }
}

/// The world, and what was told about it.
pub struct Driver {
    /// Who is there and how their invoices stand.
    pub world: World,
    /// When nothing was owed, by the 2xx of the webhooks.
    pub payments: Payments,
    /// All events that were confirmed: `merchant/id/type`.
    pub confirmed: Vec<String>,
    /// Mails that payers have read.
    pub read: u64,
    /// Follows no redirect.
    pub client: reqwest::Client,
    scope: Scope,
    clock: SharedClock,
    deeds: BinaryHeap<Reverse<(Timestamp, Deed)>>,
    webhooks: Vec<Webhooks>,
    patience: Duration,
    posting: JoinSet<anyhow::Result<Confirmed>>,
    slots: Arc<Semaphore>,
}

/// A webhook that was taken.
struct Confirmed {
    event: String,
    news: News,
}

/// What it means for an invoice's debt.
enum News {
    /// Nothing is owed from here on.
    Closed(String, Timestamp),
    /// Money is owed again.
    Reopened(String, Timestamp),
    /// Neither.
    Other,
}

impl Driver {
    /// A driver for merchants whose webhooks go to `ingest`, `http://host:port`. A webhook is tried again for `patience`.
    pub fn new(
        merchants: Vec<Merchant>,
        scope: Scope,
        clock: SharedClock,
        ingest: &str,
        patience: Duration,
    ) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        let secret = |m: &Merchant| m.file.stripe.as_ref().and_then(|s| s.signing_secrets.first()).cloned();
        let webhooks = merchants
            .iter()
            .map(|m| Webhooks::new(client.clone(), ingest, m.id.as_str(), secret(m).unwrap_or_default()))
            .collect();
        let world = World::new(merchants, scope.customers, scope.invoices, scope.start, scope.days);
        let deeds = world.course(scope.start).into_iter().map(Reverse).collect();
        Ok(Self {
            world,
            payments: Payments::default(),
            confirmed: Vec::new(),
            read: 0,
            client,
            scope,
            clock,
            deeds,
            webhooks,
            patience,
            posting: JoinSet::new(),
            slots: Arc::new(Semaphore::new(CONCURRENCY)),
        })
    }

    /// Lives through all days, or until `stop`; `progress` is called now and then. Returns when every webhook on its way
    /// is confirmed. Errors: a webhook was refused, or not taken for longer than the processor's patience.
    pub async fn live(
        &mut self,
        mut arrivals: broadcast::Receiver<Arc<Mail>>,
        stop: &CancellationToken,
        mut progress: impl FnMut(Timestamp, &Self),
    ) -> anyhow::Result<()> {
        while self.clock.now() < self.scope.end() && !stop.is_cancelled() {
            let now = self.clock.now();
            while let Some(Reverse((at, deed))) = self.deeds.peek().cloned()
                && at <= now
            {
                self.deeds.pop();
                self.perform(&deed, at);
            }
            while let Ok(mail) = arrivals.try_recv() {
                self.read(&mail);
            }
            while let Some(done) = self.posting.try_join_next() {
                self.note(done??);
            }
            progress(now, self);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Some(done) = self.posting.join_next().await {
            self.note(done??);
        }
        Ok(())
    }

    fn note(&mut self, confirmed: Confirmed) {
        self.confirmed.push(confirmed.event);
        match confirmed.news {
            News::Closed(invoice, at) => self.payments.closed(&invoice, at),
            News::Reopened(invoice, at) => self.payments.reopened(&invoice, at),
            News::Other => {}
        }
    }

    /// Carries a deed out and posts what the processor says about it.
    fn perform(&mut self, deed: &Deed, at: Timestamp) {
        let (events, follow) = self.world.perform(deed, at);
        self.deeds.extend(follow.into_iter().map(Reverse));
        let merchant = self.world.merchant_of(deed);
        let Some(webhooks) = self.webhooks.get(merchant) else { return };
        for event in events {
            let (webhooks, slots, patience) = (webhooks.clone(), self.slots.clone(), self.patience);
            self.posting.spawn(async move {
                let _slot = slots.acquire().await?;
                let begun = SystemClock.now();
                let taken = webhooks.post(&event, patience).await?;
                let [id, kind] = ["id", "type"].map(|f| event.get(f).and_then(Value::as_str).unwrap_or_default());
                let id = format!("{}/{id}/{kind}", webhooks.merchant());
                Ok(Confirmed { event: id, news: news(&event, begun, taken) })
            });
        }
    }

    /// A payer reads a mail: follows the link, unsubscribes, or decides to pay.
    fn read(&mut self, mail: &Mail) {
        self.read += 1;
        let reminder = mail.headers("Message-ID").join("");
        let now = self.clock.now();
        let links = mail.pay_links();
        for line in mail.lines() {
            let Some(bill) = self.world.bills.iter().position(|b| b.invoice.id == line.invoice) else { continue };
            let answer = self.world.answer(bill, &reminder, now);
            if let (false, Some(link)) = (answer.is_empty(), links.first().cloned()) {
                let client = self.client.clone();
                // A click that fails changes nothing of the story.
                tokio::spawn(async move { client.get(link).send().await.map(drop) });
            }
            self.deeds.extend(answer.into_iter().map(Reverse));
        }
        let unsubscribe = mail.headers("List-Unsubscribe").join("");
        if chance(&mail.to.join(""), "unsubscribes") < 0.02 {
            let url = unsubscribe.trim_matches(['<', '>']).to_owned();
            let post = self.client.post(url).body("List-Unsubscribe=One-Click");
            tokio::spawn(async move { post.send().await.map(drop) });
        }
    }
}

/// What an event means for an invoice's debt. `begun` is when it was first posted, `taken` the moment of its 2xx.
fn news(event: &Value, begun: Timestamp, taken: Timestamp) -> News {
    let field = |path| event.pointer(path).and_then(Value::as_str);
    match ["/data/object/status", "/data/object/id", "/data/object/charge"].map(field) {
        [Some("paid" | "void"), Some(id), _] => News::Closed(id.to_owned(), taken),
        // From the moment on at which ingest may know: a mail right after it is in order.
        [_, _, Some(charge)] if field("/type") == Some("charge.dispute.closed") => {
            News::Reopened(charge.trim_start_matches("ch_").to_owned(), begun)
        }
        _ => News::Other,
    }
}
