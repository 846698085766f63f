//! Campaign files that change while the scheduler runs: what new cases begin on, what running ones stay on, and what a
//! file with a fault changes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use events::topology::INGEST_INTAKE;
use events::{Service, v1};
use kernel::ManualClock;
use runtime::{Host, Merchants};
use scheduler::config::RuleFiles;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));
const SHIPPED: &str = include_str!("../../../config/campaigns/default.yaml");

struct Rig {
    system: TestSystem,
    merchants: Merchants,
    clock: ManualClock,
    ingest: Host,
    pool: PgPool,
    directory: PathBuf,
}

struct Running {
    host: Host,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Rig {
    async fn prepare() -> Self {
        let services = [(Service::Ingest, &*NO_MIGRATIONS), (Service::Scheduler, &scheduler::MIGRATIONS)];
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new("2026-05-20T10:00:00Z".parse().unwrap());
        let mut merchants = Merchants::default();
        merchants.insert(system::merchant("acme", "Europe/Berlin").unwrap());
        let ingest = system.host(Service::Ingest, &merchants, Arc::new(clock.clone())).await.unwrap();
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let name = kernel::id::at("2026-05-20T10:00:00Z".parse().unwrap()).simple().to_string();
        let directory = std::env::temp_dir().join("dunlin-reload").join(name);
        std::fs::create_dir_all(directory.join("campaigns")).unwrap();
        Self { system, merchants, clock, ingest, pool, directory }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.directory.join("campaigns/default.yaml"), text).unwrap();
    }

    async fn build(&self) -> anyhow::Result<(Host, runtime::Service)> {
        let clock = Arc::new(self.clock.clone());
        let host = self.system.host(Service::Scheduler, &self.merchants, clock).await?;
        let config = scheduler::Config { reload_seconds: 1, ..Default::default() };
        Ok((host.clone(), scheduler::build(config, RuleFiles::read(&self.directory), host).await?))
    }

    async fn run(&self) -> Running {
        let (host, service) = self.build().await.unwrap();
        let stop = CancellationToken::new();
        Running { host, task: tokio::spawn(service.run(stop.clone())), stop }
    }

    /// The version that the case of a new invoice begins on.
    async fn version_of_new(&self, invoice: &str) -> String {
        let issued = v1::Invoice {
            merchant_id: "acme".into(),
            invoice_id: invoice.into(),
            customer_id: format!("cus_{invoice}"),
            version: 1,
            epoch: 1,
            status: v1::InvoiceStatus::Open.into(),
            currency: "EUR".into(),
            total_minor: 1_000,
            open_minor: 1_000,
            issued_on: "2026-05-01".into(),
            due_on: "2026-06-01".into(),
            ..Default::default()
        };
        let mut work = self.ingest.bus.begin(&INGEST_INTAKE).await.unwrap();
        work.emit(self.ingest.now(), &v1::InvoiceIssued { invoice: Some(issued) }).unwrap();
        work.commit().await.unwrap();
        wait::until_true(&format!("a case of {invoice}"), SOON, || async {
            !self.version_of(invoice).await.is_empty()
        })
        .await;
        self.version_of(invoice).await
    }

    async fn version_of(&self, invoice: &str) -> String {
        let sql = "SELECT coalesce(max(campaign_version), '') FROM scheduler.dunning_case WHERE invoice = $1";
        sqlx::query_scalar(sql).bind(invoice).fetch_one(&self.pool).await.unwrap()
    }

