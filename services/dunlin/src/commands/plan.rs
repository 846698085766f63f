//! `dunlin plan`: what will go out, to whom, when and why; and what will not, and why not.

use super::{configuration, parse_date, pool, print_table};
use anyhow::{Context, bail};
use campaign::backtest::thousands;
use events::Service;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use scheduler::outlook::{Outlook, Query, Reminder, Silence, outlook};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

/// Say what will go out, and what will not.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Only this customer: `<merchant>/<customer>`.
    #[arg(long, conflicts_with = "merchant")]
    customer: Option<String>,
    /// Only this merchant.
    #[arg(long)]
    merchant: Option<String>,
    /// The first day [default: today].
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    from: Option<Date>,
    /// The last day [default: 30 days from the first].
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    to: Option<Date>,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

const HELP: &str = "\
It is what will happen if no payment arrives and nothing else changes: every payment, dispute or promise makes it less.
Times are the payers' own, with their zone. It reads the scheduler's tables and changes nothing.

Examples:
  dunlin plan                                         the next 30 days of all merchants
  dunlin plan --merchant acme --output calendar       as a calendar, with closed days and the ramp of late invoices
  dunlin plan --customer acme/cus_42                  what one customer will get, and what holds the rest
  dunlin plan --from 2026-06-01 --to 2026-06-30 --output json";

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people, a line each.
    Table,
    /// For programs.
    Json,
    /// For people, a month at a glance.
    Calendar,
}

/// What every output says.
const ASSUMPTION: &str = "If no payment arrives and nothing else changes until then.";

/// No plan is longer: nobody can read it, and what it assumes never holds for so long.
const LONGEST_DAYS: i64 = 366;

#[derive(Serialize)]
struct Document<'a> {
    as_of: Timestamp,
    from: Date,
    to: Date,
    assumption: &'static str,
    totals: Totals,
    #[serde(flatten)]
    outlook: &'a Outlook,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Totals {
    reminders: usize,
    customers: usize,
    invoices: usize,
    skipped: usize,
    waiting: usize,
    waiting_for_news_or_a_person: usize,
}

impl Totals {
    fn of(outlook: &Outlook) -> Self {
        let customers: BTreeSet<_> = outlook.reminders.iter().map(|r| (&r.merchant, &r.customer)).collect();
        let lines = outlook.reminders.iter().flat_map(|r| r.invoices.iter().map(|line| (&r.merchant, &line.invoice)));
        let waits = || outlook.silences.iter().filter(|s| s.what == "waits");
        Self {
            reminders: outlook.reminders.len(),
            customers: customers.len(),
            invoices: lines.collect::<BTreeSet<_>>().len(),
            skipped: outlook.silences.iter().filter(|s| s.what == "skipped").count(),
            waiting: waits().count(),
            waiting_for_news_or_a_person: waits().filter(|s| s.until.is_none()).count(),
        }
    }
}

/// `dunlin plan`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let customer = arguments.customer.as_deref().map(|customer| {
        customer
            .split_once('/')
            .with_context(|| format!("--customer {customer}: give <merchant>/<customer>, such as acme/cus_42"))
    });
    let customer = customer.transpose()?;
    let merchant = customer.map(|(merchant, _)| merchant).or(arguments.merchant.as_deref());
    if let Some(name) = merchant.filter(|name| configuration.merchants.by_name(name).is_none()) {
        bail!("{name}: there is no such merchant in the configuration");
    }
    let now = configuration.settings.clock().now();
    let zone = merchant.and_then(|name| configuration.merchants.by_name(name)).map(|m| m.zone.clone());
    let today = zone.unwrap_or(jiff::tz::TimeZone::UTC).to_datetime(now).date();
    let from = arguments.from.unwrap_or(today);
    let to = arguments.to.map_or_else(|| from.checked_add(30.days()).context("--from"), Ok)?;
    if to < from {
        bail!("--to {to} lies before the first day, {from}");
    }
    if i64::from((to - from).get_days()) > LONGEST_DAYS {
        bail!("--to {to} lies more than {LONGEST_DAYS} days after the first day, {from}");
    }
    let query = Query { merchant, customer: customer.map(|(_, customer)| customer), now, from, to };
    let pool = pool(&configuration, Service::Scheduler)?;
    let outlook = outlook(&pool, &configuration.merchants, configuration.rules.all_calendars(), &query).await?;
    match arguments.output {
        Output::Json => {
            let totals = Totals::of(&outlook);
            let document = Document { as_of: now, from, to, assumption: ASSUMPTION, totals, outlook: &outlook };
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        Output::Table => {
            print!("{}", headline(&outlook, from, to));
            tables(&outlook);
        }
        Output::Calendar => print!("{}{}", headline(&outlook, from, to), calendar(&outlook, from, to)),
    }
    Ok(())
}

