//! What the provider of text messages tells us: answers of payers, and what became of messages. Its requests are signed as
//! [Twilio's](https://www.twilio.com/docs/usage/webhooks/webhooks-security) are; others are refused.

use super::store;
use super::texts::{Keyword, Texts};
use crate::flow::inbound::{Text, take_text};
use crate::inbound::Class;
use crate::unknown::{self, Evidence, Says};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use events::topology::NOTIFIER_INBOUND;
use hmac::{Hmac, KeyInit, Mac};
use kernel::{Masked, MerchantId};
use runtime::merchant::sms::Provider;
use runtime::{Host, Merchant, Problem};
use sha1::Sha1;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Largest request that is read.
const MAX_BODY: usize = 64 * 1024;

/// What the edge needs.
#[derive(Clone)]
pub struct Edge {
    host: Host,
    texts: Arc<Texts>,
    provider: Option<Arc<Provider>>,
}

type Form = BTreeMap<String, String>;

impl Edge {
    /// With the account of merchants that have none of their own.
    pub fn new(host: Host, texts: Arc<Texts>, provider: Option<Provider>) -> Self {
        Self { host, texts, provider: provider.map(Arc::new) }
    }

    /// What the provider reaches.
    pub fn http(self) -> Router {
        let routes = Router::new()
            .route("/v1/sms/{merchant}/inbound", post(inbound))
            .route("/v1/sms/{merchant}/status/{delivery}", post(status))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self);
        runtime::http::observed(routes)
    }

    /// The merchant and the fields of the form, if the provider signed it.
    fn read(&self, id: &str, target: &str, headers: &HeaderMap, body: &[u8]) -> Result<(&Merchant, Form), Problem> {
        let merchant = self.host.merchants.by_name(id);
        let settings = merchant.and_then(|merchant| Some((merchant, merchant.file.sms.as_ref()?)));
        let account = settings.and_then(|(merchant, sms)| {
            let provider = sms.provider.as_ref().or(self.provider.as_deref())?;
            Some((merchant, provider, provider.public_url.as_ref()?))
        });
        let Some((merchant, provider, public_url)) = account else {
            let detail = "there is no merchant of this name whose provider of text messages may call here";
            return Err(Problem::new(StatusCode::NOT_FOUND, "unknown-merchant", "Unknown merchant", detail));
        };
        let form: Form = url::form_urlencoded::parse(body).into_owned().collect();
        let signature = headers.get("x-twilio-signature").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !is_signed(provider.password.reveal(), &format!("{public_url}{target}"), &form, signature) {
            let detail =
                "x-twilio-signature is none of this request: is public_url the address that the provider calls?";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "bad-signature", "Signature refused", detail));
        }
        Ok((merchant, form))
    }

    async fn suppress(
        &self,
        merchant: &MerchantId,
        number: &Masked<String>,
        reason: &str,
        source: &str,
    ) -> sqlx::Result<()> {
        let mut tx = self.host.pool.begin().await?;
        store::stop(&mut tx, merchant, number, reason, source, self.host.now()).await?;
        tx.commit().await
    }

    /// Takes in what came back, unless `evidence` settles a delivery of unknown fate, which nobody took for sent.
    async fn take(&self, merchant: &MerchantId, text: &Text, evidence: Option<Evidence>) -> Result<(), bus::Failure> {
        let mut work = self.host.bus.begin(&NOTIFIER_INBOUND).await?;
        let settled = match &evidence {
            Some(evidence) => unknown::resolve(&mut work, std::slice::from_ref(evidence), self.host.now()).await?,
            None => Vec::new(),
        };
        if settled.is_empty() && evidence.is_none_or(|evidence| evidence.says == Says::NotSent) {
            take_text(&mut work, merchant, text, self.host.now()).await?;
        }
        Ok(work.commit().await?)
    }

    async fn lift(&self, merchant: &MerchantId, number: &Masked<String>) -> sqlx::Result<()> {
        let mut tx = self.host.pool.begin().await?;
        store::start(&mut tx, merchant, number).await?;
        tx.commit().await
    }
}

