//! One message, from what is owed to the bytes of the mail.

use crate::percentile;
use crate::report::Figure;
use anyhow::Context;
use e2e::system::config_dir;
use notifier::render::Templates;
use notifier::sample::{About, Sample};
use notifier::stationery::Stationery;
use runtime::Merchants;
use runtime::config::Faults;
use std::hint::black_box;
use std::time::Instant;

/// `render`: subject, text and HTML of a reminder of three invoices, and the same as a mail with its headers; every template
/// in every language in turn.
pub(crate) fn all() -> anyhow::Result<Vec<Figure>> {
    const ROUNDS: usize = 200;
    let config = config_dir();
    let mut faults = Faults::default();
    let merchants = Merchants::read(&config, &mut faults);
    let merchants = faults.into_result(Some(merchants))?;
    let merchant = merchants.iter().next().context("no merchant")?;
    let stationery = Stationery::load(&config, merchant).map_err(|problems| anyhow::anyhow!("{problems:?}"))?.0;
    let templates = Templates::load(&config.join("templates"))?;
    let set = templates.of(merchant.id.as_str());
    let locales: Vec<_> = set.voices().iter().map(|voice| voice.locale.as_str()).collect();
    let samples = set.names().flat_map(|name| locales.iter().map(move |locale| (name, *locale)));
    let samples = samples.map(|(name, locale)| Sample::new(merchant, name, locale, About::Three));
    let samples: Vec<_> = samples.collect::<Option<_>>().context("no sample")?;
    let (mut said, mut mails, mut size) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        for sample in &samples {
            let begun = Instant::now();
            let rendered = sample.with(merchant, &stationery, &[], |input| templates.say(&input))?;
            said.push(begun.elapsed().as_nanos() as f64 / 1_000.0);
            size += rendered.text.len() + rendered.html.len();
            let begun = Instant::now();
            black_box(sample.with(merchant, &stationery, &[], |input| templates.render(input))?);
            mails.push(begun.elapsed().as_nanos() as f64 / 1_000.0);
        }
    }
    println!("render: {} bytes of text and HTML on average", size / said.len());
    let of = |name, times: &[f64], note: &str| Figure::new(name, percentile(times, 50.0), "us p50", None, note);
    Ok(vec![
        of("render", &said, "text + HTML, 3 invoices; bar 150, aim 50"),
        of("render_mail", &mails, "the same as a mail with its headers and encodings"),
    ])
}
