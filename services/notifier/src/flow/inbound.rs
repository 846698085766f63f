//! Mail that comes back: from the raw message to what follows.
//!
//! | what it is | proven to be about a reminder | otherwise |
//! |---|---|---|
//! | hard bounce | address suppressed, `reminder-bounced` | kept |
//! | soft bounce | `reminder-bounced`; the third within 30 days suppresses the address | kept |
//! | blocked | `reminder-bounced` | kept |
//! | complaint | customer and address suppressed, `reminder-complained` | kept |
//! | a person's answer | `customer-replied` | kept |
//! | delayed, delivered, an automatic answer, a notice | kept | kept |
//! | any of these about a reminder of unknown fate | it had been accepted: handed_off, `reminder-sent` | kept |
//!
//! A payer's answer by text message, and what the provider says of one that it had taken, count as proven: the provider signs
//! both ([`take_text`]).
//!
//! Proof is the token of a return path or of an unsubscribe link, which only who has had the message can know. An
//! envelope id or a Message-ID proves nothing, but that a person answers from the very address that was written to does.

use crate::channel;
use crate::config::Limits;
use crate::inbound::store::{self, Match, NewInbound, Returned};
use crate::inbound::{Class, Reading, read};
use crate::pace::domain_of;
use crate::return_path::ReturnPath;
use crate::store::{Sending, Suppression, by_address, by_customer, count_sending, suppress};
use crate::unknown::{self, Evidence, Says};
use bus::{Failure, Work};
use events::v1::{self, Channel, Reminder, ReminderDue};
use events::{snapshot, time};
use jiff::{SignedDuration, Timestamp};
use kernel::{Masked, MerchantId};
use prost::Message;
use runtime::Merchants;
use runtime::links::Link;
use runtime::settings::LinkSettings;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// So many soft bounces of a customer within [`SOFT_WITHIN`] mean that it does not work any more.
const MAX_SOFT: i64 = 3;
/// See [`MAX_SOFT`].
const SOFT_WITHIN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A message that came back.
#[derive(Debug, Clone)]
pub struct Mail {
    /// RFC 5322.
    pub raw: Masked<Vec<u8>>,
    /// To whom it was handed over; empty if only its headers say so.
    pub recipients: Vec<String>,
}

/// What proves that a message is about one of our reminders.
#[derive(Debug, Clone)]
pub struct Proofs {
    /// Return paths; none where no domain is configured.
    pub return_path: Option<ReturnPath>,
    /// Unsubscribe links.
    pub links: LinkSettings,
    /// Whose sending domains bounces and complaints count for.
    pub merchants: Arc<Merchants>,
    /// How many of them stop a sending domain.
    pub limits: Limits,
}

/// What became of a message.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Made of the message.
    pub id: Uuid,
    /// It had been taken before: nothing was done.
    pub known: bool,
    /// What it says.
    pub reading: Reading,
    /// What it is about and what followed, if that is known.
    pub about: Option<Match>,
}

/// Which reminder a message is about: the one that it proves, or else one of those that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    proven: Option<Uuid>,
    named: Vec<Uuid>,
}

impl Claim {
    fn deliveries(&self) -> impl Iterator<Item = Uuid> {
        self.proven.into_iter().chain(self.named.iter().copied())
    }
}

impl Proofs {
    fn claim(&self, mail: &Mail, reading: &Reading) -> Claim {
        let quoted = reading.addresses.iter().map(|a| a.reveal().as_str());
        let addresses = mail.recipients.iter().map(String::as_str).chain(quoted);
        let path = self.return_path.as_ref();
        let by_path = path.and_then(|path| addresses.filter_map(|a| path.verify(a)).map(|(_, id)| id).next());
        let link = |url: &Masked<String>| match Link::parse(url.reveal().rsplit('/').next()?, &self.links)? {
            Link::Unsubscribe { reminder, .. } => Some(reminder),
            _ => None,
        };
        let proven = by_path.or_else(|| reading.unsubscribe.iter().find_map(link));
        let ids = reading.message_ids.iter().filter_map(|id| id.split('@').next());
        let named = reading.envelope_id.as_deref().into_iter().chain(ids).filter_map(|id| Uuid::try_parse(id).ok());
        Claim { proven, named: named.take(20).collect() }
    }
}

