//! All SQL of ingest. Every function takes the transaction.

use crate::domain::{CustomerFacts, Facts, Stamped};
use crate::facts::Message;
use crate::flow::Heard;
use events::Malformed;
use jiff_sqlx::ToSqlx;
use kernel::{CustomerId, InvoiceId, MerchantId};
use runtime::story::StoryLine;
use serde::Serialize;
use sqlx::postgres::PgBindIterExt;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

/// Invoice or charge of a merchant.
pub type Key<T> = (MerchantId, T);

/// Keeps messages as they arrived; returns the ids of those that were not there yet.
pub async fn insert_inbound(
    tx: &mut PgConnection,
    messages: &[(&Message, Option<&InvoiceId>)],
) -> sqlx::Result<HashSet<Uuid>> {
    let fresh: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO ingest.inbound (id, merchant, source, external_id, kind, about, body, traceparent, received_at,
                                     occurred_at)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[],
                              $8::text[], $9::timestamptz[], $10::timestamptz[])
         ON CONFLICT DO NOTHING
         RETURNING id",
    )
    .bind(messages.iter().map(|(m, _)| m.id).bind_iter())
    .bind(messages.iter().map(|(m, _)| m.merchant.as_str()).bind_iter())
    .bind(messages.iter().map(|(m, _)| &m.source).bind_iter())
    .bind(messages.iter().map(|(m, _)| &m.external_id).bind_iter())
    .bind(messages.iter().map(|(m, _)| &m.kind).bind_iter())
    .bind(messages.iter().map(|(_, about)| about.map(InvoiceId::as_str)).bind_iter())
    .bind(messages.iter().map(|(m, _)| &m.body[..]).bind_iter())
    .bind(messages.iter().map(|(m, _)| m.traceparent.as_ref()).bind_iter())
    .bind(messages.iter().map(|(m, _)| m.received_at.to_sqlx()).bind_iter())
    .bind(messages.iter().map(|(m, _)| m.occurred_at.map(ToSqlx::to_sqlx)).bind_iter())
    .fetch_all(tx)
    .await?;
    Ok(fresh.into_iter().collect())
}

/// Forgets messages, as if they had never come.
pub async fn forget_inbound(tx: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM ingest.inbound WHERE id = ANY($1)").bind(ids).execute(tx).await?;
    Ok(())
}

/// Notes which invoice a message is about.
pub async fn set_about(tx: &mut PgConnection, inbound: Uuid, invoice: &InvoiceId) -> sqlx::Result<()> {
    sqlx::query("UPDATE ingest.inbound SET about = $2 WHERE id = $1")
        .bind(inbound)
        .bind(invoice.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Keeps messages that make no sense apart. One that is there already gets the new reason. Returns how many: those past
/// retention are gone.
pub async fn quarantine(tx: &mut PgConnection, faults: &[(&Uuid, &Malformed)]) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "INSERT INTO ingest.quarantine (inbound, field, reason)
         SELECT i.id, fault.field, fault.reason
         FROM UNNEST($1::uuid[], $2::text[], $3::text[]) AS fault (inbound, field, reason)
         JOIN ingest.inbound AS i ON i.id = fault.inbound
         ON CONFLICT (inbound) DO UPDATE
         SET field = EXCLUDED.field, reason = EXCLUDED.reason, quarantined_at = now(), replay_requested_at = NULL",
    )
    .bind(faults.iter().map(|(id, _)| **id).bind_iter())
    .bind(faults.iter().map(|(_, f)| f.field).bind_iter())
    .bind(faults.iter().map(|(_, f)| &f.problem).bind_iter())
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Which invoices charges belong to, as far as that is known.
pub async fn invoices_of_charges(
    tx: &mut PgConnection,
    charges: &[Key<&str>],
) -> sqlx::Result<BTreeMap<Key<String>, InvoiceId>> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT c.merchant, c.charge, c.invoice
         FROM ingest.charge AS c JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, charge) USING (merchant, charge)",
    )
    .bind(charges.iter().map(|(m, _)| m.as_str()).bind_iter())
    .bind(charges.iter().map(|(_, c)| *c).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(m, c, i)| Ok(((stored(m)?, c), stored(i)?))).collect()
}

