//! All SQL about documents.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::Masked;
use sqlx::PgExecutor;

/// A document, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The file.
    pub pdf: Option<Masked<Vec<u8>>>,
    /// Empty if there is one.
    pub reason: String,
}

/// Finds a document by the hash of its address.
pub async fn find(
    db: impl PgExecutor<'_>,
    merchant: &str,
    invoice: &str,
    url_sha256: &[u8],
) -> sqlx::Result<Option<Document>> {
    let row: Option<(Option<Vec<u8>>, String)> = sqlx::query_as(
        "SELECT pdf, reason FROM notifier.document WHERE merchant = $1 AND invoice = $2 AND url_sha256 = $3",
    )
    .bind(merchant)
    .bind(invoice)
    .bind(url_sha256)
    .fetch_optional(db)
    .await?;
    Ok(row.map(|(pdf, reason)| Document { pdf: pdf.map(Masked::new), reason }))
}

/// Keeps a document. One that is there stays: somebody else was faster.
pub async fn keep(
    db: impl PgExecutor<'_>,
    merchant: &str,
    invoice: &str,
    url_sha256: &[u8],
    document: &Document,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO notifier.document AS d (merchant, invoice, url_sha256, pdf, reason, fetched_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (merchant, invoice, url_sha256) DO UPDATE
         SET pdf = EXCLUDED.pdf, reason = EXCLUDED.reason, fetched_at = EXCLUDED.fetched_at, stored_at = now()
         WHERE d.pdf IS NULL",
    )
    .bind(merchant)
    .bind(invoice)
    .bind(url_sha256)
    .bind(document.pdf.as_ref().map(|pdf| pdf.reveal().as_slice()))
    .bind(&document.reason)
    .bind(now.to_sqlx())
    .execute(db)
    .await
    .map(drop)
}

/// Deletes documents that were kept longer than so many days, at most `limit`. Returns how many.
pub async fn trim(db: impl PgExecutor<'_>, days: i32, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM notifier.document WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM notifier.document WHERE stored_at < now() - make_interval(days => $1) LIMIT $2))",
    )
    .bind(days)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
