//! What came back of reminders: whom or what a person has to look at.
//!
//! A hard bounce closes a way (`dead_end`), and holds its customer until somebody has found another address, unless a campaign
//! that one of its open cases follows has a way that is not closed. A complaint holds the customer whatever other ways there are. An answer holds the
//! invoices that it is about for some days: a person reads it, or the sequence goes on by itself.

use crate::domain;
use crate::operations::store::{NewReturnHold, campaigns_followed, forget_words, insert_return_holds, note_dead_ends};
use crate::operations::{Denied, Target, replan};
use crate::rules::Rules;
use crate::store::{CustomerKey, lock_customers};
use bus::{Failure, Handler, Incoming, Work};
use events::topology::SCHEDULER_RETURNS;
use events::{AnyEvent, Flow, Malformed, snapshot, v1};
use jiff::Timestamp;
use jiff::ToSpan;
use jiff::civil::Date;
use kernel::InvoiceId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What came back of reminders.
pub struct Returns(pub Rules);

/// Something that came back, as far as it holds anything.
struct Return {
    customer: CustomerKey,
    kind: &'static str,
    reason: String,
    /// By which way it came back.
    channel: &'static str,
    /// None: all of the customer.
    invoices: Vec<InvoiceId>,
}

impl Handler for Returns {
    const FLOW: &'static Flow = &SCHEDULER_RETURNS;
    const LINGER: Duration = Duration::from_millis(50);

    async fn handle(&self, work: &mut Work, batch: &[Incoming]) -> Result<(), Failure> {
        let (mut returns, mut erased) = (Vec::new(), BTreeSet::new());
        for incoming in batch {
            match read(incoming) {
                Ok(found) => returns.extend(found),
                Err(fault) => work.reject(incoming, fault),
            }
            if let AnyEvent::CustomerErased(e) = &incoming.event {
                erased.extend(super::customer_key(&e.merchant_id, &e.customer_id));
            }
        }
        let customers: BTreeSet<CustomerKey> = returns.iter().map(|r| &r.customer).chain(&erased).cloned().collect();
        if customers.is_empty() {
            return Ok(());
        }
        let now = self.0.now();
        // Before any hold is touched: operators lock in this order too.
        let zones = lock_customers(work.tx(), &customers).await?;
        forget_words(work.tx(), &erased).await?;
        let reachable = self.otherwise_reachable(work, &returns).await?;
        returns.retain(|r| r.kind != "bounced" || !reachable.contains(&r.customer));
        let holds: Vec<NewReturnHold<'_>> = returns.iter().flat_map(|r| self.holds(r, &zones, now)).collect();
        insert_return_holds(work.tx(), &holds, now).await?;
        let held: BTreeSet<&CustomerKey> = holds.iter().map(|hold| hold.customer).collect();
        for customer in held {
            replan(&self.0, work, &Target::Customer(customer.clone()), now).await.map_err(|denied| match denied {
                Denied::Failed(failure) => failure,
                other => Failure::Retry(other.to_string()),
            })?;
        }
        Ok(())
    }
}

fn read(incoming: &Incoming) -> Result<Option<Return>, Malformed> {
    let of_reminder = |reminder: &Option<v1::Reminder>, kind, reason| {
        let reminder = reminder.as_ref().ok_or_else(|| Malformed::missing("reminder"))?;
        let customer = super::customer_key(&reminder.merchant_id, &reminder.customer_id)?;
        let channel = match reminder.channel() {
            v1::Channel::Sms => "sms",
            v1::Channel::Webhook => "webhook",
            v1::Channel::Task => "task",
            // Written before there were others.
            v1::Channel::Email | v1::Channel::Unspecified => "email",
        };
        Ok(Some(Return { customer, kind, reason, channel, invoices: Vec::new() }))
    };
    match &incoming.event {
        AnyEvent::ReminderBounced(e) if e.kind() == v1::BounceKind::Hard => of_reminder(
            &e.reminder,
            "bounced",
            format!("the address does not work {}", e.status_code).trim().to_owned(),
        ),
        AnyEvent::ReminderComplained(e) => {
            of_reminder(&e.reminder, "complained", format!("the payer complained ({})", e.feedback_type))
        }
        AnyEvent::CustomerErased(e) if e.was_open => Ok(Some(Return {
            customer: super::customer_key(&e.merchant_id, &e.customer_id)?,
            kind: "erased",
            reason: "the person was erased".to_owned(),
            channel: "",
            invoices: Vec::new(),
        })),
        AnyEvent::CustomerReplied(e) => Ok(Some(Return {
            customer: super::customer_key(&e.merchant_id, &e.customer_id)?,
            kind: "replied",
            reason: "the payer answered".to_owned(),
            channel: "",
            invoices: e.invoice_ids.iter().map(|id| snapshot::id("invoice_ids", id)).collect::<Result<_, _>>()?,
        })),
        _ => Ok(None),
    }
}

impl Returns {
    /// Customers with an open case whose campaign can reach them otherwise than by what bounced.
    async fn otherwise_reachable(&self, work: &mut Work, returns: &[Return]) -> Result<BTreeSet<CustomerKey>, Failure> {
        let bounced = returns.iter().filter(|r| r.kind == "bounced");
        let bounced: BTreeSet<(&CustomerKey, &str)> = bounced.map(|r| (&r.customer, r.channel)).collect();
        if bounced.is_empty() {
            return Ok(BTreeSet::new());
        }
        let dead_ends = note_dead_ends(work.tx(), &bounced).await?;
        let customers: Vec<&CustomerKey> = bounced.iter().map(|(customer, _)| *customer).collect();
        let campaigns = campaigns_followed(work.tx(), &customers).await?;
        let in_force = self.0.in_force();
        let other = |customer: &CustomerKey, name: &String| {
            in_force.campaigns.get(name).is_some_and(|campaign| {
                let mut channels = campaign.steps.iter().flat_map(|step| &step.channels);
                channels.any(|channel| !dead_ends.contains(&(customer.clone(), channel.as_str().to_owned())))
            })
        };
        let reached = campaigns.into_iter().filter(|(customer, names)| names.iter().any(|name| other(customer, name)));
        Ok(reached.map(|(customer, _)| customer).collect())
    }

    fn holds<'a>(
        &self,
        of: &'a Return,
        zones: &BTreeMap<CustomerKey, String>,
        now: Timestamp,
    ) -> Vec<NewReturnHold<'a>> {
        let hold = |invoice, until| NewReturnHold {
            customer: &of.customer,
            invoice,
            kind: of.kind,
            reason: &of.reason,
            until,
        };
        if of.kind != "replied" {
            return vec![hold(None, None)];
        }
        // A merchant that is not known here may have said that answers hold nothing: the usual is what harms least.
        let merchant = self.0.merchant(&of.customer.0);
        let days = merchant.map_or_else(runtime::merchant::default_hold_days, |m| m.file.replies.hold_days);
        let merchant_zone = merchant.map_or(jiff::tz::TimeZone::UTC, |m| m.zone.clone());
        let zone = domain::payer_zone(zones.get(&of.customer).map_or("", String::as_str), &merchant_zone);
        let until = |days: i64| -> Option<Date> { zone.to_datetime(now).date().checked_add(days.days()).ok() };
        match days {
            0 => Vec::new(),
            days => of.invoices.iter().map(|invoice| hold(Some(invoice), until(i64::from(days)))).collect(),
        }
    }
}