/// Notes which invoices charges belong to.
pub async fn insert_charges(tx: &mut PgConnection, charges: &[(MerchantId, String, InvoiceId)]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO ingest.charge (merchant, charge, invoice)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(charges.iter().map(|(m, ..)| m.as_str()).bind_iter())
    .bind(charges.iter().map(|(_, c, _)| c).bind_iter())
    .bind(charges.iter().map(|(.., i)| i.as_str()).bind_iter())
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps the facts of messages about charges whose invoice is not known yet. Any of the charges will lead there.
pub async fn park(tx: &mut PgConnection, facts: &[(&Message, &str, &[Stamped])]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO ingest.parked (merchant, charge, inbound, facts)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::jsonb[])
         ON CONFLICT DO NOTHING",
    )
    .bind(facts.iter().map(|(m, ..)| m.merchant.as_str()).bind_iter())
    .bind(facts.iter().map(|(_, charge, _)| *charge).bind_iter())
    .bind(facts.iter().map(|(m, ..)| m.id).bind_iter())
    .bind(facts.iter().map(|(.., f)| Json(f)).bind_iter())
    .execute(tx)
    .await?;
    Ok(())
}

/// Parked facts of a message whose invoice is known by now.
#[derive(Debug)]
pub struct Unparked {
    /// The invoice.
    pub key: Key<InvoiceId>,
    /// The message they came in.
    pub inbound: Uuid,
    /// Its trace.
    pub traceparent: Option<String>,
    /// The facts.
    pub facts: Vec<Stamped>,
}

/// Up to `limit` charges whose invoice is known by now, and about which facts were parked in the last `hours` all the same.
pub async fn charges_to_unpark(tx: &mut PgConnection, hours: i32, limit: i64) -> sqlx::Result<Vec<Key<String>>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT p.merchant, p.charge
         FROM ingest.parked AS p JOIN ingest.charge AS c USING (merchant, charge)
         WHERE p.parked_at > now() - make_interval(hours => $1)
         LIMIT $2",
    )
    .bind(hours)
    .bind(limit)
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(merchant, charge)| Ok((stored(merchant)?, charge))).collect()
}

/// Takes out what is parked under some charges whose invoice is known. A message that was parked under several charges is
/// taken out under all of them, and comes once.
pub async fn unpark(tx: &mut PgConnection, charges: &[Key<&str>]) -> sqlx::Result<Vec<Unparked>> {
    type Row = (String, String, Uuid, Option<String>, Json<Vec<Stamped>>);
    let rows: Vec<Row> = sqlx::query_as(
        "WITH due AS (
             -- Locks the message, not its parked rows: two that come for it under different charges see each other.
             SELECT p.inbound, c.invoice
             FROM UNNEST($1::text[], $2::text[]) AS wanted (merchant, charge)
             JOIN ingest.charge AS c USING (merchant, charge)
             JOIN ingest.parked AS p USING (merchant, charge)
             JOIN ingest.inbound AS i ON i.id = p.inbound
             FOR NO KEY UPDATE OF i SKIP LOCKED
         ), taken AS (
             DELETE FROM ingest.parked AS p USING due WHERE p.inbound = due.inbound
             RETURNING p.merchant, due.invoice, p.inbound, p.facts
         ), told AS (
             UPDATE ingest.inbound AS i SET about = taken.invoice FROM taken WHERE i.id = taken.inbound
         )
         SELECT DISTINCT ON (taken.inbound) taken.merchant, taken.invoice, taken.inbound, i.traceparent, taken.facts
         FROM taken JOIN ingest.inbound AS i ON i.id = taken.inbound",
    )
    .bind(charges.iter().map(|(m, _)| m.as_str()).bind_iter())
    .bind(charges.iter().map(|(_, c)| *c).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|(merchant, invoice, inbound, traceparent, facts)| {
            Ok(Unparked { key: (stored(merchant)?, stored(invoice)?), inbound, traceparent, facts: facts.0 })
        })
        .collect()
}

