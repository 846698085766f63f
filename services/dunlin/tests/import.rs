//! `dunlin import` against a real ingest: the program itself, with the settings that an operator would have.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use events::{AnyEvent, Customer, Invoice, Kind, Service};
use kernel::{PayerKind, SharedClock, SystemClock};
use runtime::Merchants;
use sqlx::PgPool;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use testkit::TestSystem;
use testkit::system::{API_KEY, merchant};
use tokio_util::sync::CancellationToken;

const LEDGER: &str = "\
customer,invoice,issue,due,paid,amount,currency
cus_1,in_1,2026-01-01,2026-01-31,2026-01-20,100.00,
cus_1,in_2,2026-01-02,2026-02-01,,50.5,USD
";

struct Rig {
    system: TestSystem,
    pool: PgPool,
    settings: PathBuf,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// What the program said.
struct Said {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Rig {
    async fn start() -> Self {
        let system = TestSystem::start(&[(Service::Ingest, &ingest::MIGRATIONS)]).await.unwrap();
        let mut merchants = Merchants::default();
        merchants.insert(merchant("acme", "Europe/Berlin").unwrap());
        let clock: SharedClock = Arc::new(SystemClock);
        let host = system.host(Service::Ingest, &merchants, clock).await.unwrap();
        let pool = host.pool.clone();
        let any = "127.0.0.1:0".parse().unwrap();
        let service = ingest::build(ingest::Config { http_listen: any, grpc_listen: any }, host).await.unwrap();
        let passwords: std::collections::BTreeMap<_, _> =
            system.nats.passwords.iter().map(|(user, password)| (user, password.reveal())).collect();
        let text = serde_json::json!({
            "config_dir": Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config"),
            "admin_listen": "127.0.0.1:0",
            "postgres": { "url": system.database.url, "admin_url": system.database.admin_url },
            "nats": { "url": system.nats.url(), "passwords": passwords },
            "links": { "public_url": "http://127.0.0.1:9", "key": system.common.links.key.reveal() },
            "ingest": { "http_listen": "127.0.0.1:0", "grpc_listen": service.address("grpc").unwrap() },
            "notifier": { "smtp": { "host": "127.0.0.1", "port": 9 } },
            "tracker": { "pages_listen": "127.0.0.1:0", "dashboard_listen": "127.0.0.1:0" },
        });
        let settings = system.directory().join("dunlin.yaml");
        std::fs::write(&settings, text.to_string()).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(service.run(stop.clone()));
        Self { system, pool, settings, stop, running }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.system.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `dunlin import FILE --merchant acme …`; rejected rows go to `rejected.csv`.
    async fn import(&self, file: &Path, more: &[&str]) -> Said {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.arg("--config").arg(&self.settings).arg("import").arg(file).args(["--merchant", "acme"]);
        command.args(["--api-key", API_KEY]).arg("--rejected").arg(self.rejected_path()).args(more);
        let output = command.output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn rejected_path(&self) -> PathBuf {
        self.system.directory().join("rejected.csv")
    }

    /// Line, column and reason of each rejected row.
    fn rejected(&self) -> Vec<[String; 3]> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(self.rejected_path()).unwrap();
        reader.records().map(|r| r.unwrap()).map(|r| [0, 1, 2].map(|n| r[n].to_owned())).collect()
    }

    async fn count(&self, table: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM ingest.{table}"));
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// What was said about invoices and customers.
    async fn emitted(&self) -> Vec<AnyEvent> {
        let mut events = self.system.emitted(Service::Ingest).await.unwrap();
        events.retain(|e| e.kind() != Kind::SourceHeard);
        events
    }

    /// An invoice as the latest event tells it.
    async fn invoice(&self, id: &str) -> Invoice {
        let events = self.emitted().await;
        let all = events.iter().filter_map(AnyEvent::invoice).filter(|i| i.invoice_id == id);
        Invoice::try_from(all.max_by_key(|i| i.version).unwrap()).unwrap()
    }

    /// What is open, and in which currency.
    async fn open(&self, id: &str) -> (i64, String) {
        let invoice = self.invoice(id).await;
        (invoice.open_minor, invoice.currency.to_string())
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn good_rows_go_in_and_bad_ones_say_why() {
    let rig = Rig::start().await;
    let file = rig.file(
        "ledger.csv",
        &format!(
            "{LEDGER}\
             cus_1,in_3,2026-01-01,2026-01-31,,1,234.50,EUR\n\
             cus_1,in_4,2026-01-01,2026-01-31,,12\n\
             cus_1,in_5,2026-01-01,31.1.2026,,12,EUR\n\
             cus_1,in_6,2026-01-01,2026-01-31,,twelve,EUR\n\
             cus_1,in_7,2026-01-01,2026-01-31,,12,ZZZ\n\
             cus_1,in_8,2026-01-31,2026-01-01,,12,EUR\n\
             ,in_9,2026-01-01,2026-01-31,,12,EUR\n\
             cus_1,in_2,2026-01-01,2026-01-31,,12,EUR\n\
             cus_1,in_10,2026-01-01,2026-01-31,,90000000000000000,JPY\n"
        ),
    );
    let dry = rig.import(&file, &["--currency", "EUR", "--dry-run"]).await;
    assert!(dry.stdout.contains("11 rows, 2 would go in, 9 make no sense; nothing was sent"), "{}", dry.stdout);
    assert_eq!(rig.count("inbound").await, 0);
    let foreseen = rig.rejected();

    let said = rig.import(&file, &["--currency", "EUR"]).await;
    assert!(said.stdout.contains("11 rows, 2 new, 0 known already, 9 rejected"), "{} {}", said.stdout, said.stderr);
    assert!(!said.success);
    let rejected = rig.rejected();
    let places: Vec<_> = rejected.iter().map(|[line, column, _]| (line.as_str(), column.as_str())).collect();
    let expected = [
        ("4", "#8"),
        ("5", "currency"),
        ("6", "due"),
        ("7", "amount"),
        ("8", "currency"),
        ("9", "due"),
        ("10", "customer"),
        ("11", "invoice"),
        ("12", "invoice.total_minor"),
    ];
    assert_eq!(places, expected);
    assert_eq!(rejected[0][2], "the row has 8 cells, the header 7");
    assert_eq!(rejected[7][2], r#""in_2" is on line 3 already"#);
    assert_eq!(foreseen, rejected, "the dry run said the same");
    assert_eq!(rig.open("in_1").await, (0, "EUR".into()));
    assert_eq!(rig.open("in_2").await, (5_050, "USD".into()));
    assert_eq!((rig.count("invoice").await, rig.count("quarantine").await), (2, 0));
    rig.end().await;
}

#[tokio::test]
async fn the_same_again_changes_nothing_and_a_correction_does() {
    let rig = Rig::start().await;
    let file = rig.file("ledger.csv", LEDGER);
    let first = rig.import(&file, &["--currency", "USD"]).await;
    assert!(first.success && first.stdout.contains("2 rows, 2 new, 0 known"), "{} {}", first.stdout, first.stderr);
    let events = rig.emitted().await.len();
    let again = rig.import(&file, &["--currency", "USD"]).await;
    assert!(again.success && again.stdout.contains("2 rows, 0 new, 2 known"), "{} {}", again.stdout, again.stderr);
    assert_eq!(rig.emitted().await.len(), events);
    assert_eq!(rig.open("in_1").await, (0, "USD".into()));

    // The same cells mean something else: only the row without a currency of its own changes.
    let corrected = rig.import(&file, &["--currency", "EUR"]).await;
    assert!(corrected.stdout.contains("2 rows, 1 new, 1 known"), "{} {}", corrected.stdout, corrected.stderr);
    assert_eq!(rig.open("in_1").await, (0, "EUR".into()));
    assert_eq!(rig.open("in_2").await, (5_050, "USD".into()));
    assert_eq!(rig.count("quarantine").await, 0, "the payment was said again in the right currency");
    rig.end().await;
}

#[tokio::test]
async fn columns_are_mapped_by_flags_or_a_file() {
    let rig = Rig::start().await;
    let file = rig.file("export.csv", "No,Debtor,Date,Due,Gross\nin_1,cus_1,2026-01-01,2026-01-31,100\n");
    let unmapped = rig.import(&file, &["--currency", "EUR"]).await;
    assert!(!unmapped.success && unmapped.stderr.contains(r#"no column "customer": map one"#), "{}", unmapped.stderr);
    let map = rig.file("map.yaml", "customer: Debtor\ninvoice: No\nissue: Date\ndue: Due\namount: Date\n");
    let said = rig.import(&file, &["--currency", "EUR", "--map-file", map.to_str().unwrap()]).await;
    assert!(said.stdout.contains("0 new, 0 known already, 1 rejected"), "{} {}", said.stdout, said.stderr);
    // A flag wins over the file.
    let map = ["--currency", "EUR", "--map-file", map.to_str().unwrap(), "--map", "amount=Gross"];
    let said = rig.import(&file, &map).await;
    assert!(said.success && said.stdout.contains("1 new"), "{} {}", said.stdout, said.stderr);
    assert_eq!(rig.open("in_1").await, (10_000, "EUR".into()));
    rig.end().await;
}

#[tokio::test]
async fn what_campaigns_choose_by_may_be_in_columns() {
    let rig = Rig::start().await;
    let row = |invoice: &str, rest: &str| format!("cus_1,{invoice},2026-01-01,2026-01-31,100,Ada,{rest}\n");
    let file = rig.file(
        "ledger.csv",
        &[
            "customer,invoice,issue,due,amount,name,tags,campaign,Auto,country,payer_kind\n".to_owned(),
            row("in_1", r#""vip, eu west",gentle,yes,de,business"#),
            row("in_2", ",,,DE,business"),
            row("in_3", ",,,,"),
            row("in_4", &format!("{},,,,", "x".repeat(101))),
            row("in_5", ",a b,,,"),
            row("in_6", ",,perhaps,,"),
            row("in_7", ",,,Germany,business"),
            row("in_8", ",,,DE,robot"),
            row("in_9", ",,,AT,business"),
            row("in_10", ",,,DE,consumer"),
            row("in_11", ",,,Germany,").replace("cus_1", "cus_2"),
        ]
        .concat(),
    );
    let map = ["--currency", "EUR", "--map", "collects_itself=Auto"];
    let dry = rig.import(&file, &[&map[..], &["--dry-run"]].concat()).await;
    assert!(dry.stdout.contains("11 rows, 3 would go in, 8 make no sense"), "{} {}", dry.stdout, dry.stderr);
    let said = rig.import(&file, &map).await;
    assert!(said.stdout.contains("11 rows, 3 new, 0 known already, 8 rejected"), "{} {}", said.stdout, said.stderr);
    let columns: Vec<_> = rig.rejected().into_iter().map(|[_, column, _]| column).collect();
    let expected = ["tags", "campaign", "Auto", "country", "payer_kind", "country", "payer_kind", "country"];
    assert_eq!(columns, expected);
    assert_eq!(rig.rejected()[5][2], r#"line 2 says something else about customer "cus_1""#);

    let invoice = rig.invoice("in_1").await;
    assert_eq!((invoice.source.as_str(), invoice.campaign.as_str()), ("file", "gentle"));
    assert_eq!(
        (invoice.tags.as_slice(), invoice.collects_itself),
        (&["vip".to_owned(), "eu west".to_owned()][..], true)
    );
    assert!(!rig.invoice("in_3").await.collects_itself);
    let customers = rig.emitted().await.into_iter().filter_map(|e| match e {
        AnyEvent::CustomerChanged(e) => Some(Customer::try_from(e.customer.as_ref().unwrap()).unwrap()),
        _ => None,
    });
    let [customer] = &customers.collect::<Vec<_>>()[..] else { panic!("one customer, told once") };
    assert_eq!((customer.country.as_str(), customer.payer_kind), ("DE", Some(PayerKind::Business)));
    assert_eq!(customer.name.reveal(), "Ada");

    let again = rig.import(&file, &map).await;
    assert!(again.stdout.contains("0 new, 3 known already, 8 rejected"), "{} {}", again.stdout, again.stderr);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_ledgers_go_in() {
    for (name, currency, rows) in [("ibm_ar.csv", "USD", 2_466), ("superlender.csv", "NGN", 24_089)] {
        let Some(file) = testkit::shared(&format!("data/{name}")) else { return };
        let rig = Rig::start().await;
        let said = rig.import(&file, &["--currency", currency]).await;
        let told = format!("{rows} rows, {rows} new, 0 known already, 0 rejected");
        assert!(said.success && said.stdout.contains(&told), "{name}: {} {}", said.stdout, said.stderr);
        assert_eq!((rig.count("invoice").await, rig.count("quarantine").await), (rows, 0), "{name}");
        rig.end().await;
    }
}
