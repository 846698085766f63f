//! All SQL of the bus. Tables are not qualified: they live in the service's schema, which is the role's `search_path`.

use bytes::Bytes;
use events::{Envelope, Kind};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use kernel::Shard;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool};
use std::collections::HashSet;
use uuid::Uuid;

/// An event as it is written to the outbox.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// The customer's; kept so that both sides of a stream can be compared part by part.
    pub shard: Shard,
    /// Headers and subject.
    pub envelope: Envelope,
    /// Protobuf.
    pub payload: Bytes,
}

/// Primary key of an outbox row.
pub type OutboxKey = (Timestamp, Uuid);

/// Marks events as dealt with by a consumer; returns those that were not yet.
///
/// A concurrent transaction with the same id makes this wait for its end: one of the two gets the row.
pub async fn claim_inbox(tx: &mut PgConnection, consumer: &str, ids: &[Uuid]) -> sqlx::Result<HashSet<Uuid>> {
    // Sorted, so that two replicas with overlapping batches wait for each other instead of deadlocking.
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let fresh: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO inbox (consumer, msg_id)
         SELECT $1, msg_id FROM UNNEST($2::uuid[]) AS msg_id
         ON CONFLICT DO NOTHING
         RETURNING msg_id",
    )
    .bind(consumer)
    .bind(sorted)
    .fetch_all(tx)
    .await?;
    Ok(fresh.into_iter().collect())
}

/// Writes events to the outbox and marks them as pending. Returns their `created_at`, which all share.
pub async fn insert_outbox(tx: &mut PgConnection, rows: &[OutboxRow]) -> sqlx::Result<Timestamp> {
    let created_at: jiff_sqlx::Timestamp = sqlx::query_scalar(
        "WITH written AS (
             INSERT INTO outbox (msg_id, shard, subject, key, occurred_at, traceparent, payload)
             SELECT * FROM UNNEST($1::uuid[], $2::int2[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bytea[])
             RETURNING created_at, msg_id
         ), pending AS (
             INSERT INTO outbox_pending (created_at, msg_id) SELECT created_at, msg_id FROM written
         )
         SELECT now()",
    )
    .bind(rows.iter().map(|r| r.envelope.id).bind_iter())
    .bind(rows.iter().map(|r| r.shard.number()).bind_iter())
    .bind(rows.iter().map(|r| r.envelope.subject()).bind_iter())
    .bind(rows.iter().map(|r| &r.envelope.key).bind_iter())
    .bind(rows.iter().map(|r| r.envelope.time.to_sqlx()).bind_iter())
    .bind(rows.iter().map(|r| r.envelope.traceparent.as_ref()).bind_iter())
    .bind(rows.iter().map(|r| &r.payload[..]).bind_iter())
    .fetch_one(tx)
    .await?;
    Ok(created_at.to_jiff())
}

/// Forgets pending marks: JetStream has confirmed these rows.
pub async fn delete_pending(db: impl PgExecutor<'_>, keys: &[OutboxKey]) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM outbox_pending AS p
         USING UNNEST($1::timestamptz[], $2::uuid[]) AS done (created_at, msg_id)
         WHERE p.created_at = done.created_at AND p.msg_id = done.msg_id",
    )
    .bind(keys.iter().map(|k| k.0.to_sqlx()).bind_iter())
    .bind(keys.iter().map(|k| k.1).bind_iter())
    .execute(db)
    .await?;
    Ok(())
}

/// The database's time, and the events that were committed before it and are not yet confirmed by the broker, up to `limit`,
/// with their subjects: empty for a mark whose event is gone.
pub async fn unconfirmed(db: &PgPool, limit: i64) -> sqlx::Result<(Timestamp, Vec<(OutboxKey, String)>)> {
    type Row = (jiff_sqlx::Timestamp, Vec<jiff_sqlx::Timestamp>, Vec<Uuid>, Vec<String>);
    // The statement's time is taken before its snapshot: what was committed before the one is seen by the other. Row by row,
    // whatever the planner thinks of it: all of the outbox is read otherwise.
    let (before, created_at, msg_ids, subjects): Row = sqlx::query_as(
        "SELECT statement_timestamp(), coalesce(array_agg(w.created_at), '{}'), coalesce(array_agg(w.msg_id), '{}'),
                coalesce(array_agg(w.subject), '{}')
         FROM (
             SELECT p.created_at, p.msg_id, coalesce(o.subject, '') AS subject
             FROM (SELECT created_at, msg_id FROM outbox_pending LIMIT $1) AS p
             LEFT JOIN LATERAL (
                 SELECT subject FROM outbox WHERE created_at = p.created_at AND msg_id = p.msg_id LIMIT 1
             ) AS o ON true
         ) AS w",
    )
    .bind(limit)
    .fetch_one(db)
    .await?;
    let keys = created_at.into_iter().map(|t| t.to_jiff()).zip(msg_ids);
    Ok((before.to_jiff(), keys.zip(subjects).collect()))
}

