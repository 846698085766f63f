//! Brings changed campaigns and calendars into force while the scheduler runs. A file with a fault changes nothing: what was
//! in force stays so, and the readiness page says what is wrong.

use crate::config::{Fingerprint, RuleFiles, fingerprint};
use crate::rules::Rules;
use runtime::config::Faults;
use runtime::health::Health;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Looks at the files every `pause` until `stop`. `known` is how they looked when they were read last.
pub async fn run(
    directory: PathBuf,
    mut known: Fingerprint,
    rules: Rules,
    health: Health,
    pause: Duration,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if fingerprint(&directory) == known {
            continue;
        }
        let files = RuleFiles::read(&directory);
        match rules.put_in_force(&files.campaigns, files.all_calendars()).await {
            Ok(()) => {
                tracing::info!(
                    campaigns = files.campaigns.len(),
                    faults = files.faults.0.len(),
                    "campaigns read again"
                );
                report(&health, &files.faults);
                known = files.fingerprint;
            }
            // Tried again at the next look.
            Err(error) => tracing::warn!(%error, "changed campaigns are not in force yet"),
        }
    }
}

/// Says what is wrong with the files, or that nothing is.
pub fn report(health: &Health, faults: &Faults) {
    let gauge = opentelemetry::global::meter("dunlin").i64_gauge("dunlin.config.faults").build();
    gauge.record(i64::try_from(faults.0.len()).unwrap_or(i64::MAX), &[]);
    if faults.0.is_empty() {
        health.warn("campaigns", None);
        return;
    }
    tracing::error!(%faults, "what was in force stays in force");
    health.warn("campaigns", Some(format!("what was in force stays in force; {faults}")));
}
