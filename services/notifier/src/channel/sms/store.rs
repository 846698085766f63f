//! SQL of what payers and the provider say about text messages.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::{Masked, MerchantId};
use sqlx::PgConnection;

/// Closes a number for a merchant's text messages; if its owner asked for it, also the customers that have it, whatever number
/// they get.
pub async fn stop(
    tx: &mut PgConnection,
    merchant: &MerchantId,
    number: &Masked<String>,
    reason: &str,
    source: &str,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO notifier.suppression (merchant, channel, subject, reason, source, created_at)
         SELECT $1, 'sms', 'address:' || $2, $3, $4, $5
         UNION ALL
         SELECT $1, 'sms', 'customer:' || customer, $3, $4, $5 FROM notifier.customer
         WHERE merchant = $1 AND number <> '' AND number = $2 AND $3 = 'unsubscribed'
         ON CONFLICT DO NOTHING",
    )
    .bind(merchant.as_str())
    .bind(number.reveal())
    .bind(reason)
    .bind(source)
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// Opens a number again that its owner had closed, and the customers that have it.
pub async fn start(tx: &mut PgConnection, merchant: &MerchantId, number: &Masked<String>) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM notifier.suppression
         WHERE merchant = $1 AND channel = 'sms' AND reason = 'unsubscribed'
           AND (subject = 'address:' || $2
                OR subject IN (SELECT 'customer:' || customer FROM notifier.customer
                               WHERE merchant = $1 AND number <> '' AND number = $2))",
    )
    .bind(merchant.as_str())
    .bind(number.reveal())
    .execute(tx)
    .await
    .map(drop)
}
