//! The edges: pages for payers, figures for the merchant's people.

use crate::domain::{Group, Outcomes, SegmentDelays, Share, Stats, StepReason, Week};
use crate::flow;
use crate::lift::Lift;
use crate::page::{self, Note, NoteLink, Pages};
use crate::reports::Reports;
use crate::store::{self, LiftQuery, PayTarget, Query, Response as PayerResponse};
use crate::words::{self, Words};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query as UrlQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use events::topology::TRACKER_PAGES;
use events::v1::ResponseKind;
use jiff::ToSpan;
use jiff::civil::Date;
use kernel::{InvoiceId, MerchantId};
use runtime::links::Link;
use runtime::{Host, Problem};
use serde::Deserialize;
use std::sync::Arc;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{IntoParams, OpenApi};

/// What the edges need.
#[derive(Clone)]
pub struct Edge {
    host: Host,
    pages: Arc<Pages>,
    reports: Arc<Reports>,
}

/// The HTTP interface of the tracker's dashboard.
#[derive(OpenApi)]
#[openapi(
    info(title = "dunlin tracker", description = "What reminders did. All figures name the moment they are of."),
    paths(stats, lift),
    components(schemas(Stats, Group, Outcomes, SegmentDelays, Share, StepReason, Week, Lift))
)]
struct Documentation;

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Documentation::openapi()
}

impl Edge {
    /// Edges of a host.
    pub fn new(host: Host) -> anyhow::Result<Self> {
        Ok(Self { host, pages: Arc::new(Pages::new()?), reports: Arc::default() })
    }

    /// What payers reach.
    pub fn public(self) -> Router {
        let routes = Router::new()
            .route("/p/{token}", get(pay))
            .route("/i/{token}", get(pay_all))
            .route("/u/{token}", get(unsubscribe_page).post(unsubscribe))
            .with_state(self);
        runtime::http::observed(secured(routes))
    }

    /// What the merchant's people reach.
    pub fn dashboard(self) -> Router {
        let routes = Router::new()
            .route("/", get(dashboard))
            .route("/merchants/{merchant}/lift", get(lift_page))
            .route("/v1/merchants/{merchant}/lift", get(lift))
            .route("/v1/stats", get(stats))
            .route("/openapi.json", get(|| async { axum::Json(openapi()) }))
            .with_state(self);
        runtime::http::observed(secured(routes))
    }

    /// A page for a payer with these headers. `merchant`: whose, if that is known.
    fn page<'a>(&'a self, headers: &HeaderMap, merchant: Option<&MerchantId>) -> Page<'a> {
        let merchant = merchant.and_then(|id| self.host.merchants.get(id));
        let accept = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let words = words::chosen(accept.unwrap_or_default(), merchant.map_or("", |m| &m.file.locale));
        Page { edge: self, words, merchant: merchant.map_or("", |m| &m.file.name) }
    }

    async fn note_response(&self, response: PayerResponse<'_>) -> Result<(), bus::Failure> {
        let mut work = self.host.bus.begin(&TRACKER_PAGES).await?;
        flow::respond(&mut work, response).await?;
        Ok(work.commit().await?)
    }
}

/// What a payer sees.
struct Page<'a> {
    edge: &'a Edge,
    words: &'static Words,
    merchant: &'a str,
}

impl Page<'_> {
    fn note(&self, status: StatusCode, [title, text]: words::Note) -> Response {
        self.note_with(status, title, text.to_owned(), None, Vec::new())
    }

    /// About an invoice.
    fn note_about(&self, number: &str, [title, text]: words::Note) -> Response {
        self.note_with(StatusCode::OK, title, text.replace("{}", number), None, Vec::new())
    }

    fn note_with(
        &self,
        status: StatusCode,
        title: &'static str,
        text: String,
        form: Option<&'static str>,
        links: Vec<NoteLink>,
    ) -> Response {
        let note = Note { language: self.words.language, merchant: self.merchant, title, text, form, links };
        match self.edge.pages.note(note) {
            Ok(html) => (status, Html(html)).into_response(),
            Err(error) => Problem::internal(error).into_response(),
        }
    }

    /// We cannot do our part.
    fn sorry(&self, error: impl std::fmt::Display) -> Response {
        tracing::warn!(%error, "payer's request not served");
        self.note(StatusCode::SERVICE_UNAVAILABLE, self.words.sorry)
    }

    fn unknown_link(&self) -> Response {
        self.note(StatusCode::NOT_FOUND, self.words.unknown)
    }
}

/// No script, no frame, nothing from elsewhere; tokens in addresses are nobody else's business.
fn secured(routes: Router) -> Router {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    let header = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    routes
        .layer(header(header::CONTENT_SECURITY_POLICY, policy))
        .layer(header(header::REFERRER_POLICY, "no-referrer"))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::CACHE_CONTROL, "no-store"))
}