fn headline(outlook: &Outlook, from: Date, to: Date) -> String {
    let count = |n: usize, what: &str| format!("{} {what}{}", thousands(n as u64), if n == 1 { "" } else { "s" });
    let totals = Totals::of(outlook);
    let mut out = format!("{from} to {to}: {} to ", count(totals.reminders, "reminder"));
    let _ = writeln!(out, "{} about {}", count(totals.customers, "customer"), count(totals.invoices, "invoice"));
    let _ = write!(out, "{} running; ", count(outlook.cases, "case"));
    let _ = write!(out, "{} skipped; {} waiting", count(totals.skipped, "step"), count(totals.waiting, "case"));
    if totals.waiting_for_news_or_a_person > 0 {
        let _ = write!(out, ", {} of them for news or a person", thousands(totals.waiting_for_news_or_a_person as u64));
    }
    let _ = writeln!(out, "\n{ASSUMPTION}");
    out
}

fn tables(outlook: &Outlook) {
    if !outlook.reminders.is_empty() {
        println!("\nWill go out");
        let rows: Vec<Vec<String>> = outlook.reminders.iter().map(reminder_row).collect();
        print_table(&["when, there", "customer", "tone", "invoices, steps and since when they are due"], &rows);
    }
    if !outlook.silences.is_empty() {
        println!("\nWill not go out");
        let rows: Vec<Vec<String>> = outlook.silences.iter().map(silence_row).collect();
        print_table(&["what", "customer", "invoice", "until", "why"], &rows);
    }
}

/// Such as `Mon 2026-06-01 09:00 Europe/Berlin`.
fn local(at: &jiff::Zoned) -> String {
    format!("{} {}", at.strftime("%a %Y-%m-%d %H:%M"), at.time_zone().iana_name().unwrap_or("UTC"))
}

fn reminder_row(reminder: &Reminder) -> Vec<String> {
    let line = |line: &scheduler::outlook::Line| {
        let merged =
            if line.merged.is_empty() { String::new() } else { format!(" for {} too", line.merged.join(", ")) };
        format!("{} {}{merged} ({}, {}, {})", line.invoice, line.step, line.since, line.campaign, line.chosen_by)
    };
    let lines: Vec<String> = reminder.invoices.iter().map(line).collect();
    let customer = format!("{}/{}", reminder.merchant, reminder.customer);
    vec![local(&reminder.at), customer, reminder.tone.to_owned(), lines.join("; ")]
}

fn silence_row(silence: &Silence) -> Vec<String> {
    let until = match (&silence.until, silence.what) {
        (Some(until), _) => local(until),
        (None, "waits" | "no campaign") => "news, or a person ends it".to_owned(),
        (None, "ended") if silence.reason == "hand_over" => "the invoice closes: a person has it".to_owned(),
        (None, _) => "–".to_owned(),
    };
    let steps = if silence.steps.is_empty() { String::new() } else { format!("{}: ", silence.steps.join(", ")) };
    let rule = if silence.rule.is_empty() { String::new() } else { format!(" ({})", silence.rule) };
    let customer = format!("{}/{}", silence.merchant, silence.customer);
    let why = format!("{steps}{}{rule}", silence.reason.replace('_', " "));
    vec![silence.what.to_owned(), customer, silence.invoice.clone(), until, why]
}

/// How many reminders, and to whom.
type Day<'a> = (usize, BTreeSet<(&'a str, &'a str)>);

