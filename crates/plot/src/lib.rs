//! Plots and pages of reports: SVG and HTML without scripts, nothing loaded from elsewhere, light and dark, wide and narrow.
//!
//! Pure: text from numbers. A [`Figure`] holds the words of a plot and draws what is known about it; [`page`] puts
//! cards, tables and figures into one look. Whatever is passed as text is escaped here, whatever is passed as `body` or
//! `content` is HTML already.

mod axis;
mod figure;

pub use figure::{Bars, Figure, Interval, Layout, Line, Reliability, share};

use std::fmt::Display;

const STYLE: &str = include_str!("style.css");

/// A whole page. `body` is HTML.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// Cards side by side, as many as there is room for. `cards` is HTML.
pub fn grid(cards: &str) -> String {
    format!("<div class=\"grid\">\n{cards}</div>\n")
}

/// One box of a [`grid`]. `content` is HTML.
pub fn card(title: &str, content: &str) -> String {
    section("card", title, content)
}

/// A box over the whole width of a [`grid`]. `content` is HTML.
pub fn wide_card(title: &str, content: &str) -> String {
    section("card wide", title, content)
}

fn section(class: &str, title: &str, content: &str) -> String {
    format!("<section class=\"{class}\">\n<h2>{}</h2>\n{content}</section>\n", escape(title))
}

/// A paragraph that must not be overlooked.
pub fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// A paragraph beside the point.
pub fn aside(text: &str) -> String {
    format!("<p class=\"soft\">{}</p>\n", escape(text))
}

/// Numbers with what they count, such as `("invoices", "1,204")`.
pub fn facts<K: Display, V: Display>(facts: impl IntoIterator<Item = (K, V)>) -> String {
    let fact = |(what, value): (K, V)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(what), escape(value));
    format!("<dl class=\"facts\">\n{}</dl>\n", facts.into_iter().map(fact).collect::<String>())
}

/// A table. The first column is text, the others are numbers.
pub fn table<C: Display>(header: &[&str], rows: impl IntoIterator<Item = Vec<C>>) -> String {
    let heads: String = header.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
    let row = |row: Vec<C>| {
        let cells: String = row.into_iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!("<div class=\"scroll\"><table>\n<tr>{heads}</tr>\n{rows}</table></div>\n")
}

/// Text as HTML: nothing in it is markup any more.
pub fn escape(text: impl Display) -> String {
    let text = text.to_string();
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_passed_as_text_becomes_markup() {
        const EVIL: &str = "<script>\"'&";
        let parts = [
            page(EVIL, ""),
            card(EVIL, ""),
            wide_card(EVIL, ""),
            note(EVIL),
            aside(EVIL),
            facts([(EVIL, EVIL)]),
            table(&[EVIL], [vec![EVIL]]),
        ];
        for part in parts {
            assert!(!part.contains("<script"), "{part}");
            assert!(part.contains("&lt;script&gt;&quot;&#39;&amp;"), "{part}");
        }
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let page = page("Lift", &card("Over time", "<p>x</p>"));
        assert!(["<script", "http:", "https:", "url(", "@import"].iter().all(|bad| !page.contains(bad)), "{page}");
        assert!(page.contains("prefers-color-scheme: dark"));
    }
}
