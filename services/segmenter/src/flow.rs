//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | `invoice` by version; its settlement counted in its customer's account, or the account folded anew; its week of the portfolio | `customer-segmented`, if enough has changed |
//! | a day or a week has passed ([`crate::review`]) | accounts of whoever is overdue, or of everybody, looked at | `customer-segmented`, if enough has changed |
//!
//! Counts are the same whatever the order of events; labels, and what is told, depend on what was known when.

use crate::cache::Accounts;
use crate::domain::{Account, Assessment, Changes, Counted, Fault, PayerKey, Sighting};
use crate::portfolio::Portfolios;
use crate::store::{self, LabelChange, WeekChanges};
use bus::{Failure, Handler, Incoming, Work};
use events::topology::SEGMENTER_PAYERS;
use events::{Flow, Invoice, Malformed, v1};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::MerchantId;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use payer::bins::BINS;
use runtime::Host;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How customers pay. Cheap to clone.
#[derive(Clone)]
pub struct Payers {
    pub(crate) host: Host,
    pub(crate) portfolios: Arc<Portfolios>,
    accounts: Arc<Accounts>,
    faulty: Counter<u64>,
}

/// Accounts with their revisions.
pub(crate) type Known = BTreeMap<PayerKey, (Account, i64)>;

impl Handler for Payers {
    const FLOW: &'static Flow = &SEGMENTER_PAYERS;
    const LINGER: Duration = Duration::from_millis(50);
    const MAX_BATCH: usize = 2_000;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let sightings = self.latest(work, batch);
        let written = store::upsert_invoices(work.tx(), &sightings).await?;
        let mut changes: BTreeMap<PayerKey, Changes> = BTreeMap::new();
        let mut faults = Vec::new();
        for (sighting, written) in written.iter().filter_map(|w| Some((sightings.get(w.n)?, w))) {
            faults.extend(sighting.fault.filter(|_| written.is_newly_faulty));
            let before = written.before.as_ref();
            let (settled_before, settled) = (before.and_then(|b| b.settlement), sighting.settlement());
            let open_until = sighting.due_on.filter(|_| sighting.open);
            let payer = (sighting.merchant.clone(), sighting.customer.clone());
            let had = before.filter(|b| b.customer == sighting.customer);
            if had.is_none() {
                // It was another customer's, or nobody's.
                if let Some(before) = before.filter(|b| b.settlement.is_some() || b.open_until.is_some()) {
                    let payer = (sighting.merchant.clone(), before.customer.clone());
                    changes.entry(payer).or_default().note(before.settlement, None);
                }
                if settled.is_some() {
                    changes.entry(payer).or_default().note(None, settled);
                }
            } else if settled_before != settled
                || self.overdue_changed(&sighting.merchant, had.and_then(|b| b.open_until), open_until)
            {
                changes.entry(payer).or_default().note(settled_before, settled);
            }
        }
        if !faults.is_empty() {
            let faulty = self.faulty.clone();
            let add = move |fault: Fault| faulty.add(1, &[KeyValue::new("fault", fault.as_str())]);
            work.after_commit(move || faults.into_iter().for_each(add));
        }
        if !changes.is_empty() {
            let known = self.known(work, changes.keys()).await?;
            self.assess(work, known, changes).await?;
        }
        Ok(())
    }
}

impl Payers {
    /// With room for so many customers in memory.
    pub fn new(host: Host, cache_customers: u32) -> Self {
        let faulty = opentelemetry::global::meter("dunlin").u64_counter("dunlin.segmenter.faulty_invoices").build();
        Self { host, portfolios: Arc::default(), accounts: Arc::new(Accounts::new(cache_customers)), faulty }
    }

    pub(crate) fn zone(&self, merchant: &MerchantId) -> TimeZone {
        self.host.merchants.get(merchant).map_or(TimeZone::UTC, |m| m.zone.clone())
    }

    pub(crate) fn today(&self, merchant: &MerchantId) -> Date {
        self.zone(merchant).to_datetime(self.host.now()).date()
    }

    /// The latest that a batch says of each invoice, in key order.
    fn latest(&self, work: &mut Work, batch: &[Incoming]) -> Vec<Sighting> {
        let mut sightings = Vec::with_capacity(batch.len());
        for incoming in batch {
            let wire = incoming.event.invoice().ok_or_else(|| Malformed::missing("invoice"));
            match wire.and_then(Invoice::try_from) {
                Ok(invoice) => {
                    let zone = self.zone(&invoice.merchant);
                    sightings.push(Sighting::of(invoice, &zone));
                }
                Err(fault) => work.reject(incoming, fault),
            }
        }
        sightings.sort_unstable_by(|a, b| {
            (&a.merchant, &a.invoice, Reverse(a.version)).cmp(&(&b.merchant, &b.invoice, Reverse(b.version)))
        });
        sightings.dedup_by(|later, first| later.merchant == first.merchant && later.invoice == first.invoice);
        sightings
    }

    /// Whether what is overdue of an invoice has changed, given the due dates until which it was and is open (`None`: it was not,
    /// or is not): the dates differ, and today one of them has passed.
    fn overdue_changed(&self, merchant: &MerchantId, before: Option<Date>, now: Option<Date>) -> bool {
        if before == now {
            return false;
        }
        let today = self.today(merchant);
        [before, now].iter().flatten().any(|due_on| *due_on < today)
    }