/// Those of these events that the broker has not confirmed yet.
pub async fn still_unconfirmed(db: &PgPool, keys: &[OutboxKey]) -> sqlx::Result<Vec<OutboxKey>> {
    let rows: Vec<(jiff_sqlx::Timestamp, Uuid)> = sqlx::query_as(
        "SELECT p.created_at, p.msg_id
         FROM outbox_pending AS p
         JOIN UNNEST($1::timestamptz[], $2::uuid[]) AS k (created_at, msg_id)
              ON p.created_at = k.created_at AND p.msg_id = k.msg_id",
    )
    .bind(keys.iter().map(|k| k.0.to_sqlx()).bind_iter())
    .bind(keys.iter().map(|k| k.1).bind_iter())
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|(created_at, id)| (created_at.to_jiff(), id)).collect())
}

#[derive(FromRow)]
struct StoredRow {
    created_at: jiff_sqlx::Timestamp,
    msg_id: Uuid,
    shard: i16,
    subject: String,
    key: String,
    occurred_at: jiff_sqlx::Timestamp,
    traceparent: Option<String>,
    payload: Vec<u8>,
}

/// Locks up to `limit` pending rows that are older than `older_than_seconds`, oldest first, skipping those another sweep holds.
///
/// Rows whose subject no version of the code knows any more are left alone: they show up in the outbox's age.
pub async fn lock_pending(
    tx: &mut PgConnection,
    older_than_seconds: f64,
    limit: i64,
) -> sqlx::Result<Vec<(OutboxKey, OutboxRow)>> {
    let rows: Vec<StoredRow> = sqlx::query_as(
        "WITH due AS (
             SELECT created_at, msg_id FROM outbox_pending
             WHERE created_at < now() - make_interval(secs => $1)
             ORDER BY created_at, msg_id
             LIMIT $2
             FOR UPDATE SKIP LOCKED
         )
         SELECT o.created_at, o.msg_id, o.shard, o.subject, o.key, o.occurred_at, o.traceparent, o.payload
         FROM due JOIN outbox AS o ON o.created_at = due.created_at AND o.msg_id = due.msg_id
         ORDER BY o.created_at, o.msg_id",
    )
    .bind(older_than_seconds)
    .bind(limit)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().filter_map(StoredRow::into_outbox_row).collect())
}

impl StoredRow {
    fn into_outbox_row(self) -> Option<(OutboxKey, OutboxRow)> {
        let (ce_type, merchant) = self.subject.rsplit_once('.')?;
        let envelope = Envelope {
            id: self.msg_id,
            kind: Kind::by_ce_type(ce_type)?,
            merchant: merchant.parse().ok()?,
            key: self.key,
            time: self.occurred_at.to_jiff(),
            traceparent: self.traceparent,
        };
        let shard = Shard::from_number(self.shard)?;
        let row = OutboxRow { shard, envelope, payload: self.payload.into() };
        Some(((self.created_at.to_jiff(), self.msg_id), row))
    }
}

/// Marks a window of the outbox (machine time, half open) as pending again. Returns how many events that were.
pub async fn replay_outbox(db: &PgPool, from: Timestamp, to: Timestamp) -> sqlx::Result<u64> {
    let mut tx = db.begin().await?;
    // A window may be large.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    let done = sqlx::query(
        "INSERT INTO outbox_pending (created_at, msg_id)
         SELECT created_at, msg_id FROM outbox WHERE created_at >= $1 AND created_at < $2
         ON CONFLICT DO NOTHING",
    )
    .bind(from.to_sqlx())
    .bind(to.to_sqlx())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(done.rows_affected())
}

