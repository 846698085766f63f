//! Statements find their rows by key, however small the tables were when they were planned.

use events::Service;
use notifier::store::{self, InvoiceKey};
use runtime::database::{self, Durability};
use std::collections::BTreeMap;
use testkit::TestDatabase;
use testkit::database::rows_read;

#[tokio::test]
async fn a_permit_reads_only_what_it_is_about() {
    let database = TestDatabase::create(&[(Service::Notifier, &notifier::MIGRATIONS)]).await.unwrap();
    // One connection: it keeps the plans that it has.
    let pool = database::pool(&database.settings(), Service::Notifier, Durability::Disk, 1).unwrap();
    let mut tx = pool.begin().await.unwrap();
    let keys: Vec<InvoiceKey> =
        (0..100).map(|n| ("acme".parse().unwrap(), format!("in_{n}").parse().unwrap())).collect();
    let seen: BTreeMap<&InvoiceKey, i64> = keys.iter().map(|key| (key, 1)).collect();
    let missing = store::lock_balances(&mut tx, &seen).await.unwrap();
    assert_eq!(missing.len(), 100);
    tx.commit().await.unwrap();

    sqlx::query(
        "INSERT INTO notifier.balance (merchant, invoice, customer, version, epoch, status, disputed, currency, total_minor,
             open_minor, number, failed_attempts, pay_url, document_url, bill_to_name, bill_to_email)
         SELECT 'acme', 'in_' || n, 'cus', 1, 1, 'open', false, 'EUR', 1, 1, '', 0, '', '', '', ''
         FROM generate_series(0, 2999) AS n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut tx = pool.begin().await.unwrap();
    assert!(store::lock_balances(&mut tx, &seen).await.unwrap().is_empty());
    let read = rows_read(&mut tx, "notifier.balance").await.unwrap();
    assert!((100..=300).contains(&read), "{read} rows were read for 100");
}
