//! `dunlin import`: invoices, and payments already known, from CSV.
//!
//! Rows travel through the same gRPC edge as everything else. The id of a fact is made of what it says: importing a file
//! again, or one that broke off half-way, changes nothing that is there; a corrected row, map or currency makes new facts.

use super::{dev_settings, settings_path};
use crate::settings::Configuration;
use anyhow::{Context, bail};
use events::api::ingest_client::IngestClient;
use events::api::{CustomerFact, Fact, InvoiceFact, PaymentFact, PublishRequest, Verdict, VerdictKind, fact};
use events::{api, time};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ingest::api::SOURCE_METADATA;
use ingest::domain::Source;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{Clock, Currency, CustomerId, InvoiceId, Money, SystemClock};
use prost::Message;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use uuid::Uuid;

/// Rows per request.
const BATCH: usize = 400;
/// The API key of development merchants.
pub const DEVELOPMENT_KEY: &str = "dunlin-dev";

/// How a ledger is to be read.
#[derive(Debug, clap::Args)]
pub struct Format {
    /// ISO 4217 code for rows that name no currency.
    #[arg(long)]
    currency: Option<String>,
    /// Which column holds what: `field=column`, several separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_pair)]
    map: Vec<(Field, String)>,
    /// The same as a YAML file: `field: column`.
    #[arg(long)]
    map_file: Option<PathBuf>,
}

/// Bring invoices (and payments already known) in from CSV.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// A CSV file with a header line.
    file: PathBuf,
    /// The merchant whose ledger it is.
    #[arg(long)]
    merchant: String,
    #[command(flatten)]
    format: Format,
    /// Check everything, send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Where rows go that make no sense [default: the file's name with `.rejected.csv`].
    #[arg(long)]
    rejected: Option<PathBuf>,
    /// Where ingest listens for gRPC [default: as in the settings].
    #[arg(long)]
    endpoint: Option<String>,
    /// The merchant's API key.
    #[arg(long, env = "DUNLIN_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

const HELP: &str = "\
Fields: customer, invoice, issue, due, amount are needed; paid, currency, number, name, email, pay_url, tags, campaign,
collects_itself, country, payer_kind may be there.
Without a map, a column of the field's own name is taken. Dates are YYYY-MM-DD, amounts plain decimals such as 1234.50.
tags are the invoice's, separated by commas within the cell; campaign is the name of the one for this very invoice;
collects_itself is yes where you collect without the payer's doing, otherwise no or empty. country (two letters) and
payer_kind (business or consumer) tell about the customer: the first row with either replaces what was known of it, name and
email included, and later ones must not contradict it.

Examples:
  dunlin import ledger.csv --merchant acme --currency EUR
  dunlin import export.csv --merchant acme --map invoice=No,customer=Debtor,issue=Date,due=Due,amount=Gross,currency=Cur
  dunlin import ledger.csv --merchant acme --currency EUR --dry-run";

/// What a column may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Field {
    Customer,
    Invoice,
    Issue,
    Due,
    Paid,
    Amount,
    Currency,
    Number,
    Name,
    Email,
    PayUrl,
    Tags,
    Campaign,
    CollectsItself,
    Country,
    PayerKind,
}

impl Field {
    const ALL: [Self; 16] = [
        Self::Customer,
        Self::Invoice,
        Self::Issue,
        Self::Due,
        Self::Paid,
        Self::Amount,
        Self::Currency,
        Self::Number,
        Self::Name,
        Self::Email,
        Self::PayUrl,
        Self::Tags,
        Self::Campaign,
        Self::CollectsItself,
        Self::Country,
        Self::PayerKind,
    ];
    const NEEDED: [Self; 5] = [Self::Customer, Self::Invoice, Self::Issue, Self::Due, Self::Amount];

    const fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Invoice => "invoice",
            Self::Issue => "issue",
            Self::Due => "due",
            Self::Paid => "paid",
            Self::Amount => "amount",
            Self::Currency => "currency",
            Self::Number => "number",
            Self::Name => "name",
            Self::Email => "email",
            Self::PayUrl => "pay_url",
            Self::Tags => "tags",
            Self::Campaign => "campaign",
            Self::CollectsItself => "collects_itself",
            Self::Country => "country",
            Self::PayerKind => "payer_kind",
        }
    }

    /// Which cell a fault of ingest is about, where that is clear.
    fn of_fault(field: &str) -> Option<Self> {
        match field {
            "invoice.tags" => Some(Self::Tags),
            "invoice.campaign" => Some(Self::Campaign),
            "customer.country" => Some(Self::Country),
            _ => None,
        }
    }
}

