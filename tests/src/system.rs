//! All five services in this process, on real servers, with a clock that stands still until a test moves it.

use crate::book;
use events::Service;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{Clock, ManualClock, Masked};
use notifier::render::Templates;
use runtime::Merchants;
use scheduler::config::RuleFiles;
use serde_json::Value;
use sqlx::PgPool;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use testkit::stripe::{self, Invoice, Webhooks};
use testkit::system::{STRIPE_SECRET, merchant};
use testkit::{SmtpServer, TestSystem};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Where the merchants are, and most customers.
pub const ZONE: &str = "Europe/Berlin";

/// A running system.
pub struct Dunlin {
    /// Servers and settings.
    pub system: TestSystem,
    /// Business time.
    pub clock: ManualClock,
    /// Where mail arrives.
    pub catcher: SmtpServer,
    /// All tables.
    pub pool: PgPool,
    /// The processor of the merchant `acme`.
    pub processor: Webhooks,
    /// Follows no redirect.
    pub client: reqwest::Client,
    addresses: Vec<(Service, &'static str, String)>,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Dunlin {
    /// Starts everything, with the merchant `acme` in Berlin and the campaign that the project ships.
    pub async fn start(now: &str) -> Self {
        let services = Service::ALL.map(|s| (s, dunlin::system::migrations(s)));
        let system = TestSystem::start(&services).await.unwrap();
        let clock = ManualClock::new(at(now));
        let catcher = SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut merchants = Merchants::default();
        merchants.insert(merchant("acme", ZONE).unwrap());
        let files = RuleFiles::read(&config_dir());
        assert_eq!(files.faults.0, []);
        let any = "127.0.0.1:0".parse().unwrap();
        let (stop, mut running, mut addresses) = (CancellationToken::new(), JoinSet::new(), Vec::new());
        for role in Service::ALL {
            let host = system.host(role, &merchants, Arc::new(clock.clone())).await.unwrap();
            let service = match role {
                Service::Ingest => {
                    ingest::build(ingest::Config { http_listen: any, grpc_listen: any }, host).await.unwrap()
                }
                Service::Scheduler => {
                    let config =
                        scheduler::Config { tick_milliseconds: 5, grpc_listen: Some(any), ..Default::default() };
                    scheduler::build(config, files.clone(), host).await.unwrap()
                }
                Service::Segmenter => segmenter::build(segmenter::Config::default(), host).await.unwrap(),
                Service::Notifier => {
                    let relay = notifier::config::SmtpSettings::new("127.0.0.1", catcher.address.port());
                    let templates = Templates::load(Path::new("built-in only")).unwrap();
                    let mut config = notifier::Config::new(relay);
                    // The clock stands still: nobody's turn would come.
                    config.limits.domain_per_second = 0;
                    notifier::build(config, templates, host).await.unwrap()
                }
                Service::Tracker => {
                    let config = tracker::Config { pages_listen: any, dashboard_listen: any };
                    tracker::build(config, host).await.unwrap()
                }
            };
            for what in ["http", "grpc", "pages", "dashboard"] {
                addresses.extend(service.address(what).map(|a| (role, what, a.to_string())));
            }
            running.spawn(service.run(stop.clone()));
        }
        let pool = PgPool::connect(&system.database.admin_url).await.unwrap();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let http = address(&addresses, Service::Ingest, "http");
        let processor =
            Webhooks::new(client.clone(), &format!("http://{http}"), "acme", Masked::new(STRIPE_SECRET.to_owned()));
        Self { system, clock, catcher, pool, processor, client, addresses, stop, running }
    }

    /// `host:port` of an edge.
    pub fn address(&self, service: Service, what: &str) -> String {
        address(&self.addresses, service, what)
    }

    /// The processor tells of events; returns when ingest has confirmed all of them.
    pub async fn tell(&self, events: impl IntoIterator<Item = Value>) {
        for event in events {
            self.processor.post(&event, PATIENCE).await.unwrap();
        }
    }

    /// The processor tells that something happened to an invoice, now.
    pub async fn tell_of(&self, kind: &str, invoice: &Invoice) {
        self.tell([event(kind, invoice, self.clock.now())]).await;
    }

    /// Issues an invoice of 100.00 EUR.
    pub async fn issue(&self, id: &str, customer: &str, due_on: &str) -> Invoice {
        let mut invoice = draft(id, customer, self.clock.now(), Some(due_on));
        self.tell_of("invoice.created", &invoice).await;
        invoice.status = "open";
        self.tell_of("invoice.finalized", &invoice).await;
        invoice
    }

    /// The payer pays, in minor units.
    pub async fn pay(&self, invoice: &mut Invoice, amount_minor: i64) {
        invoice.pay(amount_minor, self.clock.now());
        let kind = if invoice.status == "paid" { "invoice.paid" } else { "invoice.updated" };
        self.tell_of(kind, invoice).await;
    }

    /// Waits until all work that can be done now is done.
    pub async fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = book::open_work(&self.pool, self.clock.now()).await.unwrap();
            if open.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "not done in {PATIENCE:?}: {open:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lives until a moment, stopping wherever something is to be done on the way.
    pub async fn live_until(&self, until: &str) {
        let until = at(until);
        loop {
            self.settle().await;
            match book::next_moment(&self.pool).await.unwrap() {
                Some(next) if next <= until => self.clock.set(next.max(self.clock.now())),
                _ => break,
            }
        }
        self.clock.set(until);
        self.settle().await;
    }

    /// What arrived, one line per mail: the local day and the invoices with their steps, such as `Thu 4 Jun 09:07
    /// in_1:overdue-3`. In the order of arrival.
    pub fn mails(&self) -> Vec<String> {
        let zone = TimeZone::get(ZONE).unwrap();
        let line = |mail: &testkit::smtp::Mail| {
            let sent = jiff::fmt::rfc2822::parse(&mail.headers("Date").join("")).unwrap().with_time_zone(zone.clone());
            let about: Vec<_> = mail.lines().into_iter().map(|l| format!("{}:{}", l.invoice, l.step)).collect();
            format!("{} {}", sent.strftime("%a %-d %b"), about.join(" "))
        };
        self.catcher.mails().iter().map(|mail| line(mail)).collect()
    }

    /// Decisions, one line each: invoice/epoch, step, outcome, reason. In order of time.
    pub async fn decisions(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', c.invoice || '/' || c.epoch, d.step, d.outcome, nullif(d.reason, ''))
             FROM scheduler.decision AS d JOIN scheduler.dunning_case AS c ON c.id = d.case_id ORDER BY d.decided_at, 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// A settings file with which operator commands reach this system.
    pub fn settings_file(&self) -> PathBuf {
        let passwords: std::collections::BTreeMap<_, _> =
            self.system.nats.passwords.iter().map(|(user, password)| (user, password.reveal())).collect();
        let settings = serde_json::json!({
            "config_dir": config_dir(),
            "admin_listen": "127.0.0.1:0",
            "postgres": { "url": self.system.database.url, "admin_url": self.system.database.admin_url },
            "nats": { "url": self.system.nats.url(), "passwords": passwords },
            "links": { "public_url": "http://127.0.0.1:9", "key": self.system.common.links.key.reveal() },
            "ingest": { "http_listen": "127.0.0.1:0", "grpc_listen": self.address(Service::Ingest, "grpc") },
            "notifier": { "smtp": { "host": "127.0.0.1", "port": self.catcher.address.port() } },
            "tracker": { "pages_listen": "127.0.0.1:0", "dashboard_listen": "127.0.0.1:0" },
        });
        let path = self.system.directory().join("dunlin.yaml");
        std::fs::write(&path, settings.to_string()).unwrap();
        path
    }

    /// Stops everything in order, and checks that nothing was left lying.
    pub async fn end(mut self) {
        assert_eq!(book::leftovers(&self.pool).await.unwrap(), [] as [&str; 0]);
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap().unwrap();
        }
    }
}

fn address(addresses: &[(Service, &'static str, String)], service: Service, what: &str) -> String {
    let found = addresses.iter().find(|(s, w, _)| *s == service && *w == what);
    found.unwrap_or_else(|| panic!("{service} has no edge {what}")).2.clone()
}

/// The configuration that the project ships.
pub fn config_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

/// A moment.
pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A draft of 100.00 EUR, due at noon of a day in [`ZONE`].
pub fn draft(id: &str, customer: &str, now: Timestamp, due_on: Option<&str>) -> Invoice {
    let noon = |day: &str| day.parse::<Date>().unwrap().at(12, 0, 0, 0).in_tz(ZONE).unwrap().timestamp();
    Invoice::draft(id, customer, now, due_on.map(noon))
}

/// An event about an invoice as it is. The same event always has the same id.
pub fn event(kind: &str, invoice: &Invoice, now: Timestamp) -> Value {
    let id = format!("evt_{}_{kind}_{}_{}", invoice.id, now.as_second(), invoice.attempts);
    stripe::event(&id, kind, now, invoice.object())
}
