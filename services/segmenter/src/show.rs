//! One customer, explained: for `dunlin payer show`.

use crate::domain::{Assessment, PayerKey};
use crate::portfolio::{InForce, Portfolios};
use crate::store::{self, Shown};
use jiff::civil::Date;
use payer::Label;
use payer::estimator::{Distribution, Open, Payer};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What there is to say of a customer.
#[derive(Debug)]
pub struct Portrait {
    /// Its label.
    pub label: Label,
    /// Why it has it: which threshold is met, and with which value.
    pub reason: String,
    /// Counts by bin of delay, and what they are worth.
    pub payer: Payer,
    /// How its next payment is spread, in view of what is open today.
    pub prediction: Distribution,
    /// What it is held against: how all customers of the merchant pay, and the thresholds that follow from it.
    pub portfolio: Arc<InForce>,
    /// Open overdue invoices that count, oldest issued first.
    pub open: Vec<Open>,
    /// Changes of its label and its invoices, as stored.
    pub known: Shown,
}

/// Looks at a customer on a day in its merchant's zone; `None` if nothing is known of it. Changes nothing. `limit`: so many
/// changes, and invoices of each kind.
pub async fn show(tx: &mut PgConnection, key: &PayerKey, today: Date, limit: i64) -> sqlx::Result<Option<Portrait>> {
    let Some(known) = store::show(&mut *tx, key, limit).await? else { return Ok(None) };
    let open = store::open_overdue(&mut *tx, &[(key, today)]).await?.remove(&0).unwrap_or_default();
    let mut portfolios = Portfolios::default().on(tx, &BTreeMap::from([(key.0.clone(), today)])).await?;
    let Some(portfolio) = portfolios.remove(&key.0) else { return Ok(None) };
    let (reason, prediction) = Assessment::new(known.account, &portfolio, &open).explain();
    let payer = known.account.payer;
    Ok(Some(Portrait { label: payer.standing.label(), reason, payer, prediction, portfolio, open, known }))
}
