//! The caught mail, to look at.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use mail_parser::{Message, MessageParser};
use std::fmt::Write;
use std::net::SocketAddr;
use testkit::smtp::{Mail, SmtpServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Most mails on the list.
const SHOWN: usize = 200;

/// Serves the list of caught mails and each of them, until `stop`.
pub(super) async fn serve(
    catcher: SmtpServer,
    address: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/", get(list))
        .route("/{number}", get(show))
        .route("/{number}/html", get(html))
        .route("/{number}/raw", get(raw))
        .with_state(catcher);
    tokio::spawn(runtime::http::serve(listener, routes, stop));
    Ok(address)
}

async fn list(State(catcher): State<SmtpServer>) -> Html<String> {
    let mails = catcher.mails();
    let mut rows = String::new();
    for mail in mails.iter().rev().take(SHOWN) {
        let subject = parse(mail).and_then(|m| m.subject().map(escape)).unwrap_or_default();
        let to = escape(&mail.to.join(", "));
        let _ = write!(rows, "<tr><td>{0}</td><td>{to}</td><td><a href=\"/{0}\">{subject}</a></td></tr>", mail.number);
    }
    if rows.is_empty() {
        rows.push_str("<tr><td colspan=\"3\">No mail yet.</td></tr>");
    }
    let table = format!("<table><tr><th>No.</th><th>To</th><th>Subject</th></tr>{rows}</table>");
    page(&format!("{} caught mails", mails.len()), &table)
}

async fn show(State(catcher): State<SmtpServer>, Path(number): Path<u64>) -> Response {
    let Some(mail) = find(&catcher, number) else { return not_found() };
    let Some(message) = parse(&mail) else { return not_found() };
    let text = message.body_text(0).map(|t| escape(&t)).unwrap_or_default();
    let head = mail.text().split("\r\n\r\n").next().map(escape).unwrap_or_default();
    page(
        &message.subject().map(escape).unwrap_or_default(),
        &format!(
            "<p><a href=\"/\">all mails</a> · <a href=\"/{number}/raw\">as it arrived</a></p>\
             <iframe sandbox=\"allow-top-navigation-by-user-activation\" src=\"/{number}/html\" title=\"HTML part\"></iframe>\
             <h2>Text part</h2><pre>{text}</pre><h2>Headers</h2><pre>{head}</pre>"
        ),
    )
    .into_response()
}

async fn html(State(catcher): State<SmtpServer>, Path(number): Path<u64>) -> Response {
    let part = find(&catcher, number).and_then(|m| parse(&m).and_then(|p| p.body_html(0).map(|h| h.into_owned())));
    part.map_or_else(not_found, |html| Html(html).into_response())
}

async fn raw(State(catcher): State<SmtpServer>, Path(number): Path<u64>) -> Response {
    find(&catcher, number).map_or_else(not_found, |mail| mail.text().into_response())
}

fn find(catcher: &SmtpServer, number: u64) -> Option<std::sync::Arc<Mail>> {
    catcher.mails().into_iter().find(|m| m.number == number)
}

fn parse(mail: &Mail) -> Option<Message<'_>> {
    MessageParser::default().parse(&mail.data)
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "no such mail\n").into_response()
}

fn page(title: &str, body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:24px auto;padding:0 16px}}\
         table{{width:100%;border-collapse:collapse}}td,th{{text-align:left;padding:6px 8px;border-bottom:1px solid #8884}}\
         pre{{white-space:pre-wrap;overflow-wrap:anywhere;padding:12px;border:1px solid #8884;border-radius:6px}}\
         iframe{{width:100%;height:640px;border:1px solid #8884;border-radius:6px}}</style><h1>{title}</h1>{body}</html>"
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
