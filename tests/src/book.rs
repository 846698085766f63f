//! What the database says about the work: what is still to do, and what was lost. Reads all services' tables, which only
//! an auditor may.

use events::Service;
use events::topology::FLOWS;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::{AssertSqlSafe, PgPool};

/// Every event of every outbox that a flow should have dealt with and has not, as `(flow, event, id)`; rows of `owed`.
fn owed() -> String {
    let outboxes = Service::ALL.map(|s| format!("SELECT subject, msg_id FROM {s}.outbox")).join(" UNION ALL ");
    let inboxes = Service::ALL.map(|s| format!("SELECT consumer, msg_id FROM {s}.inbox")).join(" UNION ALL ");
    let takes = FLOWS.iter().flat_map(|f| f.takes.iter().map(move |kind| format!("('{}', '{}')", f.name, kind.name())));
    let takes = takes.collect::<Vec<_>>().join(", ");
    format!(
        "SELECT t.flow, t.kind, e.msg_id
         FROM ({outboxes}) AS e
         JOIN (VALUES {takes}) AS t (flow, kind) ON t.kind = split_part(e.subject, '.', 3)
         LEFT JOIN ({inboxes}) AS i ON i.consumer = t.flow AND i.msg_id = e.msg_id
         WHERE i.msg_id IS NULL"
    )
}

/// What is still to do at a moment of business time, for people; empty when all work is done. One statement, so that it
/// sees one moment of all services.
pub async fn open_work(pool: &PgPool, now: Timestamp) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT count(*) || ' of ' || kind || ' not dealt with by ' || flow FROM ({}) AS owed GROUP BY kind, flow
         UNION ALL
         SELECT 'timer due at ' || due_at FROM scheduler.timer WHERE due_at <= $1
         UNION ALL
         SELECT 'delivery ' || id || ' ' || state FROM notifier.delivery
         WHERE state IN ('claimed', 'imminent') OR (state = 'waiting' AND next_attempt_at <= $1)",
        owed()
    )))
    .bind(now.to_sqlx())
    .fetch_all(pool)
    .await
}

/// The next moment of business time at which something is to be done.
pub async fn next_moment(pool: &PgPool) -> sqlx::Result<Option<Timestamp>> {
    let next: Option<jiff_sqlx::Timestamp> = sqlx::query_scalar(
        "SELECT min(at) FROM (
             SELECT due_at AS at FROM scheduler.timer
             UNION ALL SELECT next_attempt_at FROM notifier.delivery WHERE state = 'waiting'
         ) AS moments",
    )
    .fetch_one(pool)
    .await?;
    Ok(next.map(|t| t.to_jiff()))
}

/// Rows that nobody should find after a run in which nothing was wrong with the input: dead letters, quarantine, events
/// that never left.
pub async fn leftovers(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    let parts = Service::ALL.map(|s| {
        format!(
            "SELECT 'dead letter of ' || consumer || ': ' || reason FROM {s}.dead_letter
             UNION ALL SELECT 'never published by {s}: ' || msg_id FROM {s}.outbox_pending"
        )
    });
    sqlx::query_scalar(AssertSqlSafe(format!(
        "{} UNION ALL SELECT 'quarantined: ' || field || ' ' || reason FROM ingest.quarantine",
        parts.join(" UNION ALL ")
    )))
    .fetch_all(pool)
    .await
}

/// Steps of cases without a final outcome: requested, and never answered.
pub async fn unanswered_steps(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT c.invoice || '/' || c.epoch || '/' || d.step
         FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id
         WHERE d.outcome = 'requested'",
    )
    .fetch_all(pool)
    .await
}

/// Everything that remains of a run and does not depend on the order in which events came: one line per fact. (A case
/// that nothing was decided about may have been opened and closed, or never opened: that is no difference.)
pub async fn end_state(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT concat_ws(' ', 'invoice', merchant, invoice, customer, epoch, status, open_minor, due_on, disputed,
                          failed_attempts) AS line FROM scheduler.invoice
         UNION ALL
         SELECT concat_ws(' ', 'balance', merchant, invoice, customer, epoch, status, open_minor, disputed, number, due_on,
                          failed_attempts, bill_to_name, bill_to_email) FROM notifier.balance
         UNION ALL
         SELECT concat_ws(' ', 'case', merchant, invoice, epoch, armed_at, overdue_told_at IS NOT NULL)
         FROM scheduler.dunning_case WHERE closed_at IS NULL
         UNION ALL
         SELECT concat_ws(' ', 'step', c.invoice, c.epoch, d.step, d.outcome, d.reason, d.decided_at)
         FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id
         UNION ALL
         SELECT concat_ws(' ', 'segment', merchant, customer, segment) FROM scheduler.customer
         UNION ALL
         SELECT concat_ws(' ', 'figure', merchant, invoice, epoch, status, total_minor, due_on, closed_at)
         FROM tracker.invoice
         ORDER BY line",
    )
    .fetch_all(pool)
    .await
}
