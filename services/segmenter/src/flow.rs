//! EVENT IN -> STATE -> EVENT OUT
//!
//! | in | state | out |
//! |---|---|---|
//! | `invoice-issued`, `-changed`, `-closed`, `payment-received`, `-failed`, `-reversed` | the invoice's contribution by version; its customer's history by the difference | `customer-segmented`, if the segment changed |

use crate::domain::Contribution;
use crate::store::{self, InvoiceKey, PayerKey};
use bus::{Failure, Handler, Incoming, Work};
use events::topology::SEGMENTER_PAYERS;
use events::{Flow, Invoice, Malformed, snapshot, v1};
use jiff::tz::TimeZone;
use payer::History;
use runtime::Host;
use std::collections::BTreeMap;
use std::time::Duration;

/// How customers pay.
pub struct Payers(pub Host);

impl Handler for Payers {
    const FLOW: &'static Flow = &SEGMENTER_PAYERS;
    const LINGER: Duration = Duration::from_millis(50);

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let mut news: BTreeMap<InvoiceKey, Contribution> = BTreeMap::new();
        for incoming in batch {
            match self.contribution(incoming) {
                Ok(new) => {
                    let key = (new.merchant.clone(), new.invoice.clone());
                    if news.get(&key).is_none_or(|known| new.version > known.version) {
                        news.insert(key, new);
                    }
                }
                Err(fault) => work.reject(incoming, fault),
            }
        }
        let known = store::lock_contributions(work.tx(), &news.keys().collect::<Vec<_>>()).await?;
        news.retain(|key, new| known.get(key).is_none_or(|old| new.version > old.version));

        let mut changes: BTreeMap<PayerKey, History> = BTreeMap::new();
        for (key, new) in &news {
            if let Some(old) = known.get(key) {
                *changes.entry(payer_of(old)).or_default() += History::default() - old.history;
            }
            *changes.entry(payer_of(new)).or_default() += new.history;
        }
        changes.retain(|_, change| *change != History::default());

        let (updates, inserts) = news.into_iter().partition::<Vec<_>, _>(|(key, _)| known.contains_key(key));
        let rows = |list: Vec<(InvoiceKey, Contribution)>| list.into_iter().map(|(_, c)| c).collect::<Vec<_>>();
        store::update_contributions(work.tx(), &rows(updates)).await?;
        if !store::insert_contributions(work.tx(), &rows(inserts)).await? {
            return Err(Failure::Retry("another replica met one of these invoices at the same time".to_owned()));
        }
        self.tell_segments(work, &changes).await
    }
}

impl Payers {
    fn contribution(&self, incoming: &Incoming) -> Result<Contribution, Malformed> {
        let invoice = Invoice::try_from(incoming.event.invoice().ok_or_else(|| Malformed::missing("invoice"))?)?;
        let zone = self.0.merchants.get(&invoice.merchant).map_or(TimeZone::UTC, |m| m.zone.clone());
        Ok(Contribution::of(&invoice, &zone))
    }

    async fn tell_segments(&self, work: &mut Work, changes: &BTreeMap<PayerKey, History>) -> Result<(), Failure> {
        if changes.is_empty() {
            return Ok(());
        }
        let now = self.0.now();
        let mut told = Vec::new();
        for payer in store::add_to_histories(work.tx(), changes).await? {
            let segment = payer.history.segment();
            if segment == payer.told {
                continue;
            }
            let event = v1::CustomerSegmented {
                merchant_id: payer.key.0.to_string(),
                customer_id: payer.key.1.to_string(),
                version: payer.version + 1,
                segment: snapshot::segment_to_wire(segment).into(),
                settled: payer.history.settled,
                settled_late: payer.history.late,
            };
            work.emit(now, &event)?;
            told.push((payer.key, payer.version + 1, segment));
        }
        if told.is_empty() { Ok(()) } else { Ok(store::note_segments(work.tx(), &told).await?) }
    }
}

fn payer_of(contribution: &Contribution) -> PayerKey {
    (contribution.merchant.clone(), contribution.customer.clone())
}