/// A message that a consumer gave up.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    /// Event id, or one derived from the stream position.
    pub msg_id: Uuid,
    /// Where it arrived.
    pub subject: String,
    /// As they arrived.
    pub headers: serde_json::Value,
    /// As it arrived.
    pub payload: Bytes,
    /// Why it cannot work.
    pub reason: String,
}

/// Keeps given-up messages. One that is there already (a replayed window brought it again) gets the new reason.
pub async fn insert_dead_letters(tx: &mut PgConnection, consumer: &str, letters: &[NewDeadLetter]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dead_letter (consumer, msg_id, subject, headers, payload, reason)
         SELECT $1, * FROM UNNEST($2::uuid[], $3::text[], $4::jsonb[], $5::bytea[], $6::text[])
         ON CONFLICT (consumer, msg_id) DO UPDATE
         SET reason = EXCLUDED.reason, attempts = dead_letter.attempts + 1, failed_at = now(), replay_requested_at = NULL",
    )
    .bind(consumer)
    .bind(letters.iter().map(|l| l.msg_id).bind_iter())
    .bind(letters.iter().map(|l| &l.subject).bind_iter())
    .bind(letters.iter().map(|l| &l.headers).bind_iter())
    .bind(letters.iter().map(|l| &l.payload[..]).bind_iter())
    .bind(letters.iter().map(|l| &l.reason).bind_iter())
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps a dead letter that was tried again in vain, with the new reason. Does nothing if it is gone meanwhile.
pub async fn keep_dead_letter(tx: &mut PgConnection, id: i64, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE dead_letter SET reason = $2, attempts = attempts + 1, failed_at = now(), replay_requested_at = NULL
         WHERE id = $1",
    )
    .bind(id)
    .bind(reason)
    .execute(tx)
    .await
    .map(drop)
}

/// A dead letter as operators see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the table's columns")]
pub struct DeadLetter {
    pub id: i64,
    pub consumer: String,
    pub msg_id: Uuid,
    pub subject: String,
    pub headers: serde_json::Value,
    #[serde(skip)]
    pub payload: Vec<u8>,
    pub reason: String,
    pub attempts: i32,
    #[serde(serialize_with = "as_text")]
    pub failed_at: jiff_sqlx::Timestamp,
    pub replaying: bool,
}

fn as_text<S: serde::Serializer>(at: &jiff_sqlx::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.to_jiff())
}

const DEAD_LETTER_COLUMNS: &str = "SELECT id, consumer, msg_id, subject, headers, payload, reason, attempts, failed_at, \
                                   replay_requested_at IS NOT NULL AS replaying FROM dead_letter ";

/// Dead letters, newest first.
pub async fn list_dead_letters(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{DEAD_LETTER_COLUMNS} ORDER BY failed_at DESC, id DESC LIMIT $1")))
        .bind(limit)
        .fetch_all(db)
        .await
}

/// One dead letter.
pub async fn find_dead_letter(db: impl PgExecutor<'_>, id: i64) -> sqlx::Result<Option<DeadLetter>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{DEAD_LETTER_COLUMNS} WHERE id = $1")))
        .bind(id)
        .fetch_optional(db)
        .await
}

/// Asks the consumer that gave up to try again. `None` asks for all. Returns how many.
pub async fn request_replay(db: impl PgExecutor<'_>, id: Option<i64>) -> sqlx::Result<u64> {
    let done = sqlx::query("UPDATE dead_letter SET replay_requested_at = now() WHERE $1::bigint IS NULL OR id = $1")
        .bind(id)
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

/// Locks the dead letters of a consumer that an operator wants tried again.
pub async fn lock_replays(tx: &mut PgConnection, consumer: &str, limit: i64) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{DEAD_LETTER_COLUMNS} WHERE consumer = $1 AND replay_requested_at IS NOT NULL
         ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED"
    )))
    .bind(consumer)
    .bind(limit)
    .fetch_all(tx)
    .await
}