/// Takes messages in. What was taken before changes nothing.
pub async fn take(work: &mut Work, proofs: &Proofs, mails: &[Mail], now: Timestamp) -> Result<Vec<Taken>, Failure> {
    let mut seen = HashSet::new();
    let readings: Vec<(Uuid, Reading)> = mails.iter().map(|m| (id_of(m.raw.reveal()), read(m.raw.reveal()))).collect();
    let news: Vec<NewInbound<'_>> = std::iter::zip(mails, &readings)
        .filter(|(_, (id, _))| seen.insert(*id))
        .map(|(mail, (id, reading))| NewInbound {
            id: *id,
            class: reading.class.name(),
            status: reading.status.map(|s| s.to_string()).unwrap_or_default(),
            feedback: &reading.feedback,
            sender: &reading.from,
            raw: mail.raw.reveal(),
        })
        .collect();
    let mut new = store::insert(work.tx(), &news, now).await?;
    let mut claims = HashMap::new();
    for (mail, (id, reading)) in std::iter::zip(mails, &readings) {
        if new.contains(id) {
            claims.insert(*id, proofs.claim(mail, reading));
        }
    }
    let deliveries: BTreeSet<Uuid> = claims.values().flat_map(Claim::deliveries).collect();
    let deliveries: Vec<Uuid> = deliveries.into_iter().collect();
    let known = Known {
        deliveries: store::deliveries(work.tx(), &deliveries).await?,
        told: store::told(work.tx(), &deliveries).await?,
    };
    let mut taken = Vec::with_capacity(mails.len());
    for (id, reading) in readings {
        let is_new = new.remove(&id);
        let about = claims.get(&id).filter(|_| is_new).and_then(|claim| known.about(id, &reading, claim));
        taken.push(Taken { id, known: !is_new, reading, about });
    }
    follow(work, proofs, known, &mut taken, now).await?;
    let matches: Vec<Match> = taken.iter().filter_map(|t| t.about.clone()).collect();
    store::note_matches(work.tx(), &matches).await?;
    Ok(taken)
}

fn id_of(raw: &[u8]) -> Uuid {
    let hash = Sha256::digest(raw);
    let mut id = [0; 16];
    id.iter_mut().zip(hash.iter()).for_each(|(to, from)| *to = *from);
    uuid::Builder::from_custom_bytes(id).into_uuid()
}

/// What is known about the reminders of a batch.
struct Known {
    deliveries: HashMap<Uuid, Returned>,
    told: HashSet<(Uuid, String)>,
}

impl Known {
    fn about(&self, id: Uuid, reading: &Reading, claim: &Claim) -> Option<Match> {
        let delivery = claim.deliveries().find_map(|id| self.deliveries.get(&id))?;
        let answers = matches!(reading.class, Class::Reply | Class::AutoReply)
            && !delivery.recipient.reveal().is_empty()
            && reading.from.reveal().eq_ignore_ascii_case(delivery.recipient.reveal());
        let authentic = answers || claim.proven == Some(delivery.id);
        Some(Match {
            id,
            matched: if authentic { "authentic" } else { "claimed" },
            delivery: delivery.id,
            merchant: delivery.merchant.clone(),
            customer: delivery.customer.clone(),
            effect: "none",
        })
    }
}

