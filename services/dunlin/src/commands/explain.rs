//! `dunlin explain`: the story of an invoice, from the database alone.

use super::{configuration, pool};
use crate::cli::Output;
use anyhow::{Context, bail};
use events::Service;
use notifier::inbound::store::ANSWERED;
use runtime::story::StoryLine;
use std::path::PathBuf;

/// Tell the story of an invoice.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// `<merchant>/<invoice>`: the processor's id of the invoice, or the number printed on it.
    invoice: String,
    /// Print what payers have written, too. Personal.
    #[arg(long)]
    messages: bool,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// `dunlin explain`.
pub async fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let (merchant, name) =
        arguments.invoice.split_once('/').context("give <merchant>/<invoice>, such as acme/in_123")?;
    let pools = Pools {
        ingest: pool(&configuration, Service::Ingest)?,
        scheduler: pool(&configuration, Service::Scheduler)?,
        notifier: pool(&configuration, Service::Notifier)?,
        tracker: pool(&configuration, Service::Tracker)?,
    };
    let mut invoice = name.to_owned();
    let mut story = pools.story(merchant, &invoice).await?;
    if story.is_empty()
        && let Some(id) = ingest::store::invoice_by_number(&pools.ingest, merchant, name).await?
    {
        story = pools.story(merchant, &id).await?;
        invoice = id;
    }
    if story.is_empty() {
        bail!("nothing is known of {merchant}/{name}, neither as an id nor as a number");
    }
    if arguments.messages {
        pools.add_words(&mut story).await?;
    }
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&story)?),
        Output::Table => print(merchant, &invoice, &story),
    }
    Ok(())
}

struct Pools {
    ingest: sqlx::PgPool,
    scheduler: sqlx::PgPool,
    notifier: sqlx::PgPool,
    tracker: sqlx::PgPool,
}

impl Pools {
    /// What every service knows, in order of time.
    async fn story(&self, merchant: &str, invoice: &str) -> anyhow::Result<Vec<StoryLine>> {
        let mut story = ingest::store::story(&self.ingest, merchant, invoice).await?;
        story.extend(scheduler::store::story(&self.scheduler, merchant, invoice).await?);
        story.extend(notifier::store::story(&self.notifier, merchant, invoice).await?);
        story.extend(notifier::inbound::store::story(&self.notifier, merchant, invoice).await?);
        story.extend(tracker::store::story(&self.tracker, merchant, invoice).await?);
        // At the same moment, what the scheduler heard of a reminder comes after what the notifier did.
        story.sort_by_key(|line| (line.at, line.by == "scheduler" && line.what.contains(" ended: ")));
        Ok(story)
    }

    /// Adds the words of answers to the lines that tell of them.
    async fn add_words(&self, story: &mut [StoryLine]) -> anyhow::Result<()> {
        for line in story.iter_mut().filter(|line| line.what == ANSWERED) {
            let Some(id) = line.id.as_deref().and_then(|id| id.parse().ok()) else { continue };
            let Some(raw) = notifier::inbound::store::find(&self.notifier, id).await? else { continue };
            let words = match raw.reveal().as_slice() {
                [] => "erased, or older than 30 days".to_owned(),
                raw => notifier::inbound::words(raw).into_inner(),
            };
            line.detail = [line.detail.as_str(), &words].join(": ");
        }
        Ok(())
    }
}

fn print(merchant: &str, invoice: &str, story: &[StoryLine]) {
    println!("{merchant}/{invoice}\n");
    for line in story {
        let detail = line.detail.replace('\n', &format!("\n{:36}", ""));
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        println!("{}  {:9}  {}{detail}", line.at.strftime("%Y-%m-%d %H:%M:%S UTC"), line.by, line.what);
        let ids = [("id", &line.id), ("trace", &line.trace_id)];
        let ids: Vec<_> = ids.iter().filter_map(|(name, id)| Some(format!("{name} {}", id.as_ref()?))).collect();
        if !ids.is_empty() {
            println!("{:36}{}", "", ids.join("  "));
        }
    }
}