/// The facts about invoices, with their versions.
pub async fn load_invoices(
    tx: &mut PgConnection,
    keys: &[&Key<InvoiceId>],
) -> sqlx::Result<BTreeMap<Key<InvoiceId>, (i64, Facts)>> {
    let rows: Vec<(String, String, i64, Json<Facts>)> = sqlx::query_as(
        "SELECT i.merchant, i.invoice, i.version, i.facts
         FROM ingest.invoice AS i JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, invoice) USING (merchant, invoice)",
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(m, i, version, facts)| Ok(((stored(m)?, stored(i)?), (version, facts.0)))).collect()
}

/// Writes invoices, each one version above what was loaded. Returns whether all of them still had that version: if not,
/// somebody else was faster, and the transaction must be given up and done again.
pub async fn save_invoices(tx: &mut PgConnection, rows: &[(&Key<InvoiceId>, i64, &Facts)]) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO ingest.invoice AS i (merchant, invoice, version, facts)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::jsonb[])
         ON CONFLICT (merchant, invoice) DO UPDATE SET version = EXCLUDED.version, facts = EXCLUDED.facts
         WHERE i.version = EXCLUDED.version - 1",
    )
    .bind(rows.iter().map(|(k, ..)| k.0.as_str()).bind_iter())
    .bind(rows.iter().map(|(k, ..)| k.1.as_str()).bind_iter())
    .bind(rows.iter().map(|(_, version, _)| *version).bind_iter())
    .bind(rows.iter().map(|(.., facts)| Json(facts)).bind_iter())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

/// What is known about customers, with versions.
pub async fn load_customers(
    tx: &mut PgConnection,
    keys: &[&Key<CustomerId>],
) -> sqlx::Result<BTreeMap<Key<CustomerId>, (i64, CustomerFacts)>> {
    let rows: Vec<(String, String, i64, Json<CustomerFacts>)> = sqlx::query_as(
        "SELECT c.merchant, c.customer, c.version, c.facts
         FROM ingest.customer AS c JOIN UNNEST($1::text[], $2::text[]) AS wanted (merchant, customer) USING (merchant, customer)",
    )
    .bind(keys.iter().map(|k| k.0.as_str()).bind_iter())
    .bind(keys.iter().map(|k| k.1.as_str()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(m, c, version, facts)| Ok(((stored(m)?, stored(c)?), (version, facts.0)))).collect()
}

/// Writes customers; see [`save_invoices`].
pub async fn save_customers(
    tx: &mut PgConnection,
    rows: &[(&Key<CustomerId>, i64, &CustomerFacts)],
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO ingest.customer AS c (merchant, customer, version, facts)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::jsonb[])
         ON CONFLICT (merchant, customer) DO UPDATE SET version = EXCLUDED.version, facts = EXCLUDED.facts
         WHERE c.version = EXCLUDED.version - 1",
    )
    .bind(rows.iter().map(|(k, ..)| k.0.as_str()).bind_iter())
    .bind(rows.iter().map(|(k, ..)| k.1.as_str()).bind_iter())
    .bind(rows.iter().map(|(_, version, _)| *version).bind_iter())
    .bind(rows.iter().map(|(.., facts)| Json(facts)).bind_iter())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

