//! Ways to reach payers, and how a delivery goes from one to the next.
//!
//! | channel | address | handed over | without an answer |
//! |---|---|---|---|
//! | email | the payer's | by [`crate::sender`], which holds the final dot until the permit | unknown |
//! | webhook | the merchant's system | by a [`desk::Desk`] within 250 ms of the permit | tried again: it knows the reminder by its id |
//! | sms | the payer's number | by a desk, as a webhook is | unknown, unless the provider takes our key |
//! | task | a person's, who finds out | put on the call list ([`crate::task`]) with the look at the balance | – |
//!
//! All have the same key (the reminder), the same states and the same permit ([`crate::flow::permit`]). HTTP cannot hold back
//! its last bytes (proxies buffer), so there the permit is committed first: a payment may be recorded between it and the
//! request, by no more than those 250 ms.
//!
//! A delivery goes on by the next channel of its step when the one before cannot reach this payer ([`next`]), in the
//! transaction that would have ended it. So it is on one channel at a time, and at most one copy of it is ever accepted.

pub mod desk;
pub mod sms;
pub mod store;
pub mod webhook;

use crate::domain::Balance;
use crate::flow::{Ticket, Verdict};
use crate::render::is_safe;
use events::v1::{Channel, ReminderDue, ReminderLine};
use kernel::contact::Minute;
use kernel::{ContactHours, CustomerId, InvoiceId, Masked};
use runtime::Merchant;
use runtime::links::Link;
use runtime::settings::LinkSettings;
use std::time::Duration;

/// A channel of the weaker kind: what is handed over by a request.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Which one.
    const CHANNEL: Channel;
    /// Whatever is open by then.
    type Open: Send + 'static;

    /// Renders and connects: everything that takes time and may fail without a trace.
    fn prepare(&self, ticket: &Ticket) -> impl Future<Output = Result<Prepared<Self::Open>, Verdict>> + Send;

    /// Writes the request and waits for the answer. The permit has been granted.
    fn hand_over(&self, ticket: &Ticket, prepared: Prepared<Self::Open>) -> impl Future<Output = HandOver> + Send;
}

/// What is ready to be handed over.
#[derive(Debug)]
pub struct Prepared<O> {
    /// What it says, as it is kept.
    pub raw: Vec<u8>,
    /// The way.
    pub open: O,
}

/// How it ended.
#[derive(Debug)]
pub struct HandOver {
    /// For this delivery.
    pub verdict: Verdict,
    /// How long the other side wants to be left alone by this merchant, in machine time.
    pub pause: Option<Duration>,
}

impl From<Verdict> for HandOver {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, pause: None }
    }
}

/// As stored and shown.
pub const fn name(channel: Channel) -> &'static str {
    match channel {
        Channel::Email => "email",
        Channel::Sms => "sms",
        Channel::Webhook => "webhook",
        Channel::Task => "task",
        Channel::Unspecified => "unknown",
    }
}

/// Reads the stored form.
pub fn by_name(stored: &str) -> Option<Channel> {
    [Channel::Email, Channel::Sms, Channel::Webhook, Channel::Task].into_iter().find(|channel| name(*channel) == stored)
}

/// When a channel may be used, of the hours in which the payer may be written to. `None`: never. A phone that rings at night
/// is no letter box: text messages go out from 8 to 21 o'clock, whatever the campaign says.
pub fn hours(channel: Channel, hours: &ContactHours) -> Option<ContactHours> {
    let minute = |hour: u16| Minute::try_new(hour * 60).ok();
    match channel {
        Channel::Sms => hours.within(minute(8)?, minute(21)?),
        _ => Some(hours.clone()),
    }
}

/// Reads a channel; without one it is email. `None`: this version does not know it.
pub fn from_wire(channel: i32) -> Option<Channel> {
    match Channel::try_from(channel).ok()? {
        Channel::Unspecified => Some(Channel::Email),
        known => Some(known),
    }
}

/// The channel that a delivery is on, and those after it. Ways that are not known are passed over.
pub fn route(request: &ReminderDue, current: &str) -> (Channel, Vec<Channel>) {
    let first = request.reminder.as_ref().map_or(0, |reminder| reminder.channel);
    let mut all = std::iter::once(first).chain(request.fallbacks.iter().copied());
    let current = all.by_ref().map(from_wire).find(|c| c.map_or("unknown", name) == current).flatten();
    (current.unwrap_or(Channel::Unspecified), all.filter_map(from_wire).collect())
}

/// Where the payer is reached. Errors: why nowhere.
pub fn address(ticket: &Ticket, merchant: &Merchant) -> Result<Masked<String>, &'static str> {
    let given = |address: &Masked<String>, missing| {
        if address.reveal().is_empty() { Err(missing) } else { Ok(address.clone()) }
    };
    match ticket.channel {
        Channel::Email => given(&ticket.email, "no_address"),
        Channel::Sms => {
            let number = given(&ticket.phone, "no_number")?;
            kernel::phone::normalize(number.reveal()).map(Masked::new).ok_or("bad_number")
        }
        Channel::Webhook => {
            let webhook = merchant.file.webhook.as_ref().ok_or("no_webhook")?;
            Ok(Masked::new(webhook.url.clone()))
        }
        Channel::Task => Ok(Masked::default()),
        Channel::Unspecified => Err("channel"),
    }
}

