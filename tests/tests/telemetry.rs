//! One case from the webhook to the SMTP reply, as a collector sees it: five processes, a real OTLP receiver. One trace leads
//! from the webhook to the scheduler; the timer that fires later starts another, linked to it, which leads to the mail
//! server's answer. Nobody's name, address or message text appears in any span, metric or log line.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use e2e::processes::{Processes, binary, new_directory};
use e2e::system::{at, draft, event};
use events::Service;
use jiff::SignedDuration;
use kernel::{Clock, SystemClock, TimeLapse};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::otlp::OtlpSink;
use testkit::stripe::{self, Webhooks};
use testkit::wait;

const PATIENCE: Duration = Duration::from_secs(60);
/// What only this payer's mail and invoice say.
const PERSONAL: [&str; 6] = ["Quirinus", "Xylander", "@", "pay.example.com", "Pay here", "is overdue"];

#[tokio::test(flavor = "multi_thread")]
async fn a_case_can_be_followed_and_says_nothing_personal() {
    let directory = new_directory().unwrap();
    let collector = OtlpSink::start().await.unwrap();
    // Two days a second, from a Monday on.
    let start = at("2026-06-01T08:00:00Z");
    let real_start = SystemClock.now() + SignedDuration::from_secs(8);
    let lapse = TimeLapse { start, real_start, rate: 2.0 * 86_400.0, until: None };
    let mut system = Processes::servers(&directory, Some(lapse)).await.unwrap();
    system.environment = vec![
        ("DUNLIN_TELEMETRY__OTLP_ENDPOINT", collector.endpoint()),
        (
            "DUNLIN_TELEMETRY__LOG_FILTER",
            "info,bus=debug,runtime=debug,ingest=debug,scheduler=debug,notifier=debug".into(),
        ),
    ];
    for service in Service::ALL {
        system.start_service(service).unwrap();
    }
    tell_of_an_invoice(&system).await;
    wait::until_true("a reminder", PATIENCE, || async { system.catcher.count() > 0 }).await;
    let mail = system.catcher.mails()[0].clone();
    assert!(["Quirinus", "pay", "IN-1"].iter().all(|t| mail.text().contains(t)), "{}", mail.text());
    // What is still to be told is told on the way out.
    system.stop().unwrap();

    let spans = Spans(collector.spans());
    let webhook = spans.one(|s| s.name == "POST /v1/webhooks/{merchant}/stripe" && spans.leads_to_issue(s));
    assert_eq!((webhook.kind(), webhook.parent_span_id.len()), (SpanKind::Server, 0));
    let issued = spans.in_trace(webhook, "send dunlin.v1.invoice-issued.{merchant}", SpanKind::Producer);
    let case = spans.in_trace(webhook, "process scheduler-cases", SpanKind::Consumer);
    assert!(spans.is_below(case, issued) && spans.is_below(issued, webhook), "one trace leads to the scheduler");

    let fired = spans.one(|s| s.name == "fire reminder overdue-3");
    assert_eq!((fired.kind(), fired.parent_span_id.len()), (SpanKind::Internal, 0), "days later a trace of its own");
    let linked = spans.linked_traces(fired);
    assert!(linked.contains(&webhook.trace_id), "the timer links to what armed it");
    assert!(has(fired, "reminder.scheduled_for") && has(fired, "reminder.lateness_ms"), "{fired:?}");
    let due = spans.in_trace(fired, "send dunlin.v1.reminder-due.{merchant}", SpanKind::Producer);
    let taken = spans.in_trace(fired, "process notifier-reminders", SpanKind::Consumer);
    assert!(spans.is_below(taken, due) && spans.is_below(due, fired));
    // On a busy machine it may have been put back before.
    let sent = spans.one(|s| s.name == "send reminder email" && s.trace_id == fired.trace_id && has(s, "smtp.reply"));
    assert_eq!(sent.kind(), SpanKind::Client);
    assert!(spans.is_below(sent, fired), "and leads to the mail server");
    assert!(has(sent, "outcome") && has(sent, "reminder.id"), "{sent:?}");

    let story = explain(&directory);
    for (what, span) in [("the webhook's", webhook), ("the timer's", fired)] {
        let trace: String = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(story.contains(&trace), "{what} trace {trace} is missing in\n{story}");
    }

    let metrics = collector.metric_names();
    for name in [
        "dunlin.delivery.attempts",
        "dunlin.ingest.messages",
        "dunlin.timer.fired",
        "dunlin.timer.lateness",
        "dunlin.outbox.depth",
        "dunlin.consumer.pending",
        "http.server.request.duration",
    ] {
        assert!(metrics.iter().any(|m| m == name), "{name} is missing among {metrics:?}");
    }

    let told = collector.everything();
    let logs: String = Service::ALL.map(|s| std::fs::read_to_string(system.log(s)).unwrap()).concat();
    assert!(told.len() > 1_000 && logs.lines().count() > 5, "nothing was told: {logs}");
    for secret in PERSONAL {
        assert!(!told.contains(secret), "{secret:?} in a span or metric");
        assert!(!logs.contains(secret), "{secret:?} in a log: {:?}", logs.lines().find(|l| l.contains(secret)));
    }
    for line in logs.lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(parsed["time"].is_string() && parsed["level"].is_string(), "{line}");
    }
    drop(system);
    std::fs::remove_dir_all(directory).unwrap();
}

