//! A person is erased: nothing that any service keeps says who it was, and nothing brings it back.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use e2e::processes::binary;
use e2e::system::{Dunlin, at, draft, event};
use kernel::Clock;
use sqlx::{AssertSqlSafe, PgPool};
use std::process::Output;
use testkit::stripe::{self, Invoice};
use testkit::wait;
use tokio::process::Command;

const START: &str = "2026-06-01T08:00:00Z";
const NAME: &str = "Zebulon Quarterstaff";
const EMAIL: &str = "zebulon@quarterstaff.example";

async fn dunlin(system: &Dunlin, arguments: &[&str]) -> Output {
    let settings = system.settings_file();
    let mut command = Command::new(binary().unwrap());
    command.arg("--config").arg(settings).args(arguments).output().await.unwrap()
}

/// Columns of all tables that contain a text, as text or as bytes.
async fn traces(pool: &PgPool, text: &str) -> Vec<String> {
    let columns: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT c.oid::regclass::text, quote_ident(a.attname), a.atttypid::regtype::text
         FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND c.relnamespace::regnamespace::text IN ('ingest', 'scheduler', 'segmenter', 'notifier', 'tracker')
           AND a.atttypid::regtype::text IN ('text', 'text[]', 'bytea', 'json', 'jsonb')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(columns.len() > 100, "only {} columns", columns.len());
    let mut found = Vec::new();
    for (table, column, kind) in columns {
        let has = match kind.as_str() {
            "bytea" => format!("position(convert_to($1, 'UTF8') IN {column}) > 0"),
            _ => format!("position(lower($1) IN lower({column}::text)) > 0"),
        };
        let sql = format!("SELECT count(*) FROM {table} WHERE {has}");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(text).fetch_one(pool).await.unwrap();
        if count > 0 {
            found.push(format!("{table}.{column}: {count}"));
        }
    }
    found
}

fn invoice_of(id: &str, now: jiff::Timestamp, due_on: &str) -> Invoice {
    let mut invoice = draft(id, "cus_1", now, Some(due_on));
    invoice.name = NAME.to_owned();
    invoice.email = EMAIL.to_owned();
    invoice
}

#[tokio::test]
async fn an_erased_person_leaves_no_trace_and_does_not_come_back() {
    let system = Dunlin::start(START).await;
    let now = system.clock.now();
    let person = |n: u32| {
        stripe::event(
            &format!("evt_{n}"),
            "customer.updated",
            system.clock.now(),
            stripe::customer("cus_1", NAME, EMAIL, None),
        )
    };
    system.tell([person(1)]).await;
    let mut invoice = Invoice { status: "open", ..invoice_of("in_1", now, "2026-06-02") };
    system.tell([event("invoice.finalized", &invoice, now)]).await;
    system.live_until("2026-06-05T12:00:00Z").await;
    assert_eq!(system.catcher.mails()[0].to, [EMAIL]);
    assert!(traces(&system.pool, EMAIL).await.len() > 5 && traces(&system.pool, NAME).await.len() > 5);

    let exported = dunlin(&system, &["customer", "export", "acme/cus_1"]).await;
    let exported: serde_json::Value = serde_json::from_slice(&exported.stdout).unwrap();
    assert_eq!(exported["notifier"]["customer"][0]["email"], EMAIL);
    assert!(exported["ingest"]["invoices"].to_string().contains(NAME));
    assert_eq!(exported["notifier"]["messages"][0]["recipient"], EMAIL);
    for service in ["scheduler", "segmenter", "tracker"] {
        assert!(exported[service].to_string().contains("cus_1"), "{service}");
    }

    // People write names into what they say, and what makes no sense is kept as it came.
    let by = ["--by", "anna"];
    let about_him = format!("{NAME} is on holiday");
    for arguments in [
        &["hold", "place", "acme/in_1", "--reason", &about_him][..],
        &["release", "acme/in_1", "--reason", &about_him],
        &["skip", "acme/in_1", "overdue-7", "--reason", &about_him],
    ] {
        let done = dunlin(&system, &[arguments, &by].concat()).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let mut nonsense = event("invoice.updated", &invoice_of("in_9", now, "2026-06-02"), now);
    nonsense["data"]["object"]["customer"] = serde_json::json!(7);
    nonsense["data"]["object"]["customer_name"] = serde_json::Value::Null;
    system.tell([nonsense]).await;
    system.settle().await;
    let quarantined = traces(&system.pool, EMAIL).await;
    assert!(quarantined.contains(&"ingest.inbound.body: 3".to_owned()), "{quarantined:?}");

    // A claim is pursued.
    let erase = ["customer", "erase", "acme/cus_1", "--reason", "asked for it", "--by", "anna"];
    let refused = dunlin(&system, &erase).await;
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in_1"));
    invoice.pay(10_000, system.clock.now());
    system.tell([event("invoice.paid", &invoice, system.clock.now())]).await;
    system.settle().await;
    let dry = dunlin(&system, &[&erase[..], &["--dry-run"]].concat()).await;
    assert!(dry.status.success() && !traces(&system.pool, EMAIL).await.is_empty());

    let done = dunlin(&system, &erase).await;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("1 invoices") && said.contains("of the notifier's"), "{said}");
    for text in [EMAIL, NAME] {
        wait::until_true(&format!("no trace of {text}"), e2e::system::PATIENCE, || async {
            traces(&system.pool, text).await.is_empty()
        })
        .await;
    }

    // The processor does not know of it.
    system.clock.set(at("2026-06-06T08:00:00Z"));
    system.tell([person(2)]).await;
    let another = Invoice { status: "open", ..invoice_of("in_2", system.clock.now(), "2026-06-10") };
    system.tell([event("invoice.finalized", &another, system.clock.now())]).await;
    system.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(system.catcher.count(), 1, "nobody is written to");
    for text in [EMAIL, NAME] {
        assert_eq!(traces(&system.pool, text).await, [] as [&str; 0]);
    }
    // Money is still accounted for, and so is the erasure.
    let kept: (i64, String) = sqlx::query_as(
        "SELECT (SELECT total_minor FROM tracker.invoice WHERE invoice = 'in_1'),
                (SELECT concat_ws(' ', erased_by, reason) FROM ingest.erasure)",
    )
    .fetch_one(&system.pool)
    .await
    .unwrap();
    assert_eq!(kept, (10_000, "anna asked for it".to_owned()));
    let dropped = dunlin(&system, &["quarantine", "drop", "1"]).await;
    assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
    system.end().await;
}
