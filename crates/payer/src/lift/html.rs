//! The report as HTML.

use super::compare::{Comparison, Side, Unit};
use super::measure::Measure;
use super::words::thousands;
use super::{CAP_DAYS, Calibration, Delays, Effort, LiftReport, REGISTERED_DAY};
use plot::{Bars, Figure, Layout, Line, Reliability};

/// What the report may be taken for, and what not.
const CLAIMS: [&str; 3] = [
    "This report tells you your own lift, or that it cannot be measured yet. It compares with your own static schedule, on \
     invoices that were held out at random; not with no reminders, and not with anybody else's ledger.",
    "The band holds at all times at once: looking every week does not make false alarms more likely than one in twenty.",
    "It does not show that the timing, rather than the existence, of a reminder makes people pay on time.",
];

/// The report as a whole page.
pub fn page(title: &str, report: &LiftReport) -> String {
    plot::page(title, &cards(report))
}

/// The report as a part of a page in the style of [`plot::page`].
pub fn cards(report: &LiftReport) -> String {
    let (first, others) = CLAIMS.split_at(1);
    let notes: String = first.iter().map(|claim| plot::note(claim)).collect();
    let asides: String = others.iter().map(|claim| plot::aside(claim)).collect();
    let cards = [
        plot::wide_card("In numbers", &facts(report)),
        plot::card("Paid on time, over time", &over_time(&report.on_time)),
        plot::card(&format!("Days to pay, up to {CAP_DAYS} days after due"), &over_time(&report.days)),
        plot::card("Customers held out for good", &over_time(&report.customers)),
        plot::card("Delays by kind of payer", &delays(&report.delays)),
        plot::wide_card("What must not get worse", &guards(report)),
        plot::wide_card("Arms", &arms(report)),
        plot::wide_card("Are the predictions right?", &calibrations(report)),
        plot::wide_card("Not in the on-time comparison", &left_out(report)),
    ];
    notes + &asides + &plot::grid(&cards.concat())
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), |share| format!("{:.1}\u{a0}%", share * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

fn facts(report: &LiftReport) -> String {
    let on_time = &report.on_time;
    let of = |what: &str, Side { n, mean }: Side| {
        [
            (format!("invoices {what}"), thousands(u64::from(n))),
            (format!("paid on time, {what}, unadjusted"), percent(mean)),
        ]
    };
    let registered = report.registered.map_or("–".to_owned(), |interval| {
        let [low, high] = [interval.low, interval.high].map(|end| Measure::OnTime.scaled(end));
        format!("{low:+.1} to {high:+.1} points").replace('-', "\u{2212}")
    });
    let facts = of("treated", on_time.treated)
        .into_iter()
        .chain(of("held out", on_time.held_out))
        .chain([(format!("classical 95 % interval, once, on day {REGISTERED_DAY}"), registered)]);
    format!("<p>{}</p>\n{}", plot::escape(on_time.finding()), plot::facts(facts))
}

/// The difference with its band, in weeks.
fn over_time(comparison: &Comparison) -> String {
    let measure = comparison.measure;
    let scaled = |interval: super::Interval| {
        let plot::Interval { estimate, low, high } = interval.for_plot();
        let [estimate, low, high] = [estimate, low, high].map(|end| measure.scaled(end));
        plot::Interval { estimate, low, high }
    };
    // Weeks before anything can be said would only make the rest small.
    let said = comparison.weeks.iter().skip_while(|week| week.interval.is_none());
    let values: Vec<_> = said.clone().map(|week| week.interval.map(scaled)).collect();
    let finding = comparison.finding();
    if values.is_empty() {
        return format!("<p>{}</p>\n", plot::escape(finding));
    }
    let weeks: Vec<String> = said.map(|week| week.before.to_string()).collect();
    let title = match (measure, comparison.unit) {
        (Measure::Days, _) => "Difference in days to pay by week, with its confidence sequence",
        (_, Unit::Invoice) => "Difference in on-time share by week, with its confidence sequence",
        (_, Unit::Customer) => "Difference in on-time share between customers by week, with its confidence sequence",
    };
    let y = match measure {
        Measure::Days => "days, treated minus held out",
        _ => "points, treated minus held out",
    };
    // What matters is the band as it is by now; that of the first weeks is off the drawing.
    let reach = values.iter().flatten().last().map(|now| now.low.abs().max(now.high.abs()) * 2.0);
    let line = Line { name: "treated minus held out".to_owned(), values };
    let figure = Figure { title, finding: &finding, x: "known before", y };
    figure.lines(&weeks, &[line], reach.map(|reach| (-reach, reach)))
}

fn guards(report: &LiftReport) -> String {
    let guards = &report.guards;
    let row = |what: &str, of: fn(Effort) -> String| {
        vec![what.to_owned(), of(guards.treated), of(guards.held_out), of(guards.customers_held_out)]
    };
    let shares = |what: &str, Comparison { treated, held_out, .. }: &Comparison| {
        vec![what.to_owned(), percent(treated.mean), percent(held_out.mean), "–".to_owned()]
    };
    let rows = [
        row("invoices past due", |e| thousands(u64::from(e.invoices))),
        row("messages per invoice", |e| number(e.per_invoice())),
        row("of them up to the due date", |e| number(e.by_due_per_invoice())),
        row("messages per recovered invoice", |e| number(e.per_recovered())),
        shares("opted out", &guards.opt_outs),
    ];
    let complaints = guards.complaints.as_ref().map(|complaints| shares("complained", complaints));
    let said = |what: &str, comparison: &Comparison| plot::aside(&format!("{what}: {}", comparison.finding()));
    [
        plot::table(&["", "treated", "held out", "customers held out"], rows.into_iter().chain(complaints)),
        plot::aside(
            "Recovered: paid after a message. Most of these would have been paid without it; compare the columns.",
        ),
        said("Opt-outs", &guards.opt_outs),
        guards
            .complaints
            .as_ref()
            .map_or_else(|| plot::aside("Complaints: not collected yet."), |complaints| said("Complaints", complaints)),
    ]
    .concat()
}

fn arms(report: &LiftReport) -> String {
    if report.arms.is_empty() {
        return plot::aside("No step tries several arms.");
    }
    let steps = report.arms.chunk_by(|one, next| one.step == next.step);
    let of_step = |arms: &[super::ArmReport]| {
        let names: Vec<String> = arms.iter().map(|arm| arm.arm.clone()).collect();
        let bars = |name: &str, of: fn(&super::ArmReport) -> f64| Bars {
            name: name.to_owned(),
            values: arms.iter().map(of).collect(),
        };
        let step = arms.first().map_or("", |arm| arm.step.as_str());
        let best = arms.iter().max_by(|one, other| one.success.estimate.total_cmp(&other.success.estimate));
        let is_apart = |best: &super::ArmReport| {
            arms.iter().filter(|arm| arm.arm != best.arm).all(|arm| arm.success.high < best.success.low)
        };
        let finding = match best {
            Some(best) if arms.len() > 1 && is_apart(best) => {
                format!("Step {step}: so far, arm {} works best; its interval is apart from all others.", best.arm)
            }
            _ => format!("Step {step}: which arm works best is not known yet."),
        };
        let series = [bars("share of decisions", |arm| arm.share), bars("success", |arm| arm.success.estimate)];
        let title = format!("How often each arm of {step} was drawn, and how often it worked");
        let figure = Figure { title: &title, finding: &finding, x: "arm", y: "share" };
        let rows = arms.iter().map(|arm| {
            let success = arm.success;
            let range = format!("{:.1} to {:.1}", success.low * 100.0, success.high * 100.0);
            let n = thousands(u64::from(arm.n));
            vec![arm.arm.clone(), n, percent(Some(arm.share)), percent(Some(success.estimate)), range]
        });
        let table = plot::table(&["arm", "decisions", "drawn", "success", "95 % interval"], rows);
        format!("<div>\n{}{table}</div>\n", figure.bars(&names, &series, Layout::Grouped))
    };
    let steps: String = steps.map(of_step).collect();
    let note = "Success: paid by the due date, or within seven days of a decision after it, as if the arm were always drawn. \
                Arms compare with each other, not with what would have happened anyway: that is the arm none. Each interval holds \
                for one look: whoever looks often will see some arm apart by chance.";
    format!("<div class=\"two\">\n{steps}</div>\n{}", plot::aside(note))
}

fn calibrations(report: &LiftReport) -> String {
    let held_out = calibration("held out", &report.calibration_held_out);
    let treated = calibration("treated", &report.calibration);
    let note = "Predictions are made before anything is sent, from payments that came with the reminders of their time. Where \
                reminders help, fewer treated invoices are late than predicted.";
    format!("<div class=\"two\">\n<div>{held_out}</div>\n<div>{treated}</div>\n</div>\n{}", plot::aside(note))
}

fn calibration(group: &str, bins: &[Calibration]) -> String {
    if bins.is_empty() {
        let what = "was decided, with a prediction, before its due date and is past it";
        return plot::aside(&format!("Of what is {group} nothing {what} yet."));
    }
    let cases: f64 = bins.iter().map(|bin| f64::from(bin.n)).sum();
    let error: f64 = bins.iter().map(|bin| (bin.predicted - bin.observed).abs() * f64::from(bin.n)).sum();
    let points: Vec<Reliability> =
        bins.iter().map(|bin| Reliability { predicted: bin.predicted, observed: bin.observed, n: bin.n }).collect();
    let finding = format!(
        "Of what is {group}, shares differ from those predicted by {:.1} points on average.",
        error / cases * 100.0
    );
    let (x, y) = ("predicted share of late invoices", "observed share of late invoices");
    let title = format!("Predicted against observed shares of late invoices, {group}");
    Figure { title: &title, finding: &finding, x, y }.reliability(&points)
}

fn delays(delays: &[Delays]) -> String {
    if delays.is_empty() {
        return plot::aside(&format!("No invoice is {} days past its due date yet.", Delays::LATE));
    }
    let all = |d: &Delays| f64::from(d.on_time) + f64::from(d.a_bit_late) + f64::from(d.late) + f64::from(d.very_late);
    let bars = |name: String, of: fn(&Delays) -> u32| Bars {
        name,
        values: delays.iter().map(|d| f64::from(of(d)) / all(d)).collect(),
    };
    let (a_bit, late) = (Delays::A_BIT_LATE, Delays::LATE);
    let series = [
        bars("on time".to_owned(), |d| d.on_time),
        bars(format!("up to {a_bit} days late"), |d| d.a_bit_late),
        bars(format!("up to {late} days late"), |d| d.late),
        bars("later or open".to_owned(), |d| d.very_late),
    ];
    let labels: Vec<String> = delays.iter().map(|d| d.label.as_str().replace('_', " ")).collect();
    let invoices: f64 = delays.iter().map(all).sum();
    let on_time: f64 = delays.iter().map(|d| f64::from(d.on_time)).sum();
    let finding =
        format!("Of all invoices {} were paid on time, whatever was sent.", percent(Some(on_time / invoices)));
    let title = "How late invoices were paid, by label of the payer";
    Figure { title, finding: &finding, x: "label", y: "share of invoices" }.bars(&labels, &series, Layout::Stacked)
}

fn left_out(report: &LiftReport) -> String {
    let left_out = report.left_out;
    let rows = [
        (
            "first decided after the due date: no such reminder can make the invoice be paid on time",
            left_out.decided_after_due,
        ),
        ("paid before anything was decided", left_out.paid_before),
        ("of customers held out for good, compared by themselves", left_out.customer_held_out),
        ("could only be on one side", left_out.without_chance),
        ("not past the due date yet", left_out.not_yet_due),
    ];
    let rows = rows.map(|(why, n)| vec![why.to_owned(), thousands(u64::from(n))]);
    plot::table(&["why", "invoices"], rows)
}
