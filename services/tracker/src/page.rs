//! Server-rendered pages: figures for the merchant's people, short notes for payers. No script, no cookie.

mod lift;

pub use lift::lift;

use crate::domain::{Group, Outcomes, SegmentDelays, Share, Stats, StepReason};
use jiff::Timestamp;
use jiff::civil::Date;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;

/// The compiled pages.
#[derive(Debug)]
pub struct Pages(Environment<'static>);

/// A short note to a payer.
#[derive(Debug, Serialize)]
pub struct Note<'a> {
    /// Its language, BCP 47.
    pub language: &'static str,
    /// From whom; empty if that is not known.
    pub merchant: &'a str,
    /// What it is about.
    pub title: &'static str,
    /// What there is to know.
    pub text: String,
    /// The label of a button that posts to the same address, if there is something to do.
    pub form: Option<&'static str>,
    /// Where to go on: labels and addresses.
    pub links: Vec<NoteLink>,
}

/// A way on from a note.
#[derive(Debug, Serialize)]
pub struct NoteLink {
    /// What it is about.
    pub label: String,
    /// Where it leads; none if there is nothing left to do.
    pub url: Option<String>,
}

#[derive(Serialize)]
struct Dashboard<'a> {
    merchants: &'a [&'a str],
    from: String,
    to: String,
    as_of: String,
    on_time: Shown,
    paid: Shown,
    delivery: String,
    bounce_rate: String,
    complaint_rate: String,
    reminders: Outcomes,
    merged: i64,
    paid_just_before: i64,
    unsubscribed: i64,
    waiting_for_a_person: i64,
    step_reasons: &'a [StepReason],
    finding: String,
    chart: Chart,
    bars: Vec<Bar>,
    tables: Vec<Table>,
    delays: Vec<ShownDelays>,
    latest: Vec<Latest>,
}

#[derive(Serialize)]
struct Shown {
    percent: String,
    of: i64,
}

impl From<Share> for Shown {
    fn from(share: Share) -> Self {
        Self { percent: share.percent(), of: share.of }
    }
}

#[derive(Serialize)]
struct Chart {
    width: i64,
    height: i64,
}

/// A stacked bar: on time below, open on top.
#[derive(Serialize)]
struct Bar {
    monday: Date,
    label: Option<String>,
    x: i64,
    width: i64,
    on_time: i64,
    late: i64,
    open: i64,
    on_time_y: i64,
    on_time_height: i64,
    late_y: i64,
    late_height: i64,
    open_y: i64,
    open_height: i64,
}

#[derive(Serialize)]
struct Table {
    title: &'static str,
    column: &'static str,
    groups: Vec<ShownGroup>,
}

#[derive(Serialize)]
struct ShownGroup {
    key: String,
    reminders: Outcomes,
    delivered: String,
    paid: String,
    visits: i64,
}

impl From<&Group> for ShownGroup {
    fn from(group: &Group) -> Self {
        Self {
            key: group.key.clone(),
            reminders: group.reminders,
            delivered: group.delivery_rate.percent(),
            paid: group.paid_within_7_days.percent(),
            visits: group.visits,
        }
    }
}

/// Shares of a segment's invoices.
#[derive(Serialize)]
struct ShownDelays {
    segment: String,
    invoices: i64,
    shares: [String; 5],
}

impl From<&SegmentDelays> for ShownDelays {
    fn from(of: &SegmentDelays) -> Self {
        let counts = [of.on_time, of.a_week, of.a_month, of.later, of.open];
        let invoices = counts.iter().sum();
        let shares = counts.map(|count| Share::new(count, invoices).percent());
        Self { segment: words(&of.segment), invoices, shares }
    }
}

#[derive(Serialize)]
struct Latest {
    at: String,
    what: String,
    merchant: String,
    about: String,
}

impl Pages {
    /// Compiles the built-in pages.
    pub fn new() -> anyhow::Result<Self> {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template("layout.html", include_str!("../templates/layout.html"))?;
        environment.add_template("note.html", include_str!("../templates/note.html"))?;
        environment.add_template("dashboard.html", include_str!("../templates/dashboard.html"))?;
        Ok(Self(environment))
    }