/// Leads from a reminder to the payment page, and notes the visit.
async fn pay(State(edge): State<Edge>, method: Method, headers: HeaderMap, Path(token): Path<String>) -> Response {
    let Some(Link::Pay { merchant, customer, invoice, reminder }) = Link::parse(&token, &edge.host.links) else {
        return edge.page(&headers, None).unknown_link();
    };
    let page = edge.page(&headers, Some(&merchant));
    let target = match store::pay_targets(&edge.host.pool, merchant.as_str(), &[invoice.as_str()]).await {
        Ok(found) => found.into_iter().next(),
        Err(error) => return page.sorry(error),
    };
    let Some((_, target)) = target else { return page.unknown_link() };
    // A scanner's HEAD is no visit; neither is a payer kept from paying because we cannot write it down.
    if method != Method::HEAD {
        let now = edge.host.now();
        let visit = PayerResponse {
            id: kernel::id::at(now),
            merchant: &merchant,
            customer: &customer,
            invoice: Some(&invoice),
            reminder,
            kind: ResponseKind::VisitedPayPage,
            responded_at: now,
        };
        if let Err(error) = edge.note_response(visit).await {
            tracing::warn!(%error, "visit not recorded");
        }
    }
    match target.status.as_str() {
        "open" => {}
        "paid" => return page.note_about(&target.number, page.words.settled),
        _ => return page.note_about(&target.number, page.words.closed),
    }
    if target.pay_url.reveal().is_empty() {
        return page.note_about(&target.number, page.words.no_page);
    }
    Redirect::to(target.pay_url.reveal()).into_response()
}

/// Shows the invoices of a reminder, each with its link: a visit is noted when one of them is followed.
async fn pay_all(State(edge): State<Edge>, headers: HeaderMap, Path(token): Path<String>) -> Response {
    let Some(Link::PayAll { merchant, customer, invoices, reminder }) = Link::parse(&token, &edge.host.links) else {
        return edge.page(&headers, None).unknown_link();
    };
    let page = edge.page(&headers, Some(&merchant));
    let wanted: Vec<&str> = invoices.iter().map(InvoiceId::as_str).collect();
    let targets = match store::pay_targets(&edge.host.pool, merchant.as_str(), &wanted).await {
        Ok(targets) if targets.is_empty() => return page.unknown_link(),
        Ok(targets) => targets,
        Err(error) => return page.sorry(error),
    };
    let link = |(invoice, target): (InvoiceId, PayTarget)| {
        let label = |text: &str| text.replace("{}", &target.number);
        match target.status.as_str() {
            "open" => {}
            "paid" => return NoteLink { label: label(page.words.paid), url: None },
            _ => return NoteLink { label: label(page.words.nothing), url: None },
        }
        let (merchant, customer) = (merchant.clone(), customer.clone());
        let url = Link::Pay { merchant, customer, invoice, reminder }.url(&edge.host.links);
        NoteLink { label: label(page.words.pay), url: Some(url) }
    };
    let links = targets.into_iter().map(link).collect();
    page.note_with(StatusCode::OK, page.words.invoices, String::new(), None, links)
}

/// Only shows: mail scanners follow links.
async fn unsubscribe_page(State(edge): State<Edge>, headers: HeaderMap, Path(token): Path<String>) -> Response {
    let Some(Link::Unsubscribe { merchant, .. }) = Link::parse(&token, &edge.host.links) else {
        return edge.page(&headers, None).unknown_link();
    };
    let page = edge.page(&headers, Some(&merchant));
    let [title, text] = page.words.unsubscribe;
    page.note_with(StatusCode::OK, title, text.to_owned(), Some(page.words.unsubscribe_now), Vec::new())
}

/// Acts: the button of the page above, and the one-click POST of mail programs (RFC 8058).
async fn unsubscribe(State(edge): State<Edge>, headers: HeaderMap, Path(token): Path<String>) -> Response {
    let Some(Link::Unsubscribe { merchant, customer, reminder }) = Link::parse(&token, &edge.host.links) else {
        return edge.page(&headers, None).unknown_link();
    };
    let page = edge.page(&headers, Some(&merchant));
    let response = PayerResponse {
        // Twice is once.
        id: kernel::id::derive("tracker", merchant.as_str(), customer.as_str(), "unsubscribed"),
        merchant: &merchant,
        customer: &customer,
        invoice: None,
        reminder,
        kind: ResponseKind::Unsubscribed,
        responded_at: edge.host.now(),
    };
    match edge.note_response(response).await {
        Ok(()) => page.note(StatusCode::OK, page.words.unsubscribed),
        Err(error) => page.sorry(error),
    }
}

/// What the figures are about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Only this merchant.
    merchant: Option<String>,
    /// First day, inclusive; 90 days ago by default.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<Date>,
    /// Last day, inclusive; today by default.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<Date>,
}

fn bad_query(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-query", "Query makes no sense", detail)
}