    async fn wait_for_warning(&self, running: &Running, expected: Option<&str>) {
        wait::until_true(&format!("the warning {expected:?}"), SOON, || async {
            let warnings = running.host.health.warnings();
            match expected {
                Some(text) => warnings.get("campaigns").is_some_and(|w| w.contains(text)),
                None => warnings.is_empty(),
            }
        })
        .await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn changed() -> String {
    SHIPPED.replace("days_after_due: 7", "days_after_due: 9")
}

fn faulty() -> String {
    SHIPPED.replace("days_after_due: 7", "days_after_due: -7")
}

#[tokio::test]
async fn a_changed_campaign_is_for_new_cases_and_a_faulty_one_changes_nothing() {
    let rig = Rig::prepare().await;
    rig.write(SHIPPED);
    let running = rig.run().await;
    let first = rig.version_of_new("in_1").await;

    // A changed file: new cases begin on it, the running one stays.
    rig.write(&changed());
    let in_force = "SELECT count(*) FROM scheduler.campaign";
    wait::until_true("the second version", SOON, || async {
        sqlx::query_scalar::<_, i64>(in_force).fetch_one(&rig.pool).await.unwrap() == 2
    })
    .await;
    // The version is stored a moment before it is in force.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = rig.version_of_new("in_2").await;
    assert_ne!(second, first);
    assert_eq!(rig.version_of("in_1").await, first);

    // A fault: said, and nothing else.
    rig.write(&faulty());
    rig.wait_for_warning(&running, Some("steps.3.when.days_after_due")).await;
    assert_eq!(rig.version_of_new("in_3").await, second);
    running.end().await;

    // After a restart too: the version that was in force last stays so.
    let running = rig.run().await;
    rig.wait_for_warning(&running, Some("what was in force stays in force")).await;
    assert_eq!(rig.version_of_new("in_4").await, second);

    // Back to what was there before: in force again, and no warning is left.
    rig.write(SHIPPED);
    rig.wait_for_warning(&running, None).await;
    assert_eq!(rig.version_of_new("in_5").await, first);
    running.end().await;
    let running = rig.run().await;
    rig.write(&faulty());
    rig.wait_for_warning(&running, Some("steps.3")).await;
    assert_eq!(rig.version_of_new("in_6").await, first, "the last in force, not the last that was new");
    running.end().await;
}

#[tokio::test]
async fn a_campaign_that_never_was_in_force_must_be_without_fault() {
    let rig = Rig::prepare().await;
    rig.write(&faulty());
    let refused = rig.build().await.err().unwrap();
    let faults = refused.downcast_ref::<runtime::config::Faults>().unwrap();
    assert!(faults.to_string().contains("default.yaml"), "{faults}");
    rig.write(&SHIPPED.replace("holidays: [payer]", "holidays: [payer, narnia]"));
    let refused = rig.build().await.err().unwrap().to_string();
    assert!(refused.contains("contact.holidays.1: is no calendar; there are payer, DE"), "{refused}");
    assert!(Path::new(&rig.directory).exists());
}

#[tokio::test]
async fn timers_are_derived_anew_when_the_time_zone_data_has_changed() {
    let rig = Rig::prepare().await;
    rig.write(SHIPPED);
    let running = rig.run().await;
    rig.version_of_new("in_1").await;
    let known = "SELECT count(*) FROM scheduler.zones";
    wait::until_true("the fingerprint", SOON, || async {
        sqlx::query_scalar::<_, i64>(known).fetch_one(&rig.pool).await.unwrap() == 1
    })
    .await;
    running.end().await;
    // As older data had it: an hour off.
    let armed = "SELECT armed_at::text FROM scheduler.dunning_case";
    let right: String = sqlx::query_scalar(armed).fetch_one(&rig.pool).await.unwrap();
    for change in [
        "UPDATE scheduler.dunning_case SET armed_at = armed_at + interval '1 hour'",
        "UPDATE scheduler.timer SET due_at = due_at + interval '1 hour'",
        "UPDATE scheduler.zones SET fingerprint = 'older'",
    ] {
        sqlx::query(change).execute(&rig.pool).await.unwrap();
    }
    let running = rig.run().await;
    wait::until_true("the timer at its right moment", SOON, || async {
        let both = "SELECT c.armed_at::text FROM scheduler.dunning_case AS c JOIN scheduler.timer AS t
                    ON t.due_at = c.armed_at AND t.case_id = c.id";
        sqlx::query_scalar::<_, String>(both).fetch_optional(&rig.pool).await.unwrap() == Some(right.clone())
    })
    .await;
    running.end().await;
}

#[tokio::test]
async fn what_no_cap_looks_back_to_goes_and_the_rest_stays() {
    let rig = Rig::prepare().await;
    for rows in [
        "INSERT INTO scheduler.reminder (merchant, customer, reminder_id, state, on_day)
         SELECT 'acme', 'cus_' || n, gen_random_uuid(), 'sent', '2026-05-20'::date - n FROM generate_series(1, 30) AS n",
        "INSERT INTO scheduler.deferral (case_id, until, reason, rule, steps, deferred_at)
         SELECT gen_random_uuid(), NULL, 'cap', 'contact.cap', '{a}', '2026-05-20T12:00:00Z'::timestamptz - n * interval '1 day'
         FROM generate_series(1, 25) AS n",
        "INSERT INTO scheduler.ramp (merchant, campaign, day, taken)
         SELECT 'acme', 'default', '2026-05-20'::date - n, 1 FROM generate_series(1, 20) AS n",
    ] {
        sqlx::query(rows).execute(&rig.pool).await.unwrap();
    }
    let (before, today) = ("2026-05-10T00:00:00Z".parse().unwrap(), "2026-05-20".parse().unwrap());
    let mut went = Vec::new();
    for _ in 0..4 {
        went.push(scheduler::store::trim(&rig.pool, before, today, 12).await.unwrap());
    }
    assert_eq!(went, [12, 8, 0, 0], "as long as a whole chunk of a kind goes, there is more");
    for (table, left) in [("reminder", 10), ("deferral", 10), ("ramp", 7)] {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM scheduler.{table}"));
        assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&rig.pool).await.unwrap(), left, "{table}");
    }
}