    /// A note to a payer.
    pub fn note(&self, note: Note<'_>) -> Result<String, minijinja::Error> {
        self.0.get_template("note.html")?.render(Serde(note))
    }

    /// The figures. `merchants` are those that they are of.
    pub fn dashboard(
        &self,
        stats: &Stats,
        merchants: &[&str],
        latest: Vec<(Timestamp, String, String, String)>,
    ) -> Result<String, minijinja::Error> {
        let chart = Chart { width: 960, height: 220 };
        let table = |title, column, groups: &[Group]| Table {
            title,
            column,
            groups: groups.iter().map(ShownGroup::from).collect(),
        };
        let mut by_segment = table("By segment", "Segment", &stats.by_segment);
        by_segment.groups.iter_mut().for_each(|group| group.key = words(&group.key));
        let page = Dashboard {
            merchants,
            from: stats.from.to_string(),
            to: stats.to.to_string(),
            as_of: minute(stats.as_of),
            on_time: stats.on_time.into(),
            paid: stats.paid_within_7_days().into(),
            delivery: stats.reminders().delivery_rate().percent(),
            bounce_rate: stats.reminders().bounce_rate().per_mille(),
            complaint_rate: stats.reminders().complaint_rate().per_mille(),
            reminders: stats.reminders(),
            merged: stats.merged_steps,
            paid_just_before: stats.suppressed_because_paid,
            unsubscribed: stats.unsubscribed,
            waiting_for_a_person: stats.waiting_for_a_person,
            step_reasons: &stats.step_reasons,
            finding: finding(stats),
            bars: bars(stats, &chart),
            chart,
            tables: vec![
                table("By merchant", "Merchant", &stats.by_merchant),
                table("By campaign step", "Step", &stats.by_step),
                by_segment,
            ],
            delays: stats.delays_by_segment.iter().map(ShownDelays::from).collect(),
            latest: latest
                .into_iter()
                .map(|(at, what, merchant, about)| Latest { at: minute(at), what, merchant, about })
                .collect(),
        };
        self.0.get_template("dashboard.html")?.render(Serde(page))
    }
}

/// A stored name as people read it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// `2026-06-01 09:15 UTC`.
fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// The chart in one sentence.
fn finding(stats: &Stats) -> String {
    let late: i64 = stats.weeks.iter().map(|w| w.late).sum();
    let open: i64 = stats.weeks.iter().map(|w| w.open).sum();
    format!(
        "Of {} invoices that fell due, {} were paid on time, {late} late, and {open} are still open.",
        stats.on_time.of, stats.on_time.count
    )
}

fn bars(stats: &Stats, chart: &Chart) -> Vec<Bar> {
    const LABEL_SPACE: i64 = 24;
    const GAP: i64 = 6;
    let count = stats.weeks.len() as i64;
    let highest = stats.weeks.iter().map(|w| w.on_time + w.late + w.open).max().unwrap_or(0);
    if count == 0 || highest == 0 {
        return Vec::new();
    }
    let floor = chart.height - LABEL_SPACE;
    let slot = (chart.width / count).min(80);
    let scale = |n: i64| n * (floor - 4) / highest;
    // A label needs about 80 units.
    let every = (80 + slot - 1) / slot;
    stats
        .weeks
        .iter()
        .enumerate()
        .map(|(n, week)| {
            let n = n as i64;
            let (on_time_height, late_height, open_height) = (scale(week.on_time), scale(week.late), scale(week.open));
            let on_time_y = floor - on_time_height;
            let late_y = on_time_y - late_height;
            Bar {
                monday: week.monday,
                label: (n % every == 0).then(|| week.monday.strftime("%-d %b").to_string()),
                x: n * slot,
                width: (slot - GAP).max(2),
                on_time: week.on_time,
                late: week.late,
                open: week.open,
                on_time_y,
                on_time_height,
                late_y,
                late_height,
                open_y: late_y - open_height,
                open_height,
            }
        })
        .collect()
}
