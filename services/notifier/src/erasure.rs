//! Erasing a person's data: messages both ways, and addresses on lists. Names and addresses themselves go by the snapshots
//! that ingest tells.
//!
//! So that nobody writes to them again under another customer id, a keyed hash of each address stays on the suppression list.

pub mod store;

use bus::{Failure, Handler, Incoming, Work};
use events::topology::NOTIFIER_ERASURE;
use events::{AnyEvent, Flow, Malformed, snapshot};
use kernel::{CustomerId, MerchantId};
use runtime::Host;
use runtime::links::address_hash;

/// Customers who were erased.
pub struct Erasures(pub Host);

impl Handler for Erasures {
    const FLOW: &'static Flow = &NOTIFIER_ERASURE;

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        for incoming in batch {
            match &incoming.event {
                AnyEvent::CustomerErased(event) => {
                    let ids = (
                        snapshot::id::<MerchantId>("merchant_id", &event.merchant_id),
                        snapshot::id::<CustomerId>("customer_id", &event.customer_id),
                    );
                    match ids {
                        (Ok(merchant), Ok(customer)) => {
                            self.erase(work, merchant.as_str(), customer.as_str(), &event.address_hashes).await?;
                        }
                        (Err(fault), _) | (_, Err(fault)) => work.reject(incoming, fault),
                    }
                }
                _ => work.reject(incoming, Malformed::missing("customer")),
            }
        }
        Ok(())
    }
}

impl Erasures {
    async fn erase(&self, work: &mut Work, merchant: &str, customer: &str, hashes: &[String]) -> Result<(), Failure> {
        let now = self.0.now();
        let mut hashes = hashes.to_vec();
        let written_to = store::recipients(work.tx(), merchant, customer).await?;
        hashes.extend(written_to.iter().map(|a| address_hash(&self.0.links, merchant, a.reveal())));
        hashes.sort();
        hashes.dedup();
        let listed = store::listed_addresses(work.tx(), merchant).await?;
        let theirs: Vec<_> = listed
            .into_iter()
            .filter(|address| hashes.contains(&address_hash(&self.0.links, merchant, address.reveal())))
            .collect();
        let mut counts = store::erase_messages(work.tx(), merchant, customer).await?;
        counts.insert("suppressions", store::unlist(work.tx(), merchant, &theirs).await?);
        counts.insert("dead_letters", bus::store::drop_letters(work.tx(), merchant, &[customer]).await?);
        store::suppress_erased(work.tx(), merchant, customer, &hashes, now).await?;
        Ok(store::note(work.tx(), merchant, customer, &counts, now).await?)
    }
}