impl Edge {
    /// Reads the filter; a period of at most two years, of merchants that exist.
    fn query(&self, filter: Result<UrlQuery<Filter>, QueryRejection>) -> Result<Query, Problem> {
        let UrlQuery(filter) = filter.map_err(|e| bad_query(e.body_text()))?;
        let as_of = self.host.now();
        let today = jiff::tz::TimeZone::UTC.to_datetime(as_of).date();
        let to = filter.to.unwrap_or(today);
        let from = filter.from.unwrap_or_else(|| to.checked_sub(90.days()).unwrap_or(to));
        if from > to {
            return Err(bad_query(format!("from: {from} lies after to, {to}")));
        }
        if from.checked_add(731.days()).is_ok_and(|end| end < to) {
            return Err(bad_query("from: the period may have two years at most".to_owned()));
        }
        let wanted = |id: &str| filter.merchant.as_deref().is_none_or(|m| m == id);
        let merchants: Vec<_> = self.host.merchants.iter().filter(|m| wanted(m.id.as_str())).collect();
        if merchants.is_empty() && filter.merchant.is_some() {
            return Err(bad_query("merchant: there is none of this name".to_owned()));
        }
        let merchants = merchants.into_iter().map(|m| (m.id.to_string(), m.file.time_zone.clone())).collect();
        Ok(Query { merchants, from, to, as_of })
    }

    async fn figures(&self, query: &Query) -> Result<Stats, Problem> {
        let load = async {
            let mut tx = store::snapshot(&self.host.pool).await?;
            store::stats(&mut tx, query).await
        };
        load.await.map_err(Problem::unavailable)
    }
}

/// What reminders did in a period.
#[utoipa::path(
    get,
    path = "/v1/stats",
    params(Filter),
    responses(
        (status = 200, description = "The figures", body = Stats),
        (status = 400, description = "The query makes no sense (application/problem+json, code bad-query)"),
        (status = 503, description = "The database does not answer (application/problem+json, code unavailable)")
    )
)]
async fn stats(
    State(edge): State<Edge>,
    filter: Result<UrlQuery<Filter>, QueryRejection>,
) -> Result<axum::Json<Stats>, Problem> {
    let query = edge.query(filter)?;
    Ok(axum::Json(edge.figures(&query).await?))
}

async fn dashboard(
    State(edge): State<Edge>,
    filter: Result<UrlQuery<Filter>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    const LATEST: i64 = 20;
    let query = edge.query(filter)?;
    let stats = edge.figures(&query).await?;
    let latest = store::latest(&edge.host.pool, LATEST).await.map_err(Problem::unavailable)?;
    let merchants: Vec<&str> = query.merchants.iter().map(|(id, _)| id.as_str()).collect();
    edge.pages.dashboard(&stats, &merchants, latest).map(Html).map_err(Problem::internal)
}

/// What a lift report is about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct LiftFilter {
    /// Only invoices that were enrolled in this campaign.
    campaign: Option<String>,
}

impl Edge {
    async fn lift(
        &self,
        merchant: &str,
        filter: Result<UrlQuery<LiftFilter>, QueryRejection>,
    ) -> Result<Arc<Lift>, Problem> {
        let UrlQuery(filter) = filter.map_err(|e| bad_query(e.body_text()))?;
        let not_found = |code, title, detail: String| Problem::new(StatusCode::NOT_FOUND, code, title, detail);
        let Some(known) = self.host.merchants.by_name(merchant) else {
            let detail = "there is none of this name; `/` lists those that there are".to_owned();
            return Err(not_found("unknown-merchant", "No such merchant", detail));
        };
        let query = LiftQuery {
            merchant: known.id.clone(),
            zone: known.zone.clone(),
            zone_name: known.file.time_zone.clone(),
            campaign: filter.campaign,
        };
        let report = self.reports.get(&self.host.pool, &query, self.host.now()).await.map_err(Problem::unavailable)?;
        report.ok_or_else(|| {
            let detail = "no invoice of this merchant was enrolled in it; only campaigns that suit themselves to payers are \
                          measured";
            not_found("unknown-campaign", "No such campaign", detail.to_owned())
        })
    }
}

/// What a schedule that suits itself to payers brings, against the campaign's static schedule. At most a minute old.
#[utoipa::path(
    get,
    path = "/v1/merchants/{merchant}/lift",
    params(("merchant" = String, Path, description = "The merchant's id"), LiftFilter),
    responses(
        (status = 200, description = "The report", body = Lift),
        (status = 400, description = "The query makes no sense (application/problem+json, code bad-query)"),
        (
            status = 404,
            description = "No such merchant, or none of its invoices was enrolled in the campaign (application/problem+json, \
                           code unknown-merchant or unknown-campaign)"
        ),
        (status = 503, description = "The database does not answer (application/problem+json, code unavailable)")
    )
)]
async fn lift(
    State(edge): State<Edge>,
    Path(merchant): Path<String>,
    filter: Result<UrlQuery<LiftFilter>, QueryRejection>,
) -> Result<Response, Problem> {
    let report = edge.lift(&merchant, filter).await?;
    Ok(axum::Json(&*report).into_response())
}

async fn lift_page(
    State(edge): State<Edge>,
    Path(merchant): Path<String>,
    filter: Result<UrlQuery<LiftFilter>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    let report = edge.lift(&merchant, filter).await?;
    Ok(Html(page::lift(&report)))
}