/// Whether a request was signed with a token: HMAC-SHA1 over the URL and the fields in the order of their names.
fn is_signed(token: &str, url: &str, form: &Form, signature: &str) -> bool {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(token.as_bytes()) else { return false };
    mac.update(url.as_bytes());
    for (name, value) in form {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD.decode(signature).is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
}

/// A payer answered.
async fn inbound(
    State(edge): State<Edge>,
    Path(merchant): Path<String>,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let (merchant, form) = edge.read(&merchant, &target.to_string(), &headers, &body)?;
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let Some(number) = kernel::phone::normalize(field("From")).map(Masked::new) else {
        let detail = "From is no number such as +4930123456";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-number", "No number", detail));
    };
    let said = match edge.texts.keyword(field("Body")) {
        Some(Keyword::Stop) => {
            let source = format!("text message {}", field("MessageSid"));
            edge.suppress(&merchant.id, &number, "unsubscribed", &source).await.map_err(Problem::unavailable)?;
            // The provider confirms it by itself.
            None
        }
        Some(Keyword::Start) => {
            edge.lift(&merchant.id, &number).await.map_err(Problem::unavailable)?;
            None
        }
        Some(Keyword::Help) => Some(edge.texts.help(&merchant.file.locale, &merchant.file.name)),
        None => {
            let sid: String = field("MessageSid").chars().take(64).collect();
            if sid.is_empty() {
                let detail = "MessageSid is missing: without it the same answer could be told twice";
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-message-id", "No message id", detail));
            }
            let answer = Text::Answer { sid, number, said: Masked::new(field("Body").to_owned()) };
            edge.take(&merchant.id, &answer, None).await.map_err(Problem::unavailable)?;
            None
        }
    };
    Ok(twiml(said.as_deref()))
}

/// An answer in the provider's language: a message for the payer, or none.
fn twiml(message: Option<&str>) -> Response {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let message = message.map(|text| format!("<Message>{}</Message>", escape(text))).unwrap_or_default();
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{message}</Response>");
    ([(header::CONTENT_TYPE, "text/xml")], body).into_response()
}

/// The provider tells what became of a message.
async fn status(
    State(edge): State<Edge>,
    Path((merchant, delivery)): Path<(String, Uuid)>,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let (merchant, form) = edge.read(&merchant, &target.to_string(), &headers, &body)?;
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let says = match field("MessageStatus") {
        "sent" | "delivered" => Says::Sent,
        "failed" | "undelivered" => Says::NotSent,
        // On its way.
        _ => return Ok(StatusCode::NO_CONTENT.into_response()),
    };
    let code = field("ErrorCode");
    let number = kernel::phone::normalize(field("To")).map(Masked::new);
    if let (Some(number), Some(reason)) = (&number, closes(code)) {
        let source = format!("delivery {delivery}");
        edge.suppress(&merchant.id, number, reason, &source).await.map_err(Problem::unavailable)?;
    }
    let evidence = Evidence {
        delivery,
        merchant: Some(merchant.id.clone()),
        says,
        source: "provider",
        by: field("MessageSid").chars().take(64).collect(),
        reason: Masked::new([field("MessageStatus"), code].join(" ").trim().to_owned()),
    };
    let text = Text::Undelivered { delivery, class: class_of(code), code: code.chars().take(64).collect() };
    edge.take(&merchant.id, &text, Some(evidence)).await.map_err(Problem::unavailable)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What kind of failure a code is.
fn class_of(code: &str) -> Class {
    match code {
        "30005" | "30006" => Class::HardBounce,
        // Opted out, blocked by the handset, or taken for spam by the carrier.
        "21610" | "30004" | "30007" => Class::Blocked,
        _ => Class::SoftBounce,
    }
}

/// Why nobody writes to a number any more after this code; `None`: it may work another time.
fn closes(code: &str) -> Option<&'static str> {
    match code {
        // Unknown or gone; a landline or a carrier that takes none.
        "30005" | "30006" => Some("bad_address"),
        // The payer has opted out with the provider, or blocks it.
        "21610" | "30004" => Some("unsubscribed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_provider() {
        let form: Form = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        let signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        assert!(is_signed("12345", url, &form, signature), "the provider's own example");
        assert!(!is_signed("12346", url, &form, signature));
        assert!(!is_signed("12345", "https://mycompany.com/myapp.php?foo=1", &form, signature));
        let mut other = form.clone();
        other.insert("Digits".to_owned(), "4321".to_owned());
        assert!(!is_signed("12345", url, &other, signature));
        assert!(!is_signed("12345", url, &form, "") && !is_signed("12345", url, &form, "?"));
    }
}
