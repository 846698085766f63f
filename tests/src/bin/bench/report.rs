//! The table, and `target/bench/report.json`.

use serde::Serialize;
use std::path::Path;

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: &'static str,
    /// The median of the runs.
    pub(crate) value: f64,
    /// Of the value.
    pub(crate) unit: &'static str,
    /// Measured in the same run, in the same unit; null if it could not be measured.
    pub(crate) reference: Option<f64>,
    /// Value to reference.
    pub(crate) ratio: Option<f64>,
    /// Where single events were timed, in ms.
    pub(crate) p50: Option<f64>,
    /// Where single events were timed, in ms.
    pub(crate) p99: Option<f64>,
    /// What the reference is; for the table.
    #[serde(skip)]
    pub(crate) note: String,
}

impl Figure {
    /// A figure beside its reference.
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str, reference: Option<f64>, note: &str) -> Self {
        let ratio = reference.map(|r| value / r);
        Self { name, value, unit, reference, ratio, p50: None, p99: None, note: note.to_owned() }
    }
}

/// All rows so far.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    benches: Vec<Figure>,
}

impl Report {
    /// Adds rows, and shows them.
    pub(crate) fn extend(&mut self, figures: impl IntoIterator<Item = Figure>) {
        for figure in figures {
            println!("{}", line(&figure));
            self.benches.push(figure);
        }
    }

    /// Prints the table and writes the file.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        println!(
            "\n{:18} {:>10}  {:14} {:>10} {:>7} {:>9} {:>9}",
            "", "value", "", "reference", "ratio", "p50 ms", "p99 ms"
        );
        for figure in &self.benches {
            println!("{}", line(figure));
        }
        let path = Path::new("target/bench/report.json");
        std::fs::create_dir_all("target/bench")?;
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        println!("\n{}", path.display());
        Ok(())
    }
}

fn line(figure: &Figure) -> String {
    let optional = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
    let Figure { name, value, unit, reference, ratio, p50, p99, note } = figure;
    format!(
        "{name:18} {value:>10.0}  {unit:14} {:>10} {:>7} {:>9} {:>9}  {note}",
        optional(*reference, 0),
        optional(*ratio, 2),
        optional(*p50, 1),
        optional(*p99, 1)
    )
}
