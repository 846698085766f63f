//! `dunlin dead-letters`: events that a service gave up.

use super::{configuration, parse_service, pool, print_table};
use crate::cli::{ListOptions, Output};
use anyhow::bail;
use bus::store::DeadLetter;
use events::{Kind, Service};
use std::path::PathBuf;

/// Events that a service gave up. An id is `<service>/<number>`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List them, newest first.
    List {
        /// Only of this service.
        #[arg(long, value_parser = parse_service)]
        service: Option<Service>,
        /// How to list.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Show one whole: headers, payload, reason. The payload may contain personal data.
    Show {
        /// `<service>/<number>`.
        #[arg(value_parser = parse_id)]
        id: Id,
    },
    /// Let the service try again, after a fix.
    Replay {
        /// `<service>/<number>`, or `<service>/all`.
        #[arg(value_parser = parse_id)]
        id: Id,
    },
    /// Forget one for good.
    Drop {
        /// `<service>/<number>`.
        #[arg(value_parser = parse_id)]
        id: Id,
    },
}

/// Which dead letters: `None` is all of the service.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    service: Service,
    number: Option<i64>,
}

fn parse_id(text: &str) -> Result<Id, String> {
    let (service, number) = text.split_once('/').ok_or("give <service>/<number>")?;
    let service = parse_service(service)?;
    match number {
        "all" => Ok(Id { service, number: None }),
        _ => number.parse().map(|n| Id { service, number: Some(n) }).map_err(|_| "give <service>/<number>".to_owned()),
    }
}

/// `dunlin dead-letters`.
pub async fn run(config: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    let configuration = configuration(config)?;
    match command {
        Command::List { service, options } => {
            let mut all = Vec::new();
            for service in Service::ALL.into_iter().filter(|s| service.is_none_or(|only| only == *s)) {
                let letters = bus::store::list_dead_letters(&pool(&configuration, service)?, options.limit).await?;
                all.extend(letters.into_iter().map(|letter| (service, letter)));
            }
            list(&all, options.output)?;
        }
        Command::Show { id: Id { service, number: Some(number) } } => {
            match bus::store::find_dead_letter(&pool(&configuration, service)?, number).await? {
                Some(letter) => show(service, &letter)?,
                None => bail!("{service}/{number}: there is no such dead letter"),
            }
        }
        Command::Replay { id: Id { service, number } } => {
            let asked = bus::store::request_replay(&pool(&configuration, service)?, number).await?;
            if asked == 0 {
                bail!("nothing to replay there");
            }
            println!(
                "{asked} will be tried again by {service} within a second or so; `dunlin dead-letters list` shows what is left"
            );
        }
        Command::Drop { id: Id { service, number: Some(number) } } => {
            if !bus::store::delete_dead_letter(&pool(&configuration, service)?, number).await? {
                bail!("{service}/{number}: there is no such dead letter");
            }
            println!("{service}/{number} dropped");
        }
        Command::Show { .. } | Command::Drop { .. } => bail!("give one number; all is for replay only"),
    }
    Ok(())
}

fn list(letters: &[(Service, DeadLetter)], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let list: Vec<_> = letters.iter().map(|(service, letter)| as_json(*service, letter)).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    if letters.is_empty() {
        println!("no dead letters");
        return Ok(());
    }
    let rows: Vec<_> = letters
        .iter()
        .map(|(service, l)| {
            let state = if l.replaying { "replaying" } else { "waiting" };
            let failed_at = l.failed_at.to_jiff().strftime("%Y-%m-%d %H:%M:%S").to_string();
            vec![
                format!("{service}/{}", l.id),
                failed_at,
                l.consumer.clone(),
                l.subject.clone(),
                l.attempts.to_string(),
                state.to_owned(),
                l.reason.clone(),
            ]
        })
        .collect();
    print_table(&["ID", "FAILED AT (UTC)", "FLOW", "SUBJECT", "TRIES", "STATE", "REASON"], &rows);
    Ok(())
}

fn show(service: Service, letter: &DeadLetter) -> anyhow::Result<()> {
    let kind = letter.subject.rsplit_once('.').and_then(|(ce_type, _)| Kind::by_ce_type(ce_type));
    let readable = kind.and_then(|kind| events::json::view(&kind.message_name(), &letter.payload).ok());
    let payload = readable.unwrap_or_else(|| String::from_utf8_lossy(&letter.payload).into_owned().into());
    let mut shown = as_json(service, letter);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("payload".to_owned(), payload);
    }
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(())
}

/// A dead letter with the id that operators give.
fn as_json(service: Service, letter: &DeadLetter) -> serde_json::Value {
    let mut shown = serde_json::json!(letter);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("id".to_owned(), format!("{service}/{}", letter.id).into());
    }
    shown
}