/// What `dunlin explain` tells, from the database alone.
fn explain(directory: &Path) -> String {
    let settings = directory.join("dunlin.yaml");
    let told = Command::new(binary().unwrap()).arg("--config").arg(settings).args(["explain", "acme/in_1"]).output();
    String::from_utf8(told.unwrap().stdout).unwrap()
}

/// A customer, and an invoice that will be overdue.
async fn tell_of_an_invoice(system: &Processes) {
    let start = at("2026-06-01T08:00:00Z");
    let merchant = system.configuration.merchants.by_name("acme").unwrap();
    let secret = merchant.file.stripe.as_ref().unwrap().signing_secrets[0].clone();
    let ingest = format!("http://{}", system.configuration.settings.ingest.http_listen);
    let webhooks = Webhooks::new(reqwest::Client::new(), &ingest, "acme", secret);
    let customer = stripe::customer("cus_1", "Quirinus Xylander", "quirinus@payers.example", None);
    webhooks.post(&stripe::event("evt_customer", "customer.created", start, customer), PATIENCE).await.unwrap();
    let mut invoice = draft("in_1", "cus_1", start, Some("2026-06-08"));
    (invoice.name, invoice.email) = ("Quirinus Xylander".to_owned(), "quirinus@payers.example".to_owned());
    // One event at a time, so that each goes on alone and its trace with it.
    for (kind, status) in [("invoice.created", "draft"), ("invoice.finalized", "open")] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        invoice.status = status;
        webhooks.post(&event(kind, &invoice, start), PATIENCE).await.unwrap();
    }
}

struct Spans(Vec<Span>);

impl Spans {
    fn one(&self, is_it: impl Fn(&Span) -> bool) -> &Span {
        let found: Vec<&Span> = self.0.iter().filter(|s| is_it(s)).collect();
        let names: Vec<&str> = self.0.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(found.len(), 1, "among {names:#?}");
        found[0]
    }

    fn in_trace(&self, of: &Span, name: &str, kind: SpanKind) -> &Span {
        let found = self.0.iter().find(|s| s.trace_id == of.trace_id && s.name == name);
        let found = found.unwrap_or_else(|| {
            let here: Vec<_> = self.0.iter().filter(|s| s.trace_id == of.trace_id).map(|s| &s.name).collect();
            panic!("no {name:?} in the trace of {:?}, which has {here:#?}", of.name)
        });
        assert_eq!(found.kind(), kind, "{name}");
        found
    }

    /// Whether the trace of this webhook is the one that issued the invoice.
    fn leads_to_issue(&self, webhook: &Span) -> bool {
        let issues = |s: &&Span| s.name == "send dunlin.v1.invoice-issued.{merchant}";
        self.0.iter().filter(issues).any(|s| s.trace_id == webhook.trace_id)
    }

    /// Whether one span is the other's child, or its child's child.
    fn is_below(&self, span: &Span, above: &Span) -> bool {
        let mut parent = &span.parent_span_id;
        while let Some(next) = self.0.iter().find(|s| s.span_id == *parent) {
            if next.span_id == above.span_id {
                return true;
            }
            parent = &next.parent_span_id;
        }
        false
    }

    /// The traces that a span links to, and those that these link to: a timer is armed anew by each timer that fires.
    fn linked_traces(&self, span: &Span) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = span.links.iter().map(|l| l.trace_id.clone()).collect();
        let mut next = 0;
        while let Some(trace) = found.get(next).cloned() {
            let links = self.0.iter().filter(|s| s.trace_id == trace).flat_map(|s| &s.links);
            let new: Vec<_> = links.map(|l| l.trace_id.clone()).filter(|t| !found.contains(t)).collect();
            found.extend(new);
            next += 1;
        }
        found
    }
}

fn has(span: &Span, attribute: &str) -> bool {
    span.attributes.iter().any(|a| a.key == attribute)
}