fn parse_pair(text: &str) -> Result<(Field, String), String> {
    let (field, column) = text.split_once('=').ok_or_else(|| format!("{text:?}: give field=column"))?;
    let known = Field::ALL.into_iter().find(|f| f.name() == field);
    let names = || Field::ALL.map(Field::name).join(", ");
    known.map(|f| (f, column.to_owned())).ok_or_else(|| format!("{field:?} is no field; one of {}", names()))
}

/// `dunlin import`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(config, &arguments)?;
    let mut ledger = Ledger::open(&arguments.file, &arguments.format, target.zone.clone())?;
    let rejected_path = arguments.rejected.clone().unwrap_or_else(|| arguments.file.with_extension("rejected.csv"));
    let mut rejected = Rejected { path: &rejected_path, header: ledger.header.clone(), writer: None, count: 0 };
    let mut sender = if arguments.dry_run { None } else { Some(Sender::connect(&target, &arguments.merchant).await?) };
    let bar = progress(ledger.bytes);
    let (mut rows, mut good) = (0_u64, 0_u64);
    while let Some(row) = ledger.next()? {
        rows += 1;
        bar.set_position(ledger.reader.position().byte());
        match row.facts {
            Err(fault) => rejected.write(&row.record, row.number, &fault)?,
            Ok(facts) => {
                good += 1;
                if let Some(sender) = &mut sender {
                    sender.add(row.number, row.record, facts, &mut rejected).await?;
                }
            }
        }
    }
    let mut total = Total { new: good, known: 0 };
    if let Some(sender) = sender {
        total = sender.finish(&mut rejected).await?;
    }
    bar.finish_and_clear();
    report(&arguments, rows, &total, &rejected);
    rejected.finish()?;
    Ok(if rejected.count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many rows were new, and how many were there already.
#[derive(Debug, Default)]
struct Total {
    new: u64,
    known: u64,
}

fn report(arguments: &Arguments, rows: u64, total: &Total, rejected: &Rejected<'_>) {
    let file = arguments.file.display();
    if arguments.dry_run {
        println!("{file}: {rows} rows, {} would go in, {} make no sense; nothing was sent", total.new, rejected.count);
    } else {
        println!("{file}: {rows} rows, {} new, {} known already, {} rejected", total.new, total.known, rejected.count);
    }
    if rejected.count > 0 {
        println!("rejected rows with their reasons: {}", rejected.path.display());
    }
}

/// A bar on a terminal; nothing elsewhere.
fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent}%  {elapsed} of about {duration}") {
        bar.set_style(style);
    }
    bar
}

/// Where facts go, and what they are checked against.
struct Target {
    endpoint: String,
    api_key: String,
    zone: TimeZone,
}

impl Target {
    fn find(config: Option<PathBuf>, arguments: &Arguments) -> anyhow::Result<Self> {
        let path = settings_path(config).ok();
        let configuration = path.as_ref().map(|p| Configuration::load(p)).transpose()?;
        let merchant = configuration.as_ref().and_then(|c| c.merchants.by_name(&arguments.merchant));
        if configuration.is_some() && merchant.is_none() {
            bail!("--merchant {}: there is no such merchant in the configuration", arguments.merchant);
        }
        let zone = merchant.map_or(TimeZone::UTC, |m| m.zone.clone());
        let own = configuration.as_ref().map(|c| format!("http://{}", c.settings.ingest.grpc_listen));
        let is_development = path.as_deref() == Some(&*dev_settings());
        let api_key = arguments.api_key.clone().or_else(|| is_development.then(|| DEVELOPMENT_KEY.to_owned()));
        let (endpoint, api_key) = match (arguments.endpoint.clone().or(own), api_key) {
            (Some(endpoint), Some(api_key)) => (endpoint, api_key),
            _ if arguments.dry_run => Default::default(),
            (None, _) => bail!("where to? give --endpoint, or start `dunlin dev`"),
            (_, None) => bail!("give the merchant's key with --api-key or DUNLIN_API_KEY"),
        };
        Ok(Self { endpoint, api_key, zone })
    }
}

