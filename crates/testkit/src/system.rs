//! Postgres, NATS and streams for the services under test.

use crate::database::TestDatabase;
use crate::servers::{Binaries, Nats, free_port};
use anyhow::Context;
use events::{AnyEvent, Kind, Service};
use jiff::tz::TimeZone;
use kernel::{Clock, Masked, MerchantId, PayerKind, SharedClock, SystemClock};
use runtime::Host;
use runtime::health::Health;
use runtime::merchant::{Merchant, MerchantFile, Merchants, Replies, Sender, Stripe};
use runtime::settings::{CommonSettings, LinkSettings};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The signing secret of every merchant in tests.
pub const STRIPE_SECRET: &str = "whsec_test_0123456789abcdef";
/// The API key of every merchant in tests.
pub const API_KEY: &str = "key_test_0123456789abcdef";
/// Its SHA-256.
pub const API_KEY_SHA256: &str = "9fe6e54e3ac5887e96b6a696c3649ece3f51c1a54b946b14f16111c17c4f8648";

/// A database and a broker of one test. The broker's files go when this is dropped.
pub struct TestSystem {
    /// The database.
    pub database: TestDatabase,
    /// The broker.
    pub nats: Nats,
    /// Settings for both.
    pub common: CommonSettings,
    migrations: Vec<(Service, &'static Migrator)>,
    directory: PathBuf,
}

impl TestSystem {
    /// Starts a broker and makes a database with the services' schemas.
    pub async fn start(services: &[(Service, &'static Migrator)]) -> anyhow::Result<Self> {
        let database = TestDatabase::create(services).await?;
        let id = kernel::id::at(SystemClock.now()).simple().to_string();
        let directory = std::env::temp_dir().join("dunlin-tests").join(std::process::id().to_string()).join(id);
        let nats = Nats::start(&Binaries::find()?, &directory, free_port()?).await?;
        let common = CommonSettings {
            postgres: database.settings(),
            nats: nats.settings(),
            links: LinkSettings {
                public_url: "http://127.0.0.1:9".to_owned(),
                key: Masked::new("a key that is only for tests, 32+".to_owned()),
            },
        };
        let system = Self { database, nats, common, migrations: services.to_vec(), directory };
        system.declare_streams().await?;
        Ok(system)
    }

    /// A directory for this test's files; it goes when this is dropped.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Creates streams and durables, as the migrate job does.
    pub async fn declare_streams(&self) -> anyhow::Result<()> {
        let client = bus::broker::connect("migrate", &self.common.nats.broker(bus::permissions::MIGRATE_USER)).await?;
        let js = bus::broker::jetstream(client);
        bus::topology::apply(&js, &self.common.nats.streams()).await.map_err(|e| anyhow::anyhow!(e))?;
        Ok(())
    }

    /// Everything that a service has emitted so far, in the order of commits.
    pub async fn emitted(&self, service: Service) -> anyhow::Result<Vec<AnyEvent>> {
        let mut admin = PgConnection::connect(&self.database.admin_url).await?;
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT subject, payload FROM {service}.outbox ORDER BY created_at, subject, msg_id"
        )))
        .fetch_all(&mut admin)
        .await?;
        let decode = |(subject, payload): (String, Vec<u8>)| {
            let kind = subject.rsplit_once('.').and_then(|(ce_type, _)| Kind::by_ce_type(ce_type));
            Ok(AnyEvent::decode(kind.context("unknown event in the outbox")?, &payload)?)
        };
        rows.into_iter().map(decode).collect()
    }

    /// What a service is given.
    pub async fn host(&self, service: Service, merchants: &Merchants, clock: SharedClock) -> anyhow::Result<Host> {
        let migrations = self.migrations.iter().find(|(s, _)| *s == service).map(|(_, m)| *m);
        let migrations = migrations.ok_or_else(|| anyhow::anyhow!("{service} is not part of this test"))?;
        let health = Health::new(prometheus::Registry::new());
        Host::connect(service, migrations, &self.common, Arc::new(merchants.clone()), clock, &health).await
    }
}

impl Drop for TestSystem {
    fn drop(&mut self) {
        let _ = self.nats.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A merchant for tests, in a zone.
pub fn merchant(id: &str, zone: &str) -> anyhow::Result<Merchant> {
    let file = MerchantFile {
        replies: Replies::default(),
        name: format!("{id} Ltd"),
        time_zone: zone.to_owned(),
        locale: "en".to_owned(),
        campaigns: vec!["default".to_owned()],
        country: String::new(),
        payers: PayerKind::Business,
        stale_after_hours: None,
        freshness_seconds: 5,
        sender: Sender {
            name: format!("Anna from {id}"),
            email: format!("billing@{id}.example"),
            reply_to: None,
            dkim: Vec::new(),
        },
        brand: Default::default(),
        stripe: Some(Stripe { signing_secrets: vec![Masked::new(STRIPE_SECRET.to_owned())], tolerance_seconds: 300 }),
        webhook: None,
        sms: None,
        api_key_sha256: vec![API_KEY_SHA256.to_owned()],
    };
    Ok(Merchant { id: MerchantId::try_new(id)?, zone: TimeZone::get(zone)?, file })
}
