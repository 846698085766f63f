//! `dunlin inbound`: mail that comes back.

use super::{configuration, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::{Context, bail};
use bus::{Failure, Work};
use events::Service;
use events::topology::NOTIFIER_INBOUND;
use kernel::Masked;
use notifier::flow::inbound::{Mail, Proofs, Taken, take};
use notifier::inbound::store;
use serde_json::json;
use sqlx::PgPool;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Messages and bytes per transaction.
const BATCH: (usize, usize) = (200, 8 << 20);

/// Mail that comes back: bounces, complaints, answers.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Take messages in, as the listener does. What was taken before changes nothing.
    #[command(after_help = FEED_HELP)]
    Feed(FeedArguments),
    /// List what came back, newest first.
    List {
        /// Only what is not proven to be about a reminder, and so had no effect.
        #[arg(long)]
        unmatched: bool,
        /// Only one class: hard_bounce, soft_bounce, blocked, complaint, delayed, delivered, auto_reply, notice, reply, unclear.
        #[arg(long)]
        class: Option<String>,
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Print one as it came (RFC 5322). Personal.
    Show {
        /// Its id.
        id: Uuid,
    },
}

/// What to take in.
#[derive(Debug, clap::Args)]
pub struct FeedArguments {
    /// A maildir, a directory of .eml files, an .eml file, an .mbox file, or - for one message from standard input.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Say what would become of each, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

const FEED_HELP: &str = "\
What follows from a report is what follows for the listener: only one with the token of a return path (see
notifier.inbound.domain) or of an unsubscribe link suppresses anybody.

Examples:
  dunlin inbound feed /var/mail/bounces        a maildir: cur/ and new/
  dunlin inbound feed --dry-run bounce.eml
  fetch-one | dunlin inbound feed -            from a mail server's pipe";

/// `dunlin inbound`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    let pool = pool(&configuration, Service::Notifier)?;
    match command {
        Command::Feed(arguments) => {
            let proofs =
                configuration.settings.notifier.proofs(&configuration.settings.links, configuration.merchants.clone());
            let clock = configuration.settings.clock();
            feed(&pool, &proofs, &arguments, || clock.now()).await
        }
        Command::List { unmatched, class, options } => {
            let list = store::list(&pool, unmatched, class.as_deref(), options.limit).await?;
            if options.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else {
                print_list(list);
            }
            Ok(())
        }
        Command::Show { id } => {
            let raw = store::find(&pool, id).await?.with_context(|| format!("{id}: no such message"))?;
            if raw.reveal().is_empty() {
                bail!("{id}: it came, but messages are kept for 30 days only");
            }
            Ok(std::io::stdout().lock().write_all(raw.reveal())?)
        }
    }
}

fn print_list(list: Vec<store::InboundRow>) {
    let row = |i: store::InboundRow| {
        let about = i.merchant.zip(i.customer).map(|(m, c)| format!("{m}/{c}")).unwrap_or_default();
        vec![
            i.id.to_string(),
            i.received_at.to_jiff().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            i.class,
            format!("{}{}", i.status, i.feedback),
            i.matched,
            i.effect,
            about,
        ]
    };
    let rows: Vec<_> = list.into_iter().map(row).collect();
    print_table(&["MESSAGE", "CAME", "CLASS", "CODE", "PROOF", "EFFECT", "ABOUT"], &rows);
}

/// A message to feed and where it was found.
struct Found {
    source: String,
    raw: Vec<u8>,
}

async fn feed(
    pool: &PgPool,
    proofs: &Proofs,
    arguments: &FeedArguments,
    now: impl Fn() -> jiff::Timestamp,
) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for source in &arguments.sources {
        collect(source, &mut files)?;
    }
    let (mut done, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut files = files.into_iter().peekable();
    while let Some(path) = files.next() {
        for found in read(&path)? {
            bytes += found.raw.len();
            batch.push(found);
            if batch.len() >= BATCH.0 || bytes >= BATCH.1 {
                done.extend(take_batch(pool, proofs, std::mem::take(&mut batch), arguments.dry_run, now()).await?);
                bytes = 0;
            }
        }
        if files.peek().is_none() && !batch.is_empty() {
            done.extend(take_batch(pool, proofs, std::mem::take(&mut batch), arguments.dry_run, now()).await?);
        }
    }
    report(&done, arguments.output)
}

async fn take_batch(
    pool: &PgPool,
    proofs: &Proofs,
    batch: Vec<Found>,
    dry_run: bool,
    now: jiff::Timestamp,
) -> anyhow::Result<Vec<(String, Taken)>> {
    const TRIES: u32 = 5;
    let (sources, mails): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|found| (found.source, Mail { raw: Masked::new(found.raw), recipients: Vec::new() }))
        .unzip();
    for attempt in 1.. {
        let taken = async {
            let mut work = Work::begin_without_relay(pool, &NOTIFIER_INBOUND).await?;
            let taken = take(&mut work, proofs, &mails, now).await?;
            if !dry_run {
                work.commit().await?;
            }
            Ok::<_, Failure>(taken)
        };
        match taken.await {
            Ok(taken) => return Ok(std::iter::zip(sources, taken).collect()),
            // Others may be working on the same rows.
            Err(Failure::Retry(_)) if attempt < TRIES => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(failure) => bail!("not taken: {failure}; what was printed as taken before stays so"),
        }
    }
    Ok(Vec::new())
}