/// A fault of a row.
pub(super) struct RowFault {
    pub(super) column: String,
    pub(super) reason: String,
}

/// A row of the ledger.
pub(super) struct Row {
    pub(super) number: u64,
    record: csv::StringRecord,
    pub(super) facts: Result<Vec<Fact>, RowFault>,
}

/// The file. A back-test reads it too: what would not go in is not back-tested.
pub(super) struct Ledger {
    reader: csv::Reader<std::fs::File>,
    header: csv::StringRecord,
    columns: BTreeMap<Field, (usize, String)>,
    currency: Option<Currency>,
    zone: TimeZone,
    now: Timestamp,
    bytes: u64,
    /// The line of each invoice that made sense.
    lines: HashMap<String, u64>,
    /// What was told about each customer, with the line that told it first.
    customers: HashMap<String, (u64, CustomerFact)>,
}

impl Ledger {
    pub(super) fn open(file: &Path, format: &Format, zone: TimeZone) -> anyhow::Result<Self> {
        let file = std::fs::File::open(file).with_context(|| file.display().to_string())?;
        let bytes = file.metadata()?.len();
        // A row with too many or too few cells is that row's fault, not the file's.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
        let header = reader.headers()?.clone();
        let columns = columns(&header, format)?;
        let currency = format.currency.as_deref().map(Currency::try_new).transpose().context("--currency")?;
        if currency.is_none() && !columns.contains_key(&Field::Currency) {
            bail!("no column holds a currency: give --currency, or map one");
        }
        let (now, lines, customers) = (SystemClock.now(), HashMap::new(), HashMap::new());
        Ok(Self { reader, header, columns, currency, zone, now, bytes, lines, customers })
    }

    pub(super) fn next(&mut self) -> anyhow::Result<Option<Row>> {
        let mut record = csv::StringRecord::new();
        let read = self.reader.read_record(&mut record);
        let number = record.position().map_or(0, csv::Position::line);
        match read {
            Ok(false) => Ok(None),
            Ok(true) => {
                let facts = self.read(number, &record);
                Ok(Some(Row { number, record, facts }))
            }
            // Text that is no UTF-8 is a fault of its row; anything else means that the file cannot be read.
            Err(error) => match error.kind() {
                csv::ErrorKind::Utf8 { pos, err } => {
                    let number = pos.as_ref().map_or(0, csv::Position::line);
                    let column = self.header.get(err.field()).unwrap_or_default().to_owned();
                    let fault = RowFault { column, reason: "is not UTF-8 text".to_owned() };
                    Ok(Some(Row { number, record: csv::StringRecord::new(), facts: Err(fault) }))
                }
                _ => Err(error.into()),
            },
        }
    }

