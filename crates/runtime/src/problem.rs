//! HTTP errors as RFC 9457 problems.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// What went wrong with a request, for programs and people. `type` is a stable URN; the catalogue is in the OpenAPI
/// document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(skip)]
    status_code: StatusCode,
    /// `urn:dunlin:problem:<code>`.
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem. `code` is stable and machine-readable, `title` the same for every occurrence, `detail` says what is
    /// wrong this time and what to do.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl ToString) -> Self {
        Self {
            status_code: status,
            r#type: format!("urn:dunlin:problem:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: detail.to_string(),
            retry_after_seconds: None,
        }
    }

    /// The service cannot answer now; the caller should come back. The cause may name hosts and tables: it is only logged.
    pub fn unavailable(cause: impl std::fmt::Display) -> Self {
        tracing::warn!(%cause, "request cannot be answered now");
        let detail = "a part of the system does not answer; nothing has changed";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Try again later", detail);
        Self { retry_after_seconds: Some(5), ..problem }
    }

    /// Something broke. The cause is in the log, under the trace id; the caller gets the id only.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "request failed");
        let trace = bus::trace::current();
        let id = trace.as_deref().and_then(bus::trace::trace_id).unwrap_or("none");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", format!("trace {id}"))
    }

    /// The HTTP status.
    pub const fn status(&self) -> StatusCode {
        self.status_code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status_code, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
