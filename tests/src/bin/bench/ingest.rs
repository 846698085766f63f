//! How fast facts come in: durable, and published.

use crate::dev::{BATCH, Dev, IN_FLIGHT, invoice_fact};
use crate::report::Figure;
use crate::{RUNS, median, percentile};
use anyhow::{Context, ensure};
use e2e::system::at;
use kernel::{Clock, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::servers::Binaries;
use testkit::stripe::{self, Invoice};
use tokio::time::Instant;

const EVENTS: usize = 60_000;
const REQUESTS: usize = 20_000;
const CONNECTIONS: usize = 64;
const ISSUED: &str = "2026-06-01T06:00:00Z";

/// `ingest_grpc`: batches, from the first request until everything is committed and published.
pub(crate) async fn grpc() -> anyhow::Result<Figure> {
    let (mut rates, mut references) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let dev = Dev::start(&[]).await?;
        references.push(bare_rows(&dev).await?);
        let facts = (0..EVENTS).map(|n| invoice_fact(&format!("in_{n:06}"), at(ISSUED), "2099-01-01")).collect();
        let begun = Instant::now();
        dev.publish(facts).await?;
        let durable = begun.elapsed();
        dev.wait_until_published().await?;
        let published = begun.elapsed();
        println!("ingest_grpc: {EVENTS} durable in {durable:.2?}, published in {published:.2?}");
        rates.push(EVENTS as f64 / published.as_secs_f64());
        dev.end().await?;
    }
    let note = format!("bare rows of 300 bytes by UNNEST, {BATCH} a commit, {IN_FLIGHT} connections, idle");
    Ok(Figure::new("ingest_grpc", median(&rates), "events/s", Some(median(&references)), &note))
}

/// Rows per second that Postgres takes with nothing else to do.
async fn bare_rows(dev: &Dev) -> anyhow::Result<f64> {
    const BATCHES: usize = 60;
    sqlx::raw_sql("CREATE TABLE bench_row (id uuid PRIMARY KEY, body bytea)").execute(&dev.pool).await?;
    let body = vec![7_u8; 300];
    let begun = Instant::now();
    let writers = (0..IN_FLIGHT).map(|_| async {
        for _ in 0..BATCHES / IN_FLIGHT {
            let ids: Vec<uuid::Uuid> = (0..BATCH).map(|_| kernel::id::new(&SystemClock)).collect();
            let bodies = vec![body.as_slice(); BATCH];
            sqlx::query("INSERT INTO bench_row SELECT * FROM UNNEST($1::uuid[], $2::bytea[])")
                .bind(ids)
                .bind(bodies)
                .execute(&dev.pool)
                .await?;
        }
        Ok::<_, sqlx::Error>(())
    });
    futures_util::future::try_join_all(writers).await?;
    let rate = (BATCHES * BATCH) as f64 / begun.elapsed().as_secs_f64();
    sqlx::raw_sql("DROP TABLE bench_row").execute(&dev.pool).await?;
    Ok(rate)
}

/// `ingest_webhooks`: signed Stripe webhooks over 64 connections, each answered after its commit.
pub(crate) async fn webhooks() -> anyhow::Result<Figure> {
    let (mut rates, mut references, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let dev = Dev::start(&[]).await?;
        references.push(bare_commits(&dev)?);
        let (rate, mut latencies) = post_all(&dev).await?;
        rates.push(rate);
        times.append(&mut latencies);
        dev.end().await?;
    }
    let note = "pgbench: one row a commit, 64 clients, idle";
    let figure = Figure::new("ingest_webhooks", median(&rates), "requests/s", Some(median(&references)), note);
    Ok(Figure { p50: Some(percentile(&times, 50.0)), p99: Some(percentile(&times, 99.0)), ..figure })
}

/// Posts all; returns requests per second, and how long each took in ms.
async fn post_all(dev: &Dev) -> anyhow::Result<(f64, Vec<f64>)> {
    let secret = "whsec_development_only_acme";
    let signed = |n: usize| {
        let mut invoice =
            Invoice::draft(&format!("in_{n:06}"), &format!("cus_{:04}", n % 5_000), SystemClock.now(), None);
        invoice.status = "open";
        let event = stripe::event(&format!("evt_{n:06}"), "invoice.finalized", SystemClock.now(), invoice.object());
        let body = event.to_string();
        (stripe::sign(secret, body.as_bytes()), body)
    };
    let requests: Arc<Vec<(String, String)>> = Arc::new((0..REQUESTS).map(signed).collect());
    let url = format!("{}/v1/webhooks/acme/stripe", dev.url("ingest", "http_listen"));
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let connections = (0..CONNECTIONS).map(|_| {
        let (requests, url, next, client) = (requests.clone(), url.clone(), next.clone(), dev.http.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while let Some((signature, body)) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begun = Instant::now();
                let request = client.post(&url).header("stripe-signature", signature).body(body.clone());
                let response = request.send().await?;
                ensure!(response.status() == 200, "{}", response.status());
                response.bytes().await?;
                latencies.push(begun.elapsed().as_secs_f64() * 1_000.0);
            }
            Ok(latencies)
        })
    });
    let mut all = Vec::with_capacity(REQUESTS);
    for latencies in futures_util::future::try_join_all(connections).await? {
        all.append(&mut latencies?);
    }
    Ok((REQUESTS as f64 / begun.elapsed().as_secs_f64(), all))
}

/// What pgbench reaches with one row a commit.
fn bare_commits(dev: &Dev) -> anyhow::Result<f64> {
    let script = std::env::temp_dir().join("dunlin-bench").join("commit.sql");
    std::fs::write(&script, "INSERT INTO bench_commit VALUES (1);\n")?;
    let options = dev.pool.connect_options();
    let (port, database) = (options.get_port().to_string(), options.get_database().context("no database")?.to_owned());
    let run = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let output = std::process::Command::new(Binaries::find()?.postgres.join(program))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"])
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run("psql", &["-qc", "CREATE TABLE IF NOT EXISTS bench_commit (id bigint)", &database])?;
    let script = script.to_str().context("a path that is no text")?;
    let said = run("pgbench", &["-n", "-c", "64", "-j", "2", "-T", "4", "-f", script, &database])?;
    let tps = said.lines().find_map(|l| l.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.context("pgbench said no tps")
}
