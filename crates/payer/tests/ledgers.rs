//! The estimator meets its bars on two real ledgers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use payer::evaluate::{Report, Split, evaluate};
use payer::ledger::{Ledger, Row};
use std::path::Path;

/// A ledger of `../shared/data`; none, said loudly, if it is not there.
fn ledger(name: &str) -> Option<Ledger> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("\n*** SKIPPED: {} is not there, so this test has checked nothing ***\n", path.display());
        return None;
    };
    let mut ledger = Ledger::default();
    for (line, text) in (1..).zip(text.lines()).skip(1) {
        let cells: Vec<&str> = text.split(',').collect();
        let row = Row {
            customer: cells[0].to_owned(),
            invoice: cells[1].to_owned(),
            issue: cells[2].parse().ok(),
            due: cells[3].parse().ok(),
            paid: cells[4].parse().ok(),
            amount_minor: cells[5].parse::<f64>().ok().map(|amount| (100.0 * amount).round() as i64),
            segment: Some(cells[6].to_owned()),
        };
        ledger.add(line, row);
    }
    Some(ledger)
}

/// What the figures have to reach: at least, or at most.
struct Bars {
    auc_late: f64,
    auc_late_7: f64,
    brier: f64,
    calibration_error: f64,
    pinball: f64,
    late_reached: f64,
}

fn meets(name: &str, bars: &Bars) -> Option<Report> {
    let report = evaluate(&ledger(name)?, Split::Test);
    assert!(report.rejected.is_empty(), "{:?}", report.rejected);
    let ours = &report.models[0].all;
    for (figure, got, bar) in [
        ("AUC, late", ours.auc_late, bars.auc_late),
        ("AUC, more than 7 days late", ours.auc_late_7, bars.auc_late_7),
        ("late invoices reached", ours.late_reached, bars.late_reached),
        ("coverage of the 80 % interval", ours.coverage_80, 0.78),
    ] {
        assert!(got.unwrap() >= bar, "{name}: {figure} is {}, and at least {bar} is needed", got.unwrap());
    }
    for (figure, got, bar) in [
        ("Brier", ours.brier, bars.brier),
        ("calibration error", ours.calibration_error, bars.calibration_error),
        ("pinball", ours.pinball, bars.pinball),
        ("coverage of the 80 % interval", ours.coverage_80, 0.93),
    ] {
        assert!(got.unwrap() <= bar, "{name}: {figure} is {}, and at most {bar} is allowed", got.unwrap());
    }
    Some(report)
}

#[test]
fn the_real_ledger_meets_its_bars_and_beats_plain_histories() {
    let bars = Bars {
        auc_late: 0.65,
        auc_late_7: 0.645,
        brier: 0.133,
        calibration_error: 0.03,
        pinball: 1.90,
        late_reached: 0.46,
    };
    let Some(report) = meets("superlender.csv", &bars) else { return };
    assert_eq!(report.from, Some("2017-04-29".parse().unwrap()));
    let [ours, _, raw, ..] = &report.models[..] else { unreachable!() };
    assert_eq!((ours.all.invoices, report.customers), (9_654, 5_801));
    assert!(ours.all.brier < raw.all.brier, "{ours:?} {raw:?}");
    assert!(ours.all.calibration_error < raw.all.calibration_error, "{ours:?} {raw:?}");
    assert!(ours.all.pinball < raw.all.pinball, "{ours:?} {raw:?}");
}

#[test]
fn the_sample_ledger_meets_its_bars_and_is_level_with_plain_histories() {
    let bars = Bars {
        auc_late: 0.86,
        auc_late_7: 0.86,
        brier: 0.141,
        calibration_error: 0.08,
        pinball: 2.38,
        late_reached: 0.66,
    };
    let Some(report) = meets("ibm_ar.csv", &bars) else { return };
    assert_eq!(report.from, Some("2013-02-26".parse().unwrap()));
    let [ours, _, raw, ..] = &report.models[..] else { unreachable!() };
    assert_eq!((ours.all.invoices, report.customers), (990, 100));
    let off = |coverage: Option<f64>| (coverage.unwrap() - 0.8).abs();
    assert!(off(ours.all.coverage_80) < off(raw.all.coverage_80), "{ours:?} {raw:?}");
    for (higher, lower) in [
        (ours.all.auc_late, raw.all.auc_late),
        (ours.all.auc_late_7, raw.all.auc_late_7),
        (ours.all.late_reached, raw.all.late_reached),
        (raw.all.brier, ours.all.brier),
        (raw.all.pinball, ours.all.pinball),
        (raw.all.median_error, ours.all.median_error),
    ] {
        assert!(higher.unwrap() >= lower.unwrap() * 0.99, "within one percent: {ours:?} {raw:?}");
    }
}
