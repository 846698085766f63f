//! Rules that no compiler checks: who may depend on whom, where SQL may stand, and that what is generated is fresh.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::processes::binary;
use events::Service;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::TestDatabase;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What each crate may build on, of ours. Services never on one another; only the binary, the test kit and the tests see
/// several.
fn allowed(package: &str) -> &'static [&'static str] {
    match package {
        "kernel" | "plot" => &[],
        "events" | "campaign" => &["kernel"],
        "payer" => &["kernel", "plot"],
        "bus" => &["events", "kernel"],
        "runtime" => &["bus", "events", "kernel"],
        "testkit" => &["bus", "events", "kernel", "runtime"],
        "ingest" | "segmenter" | "scheduler" | "notifier" | "tracker" => {
            &["bus", "campaign", "events", "kernel", "payer", "plot", "runtime"]
        }
        "dunlin" | "e2e" => &[
            "bus",
            "campaign",
            "dunlin",
            "events",
            "ingest",
            "kernel",
            "notifier",
            "payer",
            "plot",
            "runtime",
            "scheduler",
            "segmenter",
            "testkit",
            "tracker",
        ],
        other => panic!("{other} is new: say here what it may depend on"),
    }
}

/// The libraries that make code impure: what only plans or estimates has none of them.
const IMPURE: [&str; 5] = ["tokio", "sqlx", "async-nats", "axum", "tonic"];

#[test]
fn dependencies_point_one_way() {
    let packages = packages();
    let ours: Vec<&str> = packages.keys().map(String::as_str).collect();
    let mut faults = Vec::new();
    for (package, dependencies) in &packages {
        let allowed = allowed(package);
        for dependency in dependencies {
            let is_ours = ours.contains(&dependency.as_str());
            if is_ours && !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{package} may not depend on {dependency}"));
            }
            if ["campaign", "payer", "plot", "kernel"].contains(&package.as_str())
                && IMPURE.contains(&dependency.as_str())
                && (package.as_str(), dependency.as_str()) != ("kernel", "tokio")
            {
                faults.push(format!("{package} is pure and may not depend on {dependency}"));
            }
        }
    }
    assert!(packages.len() >= 14, "{ours:?}");
    assert_eq!(faults, [] as [&str; 0]);
}

/// Each of our packages with what it builds on (not what its tests use).
fn packages() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        let built = all.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect();
        (text(&package["name"]), built)
    };
    metadata["packages"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn sql_stands_in_store_rs_only() {
    const CALLS: [&str; 6] = ["sqlx::query", "query_as(", "query_scalar(", "raw_sql(", "QueryBuilder", "copy_in_raw"];
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in sources(&["services", "crates/bus", "crates/runtime", "crates/campaign", "crates/payer"]) {
        seen += 1;
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "store.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        faults.extend(
            CALLS.iter().filter(|call| code.contains(**call)).map(|call| format!("{call} in {}", file.display())),
        );
    }
    assert!(seen > 50, "only {seen} files");
    assert_eq!(faults, [] as [String; 0]);
}

#[test]
fn services_have_the_same_files() {
    for service in Service::ALL {
        for file in ["lib.rs", "config.rs", "flow.rs", "domain.rs", "store.rs"] {
            let path = root().join("services").join(service.name()).join("src").join(file);
            assert!(path.is_file(), "{} is missing", path.display());
        }
        let flow = root().join("services").join(service.name()).join("src/flow.rs");
        let text = std::fs::read_to_string(flow).unwrap();
        assert!(text.starts_with("//! EVENT IN -> STATE -> EVENT OUT"), "{service}: flow.rs begins with its table");
    }
}

/// Rust files below `src` of these directories.
fn sources(directories: &[&str]) -> Vec<PathBuf> {
    let mut waiting: Vec<PathBuf> = directories.iter().map(|d| root().join(d)).collect();
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn what_is_generated_is_fresh() {
    let output = Command::new(binary().unwrap()).args(["generate", "--check", "--root"]).arg(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn every_table_and_column_says_what_it_is() {
    let services = Service::ALL.map(|s| (s, dunlin::system::migrations(s)));
    let database = TestDatabase::create(&services).await.unwrap();
    let pool = sqlx::PgPool::connect(&database.admin_url).await.unwrap();
    // Partitions have the columns of their parents.
    let silent: Vec<String> = sqlx::query_scalar(
        "SELECT c.relnamespace::regnamespace || '.' || c.relname || coalesce('.' || a.attname, '')
         FROM pg_class AS c
         LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT LIKE '\\_%'
           AND c.relnamespace::regnamespace::text = ANY($1)
           AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)",
    )
    .bind(Service::ALL.map(|s| s.name().to_owned()).to_vec())
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(silent, [] as [&str; 0]);
}