    fn cell<'a>(&self, record: &'a csv::StringRecord, field: Field) -> &'a str {
        self.columns.get(&field).and_then(|(n, _)| record.get(*n)).unwrap_or_default().trim()
    }

    fn fault(&self, field: Field, reason: impl std::fmt::Display) -> RowFault {
        let column = self.columns.get(&field).map_or_else(|| field.name().to_owned(), |(_, name)| name.clone());
        RowFault { column, reason: reason.to_string() }
    }

    fn date(&self, record: &csv::StringRecord, field: Field) -> Result<Option<Date>, RowFault> {
        let text = self.cell(record, field);
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = || self.fault(field, format!("{text:?} is no date such as 2026-01-31"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// All facts of a row, checked as ingest would.
    fn read(&mut self, number: u64, record: &csv::StringRecord) -> Result<Vec<Fact>, RowFault> {
        let mut facts = self.facts(record)?;
        let customer = self.customer(record)?.filter(|c| !self.customers.contains_key(&c.customer_id));
        facts.extend(customer.clone().map(|customer| self.told_now(fact::Fact::Customer(customer))));
        // What ingest would refuse a dry run finds as well.
        for fact in &facts {
            ingest::facts::translate(fact, Source::File).map_err(|fault| match Field::of_fault(fault.field) {
                Some(field) => self.fault(field, fault.problem),
                None => RowFault { column: fault.field.to_owned(), reason: fault.problem },
            })?;
        }
        self.once(number, record)?;
        self.customers.extend(customer.map(|customer| (customer.customer_id.clone(), (number, customer))));
        Ok(facts)
    }

    /// Refuses a second row of the same invoice: which of the two holds only the ledger's owner knows.
    fn once(&mut self, number: u64, record: &csv::StringRecord) -> Result<(), RowFault> {
        let invoice = self.cell(record, Field::Invoice).to_owned();
        if let Some(line) = self.lines.get(&invoice) {
            return Err(self.fault(Field::Invoice, format!("{invoice:?} is on line {line} already")));
        }
        self.lines.insert(invoice, number);
        Ok(())
    }

    /// What a row says about its customer beside the invoice, if it does. It must not contradict an earlier row.
    fn customer(&self, record: &csv::StringRecord) -> Result<Option<CustomerFact>, RowFault> {
        let text = |field| self.cell(record, field).to_owned();
        let (country, kind) = (text(Field::Country).to_ascii_uppercase(), text(Field::PayerKind));
        if country.is_empty() && kind.is_empty() {
            return Ok(None);
        }
        let payer_kind = match kind.as_str() {
            "" => api::PayerKind::Unspecified,
            "business" => api::PayerKind::Business,
            "consumer" => api::PayerKind::Consumer,
            other => return Err(self.fault(Field::PayerKind, format!("{other:?} is neither business nor consumer"))),
        };
        let customer = CustomerFact {
            customer_id: text(Field::Customer),
            name: text(Field::Name),
            email: text(Field::Email),
            country,
            payer_kind: payer_kind.into(),
            ..Default::default()
        };
        let Some((line, known)) = self.customers.get(&customer.customer_id) else { return Ok(Some(customer)) };
        let contradicts = |field| {
            let reason = format!("line {line} says something else about customer {:?}", customer.customer_id);
            Err(self.fault(field, reason))
        };
        if known.country != customer.country {
            return contradicts(Field::Country);
        }
        if known.payer_kind != customer.payer_kind {
            return contradicts(Field::PayerKind);
        }
        Ok(Some(customer))
    }

    fn flag(&self, record: &csv::StringRecord, field: Field) -> Result<bool, RowFault> {
        match self.cell(record, field) {
            "yes" | "true" => Ok(true),
            "" | "no" | "false" => Ok(false),
            other => Err(self.fault(field, format!("{other:?} is neither yes nor no"))),
        }
    }

    /// A fact that the file tells without a time. When it was read is no part of what it says.
    fn told_now(&self, fact: fact::Fact) -> Fact {
        Fact { occurred_at: Some(time::to_wire(self.now)), ..named(None, fact) }
    }

    /// The facts of a row: the invoice, and its payment if it is paid.
    fn facts(&self, record: &csv::StringRecord) -> Result<Vec<Fact>, RowFault> {
        let (cells, columns) = (record.len(), self.header.len());
        if cells != columns {
            // A separator too many or too few has moved cells to other columns.
            let column = self.header.get(cells).map_or_else(|| format!("#{}", columns + 1), str::to_owned);
            return Err(RowFault { column, reason: format!("the row has {cells} cells, the header {columns}") });
        }
        let text = |field| self.cell(record, field).to_owned();
        let currency = match (self.cell(record, Field::Currency), self.currency) {
            ("", Some(currency)) => currency,
            (code, _) => Currency::try_new(code).map_err(|e| self.fault(Field::Currency, e))?,
        };
        let amount =
            Money::parse(self.cell(record, Field::Amount), currency).map_err(|e| self.fault(Field::Amount, e))?;
        if amount.minor < 0 {
            return Err(self.fault(Field::Amount, format!("{} is negative", text(Field::Amount))));
        }
        InvoiceId::try_new(text(Field::Invoice)).map_err(|e| self.fault(Field::Invoice, e))?;
        CustomerId::try_new(text(Field::Customer)).map_err(|e| self.fault(Field::Customer, e))?;
        let issue = self.date(record, Field::Issue)?.ok_or_else(|| self.fault(Field::Issue, "is empty"))?;
        let due = self.date(record, Field::Due)?;
        if let Some(due) = due.filter(|due| *due < issue) {
            return Err(self.fault(Field::Due, format!("{due} lies before the date of issue, {issue}")));
        }
        let paid = self.date(record, Field::Paid)?;
        if let Some(paid) = paid.filter(|paid| *paid < issue) {
            return Err(self.fault(Field::Paid, format!("{paid} lies before the date of issue, {issue}")));
        }
        let tags = self.cell(record, Field::Tags).split(',').map(str::trim).filter(|tag| !tag.is_empty());
        let invoice = InvoiceFact {
            invoice_id: text(Field::Invoice),
            customer_id: text(Field::Customer),
            number: text(Field::Number),
            currency: currency.to_string(),
            total_minor: amount.minor,
            issued_on: issue.to_string(),
            due_on: due.map(|d| d.to_string()).unwrap_or_default(),
            pay_url: text(Field::PayUrl),
            bill_to_name: text(Field::Name),
            bill_to_email: text(Field::Email),
            tags: tags.map(str::to_owned).collect(),
            campaign: text(Field::Campaign),
            collects_itself: self.flag(record, Field::CollectsItself)?,
            document_url: String::new(),
        };
        let payment = PaymentFact {
            payment_id: format!("csv:{}", invoice.invoice_id),
            invoice_id: invoice.invoice_id.clone(),
            amount_minor: amount.minor,
            currency: currency.to_string(),
        };
        let mut facts = vec![self.told_now(fact::Fact::Invoice(invoice))];
        if let Some(paid) = paid.filter(|_| amount.minor > 0) {
            // A ledger knows days, not times: noon where the merchant is.
            let noon = paid.at(12, 0, 0, 0).to_zoned(self.zone.clone()).map_err(|e| self.fault(Field::Paid, e))?;
            facts.push(named(Some(noon.timestamp()), fact::Fact::Payment(payment)));
        }
        Ok(facts)
    }
}

/// A fact whose id is made of what it says.
fn named(at: Option<Timestamp>, fact: fact::Fact) -> Fact {
    let fact = Fact { id: String::new(), occurred_at: at.map(time::to_wire), fact: Some(fact) };
    let namespace = kernel::id::derive("csv", "", "", "fact");
    Fact { id: format!("csv:{}", Uuid::new_v5(&namespace, &fact.encode_to_vec())), ..fact }
}

/// Which column holds what. Faults of the map are reported all at once.
fn columns(header: &csv::StringRecord, format: &Format) -> anyhow::Result<BTreeMap<Field, (usize, String)>> {
    let mut wanted: BTreeMap<Field, String> = BTreeMap::new();
    if let Some(path) = &format.map_file {
        wanted.extend(read_map(path)?);
    }
    wanted.extend(format.map.iter().cloned());
    let mut faults = Vec::new();
    let mut found = BTreeMap::new();
    for field in Field::ALL {
        let given = wanted.get(&field);
        let name = given.map_or_else(|| field.name(), String::as_str);
        match header.iter().position(|column| column.trim() == name) {
            Some(n) => _ = found.insert(field, (n, name.to_owned())),
            None if given.is_some() => faults.push(format!("{}={name}: there is no column {name:?}", field.name())),
            None if Field::NEEDED.contains(&field) => {
                faults.push(format!("no column {name:?}: map one with --map {}=<column>", field.name()));
            }
            None => {}
        }
    }
    if faults.is_empty() {
        return Ok(found);
    }
    let columns: Vec<_> = header.iter().collect();
    bail!("{}\nthe file's columns are: {}", faults.join("\n"), columns.join(", "))
}

fn read_map(path: &Path) -> anyhow::Result<BTreeMap<Field, String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    runtime::config::parse_yaml(&text).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))
}