/// Notes which sources were heard, except where less than a minute has passed since the last note. Returns those noted.
pub async fn note_heard(
    tx: &mut PgConnection,
    heard: &Heard,
) -> sqlx::Result<Vec<(MerchantId, String, jiff::Timestamp)>> {
    let rows: Vec<(String, String, jiff_sqlx::Timestamp)> = sqlx::query_as(
        "INSERT INTO ingest.source AS s (merchant, source, heard_at)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::timestamptz[]) AS heard (merchant, source, heard_at)
         -- Looks before it inserts: a conflict locks the row, and batches would wait for each other.
         WHERE NOT EXISTS (
             SELECT FROM ingest.source AS known
             WHERE known.merchant = heard.merchant AND known.source = heard.source
               AND known.heard_at > heard.heard_at - interval '1 minute'
         )
         -- Another replica may have been faster.
         ON CONFLICT (merchant, source) DO UPDATE SET heard_at = EXCLUDED.heard_at
         WHERE s.heard_at <= EXCLUDED.heard_at - interval '1 minute'
         RETURNING merchant, source, heard_at",
    )
    .bind(heard.keys().map(|(merchant, _)| merchant.as_str()).bind_iter())
    .bind(heard.keys().map(|(_, source)| source.as_str()).bind_iter())
    .bind(heard.values().map(|at| at.to_sqlx()).bind_iter())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(merchant, source, at)| Ok((stored(merchant)?, source, at.to_jiff()))).collect()
}

/// A quarantined message as operators see it.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(missing_docs, reason = "documented on the tables' columns")]
pub struct Quarantined {
    pub id: i64,
    pub inbound: Uuid,
    pub merchant: String,
    pub source: String,
    pub external_id: String,
    pub kind: String,
    pub field: String,
    pub reason: String,
    pub replaying: bool,
    pub corrected: bool,
    #[serde(skip)]
    pub body: Vec<u8>,
    #[serde(skip)]
    pub occurred_at: Option<jiff_sqlx::Timestamp>,
    #[serde(skip)]
    pub traceparent: Option<String>,
    #[serde(skip)]
    pub received_at: jiff_sqlx::Timestamp,
}

const QUARANTINED: &str = "SELECT q.id, q.inbound, i.merchant, i.source, i.external_id, i.kind, q.field, q.reason,
        q.replay_requested_at IS NOT NULL AS replaying, i.correction IS NOT NULL AS corrected,
        coalesce(i.correction, i.body) AS body, i.occurred_at, i.traceparent, i.received_at
    FROM ingest.quarantine AS q JOIN ingest.inbound AS i ON i.id = q.inbound ";

/// Quarantined messages, newest first.
pub async fn list_quarantine(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<Quarantined>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{QUARANTINED} ORDER BY q.quarantined_at DESC, q.id DESC LIMIT $1")))
        .bind(limit)
        .fetch_all(db)
        .await
}

/// One quarantined message.
pub async fn find_quarantined(db: impl PgExecutor<'_>, id: i64) -> sqlx::Result<Option<Quarantined>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{QUARANTINED} WHERE q.id = $1"))).bind(id).fetch_optional(db).await
}

/// Asks ingest to try again, with a corrected body if one is given. `None` asks for all. Returns how many.
pub async fn request_quarantine_replay(
    db: impl PgExecutor<'_>,
    id: Option<i64>,
    body: Option<&[u8]>,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "WITH wanted AS (
             UPDATE ingest.quarantine SET replay_requested_at = now() WHERE $1::bigint IS NULL OR id = $1 RETURNING inbound
         ), corrected AS (
             UPDATE ingest.inbound SET correction = $2 WHERE $2::bytea IS NOT NULL AND id IN (SELECT inbound FROM wanted)
         )
         SELECT inbound FROM wanted",
    )
    .bind(id)
    .bind(body)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Locks the quarantined messages that an operator wants tried again.
pub async fn lock_quarantine_replays(tx: &mut PgConnection, limit: i64) -> sqlx::Result<Vec<Quarantined>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{QUARANTINED} WHERE q.replay_requested_at IS NOT NULL ORDER BY q.id LIMIT $1 FOR UPDATE OF q SKIP LOCKED"
    )))
    .bind(limit)
    .fetch_all(tx)
    .await
}

