//! What the database says about the work: what is still to do, and what was lost. Reads all services' tables, which only
//! an auditor may.

use events::topology::{FLOWS, NOTIFIER_BALANCES};
use events::{AnyEvent, InvoiceStatus, Kind, Service};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::{AssertSqlSafe, PgPool};
use std::collections::HashMap;
use testkit::audit::Payments;

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

/// Steps of cases without a final outcome: requested, never answered, and no delivery waits for its time to come.
pub async fn unanswered_steps(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT c.invoice || '/' || c.epoch || '/' || d.step
         FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id
         WHERE d.outcome = 'requested'
           AND NOT EXISTS (SELECT FROM notifier.delivery WHERE id = d.reminder_id AND state = 'waiting')",
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
         UNION ALL
         SELECT concat_ws(' ', 'seen', merchant, invoice, customer, issued_on, due_on, paid_on, open, settled, segment, fault)
         FROM segmenter.invoice
         -- Of an account, what is a fold of settlements: not its label (bytes 113 to 120), nor how often it was written, nor what
         -- was told, which follow from what was known when.
         UNION ALL
         SELECT concat_ws(' ', 'payer', merchant, customer, encode(substr(state, 1, 112) || substr(state, 121), 'hex'))
         FROM segmenter.payer WHERE substr(state, 121) <> decode(repeat('00', 8), 'hex')
         UNION ALL
         SELECT concat_ws(' ', 'week', merchant, pool, week, counts::text) FROM segmenter.portfolio_week
         WHERE 0 <> ANY(counts)
         ORDER BY line",
    )
    .fetch_all(pool)
    .await
}

/// When the notifier had recorded that nothing was owed on invoices, and that something was again: the commits' own
/// times. Later news with an older version change nothing, as in the notifier.
pub async fn recorded_payments(pool: &PgPool) -> anyhow::Result<Payments> {
    let rows: Vec<(String, Vec<u8>, jiff_sqlx::Timestamp)> = sqlx::query_as(
        "SELECT o.subject, o.payload, pg_xact_commit_timestamp(i.xmin) AS recorded_at
         FROM ingest.outbox AS o JOIN notifier.inbox AS i ON i.consumer = $1 AND i.msg_id = o.msg_id
         ORDER BY recorded_at",
    )
    .bind(NOTIFIER_BALANCES.name)
    .fetch_all(pool)
    .await?;
    let mut payments = Payments::default();
    let mut known: HashMap<String, i64> = HashMap::new();
    for (subject, payload, recorded_at) in rows {
        let Some(kind) = subject.rsplit_once('.').and_then(|(ce_type, _)| Kind::by_ce_type(ce_type)) else { continue };
        let event = AnyEvent::decode(kind, &payload)?;
        let Some(wire) = event.invoice() else { continue };
        let invoice = events::Invoice::try_from(wire)?;
        let id = invoice.invoice.to_string();
        let version = known.entry(id.clone()).or_insert(-1);
        if invoice.version <= *version {
            continue;
        }
        *version = invoice.version;
        if invoice.status == InvoiceStatus::Open {
            payments.reopened(&id, recorded_at.to_jiff());
        } else {
            payments.closed(&id, recorded_at.to_jiff());
        }
    }
    Ok(payments)
}

/// Ids of what ingest has taken in, as `merchant/id`, in order.
pub async fn taken_in(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT merchant || '/' || external_id FROM ingest.inbound ORDER BY 1").fetch_all(pool).await
}

/// How invoices stand in each service that keeps them: invoice, service, status.
pub async fn statuses(pool: &PgPool) -> sqlx::Result<Vec<(String, String, String)>> {
    sqlx::query_as(
        "SELECT invoice, 'scheduler', status FROM scheduler.invoice
         UNION ALL SELECT invoice, 'notifier', status FROM notifier.balance
         UNION ALL SELECT invoice, 'tracker', status FROM tracker.invoice",
    )
    .fetch_all(pool)
    .await
}

/// Every decided step, as `invoice/epoch/step`, with how it ended and the state of the delivery that was to carry it.
pub async fn decided_steps(pool: &PgPool) -> sqlx::Result<Vec<(String, String, Option<String>)>> {
    sqlx::query_as(
        "SELECT concat_ws('/', c.invoice, c.epoch, d.step), d.outcome, delivery.state
         FROM scheduler.decision AS d
         JOIN scheduler.dunning_case AS c ON c.id = d.case_id
         LEFT JOIN notifier.delivery AS delivery ON delivery.id = d.reminder_id AND d.speaks",
    )
    .fetch_all(pool)
    .await
}

/// Open cases that have been due since before a day, with nothing ahead of them and a step of the ladder undecided.
pub async fn forgotten_cases(pool: &PgPool, due_before: jiff::civil::Date) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT c.invoice || '/' || c.epoch || ' ' || step
         FROM scheduler.dunning_case AS c
         JOIN scheduler.invoice AS i ON i.merchant = c.merchant AND i.invoice = c.invoice
         CROSS JOIN UNNEST(ARRAY['overdue-3', 'overdue-7']) AS step
         WHERE c.closed_at IS NULL AND c.armed_at IS NULL AND c.epoch = 1 AND NOT i.disputed AND i.due_on < $1
           AND NOT EXISTS (SELECT FROM scheduler.decision AS d WHERE d.case_id = c.id AND d.step = step)",
    )
    .bind(due_before.to_sqlx())
    .fetch_all(pool)
    .await
}