/// Rows that make no sense, with the reason; written when there is the first.
struct Rejected<'a> {
    path: &'a Path,
    header: csv::StringRecord,
    writer: Option<csv::Writer<std::fs::File>>,
    count: u64,
}

impl Rejected<'_> {
    fn write(&mut self, record: &csv::StringRecord, row: u64, fault: &RowFault) -> anyhow::Result<()> {
        self.count += 1;
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let mut writer = csv::WriterBuilder::new().flexible(true).from_path(self.path)?;
                writer.write_record(["line", "column", "reason"].into_iter().chain(&self.header))?;
                writer
            }
        };
        let line = row.to_string();
        writer.write_record([line.as_str(), &fault.column, &fault.reason].into_iter().chain(record))?;
        self.writer = Some(writer);
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.writer.as_mut().map_or(Ok(()), csv::Writer::flush)?)
    }
}

/// Sends facts in batches, a few of them at a time.
struct Sender {
    client: IngestClient<Channel>,
    merchant: String,
    authorization: MetadataValue<tonic::metadata::Ascii>,
    waiting: Vec<(u64, csv::StringRecord, Vec<Fact>)>,
    in_flight: VecDeque<(Answer, Vec<SentRow>)>,
    total: Total,
}

/// A verdict per fact, when ingest has answered.
type Answer = tokio::task::JoinHandle<Result<Vec<Verdict>, tonic::Status>>;
/// A row on its way, with the number of its facts.
type SentRow = (u64, csv::StringRecord, usize);