/// The files of a source. In a maildir those of `cur` and `new`, in another directory all that end in `.eml`.
fn collect(source: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !source.is_dir() {
        files.push(source.to_owned());
        return Ok(());
    }
    let is_maildir = source.join("cur").is_dir() || source.join("new").is_dir();
    let directories = if is_maildir { vec![source.join("new"), source.join("cur")] } else { vec![source.to_owned()] };
    for directory in directories.iter().filter(|d| d.is_dir()) {
        let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let ends = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("eml"));
            let is_hidden = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
            if path.is_dir() && !is_maildir {
                collect(&path, files)?;
            } else if path.is_file() && !is_hidden && (is_maildir || ends) {
                files.push(path);
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<Found>> {
    let source = path.display().to_string();
    if source == "-" {
        let mut raw = Vec::new();
        std::io::stdin().lock().read_to_end(&mut raw)?;
        return Ok(vec![Found { source, raw }]);
    }
    let raw = std::fs::read(path).with_context(|| source.clone())?;
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("mbox")) {
        return Ok(vec![Found { source, raw }]);
    }
    let found = |(n, raw): (usize, &[u8])| Found { source: format!("{source}:{}", n + 1), raw: raw.to_vec() };
    Ok(split_mbox(&raw).into_iter().enumerate().map(found).collect())
}

/// The messages of an mbox: each begins with a `From ` line, at the start or after a blank line.
fn split_mbox(raw: &[u8]) -> Vec<&[u8]> {
    let mut begins: Vec<usize> = if raw.starts_with(b"From ") { vec![0] } else { Vec::new() };
    for (end, skip) in [(&b"\n\nFrom "[..], 2), (b"\n\r\nFrom ", 3)] {
        begins.extend(raw.windows(end.len()).enumerate().filter(|(_, w)| *w == end).map(|(n, _)| n + skip));
    }
    begins.sort_unstable();
    let ends = begins.iter().skip(1).copied().chain([raw.len()]);
    begins.iter().zip(ends).filter_map(|(begin, end)| raw.get(*begin..end)).collect()
}

fn report(done: &[(String, Taken)], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let list: Vec<_> = done.iter().map(|(source, taken)| in_json(source, taken)).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    let row = |(source, taken): &(String, Taken)| {
        let status = taken.reading.status.map(|status| status.to_string()).unwrap_or_default();
        let about = taken.about.as_ref();
        vec![
            source.clone(),
            taken.reading.class.name().to_owned(),
            format!("{status}{}", taken.reading.feedback),
            if taken.known { "known already" } else { about.map_or("none", |about| about.matched) }.to_owned(),
            about.map_or("none", |about| about.effect).to_owned(),
            about.map(|about| format!("{}/{}", about.merchant, about.customer)).unwrap_or_default(),
        ]
    };
    print_table(&["FILE", "CLASS", "CODE", "PROOF", "EFFECT", "ABOUT"], &done.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

fn in_json(source: &str, taken: &Taken) -> serde_json::Value {
    let about = taken.about.as_ref();
    let recipient = |outcome: &notifier::inbound::classify::Outcome| {
        json!({
            "address": outcome.address.reveal(),
            "class": outcome.class.name(),
            "status": outcome.status.map(|status| status.to_string()),
        })
    };
    json!({
        "file": source,
        "id": taken.id,
        "known": taken.known,
        "class": taken.reading.class.name(),
        "status": taken.reading.status.map(|status| status.to_string()),
        "feedback": taken.reading.feedback,
        "recipients": taken.reading.outcomes.iter().map(recipient).collect::<Vec<_>>(),
        "matched": about.map_or("none", |about| about.matched),
        "effect": about.map_or("none", |about| about.effect),
        "merchant": about.map(|about| &about.merchant),
        "customer": about.map(|about| &about.customer),
        "delivery": about.map(|about| about.delivery),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mbox_is_split_at_its_from_lines_only() {
        let raw =
            b"From a Mon\nSubject: 1\n\nFrom here on\nno blank line before\nFrom x\n\nFrom b Tue\nSubject: 2\n\nhi\n";
        let parts = split_mbox(raw);
        assert_eq!(parts.len(), 3, "a quoted line after a blank one cannot be told apart without its escape");
        assert!(parts.last().is_some_and(|part| part.starts_with(b"From b")));
        assert_eq!(split_mbox(b"nothing"), [] as [&[u8]; 0]);
    }
}
