//! Previews: every template in every language as files, and a gallery to look at them.

use crate::message::LOGO_LINK;
use crate::render::Rendered;
use crate::sample::{About, Sample};
use crate::stationery::{Logo, Stationery};
use crate::templates::Templates;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use runtime::Merchant;
use serde::Serialize;
use std::io;
use std::path::Path;

/// A page of the gallery.
#[derive(Debug, Serialize)]
struct Page<'a> {
    locale: &'a str,
    locales: &'a [&'a str],
    merchant: &'a str,
    messages: &'a [Shown],
}

/// A message in the gallery.
#[derive(Debug, Serialize)]
struct Shown {
    title: String,
    subject: String,
    text: String,
    light: String,
    dark: String,
}

/// Writes previews of a merchant's messages into a directory; returns how many there are. What cannot be rendered is an
/// error: `dunlin template check` says more about it.
pub fn write(out: &Path, templates: &Templates, merchant: &Merchant, stationery: &Stationery) -> anyhow::Result<usize> {
    std::fs::create_dir_all(out)?;
    let set = templates.of(merchant.id.as_str());
    let gallery = gallery()?;
    let locales: Vec<&str> = set.voices().iter().map(|voice| voice.locale.as_str()).collect();
    let mut count = 0;
    for locale in &locales {
        let mut all = Vec::new();
        for name in set.names() {
            for (about, suffix, of) in [(About::One, "", "one invoice"), (About::Three, "-three", "three invoices")] {
                let Some(sample) = Sample::new(merchant, name, locale, about) else { continue };
                let said = sample.with(merchant, stationery, &[], |input| templates.say(&input))?;
                all.push(write_one(
                    out,
                    &format!("{locale}-{name}{suffix}"),
                    format!("{name}, {of}"),
                    said,
                    stationery,
                )?);
            }
        }
        count += all.len();
        let page = Page { locale, locales: &locales, merchant: &merchant.file.name, messages: &all };
        let page = gallery.get_template("gallery.html")?.render(Serde(page))?;
        std::fs::write(out.join(format!("{locale}.html")), page)?;
    }
    let first = locales.iter().find(|locale| crate::locale::same(locale, &merchant.file.locale)).unwrap_or(&"en");
    let index = format!("<!doctype html><meta http-equiv=\"refresh\" content=\"0; url={first}.html\">");
    std::fs::write(out.join("index.html"), index)?;
    Ok(count)
}

fn write_one(out: &Path, stem: &str, title: String, said: Rendered, stationery: &Stationery) -> io::Result<Shown> {
    let html = match &stationery.logo {
        Some(Logo::File { kind, bytes }) => {
            said.html.replace(LOGO_LINK, &format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
        }
        _ => said.html,
    };
    let (light, dark) = (format!("{stem}.html"), format!("{stem}.dark.html"));
    std::fs::write(out.join(&light), html.replace("(prefers-color-scheme:dark)", "not all"))?;
    std::fs::write(out.join(&dark), html.replace("(prefers-color-scheme:dark)", "all"))?;
    std::fs::write(out.join(format!("{stem}.txt")), &said.text)?;
    Ok(Shown { title, subject: said.subject, text: said.text, light, dark })
}

fn gallery() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("gallery.html", include_str!("../templates/gallery.html"))?;
    Ok(environment)
}