impl Sender {
    async fn connect(target: &Target, merchant: &str) -> anyhow::Result<Self> {
        let client = IngestClient::connect(target.endpoint.clone())
            .await
            .with_context(|| format!("ingest does not answer at {}; is it running?", target.endpoint))?;
        Ok(Self {
            client,
            merchant: merchant.to_owned(),
            authorization: format!("Bearer {}", target.api_key).parse().context("--api-key")?,
            waiting: Vec::new(),
            in_flight: VecDeque::new(),
            total: Total::default(),
        })
    }

    async fn add(
        &mut self,
        number: u64,
        record: csv::StringRecord,
        facts: Vec<Fact>,
        rejected: &mut Rejected<'_>,
    ) -> anyhow::Result<()> {
        self.waiting.push((number, record, facts));
        if self.waiting.len() >= BATCH { self.flush(rejected).await } else { Ok(()) }
    }

    async fn flush(&mut self, rejected: &mut Rejected<'_>) -> anyhow::Result<()> {
        /// Batches on their way at the same time: the next is read while one commits.
        const IN_FLIGHT: usize = 4;
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle(rejected).await?;
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (mut rows, mut facts) = (Vec::new(), Vec::new());
        for (number, record, own) in self.waiting.drain(..) {
            rows.push((number, record, own.len()));
            facts.extend(own);
        }
        let mut request = tonic::Request::new(PublishRequest { merchant_id: self.merchant.clone(), facts });
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request.metadata_mut().insert(SOURCE_METADATA, MetadataValue::from_static("file"));
        let mut client = self.client.clone();
        let sent = tokio::spawn(async move { client.publish(request).await.map(|r| r.into_inner().verdicts) });
        self.in_flight.push_back((sent, rows));
        Ok(())
    }

    /// Waits for the oldest batch and counts its rows.
    async fn settle(&mut self, rejected: &mut Rejected<'_>) -> anyhow::Result<()> {
        let Some((sent, rows)) = self.in_flight.pop_front() else { return Ok(()) };
        let verdicts = sent.await?.map_err(|status| match status.code() {
            tonic::Code::Unauthenticated => anyhow::anyhow!("refused: {}", status.message()),
            _ => anyhow::anyhow!("broke off: {}; import again, what is in stays in", status.message()),
        })?;
        let mut verdicts = verdicts.into_iter();
        for (number, record, count) in rows {
            let own: Vec<Verdict> = verdicts.by_ref().take(count).collect();
            if let Some(bad) = own.iter().find(|v| v.kind() == VerdictKind::Rejected) {
                let fault = RowFault { column: bad.field.clone(), reason: bad.reason.clone() };
                rejected.write(&record, number, &fault)?;
            } else if own.iter().any(|v| v.kind() == VerdictKind::Accepted) {
                self.total.new += 1;
            } else {
                self.total.known += 1;
            }
        }
        Ok(())
    }

    async fn finish(mut self, rejected: &mut Rejected<'_>) -> anyhow::Result<Total> {
        self.flush(rejected).await?;
        while !self.in_flight.is_empty() {
            self.settle(rejected).await?;
        }
        Ok(self.total)
    }
}