/// What follows from messages that are proven to be about our reminders.
async fn follow(
    work: &mut Work,
    proofs: &Proofs,
    mut known: Known,
    taken: &mut [Taken],
    now: Timestamp,
) -> Result<(), Failure> {
    let proven = |t: &&mut Taken| t.about.as_ref().is_some_and(|about| about.matched == "authentic");
    // Whatever comes back of a message, it had been accepted.
    let evidence = |about: &Match, class: Class| Evidence {
        delivery: about.delivery,
        merchant: None,
        says: Says::Sent,
        source: "mail",
        by: about.id.to_string(),
        reason: Masked::new(class.name().to_owned()),
    };
    let evidence: Vec<Evidence> =
        taken.iter_mut().filter(proven).filter_map(|t| Some(evidence(t.about.as_ref()?, t.reading.class))).collect();
    let resolved = unknown::resolve(work, &evidence, now).await?;
    let mut soft = soft_bounces(work, taken, now).await?;
    let mut suppressions = Vec::new();
    let mut sending = BTreeMap::new();
    for t in taken.iter_mut().filter(proven) {
        let Some(about) = &mut t.about else { continue };
        let Some(delivery) = known.deliveries.get(&about.delivery) else { continue };
        if resolved.contains(&about.delivery) {
            about.effect = "resolved";
        }
        let first = known.told.insert((about.delivery, t.reading.class.name().to_owned()));
        let merchant: MerchantId = snapshot::id("merchant", &about.merchant)?;
        let mut suppress = |subject, reason| {
            let source = format!("delivery {}", about.delivery);
            let (merchant, channel) = (merchant.clone(), channel::name(Channel::Email));
            suppressions.push(Suppression { merchant, channel, subject, reason, source });
        };
        match t.reading.class {
            Class::HardBounce => {
                about.effect = "suppressed";
                suppress(by_address(delivery.recipient.reveal()), "bounced");
            }
            Class::SoftBounce => {
                let count = soft.entry((about.merchant.clone(), about.customer.clone())).or_default();
                *count += i64::from(first);
                about.effect = "counted";
                if *count >= MAX_SOFT {
                    about.effect = "suppressed";
                    suppress(by_address(delivery.recipient.reveal()), "bounced");
                }
            }
            Class::Blocked => about.effect = "counted",
            Class::Complaint => {
                about.effect = "suppressed";
                suppress(by_address(delivery.recipient.reveal()), "complained");
                suppress(by_customer(&about.customer), "complained");
            }
            Class::Reply => about.effect = "held",
            Class::Delayed | Class::Delivered | Class::AutoReply | Class::Notice | Class::Unclear => continue,
        }
        if first && let Some(merchant) = proofs.merchants.get(&merchant) {
            let counts: &mut Sending = sending.entry(domain_of(&merchant.file.sender.email)).or_default();
            counts.bounced += i64::from(t.reading.class == Class::HardBounce);
            counts.complained += i64::from(t.reading.class == Class::Complaint);
        }
        // Two answers are two; a second report of the same is not.
        if first || t.reading.class == Class::Reply {
            let status_code = t.reading.status.map(|status| status.to_string()).unwrap_or_default();
            let came = Came { id: t.id, class: t.reading.class, status_code, feedback: t.reading.feedback.clone() };
            tell(work, came, delivery, now)?;
        }
    }
    // Where the message is gone, so is the address.
    suppressions.retain(|s| s.subject.reveal() != "address:");
    // In the order in which settling mail locks these rows.
    suppress(work.tx(), &suppressions, now).await?;
    Ok(count_sending(work.tx(), &sending, &proofs.limits, now).await?)
}

async fn soft_bounces(
    work: &mut Work,
    taken: &[Taken],
    now: Timestamp,
) -> Result<BTreeMap<(String, String), i64>, Failure> {
    let soft = taken.iter().filter(|t| t.reading.class == Class::SoftBounce).filter_map(|t| t.about.as_ref());
    let customers: BTreeSet<_> = soft.map(|about| (about.merchant.clone(), about.customer.clone())).collect();
    if customers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let since = now.saturating_sub(SOFT_WITHIN).unwrap_or(Timestamp::MIN);
    Ok(store::soft_bounces(work.tx(), &customers.into_iter().collect::<Vec<_>>(), since).await?)
}

fn reminder_of(delivery: &Returned) -> Reminder {
    let request = ReminderDue::decode(&*delivery.request).ok();
    let mut reminder = request.and_then(|request| request.reminder).unwrap_or_else(|| Reminder {
        merchant_id: delivery.merchant.clone(),
        reminder_id: delivery.id.to_string(),
        customer_id: delivery.customer.clone(),
        segment: v1::Segment::New.into(),
        ..Default::default()
    });
    // The way it took in the end.
    if let Some(channel) = channel::by_name(&delivery.channel) {
        reminder.channel = channel.into();
    }
    reminder
}

