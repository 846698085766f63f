//! Sample data: what previews, checks and benches fill templates with. Nobody's real invoices.

use crate::domain::Balance;
use crate::message::Attachment;
use crate::render::Input;
use crate::stationery::Stationery;
use events::InvoiceStatus;
use events::v1::{Charge, ChargeKind, Reminder, ReminderLine, Wording};
use jiff::civil::{Date, date};
use jiff::{Timestamp, ToSpan};
use kernel::{Currency, Masked};
use runtime::Merchant;
use runtime::settings::LinkSettings;

/// The day on which samples are written.
pub const TODAY: Date = date(2026, 6, 10);

/// What a sample is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// One invoice.
    One,
    /// Three, with everything that can be said: a partial payment, and charges on the last reminder.
    Three,
}

/// A reminder with all that it is made of.
#[derive(Debug)]
pub struct Sample {
    locale: String,
    name: Masked<String>,
    address: Masked<String>,
    reminder: Reminder,
    lines: Vec<(ReminderLine, Balance)>,
    links: LinkSettings,
    now: Timestamp,
}

impl Sample {
    /// A reminder by a template, to a payer who speaks so.
    pub fn new(merchant: &Merchant, template: &str, locale: &str, about: About) -> Option<Self> {
        let due_on = match template {
            "upcoming" => Some(TODAY.saturating_add(3.days())),
            "due-today" => Some(TODAY),
            "friendly" => Some(TODAY.saturating_sub(3.days())),
            "payment-failed" => None,
            "final" => Some(TODAY.saturating_sub(14.days())),
            _ => Some(TODAY.saturating_sub(7.days())),
        };
        let count = if about == About::One { 1 } else { 3 };
        let mut lines: Vec<_> = (1..=count).map(|n| line(template, n, due_on)).collect::<Option<_>>()?;
        if about == About::Three {
            let (paid, balance) = lines.get_mut(1)?;
            balance.open_minor -= 50_000;
            if template == "final" {
                paid.charges = vec![
                    charge(ChargeKind::Interest, 1_872, "§ 288 (2) BGB"),
                    charge(ChargeKind::FixedSum, 4_000, "§ 288 (5) BGB"),
                ];
            }
        }
        let wording = Wording {
            locale: "de".to_owned(),
            text: "Nach § 286 Abs. 3 BGB kommen Sie ohne weitere Mahnung in Verzug.".to_owned(),
        };
        let reminder = Reminder {
            merchant_id: merchant.id.to_string(),
            // Of the day on which samples are written.
            reminder_id: "019eb08b-9c00-798b-8856-c0146fbabc7b".to_owned(),
            customer_id: "cus_1".to_owned(),
            template: template.to_owned(),
            lines: lines.iter().map(|(line, _)| line.clone()).collect(),
            wording: if template == "final" && locale.starts_with("de") { vec![wording] } else { Vec::new() },
            ..Reminder::default()
        };
        Some(Self {
            locale: locale.to_owned(),
            name: Masked::new("Ada Lovelace".to_owned()),
            address: Masked::new("ada@example.com".to_owned()),
            reminder,
            lines,
            links: LinkSettings {
                public_url: "https://pay.example.com".to_owned(),
                key: Masked::new("a key for samples, thirty-two bytes".to_owned()),
            },
            now: "2026-06-10T08:00:00Z".parse().ok()?,
        })
    }

    /// Renders with it.
    pub fn with<T>(
        &self,
        merchant: &Merchant,
        stationery: &Stationery,
        attachments: &[Attachment],
        render: impl FnOnce(Input<'_>) -> T,
    ) -> T {
        let owed: Vec<_> = self.lines.iter().map(|(line, balance)| (line, balance)).collect();
        render(Input {
            merchant,
            stationery,
            name: &self.name,
            locale: &self.locale,
            address: &self.address,
            reminder: &self.reminder,
            owed: &owed,
            today: TODAY,
            now: self.now,
            links: &self.links,
            attachments,
            answers: None,
        })
    }
}

fn line(template: &str, n: u16, due_on: Option<Date>) -> Option<(ReminderLine, Balance)> {
    let line = ReminderLine {
        invoice_id: format!("in_1PqR7sLkdIwHu7ix{n:08}"),
        epoch: 1,
        step: template.to_owned(),
        invoice_version: 1,
        carries: n == 1,
        template: template.to_owned(),
        ..ReminderLine::default()
    };
    let total_minor = i64::from(n) * 119_000 - 30_000;
    let balance = Balance {
        version: 1,
        epoch: 1,
        status: InvoiceStatus::Open,
        disputed: false,
        pending_since: None,
        currency: Currency::try_new("EUR").ok()?,
        total_minor,
        open_minor: total_minor,
        number: format!("2026-{:04}", 417 + 12 * n),
        due_on: due_on.map(|due_on| due_on.saturating_add(i64::from(n - 1).days())),
        failed_attempts: if template == "payment-failed" { 3 } else { 0 },
        pay_url: Masked::new(format!("https://pay.example.com/{n}")),
        document_url: Masked::default(),
        bill_to_name: Masked::default(),
        bill_to_email: Masked::default(),
    };
    Some((line, balance))
}

fn charge(kind: ChargeKind, amount_minor: i64, rule: &str) -> Charge {
    Charge { kind: kind.into(), amount_minor, rule: rule.to_owned(), as_of: TODAY.to_string() }
}
