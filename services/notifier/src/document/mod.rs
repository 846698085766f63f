//! The invoice as a PDF, attached to reminders: fetched once from where the processor says it is, looked at, and kept.
//!
//! A message never waits for it long, and never fails for want of it: it goes without, and the story says why.

pub mod pdf;
pub mod store;

use crate::domain::Balance;
use crate::message::Attachment;
use crate::webhook::client::{Client, Fetched};
use events::v1::ReminderLine;
use kernel::Masked;
use runtime::{Host, Merchant};
use sha2::{Digest, Sha256};
use std::time::Duration;
use store::Document;

/// The most that is attached of one invoice.
const MAX_BYTES: usize = 1_024 * 1_024;
/// The most invoices whose documents are attached.
const MAX_DOCUMENTS: usize = 3;
/// A message waits no longer for its documents.
const WAIT: Duration = Duration::from_secs(10);

/// Fetches and keeps documents.
#[derive(Clone)]
pub struct Documents {
    host: Host,
    client: Client,
}

impl Documents {
    /// Errors: TLS cannot be set up.
    pub fn try_new(host: Host) -> anyhow::Result<Self> {
        Ok(Self { host, client: Client::try_new()? })
    }

    /// What can be attached to a message about these.
    pub async fn of(&self, merchant: &Merchant, owed: &[(ReminderLine, Balance)]) -> Vec<Attachment> {
        let all = futures_util::future::join_all(wanted(merchant, owed).map(|(line, balance)| async move {
            let pdf = match self.one(merchant, line, balance).await {
                Ok(document) => document.pdf?,
                Err(error) => {
                    tracing::warn!(%error, "document neither read nor kept; the message goes without it");
                    return None;
                }
            };
            Some(Attachment { name: file_name(&balance.number), kind: "application/pdf", bytes: pdf })
        }));
        all.await.into_iter().flatten().collect()
    }

    /// Whether there may be something to fetch or to read for a message about these.
    pub fn are_wanted(merchant: &Merchant, owed: &[(ReminderLine, Balance)]) -> bool {
        wanted(merchant, owed).next().is_some()
    }

    async fn one(&self, merchant: &Merchant, line: &ReminderLine, balance: &Balance) -> sqlx::Result<Document> {
        let url = balance.document_url.reveal();
        let hash = Sha256::digest(url).to_vec();
        let known = store::find(&self.host.pool, merchant.id.as_str(), &line.invoice_id, &hash).await?;
        if let Some(known) = known.filter(|known| !known.reason.starts_with(UNREACHABLE)) {
            return Ok(known);
        }
        let document = match tokio::time::timeout(WAIT, self.client.get(url, MAX_BYTES)).await {
            // It may be long and in a thousand pieces: not where permits are waited for.
            Ok(Ok(fetched)) => match tokio::task::spawn_blocking(move || checked(fetched)).await {
                Ok(document) => document,
                Err(error) => Document { pdf: None, reason: error.to_string() },
            },
            Ok(Err(problem)) => Document { pdf: None, reason: problem.to_string() },
            Err(_) => {
                Document { pdf: None, reason: format!("{UNREACHABLE}: nothing within {} seconds", WAIT.as_secs()) }
            }
        };
        let now = self.host.now();
        store::keep(&self.host.pool, merchant.id.as_str(), &line.invoice_id, &hash, &document, now).await?;
        Ok(document)
    }
}

fn checked(fetched: Fetched) -> Document {
    match pdf::check(&fetched.kind, &fetched.bytes) {
        Ok(()) => Document { pdf: Some(Masked::new(fetched.bytes)), reason: String::new() },
        Err(reason) => Document { pdf: None, reason: reason.to_owned() },
    }
}

/// How reasons begin that may pass.
pub const UNREACHABLE: &str = "unreachable";

/// `2026-0417.pdf`: what every system takes for a file's name.
fn file_name(number: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = number.chars().take(60).map(safe).collect();
    format!("{}.pdf", if name.is_empty() { "invoice" } else { &name })
}

fn wanted<'a>(
    merchant: &Merchant,
    owed: &'a [(ReminderLine, Balance)],
) -> impl Iterator<Item = &'a (ReminderLine, Balance)> {
    let attach = merchant.file.brand.attach_invoice;
    owed.iter().filter(move |(_, balance)| attach && !balance.document_url.reveal().is_empty()).take(MAX_DOCUMENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_safe() {
        let names = ["2026-0417", "R 7/ä", "../../x\r\ny", ""].map(file_name);
        assert_eq!(names, ["2026-0417.pdf", "R-7--.pdf", "------x--y.pdf", "invoice.pdf"]);
    }
}
