//! The tracker on a real bus, and what emits events to it.

use events::{Event, Flow, Service};
use jiff::Timestamp;
use kernel::ManualClock;
use runtime::links::Link;
use runtime::{Host, Merchants};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testkit::{TestSystem, system, wait};
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(60);
static NO_MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(Vec::new()));

pub(crate) struct Rig {
    pub(crate) system: TestSystem,
    pub(crate) clock: ManualClock,
    pub(crate) producers: BTreeMap<Service, Host>,
    pub(crate) pool: PgPool,
    pub(crate) pages: String,
    pub(crate) dashboard: String,
    pub(crate) client: reqwest::Client,
    pub(crate) stop: CancellationToken,
    pub(crate) running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let others = [Service::Ingest, Service::Segmenter, Service::Scheduler, Service::Notifier];
        let mut services: Vec<_> = others.map(|s| (s, &*NO_MIGRATIONS)).to_vec();
        services.push((Service::Tracker, &tracker::MIGRATIONS));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at("2026-06-20T10:00:00Z"));
        let mut merchants = Merchants::default();
        for merchant in ["acme", "globex"] {
            merchants.insert(system::merchant(merchant, "Europe/Berlin").unwrap());
        }
        let mut producers = BTreeMap::new();
        for service in others {
            producers.insert(service, system.host(service, &merchants, Arc::new(clock.clone())).await.unwrap());
        }
        let host = system.host(Service::Tracker, &merchants, Arc::new(clock.clone())).await.unwrap();
        let pool = host.pool.clone();
        let any = "127.0.0.1:0".parse().unwrap();
        let service = tracker::build(tracker::Config { pages_listen: any, dashboard_listen: any }, host).await.unwrap();
        let address = |name| format!("http://{}", service.address(name).unwrap());
        let (pages, dashboard) = (address("pages"), address("dashboard"));
        let stop = CancellationToken::new();
        let running = tokio::spawn(service.run(stop.clone()));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { system, clock, producers, pool, pages, dashboard, client, stop, running }
    }

    pub(crate) async fn emit<E: Event>(&self, flow: &'static Flow, at: Timestamp, events: impl IntoIterator<Item = E>) {
        let mut work = self.producers[&flow.service].bus.begin(flow).await.unwrap();
        for event in events {
            work.emit(at, &event).unwrap();
        }
        work.commit().await.unwrap();
    }

    pub(crate) async fn wait_for(&self, table: &str, expected: i64) {
        wait::until_true(&format!("{expected} in {table}"), SOON, || async {
            let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM tracker.{table}"));
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool).await.unwrap() == expected
        })
        .await;
    }

    pub(crate) async fn get(&self, url: String) -> (u16, String) {
        let response = self.client.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn stats(&self) -> Value {
        let (status, body) = self.get(format!("{}/v1/stats", self.dashboard)).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn link(&self, link: &Link) -> String {
        let mut links = self.system.common.links.clone();
        links.public_url = self.pages.clone();
        link.url(&links)
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