/// A grid per month: reminders and, below them, customers of each day.
fn calendar(outlook: &Outlook, from: Date, to: Date) -> String {
    const WIDTH: usize = 10;
    let mut days: BTreeMap<Date, Day<'_>> = BTreeMap::new();
    for reminder in &outlook.reminders {
        let (reminders, customers) = days.entry(reminder.at.date()).or_default();
        *reminders += 1;
        customers.insert((&reminder.merchant, &reminder.customer));
    }
    let mut out = String::new();
    let mut month = from.first_of_month();
    while month <= to {
        let _ = writeln!(out, "\n{}", month.strftime("%B %Y"));
        let header: String =
            ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].map(|day| format!("{day:<WIDTH$}")).concat();
        let _ = writeln!(out, "{}", header.trim_end());
        let offset = i64::from(month.weekday().to_monday_zero_offset());
        let Ok(mut monday) = month.checked_sub(offset.days()) else { break };
        while monday <= month.last_of_month() {
            let week: Vec<Date> = (0..7_i64).filter_map(|n| monday.checked_add(n.days()).ok()).collect();
            let mut line = |cell: &dyn Fn(Date) -> String| {
                let cells = week.iter().map(|day| {
                    let is_shown = day.month() == month.month() && (from..=to).contains(day);
                    format!("{:<WIDTH$}", if is_shown { cell(*day) } else { String::new() })
                });
                let text = cells.collect::<String>();
                if !text.trim().is_empty() {
                    let _ = writeln!(out, "{}", text.trim_end());
                }
            };
            line(&|day| format!("{}{}", day.day(), if outlook.closed.contains(&day) { " closed" } else { "" }));
            line(&|day| days.get(&day).map_or(String::new(), |(n, _)| format!("  {} r", thousands(*n as u64))));
            line(&|day| days.get(&day).map_or(String::new(), |(_, c)| format!("  {} c", thousands(c.len() as u64))));
            line(&|day| outlook.ramp.get(&day).map_or(String::new(), |n| format!("  {} late", thousands(*n as u64))));
            let Ok(next) = monday.checked_add(7.days()) else { return out };
            monday = next;
        }
        let Ok(next) = month.last_of_month().tomorrow() else { break };
        month = next;
    }
    let _ = writeln!(
        out,
        "\nr reminders, c customers, late: invoices that begin on that day by the ramp of their campaign"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn reminder(at: &str, customer: &str) -> Reminder {
        Reminder {
            at: at.parse().unwrap(),
            merchant: "acme".to_owned(),
            customer: customer.to_owned(),
            currency: kernel::Currency::try_new("EUR").unwrap(),
            channel: "email",
            tone: "friendly",
            invoices: vec![scheduler::outlook::Line {
                invoice: format!("in_{customer}"),
                step: "overdue-3".to_owned(),
                merged: Vec::new(),
                since: date("2026-06-04"),
                campaign: "default 1".to_owned(),
                chosen_by: "campaigns.0".to_owned(),
            }],
        }
    }

    fn sample() -> Outlook {
        let day = date("2026-06-06");
        Outlook {
            cases: 3,
            reminders: vec![
                reminder("2026-06-04T09:00[Europe/Berlin]", "a"),
                reminder("2026-06-04T09:05[Europe/Berlin]", "b"),
                reminder("2026-07-01T09:00[Europe/Berlin]", "a"),
            ],
            closed: [day, day.tomorrow().unwrap()].into(),
            ramp: [(date("2026-06-04"), 2)].into(),
            ..Outlook::default()
        }
    }

    #[test]
    fn a_calendar_shows_days_closed_days_and_the_ramp() {
        let text = calendar(&sample(), date("2026-06-03"), date("2026-07-02"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "June 2026");
        assert_eq!(lines[2], "Mon       Tue       Wed       Thu       Fri       Sat       Sun");
        assert_eq!(lines[3], "                    3         4         5         6 closed  7 closed");
        assert_eq!(lines[4], "                                2 r");
        assert_eq!(lines[5], "                                2 c");
        assert_eq!(lines[6], "                                2 late");
        assert_eq!(lines[7], "8         9         10        11        12        13        14");
        let july = lines.iter().position(|line| *line == "July 2026").unwrap();
        assert_eq!(lines[july + 2], "                    1         2");
        assert_eq!(lines[july + 3], "                      1 r");
    }

    #[test]
    fn totals_come_first() {
        let text = headline(&sample(), date("2026-06-03"), date("2026-07-02"));
        let expected = "\
2026-06-03 to 2026-07-02: 3 reminders to 2 customers about 2 invoices
3 cases running; 0 steps skipped; 0 cases waiting
If no payment arrives and nothing else changes until then.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_wait_says_what_ends_it() {
        let silence = |what, reason: &str, until: Option<&str>| Silence {
            merchant: "acme".to_owned(),
            customer: "a".to_owned(),
            invoice: "in_1".to_owned(),
            what,
            steps: vec!["overdue-3".to_owned()],
            reason: reason.to_owned(),
            rule: "invoice.disputed".to_owned(),
            at: "2026-06-04T09:00[Europe/Berlin]".parse().unwrap(),
            until: until.map(|until| until.parse().unwrap()),
        };
        let row = silence_row(&silence("waits", "dispute", None));
        assert_eq!(
            row,
            ["waits", "acme/a", "in_1", "news, or a person ends it", "overdue-3: dispute (invoice.disputed)"]
        );
        let row = silence_row(&silence("waits", "min_gap", Some("2026-06-08T09:00[Europe/Berlin]")));
        assert_eq!(row[3..], ["Mon 2026-06-08 09:00 Europe/Berlin", "overdue-3: min gap (invoice.disputed)"]);
        assert_eq!(silence_row(&silence("ended", "hand_over", None))[3], "the invoice closes: a person has it");
    }
}