    /// The accounts of customers, from memory or the database.
    async fn known<'a>(&self, work: &mut Work, keys: impl Iterator<Item = &'a PayerKey>) -> sqlx::Result<Known> {
        let (mut known, mut unknown) = (Known::new(), Vec::new());
        for key in keys {
            match self.accounts.get(key) {
                Some(kept) => drop(known.insert(key.clone(), kept)),
                None => unknown.push(key),
            }
        }
        if !unknown.is_empty() {
            known.extend(store::accounts(work.tx(), &unknown).await?);
        }
        Ok(known)
    }

    /// Looks at customers with what has changed about them: their accounts are written, and what matters is told.
    pub(crate) async fn assess(
        &self,
        work: &mut Work,
        mut known: Known,
        mut changes: BTreeMap<PayerKey, Changes>,
    ) -> Result<(), Failure> {
        let days: BTreeMap<MerchantId, Date> =
            changes.keys().map(|(merchant, _)| (merchant.clone(), self.today(merchant))).collect();
        let portfolios = self.portfolios.on(work.tx(), &days).await?;
        let mut outcomes = Vec::new();
        // A second time for those that another replica has written since they were read. They are locked by now.
        for _ in 0..2 {
            let with_days: Vec<_> = changes.keys().filter_map(|key| Some((key, *days.get(&key.0)?))).collect();
            let open = store::open_overdue(work.tx(), &with_days).await?;
            let account = |known: &Known, key: &PayerKey| known.get(key).copied().unwrap_or_default();
            let mut out_of_order = Vec::new();
            for (key, change) in &mut changes {
                if change.following(&account(&known, key).0).is_none() {
                    out_of_order.push(key);
                }
            }
            let mut settlements = BTreeMap::new();
            if !out_of_order.is_empty() {
                settlements = store::settlements(work.tx(), &out_of_order).await?;
            }
            let mut assessed = Vec::new();
            for (n, (key, change)) in changes.iter_mut().enumerate() {
                let Some(portfolio) = portfolios.get(&key.0) else { continue };
                let (account, revision) = account(&known, key);
                let open = open.get(&n).map_or(&[][..], Vec::as_slice);
                let mut assessment = Assessment::new(account, portfolio, open);
                match change.following(&account) {
                    Some([]) => assessment.look(),
                    Some(settled) => assessment.settle(settled),
                    None => assessment.replay(settlements.remove(key).unwrap_or_default(), change),
                }
                let event = assessment.tell(key, revision + 1);
                if assessment.account != account || !assessment.counted.is_empty() {
                    assessed.push(Outcome {
                        key: key.clone(),
                        revision: revision + 1,
                        account: assessment.account,
                        changes: assessment.changes,
                        counted: assessment.counted,
                        event,
                    });
                }
            }
            if assessed.is_empty() {
                break;
            }
            let rows = assessed.iter().map(|o| (&o.key, &o.account, o.revision));
            let written = store::save_accounts(work.tx(), rows).await?;
            if written == assessed.len() as u64 {
                outcomes.append(&mut assessed);
                break;
            }
            let keys: Vec<&PayerKey> = assessed.iter().map(|o| &o.key).collect();
            known = store::missed_accounts(work.tx(), &keys).await?;
            known.keys().for_each(|key| self.accounts.forget(key));
            changes.retain(|key, _| known.contains_key(key));
            assessed.retain(|o| !known.contains_key(&o.key));
            outcomes.append(&mut assessed);
        }
        self.conclude(work, outcomes).await
    }

    /// Notes why labels have changed, and what the portfolio gains; tells what matters, and keeps the accounts once they are committed.
    async fn conclude(&self, work: &mut Work, outcomes: Vec<Outcome>) -> Result<(), Failure> {
        let now = self.host.now();
        let changes: Vec<LabelChange> = outcomes.iter().flat_map(Outcome::label_changes).collect();
        if !changes.is_empty() {
            store::insert_label_changes(work.tx(), now, &changes).await?;
        }
        let mut weeks = WeekChanges::new();
        for (outcome, counted) in outcomes.iter().flat_map(|o| o.counted.iter().map(move |c| (o, c))) {
            let counts = weeks.entry((outcome.key.0.clone(), counted.pool, counted.week)).or_insert([0; BINS]);
            if let Some(count) = counts.get_mut(counted.bin) {
                *count += counted.sign;
            }
        }
        weeks.retain(|_, counts| counts.iter().any(|count| *count != 0));
        if !weeks.is_empty() {
            // Late: every batch of a merchant writes the same rows.
            store::add_to_weeks(work.tx(), &weeks).await?;
        }
        for event in outcomes.iter().filter_map(|o| o.event.as_ref()) {
            work.emit(now, event)?;
        }
        let accounts = self.accounts.clone();
        work.after_commit(move || outcomes.iter().for_each(|o| accounts.put(&o.key, o.account, o.revision)));
        Ok(())
    }
}

/// What a look at a customer led to.
struct Outcome {
    key: PayerKey,
    revision: i64,
    account: Account,
    changes: Vec<payer::label::Change>,
    counted: Vec<Counted>,
    event: Option<v1::CustomerSegmented>,
}

impl Outcome {
    fn label_changes(&self) -> impl Iterator<Item = LabelChange> {
        self.changes.iter().zip(0..).map(|(change, place)| LabelChange {
            key: self.key.clone(),
            revision: self.revision,
            place,
            label: change.to.as_str(),
            before: change.from.as_str(),
            reason: change.because.to_string(),
        })
    }
}