/// What the provider of text messages passes on. It has signed it.
#[derive(Debug, Clone)]
pub enum Text {
    /// A payer's answer.
    Answer {
        /// The provider's id of it.
        sid: String,
        /// From which number, E.164.
        number: Masked<String>,
        /// In their words.
        said: Masked<String>,
    },
    /// A message that it had taken did not arrive.
    Undelivered {
        /// Which.
        delivery: Uuid,
        /// A bounce of some kind.
        class: Class,
        /// The provider's code.
        code: String,
    },
}

/// Takes a text message in, or what became of one. What was taken before changes nothing.
pub async fn take_text(work: &mut Work, merchant: &MerchantId, text: &Text, now: Timestamp) -> Result<(), Failure> {
    let nobody = Masked::default();
    let (key, class, code, sender, raw) = match text {
        Text::Answer { sid, number, said } => (sid.clone(), Class::Reply, "", number, as_mail(number, said)),
        Text::Undelivered { delivery, class, code } => {
            (delivery.to_string(), *class, code.as_str(), &nobody, Vec::new())
        }
    };
    let id = kernel::id::derive("inbound", merchant.as_str(), &key, class.name());
    let new = NewInbound { id, class: class.name(), status: code.to_owned(), feedback: "", sender, raw: &raw };
    if store::insert(work.tx(), &[new], now).await?.is_empty() {
        return Ok(());
    }
    let delivery = match text {
        Text::Answer { number, .. } => store::texted(work.tx(), merchant.as_str(), number).await?,
        Text::Undelivered { delivery, .. } => Some(*delivery),
    };
    let found = store::deliveries(work.tx(), &Vec::from_iter(delivery)).await?.into_values().next();
    let Some(found) = found.filter(|delivery| delivery.merchant == merchant.as_str()) else { return Ok(()) };
    // What is known not to have been sent has not come back.
    if found.state == "failed" && matches!(text, Text::Undelivered { .. }) {
        return Ok(());
    }
    let about = Match {
        id,
        matched: "authentic",
        delivery: found.id,
        merchant: found.merchant.clone(),
        customer: found.customer.clone(),
        effect: if class == Class::Reply { "held" } else { "counted" },
    };
    store::note_matches(work.tx(), &[about]).await?;
    tell(work, Came { id, class, status_code: code.to_owned(), feedback: String::new() }, &found, now)
}

/// A text message in the form in which answers are kept.
fn as_mail(number: &Masked<String>, said: &Masked<String>) -> Vec<u8> {
    let (number, said) = (number.reveal(), said.reveal());
    format!("From: {number}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{said}\r\n").into_bytes()
}

/// Something that came back, as others are told of it.
struct Came {
    id: Uuid,
    class: Class,
    status_code: String,
    feedback: String,
}

fn tell(work: &mut Work, came: Came, delivery: &Returned, now: Timestamp) -> Result<(), Failure> {
    let (reminder, at) = (reminder_of(delivery), Some(time::to_wire(now)));
    // The same event, whichever of several reports leads to it.
    let derived = |becomes| kernel::id::derive("inbound", &delivery.merchant, &delivery.id.to_string(), becomes);
    let trace = delivery.traceparent.clone();
    match came.class {
        Class::Complaint => {
            let feedback_type = came.feedback;
            let event = v1::ReminderComplained { reminder: Some(reminder), complained_at: at, feedback_type };
            work.emit_as(derived("complained"), now, &event, trace)?;
        }
        Class::Reply => {
            let event = v1::CustomerReplied {
                merchant_id: delivery.merchant.clone(),
                customer_id: delivery.customer.clone(),
                reminder_id: delivery.id.to_string(),
                invoice_ids: reminder.lines.into_iter().map(|line| line.invoice_id).collect(),
                replied_at: at,
            };
            let id = kernel::id::derive("inbound", &delivery.merchant, &came.id.to_string(), "replied");
            work.emit_as(id, now, &event, trace)?;
        }
        class => {
            let kind = match class {
                Class::HardBounce => v1::BounceKind::Hard,
                Class::SoftBounce => v1::BounceKind::Soft,
                _ => v1::BounceKind::Blocked,
            };
            let status_code = came.status_code;
            let event =
                v1::ReminderBounced { reminder: Some(reminder), bounced_at: at, kind: kind.into(), status_code };
            work.emit_as(derived(class.name()), now, &event, trace)?;
        }
    }
    Ok(())
}