/// Ends a quarantine: the message made sense now, or an operator dropped it. The message itself stays. Returns whether it
/// was there.
pub async fn release(db: impl PgExecutor<'_>, id: i64) -> sqlx::Result<bool> {
    let done = sqlx::query("DELETE FROM ingest.quarantine WHERE id = $1").bind(id).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes up to `limit` messages past retention; those in quarantine stay until somebody has looked at them. Returns how
/// many.
pub async fn trim_inbound(tx: &mut PgConnection, keep_days: i32, limit: i64) -> sqlx::Result<u64> {
    let old: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM ingest.inbound AS i
         WHERE stored_at < now() - make_interval(days => $1)
           AND NOT EXISTS (SELECT FROM ingest.quarantine WHERE inbound = i.id)
         LIMIT $2",
    )
    .bind(keep_days)
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM ingest.parked WHERE inbound = ANY($1)").bind(&old).execute(&mut *tx).await?;
    let done = sqlx::query("DELETE FROM ingest.inbound WHERE id = ANY($1)").bind(&old).execute(tx).await?;
    Ok(done.rows_affected())
}

/// What ingest knows of an invoice: every message about it.
pub async fn story(db: impl PgExecutor<'_>, merchant: &str, invoice: &str) -> sqlx::Result<Vec<StoryLine>> {
    type Row = (jiff_sqlx::Timestamp, String, String, String, Uuid, Option<String>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT i.received_at, i.source, i.kind, i.external_id, i.id, i.traceparent,
                (SELECT q.field || ': ' || q.reason FROM ingest.quarantine AS q WHERE q.inbound = i.id)
         FROM ingest.inbound AS i WHERE i.merchant = $1 AND i.about = $2
         ORDER BY i.received_at",
    )
    .bind(merchant)
    .bind(invoice)
    .fetch_all(db)
    .await?;
    let lines = rows.into_iter().map(|(at, source, kind, external_id, id, traceparent, fault)| StoryLine {
        at: at.to_jiff(),
        by: "ingest",
        what: format!("received {kind}"),
        detail: match fault {
            Some(fault) => format!("{source} {external_id}; quarantined, {fault}"),
            None => format!("{source} {external_id}"),
        },
        id: Some(id.to_string()),
        trace_id: traceparent.as_deref().and_then(bus::trace::trace_id).map(str::to_owned),
    });
    Ok(lines.collect())
}

/// The id of an invoice by the number printed on it.
pub async fn invoice_by_number(db: impl PgExecutor<'_>, merchant: &str, number: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT invoice FROM ingest.invoice WHERE merchant = $1 AND facts #>> '{snapshot,2,number}' = $2 LIMIT 1",
    )
    .bind(merchant)
    .bind(number)
    .fetch_optional(db)
    .await
}

/// Reads an id back from a row.
fn stored<T: std::str::FromStr<Err = kernel::id::IdError>>(text: String) -> sqlx::Result<T> {
    text.parse().map_err(|e| sqlx::Error::Decode(format!("stored id {text:?} {e}").into()))
}

/// The invoices of a customer, locked, with what is known of them. Rare: it looks at all of the merchant's.
pub async fn invoices_of_customer(
    tx: &mut PgConnection,
    key: &Key<CustomerId>,
) -> sqlx::Result<Vec<(InvoiceId, i64, Facts)>> {
    let rows: Vec<(String, i64, Json<Facts>)> = sqlx::query_as(
        "SELECT invoice, version, facts FROM ingest.invoice
         WHERE merchant = $1 AND facts -> 'snapshot' -> 2 ->> 'customer' = $2
         ORDER BY invoice FOR UPDATE",
    )
    .bind(key.0.as_str())
    .bind(key.1.as_str())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(invoice, version, facts)| Ok((stored(invoice)?, version, facts.0))).collect()
}

