//! Statements find their rows by key, however small the tables were when they were planned.

use events::Service;
use jiff::Timestamp;
use runtime::database::{self, Durability};
use scheduler::store::{self, CustomerKey};
use std::collections::{BTreeSet, HashSet};
use testkit::TestDatabase;
use testkit::database::rows_read;

#[tokio::test]
async fn a_batch_reads_only_the_cases_it_is_about() {
    let database = TestDatabase::create(&[(Service::Scheduler, &scheduler::MIGRATIONS)]).await.unwrap();
    // One connection: it keeps the plans that it has.
    let pool = database::pool(&database.settings(), Service::Scheduler, Durability::Disk, 1).unwrap();
    let customers: BTreeSet<CustomerKey> =
        (0..100).map(|n| ("acme".parse().unwrap(), format!("cus_{n}").parse().unwrap())).collect();
    let invoices: HashSet<_> =
        (0..100).map(|n| ("acme".parse().unwrap(), format!("in_{n}").parse().unwrap())).collect();
    let now: Timestamp = "2026-06-01T07:00:00Z".parse().unwrap();
    for expected in [0, 100] {
        let mut tx = pool.begin().await.unwrap();
        let due = store::lock_due_cases(&mut tx, &customers, now, false).await.unwrap();
        assert_eq!(due.len(), expected);
        let read = rows_read(&mut tx, "scheduler.dunning_case").await.unwrap();
        assert!(read <= 3 * expected as i64, "{read} rows were read for {expected} customers");

        let named = store::lock_cases(&mut tx, &invoices, &customers).await.unwrap();
        assert_eq!(named.len(), expected);
        let read = rows_read(&mut tx, "scheduler.dunning_case").await.unwrap() - read;
        assert!(read <= 6 * expected as i64, "{read} rows were read for {expected} invoices and their customers");
        tx.commit().await.unwrap();
        if expected == 0 {
            sqlx::query(
                "INSERT INTO scheduler.dunning_case
                     (id, merchant, invoice, epoch, customer, shard, campaign, campaign_version, opened_at, armed_at)
                 SELECT gen_random_uuid(), 'acme', 'in_' || n, 1, 'cus_' || n, 0, '', '', $1, $1
                 FROM generate_series(0, 2999) AS n",
            )
            .bind(jiff_sqlx::ToSqlx::to_sqlx(now))
            .execute(&pool)
            .await
            .unwrap();
        }
    }
}