/// Forgets a dead letter: it was dealt with, or an operator dropped it. Returns whether it was there.
pub async fn delete_dead_letter(db: impl PgExecutor<'_>, id: i64) -> sqlx::Result<bool> {
    let done = sqlx::query("DELETE FROM dead_letter WHERE id = $1").bind(id).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

/// Makes the outbox partitions of the next days and drops those past retention.
pub async fn maintain_outbox(db: impl PgExecutor<'_>, keep_days: i32) -> sqlx::Result<()> {
    sqlx::query("SELECT maintain_outbox(make_interval(days => $1))").bind(keep_days).execute(db).await?;
    Ok(())
}

/// Deletes up to `limit` inbox rows past retention. Returns how many.
pub async fn trim_inbox(db: impl PgExecutor<'_>, keep_days: i32, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM inbox WHERE (consumer, msg_id) IN (
             SELECT consumer, msg_id FROM inbox WHERE received_at < now() - make_interval(days => $1) LIMIT $2)",
    )
    .bind(keep_days)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// How far the outbox is behind and how many messages were given up.
#[derive(Debug, Clone, Copy, PartialEq, FromRow)]
pub struct Backlog {
    /// Events that JetStream has not confirmed.
    pub outbox_depth: i64,
    /// Age of the oldest of them in seconds; 0 if there is none.
    pub outbox_oldest_seconds: f64,
    /// Messages that wait for an operator.
    pub dead_letters: i64,
    /// Age of the oldest of them in seconds; 0 if there is none.
    pub dead_letter_oldest_seconds: f64,
}

/// Reads the backlog.
pub async fn backlog(db: impl PgExecutor<'_>) -> sqlx::Result<Backlog> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM outbox_pending) AS outbox_depth,
                (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM outbox_pending)
                    AS outbox_oldest_seconds,
                (SELECT count(*) FROM dead_letter) AS dead_letters,
                (SELECT coalesce(extract(epoch FROM now() - min(failed_at)), 0)::float8 FROM dead_letter)
                    AS dead_letter_oldest_seconds",
    )
    .fetch_one(db)
    .await
}

/// Takes a person out of kept events of a merchant that are about one of these keys (invoices, customers), and drops dead
/// letters about them. Returns how many events were changed and how many letters dropped.
pub async fn erase_person(tx: &mut PgConnection, merchant: &str, keys: &[&str]) -> sqlx::Result<(u64, u64)> {
    let rows: Vec<(jiff_sqlx::Timestamp, Uuid, String, Vec<u8>)> = sqlx::query_as(
        "SELECT created_at, msg_id, subject, payload FROM outbox
         WHERE key = ANY($2) AND right(subject, length($1) + 1) = '.' || $1",
    )
    .bind(merchant)
    .bind(keys)
    .fetch_all(&mut *tx)
    .await?;
    let without = |(at, id, subject, payload): (jiff_sqlx::Timestamp, Uuid, String, Vec<u8>)| {
        let kind = subject.rsplit('.').nth(1).and_then(Kind::by_name)?;
        Some((at, id, events::without_person(kind, &payload)?))
    };
    let changed: Vec<_> = rows.into_iter().filter_map(without).collect();
    sqlx::query(
        "UPDATE outbox AS o SET payload = n.payload
         FROM UNNEST($1::timestamptz[], $2::uuid[], $3::bytea[]) AS n (created_at, msg_id, payload)
         WHERE o.created_at = n.created_at AND o.msg_id = n.msg_id",
    )
    .bind(changed.iter().map(|c| c.0).bind_iter())
    .bind(changed.iter().map(|c| c.1).bind_iter())
    .bind(changed.iter().map(|c| &c.2[..]).bind_iter())
    .execute(&mut *tx)
    .await?;
    Ok((changed.len() as u64, drop_letters(tx, merchant, keys).await?))
}

/// Drops dead letters of a merchant that are about one of these keys. Returns how many.
pub async fn drop_letters(tx: &mut PgConnection, merchant: &str, keys: &[&str]) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM dead_letter
         WHERE right(subject, length($1) + 1) = '.' || $1
           AND EXISTS (SELECT FROM UNNEST($2::text[]) AS key WHERE position(convert_to(key, 'UTF8') IN payload) > 0)",
    )
    .bind(merchant)
    .bind(keys)
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}