/// The channel on which a delivery goes on instead of ending like this.
///
/// Only if nothing can have been accepted, and only because of the way: what is said about the debt (paid, disputed) ends it
/// on all of them. Who has opted out of one way, or complained about it, is not written to by another for the same step:
/// then only a person may follow.
pub fn next(verdict: &Verdict, after: &[Channel]) -> Option<Channel> {
    /// This payer cannot be reached so.
    const NO_WAY: [&str; 11] = [
        "no_address",
        "bad_address",
        "bounced",
        "no_number",
        "bad_number",
        "no_webhook",
        "gone",
        "no_sms",
        "sender_rule",
        "too_long",
        "channel",
    ];
    /// This payer does not want to be.
    const NO_WISH: [&str; 3] = ["unsubscribed", "complained", "manual"];
    let reason = match verdict {
        Verdict::Failed { bad_address: true, reason, .. } if !NO_WISH.contains(reason) => "bad_address",
        Verdict::Failed { reason, .. } => reason,
        Verdict::Suppressed(reason) => reason.as_str(),
        Verdict::Sent(_) | Verdict::Unknown(_) | Verdict::PutBack { .. } => return None,
    };
    if NO_WISH.contains(&reason) {
        return after.iter().copied().find(|channel| *channel == Channel::Task);
    }
    NO_WAY.contains(&reason).then(|| after.first().copied()).flatten()
}

/// Whether an earlier try may have been accepted although it goes on as if it had not: where the other side knows our id, one
/// without an answer is made again. Another way would not know it, and the payer would hear twice.
pub const fn may_have_arrived(channel: Channel, tries: i32) -> bool {
    matches!(channel, Channel::Webhook | Channel::Sms) && tries > 0
}

/// Why nobody writes to an address any more after a delivery failed so.
pub fn suppression_reason(failed: &'static str) -> &'static str {
    match failed {
        "gone" | "unsubscribed" => failed,
        _ => "bad_address",
    }
}

/// Where a payer pays a line of a reminder, if that is known.
pub fn pay_link(ticket: &Ticket, line: &ReminderLine, balance: &Balance, links: &LinkSettings) -> Option<String> {
    let (merchant, reminder) = (ticket.merchant.clone(), ticket.id);
    let customer = CustomerId::try_new(&ticket.reminder.customer_id).ok()?;
    let invoice = InvoiceId::try_new(&line.invoice_id).ok().filter(|_| is_safe(balance.pay_url.reveal()))?;
    Some(Link::Pay { merchant, customer, invoice, reminder }.url(links))
}

/// How long a permit is good for: a payment that is recorded later than this after it was granted comes before nothing.
const PERMIT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::Reply;
    use events::v1::Reminder;

    fn request(channels: &[i32]) -> ReminderDue {
        let reminder = Reminder { channel: channels[0], ..Default::default() };
        ReminderDue { reminder: Some(reminder), fallbacks: channels[1..].to_vec(), ..Default::default() }
    }

    #[test]
    fn a_delivery_knows_what_comes_after_the_channel_it_is_on() {
        let all = request(&[0, 2, 77, 4]);
        assert_eq!(route(&all, "email"), (Channel::Email, vec![Channel::Sms, Channel::Task]));
        assert_eq!(route(&all, "sms"), (Channel::Sms, vec![Channel::Task]));
        assert_eq!(route(&all, "task"), (Channel::Task, vec![]));
        assert_eq!(route(&request(&[99, 4]), "unknown"), (Channel::Unspecified, vec![Channel::Task]));
        assert_eq!(route(&request(&[99]), "unknown"), (Channel::Unspecified, vec![]));
    }

    fn failed(reason: &'static str, bad_address: bool) -> Verdict {
        Verdict::Failed { reason, status_code: String::new(), bad_address }
    }

    #[test]
    fn only_a_way_that_cannot_work_is_left_for_the_next() {
        let rest = [Channel::Sms, Channel::Task];
        let goes_on = |verdict: Verdict| next(&verdict, &rest);
        for verdict in [failed("no_address", false), failed("refused", true), Verdict::Suppressed("bad_address".into())]
        {
            assert_eq!(goes_on(verdict.clone()), Some(Channel::Sms), "{verdict:?}");
            assert_eq!(next(&verdict, &[]), None, "{verdict:?}: there is no other");
        }
        for reason in ["paid", "closed", "disputed", "pending_payment", "next_epoch", "customer_deleted"] {
            assert_eq!(goes_on(Verdict::Suppressed(reason.into())), None, "{reason}: on all of them");
        }
        for reason in ["refused", "expired", "render", "never_open"] {
            assert_eq!(goes_on(failed(reason, false)), None, "{reason}");
        }
        let reply = Reply { code: 250, enhanced: None, text: Masked::default() };
        let later = Verdict::put_back(jiff::Timestamp::UNIX_EPOCH, "refused");
        for verdict in [Verdict::Unknown("no_reply"), Verdict::Sent(reply), later] {
            assert_eq!(goes_on(verdict.clone()), None, "{verdict:?}: it may arrive yet, or has");
        }
    }

    #[test]
    fn what_may_have_arrived_goes_no_other_way() {
        for channel in [Channel::Webhook, Channel::Sms] {
            assert!(may_have_arrived(channel, 1) && !may_have_arrived(channel, 0));
        }
        assert!(!may_have_arrived(Channel::Email, 3), "without an answer it is unknown, and not tried again");
    }

    #[test]
    fn after_an_opt_out_only_a_person_follows() {
        for verdict in [
            Verdict::Suppressed("unsubscribed".into()),
            Verdict::Suppressed("complained".into()),
            failed("unsubscribed", true),
        ] {
            let next = |after: &[Channel]| next(&verdict, after);
            assert_eq!(next(&[Channel::Sms, Channel::Webhook, Channel::Task]), Some(Channel::Task), "{verdict:?}");
            assert_eq!(next(&[Channel::Sms, Channel::Webhook]), None, "{verdict:?}");
        }
    }
}