/// Marks a customer and its invoices as erased: messages about them are taken without what they say of the person.
pub async fn bury(
    tx: &mut PgConnection,
    key: &Key<CustomerId>,
    invoices: &[InvoiceId],
    now: jiff::Timestamp,
) -> sqlx::Result<()> {
    let names = invoices.iter().map(|i| format!("invoice:{i}")).chain([format!("customer:{}", key.1)]);
    sqlx::query(
        "INSERT INTO ingest.erased (merchant, name, erased_at) SELECT $1, name, $3 FROM UNNEST($2::text[]) AS name
         ON CONFLICT DO NOTHING",
    )
    .bind(key.0.as_str())
    .bind(names.collect::<Vec<_>>())
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// Which of these were erased: (merchant, name).
pub async fn buried(
    tx: &mut PgConnection,
    names: &std::collections::BTreeSet<(String, String)>,
) -> sqlx::Result<HashSet<(String, String)>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT merchant, name FROM ingest.erased
         WHERE (merchant, name) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))",
    )
    .bind(names.iter().map(|n| &n.0).bind_iter())
    .bind(names.iter().map(|n| &n.1).bind_iter())
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Empties messages that name a customer by its id, one of its invoices or one of its addresses, as they arrived; that they came
/// stays. Returns how many. Rare: it looks into all of the merchant's.
pub async fn erase_bodies(tx: &mut PgConnection, merchant: &MerchantId, names: &[&str]) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "UPDATE ingest.inbound SET body = '', correction = NULL
         WHERE merchant = $1 AND body <> ''
           AND (about = ANY($2)
                OR EXISTS (SELECT FROM UNNEST($2::text[]) AS name WHERE position(convert_to(name, 'UTF8') IN body) > 0
                           OR position(convert_to(name, 'UTF8') IN correction) > 0))",
    )
    .bind(merchant.as_str())
    .bind(names)
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Keeps that somebody was erased, by whom and why.
pub async fn note_erasure(
    tx: &mut PgConnection,
    key: &Key<CustomerId>,
    by: &str,
    reason: &str,
    counts: &BTreeMap<&'static str, u64>,
    now: jiff::Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO ingest.erasure (merchant, customer, erased_by, reason, counts, erased_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.0.as_str())
    .bind(key.1.as_str())
    .bind(by)
    .bind(reason)
    .bind(Json(counts))
    .bind(now.to_sqlx())
    .execute(tx)
    .await
    .map(drop)
}

/// Everything that ingest keeps of a customer, as JSON.
pub async fn personal_data(db: impl PgExecutor<'_>, merchant: &str, customer: &str) -> sqlx::Result<serde_json::Value> {
    sqlx::query_scalar(
        "WITH mine AS (
             SELECT * FROM ingest.invoice WHERE merchant = $1 AND facts -> 'snapshot' -> 2 ->> 'customer' = $2
         )
         SELECT jsonb_build_object(
             'customer', (SELECT jsonb_agg(to_jsonb(c)) FROM ingest.customer AS c WHERE c.merchant = $1 AND c.customer = $2),
             'invoices', (SELECT jsonb_agg(to_jsonb(i)) FROM mine AS i),
             'messages', (SELECT jsonb_agg(jsonb_build_object('id', m.id, 'source', m.source, 'kind', m.kind, 'about', m.about,
                                                              'received_at', m.received_at,
                                                              'body', encode(m.body, 'base64')) ORDER BY m.received_at)
                          FROM ingest.inbound AS m
                          WHERE m.merchant = $1 AND (m.about IN (SELECT invoice FROM mine)
                                                     OR position(convert_to($2, 'UTF8') IN m.body) > 0)),
             'erasures', (SELECT jsonb_agg(to_jsonb(e)) FROM ingest.erasure AS e WHERE e.merchant = $1 AND e.customer = $2))",
    )
    .bind(merchant)
    .bind(customer)
    .fetch_one(db)
    .await
}
