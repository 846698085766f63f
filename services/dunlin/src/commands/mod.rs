//! What operators and developers ask for.

pub mod backtest;
pub mod breaker;
pub mod campaign;
pub mod campaign_migrate;
pub mod customer;
pub mod dead_letters;
pub mod deliveries;
pub mod doctor;
pub mod explain;
pub mod generate;
pub mod healthcheck;
pub mod import;
pub mod inbound;
pub mod operations;
pub mod payer;
pub mod plan;
pub mod quarantine;
pub mod replay;
pub mod run;
pub mod simulate;
pub mod suppression;
pub mod tasks;
pub mod template;
pub mod webhooks;

use crate::settings::Configuration;
use anyhow::Context;
use events::Service;
use runtime::database::{self, Durability};
use sqlx::PgPool;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where `dunlin dev` leaves the settings of the system that is running.
pub fn dev_settings() -> PathBuf {
    testkit::servers::home().join("dev.yaml")
}

/// The settings file to use.
pub fn settings_path(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let candidates = [given, std::env::var_os("DUNLIN_CONFIG").map(PathBuf::from)];
    if let Some(path) = candidates.into_iter().flatten().next() {
        return Ok(path);
    }
    let found = [PathBuf::from("dunlin.yaml"), dev_settings()].into_iter().find(|p| p.is_file());
    found.context("no settings: give --config, set DUNLIN_CONFIG, or start `dunlin dev` first")
}

/// Reads the configuration.
pub fn configuration(given: Option<PathBuf>) -> anyhow::Result<Configuration> {
    Ok(Configuration::load(&settings_path(given)?)?)
}

/// A service's tables, as that service sees them.
pub fn pool(configuration: &Configuration, service: Service) -> anyhow::Result<PgPool> {
    Ok(database::pool(&configuration.settings.postgres, service, Durability::Disk, 2)?)
}

/// Prints a table with aligned columns; the last one may be long.
pub fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let columns = header.len();
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count());
        cells.chain(header.get(n).map(|h| h.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(n, (cell, width))| if n + 1 == columns { (*cell).to_owned() } else { format!("{cell:width$}") });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", line(header.to_vec()));
    for row in rows {
        let _ = writeln!(out, "{}", line(row.iter().map(String::as_str).collect()));
    }
}

/// Reads a service's name.
pub fn parse_service(name: &str) -> Result<Service, String> {
    Service::by_name(name).ok_or_else(|| {
        let names: Vec<_> = Service::ALL.iter().map(|s| s.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

/// Reads a date.
pub fn parse_date(text: &str) -> Result<jiff::civil::Date, String> {
    text.parse().map_err(|_| format!("{text:?} is no date such as 2026-01-31"))
}

/// Writes a file, and its directories.
pub fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
