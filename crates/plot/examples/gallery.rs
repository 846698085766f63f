//! One page with every kind of figure, to look at: `cargo run -p plot --example gallery > gallery.html`.

use plot::{Bars, Figure, Interval, Layout, Line, Reliability, card, facts, grid, note, page, table};

fn main() {
    println!("{}", page("All figures <of plot>", &(note("Made-up numbers.") + &grid(&cards()))));
}

fn cards() -> String {
    let weeks: Vec<String> = (1..=26).map(|week| format!("2026-W{week:02}")).collect();
    let value = |week: i32| {
        let (estimate, half) = (5.0 + f64::from(week % 4), 150.0 / f64::from(week).sqrt() / 5.0);
        (week != 9).then_some(Interval { estimate, low: estimate - half, high: estimate + half })
    };
    let lift = [
        Line { name: "treated".into(), values: (1..=26).map(value).collect() },
        Line { name: "goal".into(), values: vec![Some(Interval::exact(7.5)); 26] },
    ];
    let names = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    let bars = |name: &str, values: &[f64]| Bars { name: name.into(), values: values.to_vec() };
    let delays = [
        bars("on time", &[0.8, 0.5, 0.2]),
        bars("1 to 7 days", &[0.15, 0.3, 0.3]),
        bars("8 to 30 days", &[0.05, 0.15, 0.3]),
        bars("later", &[0.0, 0.05, 0.2]),
    ];
    let points = [(0.05, 0.04, 900), (0.12, 0.15, 700), (0.2, 0.19, 400), (0.31, 0.36, 220), (0.55, 0.47, 60)]
        .map(|(predicted, observed, n)| Reliability { predicted, observed, n });
    let edges = names(&["-61", "-30", "-14", "-7", "-3", "-1", "0", "1", "3", "8", "31", "121"]);
    let histogram = [0.01, 0.04, 0.1, 0.14, 0.12, 0.09, 0.21, 0.12, 0.1, 0.06, 0.01];
    let figure = |title, finding, x, y| Figure { title, finding, x, y };
    [
        plot::wide_card("Facts", &facts([("invoices", "12,040"), ("held out", "1,204"), ("half-width", "4.1 pp")])),
        card(
            "Lift over time",
            &figure("Lift by week", "The band leaves zero in week 20.", "week", "points of on-time share").lines(
                &weeks,
                &lift,
                Some((-20.0, 30.0)),
            ),
        ),
        card(
            "Delays",
            &figure(
                "Delays by segment",
                "Every second invoice of mixed payers is late.",
                "segment",
                "share of invoices",
            )
            .bars(&names(&["prompt", "mixed", "chronically late"]), &delays, Layout::Stacked),
        ),
        card(
            "Arms",
            &figure("Arms", "Five days before due is tried most.", "arm", "share").bars(
                &names(&["none", "-7", "-5", "-1"]),
                &[bars("propensity", &[0.05, 0.2, 0.6, 0.15]), bars("success", &[0.5, 0.58, 0.61, 0.55])],
                Layout::Grouped,
            ),
        ),
        card(
            "Reliability",
            &figure(
                "Calibration",
                "Predictions are right within their whiskers.",
                "predicted share late",
                "observed share late",
            )
            .reliability(&points),
        ),
        card(
            "Histogram",
            &figure("Delay", "Most pay on the due date.", "days after due", "share of invoices")
                .histogram(&edges, &histogram),
        ),
        card("Table", &table(&["step", "n"], [vec!["first", "1,204"], vec!["second", "12"]])),
    ]
    .concat()
}
