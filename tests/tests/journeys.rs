//! What a payer lives through, from a processor's webhook to the mail in the inbox: five services, real servers, a clock
//! that the test moves. June 2026 begins on a Monday.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use e2e::book;
use e2e::system::{Dunlin, PATIENCE, at, draft, event};
use events::Service;
use kernel::Clock;
use serde_json::Value;
use testkit::stripe::{self, Invoice};
use testkit::wait;

/// Monday, 1 June 2026, ten o'clock in Berlin.
const START: &str = "2026-06-01T08:00:00Z";
/// The day before: nobody may be written to, so what is decided does not depend on what is known in the meantime.
const SUNDAY: &str = "2026-05-31T08:00:00Z";
const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn who_pays_before_the_due_date_hears_nothing() {
    let dunlin = Dunlin::start(START).await;
    let mut invoice = dunlin.issue("in_1", "cus_1", "2026-06-10").await;
    dunlin.live_until("2026-06-08T08:00:00Z").await;
    dunlin.pay(&mut invoice, 10_000).await;
    dunlin.tell_of("invoice.payment_succeeded", &invoice).await;
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(dunlin.mails(), NOTHING);
    assert_eq!(dunlin.decisions().await, ["in_1/1 upcoming skipped condition"]);
    dunlin.end().await;
}

#[tokio::test]
async fn who_does_not_pay_climbs_the_ladder() {
    let dunlin = Dunlin::start(START).await;
    dunlin.issue("in_1", "cus_1", "2026-06-08").await;
    // Due on Monday the 8th: three days on is Thursday, three days after that a Sunday, which waits for Monday; there the
    // week is over too, and one message speaks for both.
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(dunlin.mails(), ["Thu 11 Jun in_1:overdue-3", "Mon 15 Jun in_1:overdue-7"]);
    let expected = [
        "in_1/1 upcoming skipped condition",
        "in_1/1 overdue-3 sent",
        "in_1/1 follow-up merged later_step",
        "in_1/1 overdue-7 sent",
        // Two weeks later a person takes over.
        "in_1/1 payment-failed skipped sequence_ended",
    ];
    assert_eq!(dunlin.decisions().await, expected);

    dunlin.issue("in_2", "cus_2", "2026-07-21").await;
    // Due on a Tuesday: Friday, then the follow-up on Monday; the week is over on Tuesday, but the gap keeps two days.
    dunlin.live_until("2026-08-20T08:00:00Z").await;
    let expected = ["Fri 24 Jul in_2:overdue-3", "Mon 27 Jul in_2:follow-up", "Wed 29 Jul in_2:overdue-7"];
    assert_eq!(dunlin.mails()[2..], expected);
    let last = dunlin.catcher.mails().last().unwrap().text();
    assert!(last.contains("100.00") && last.contains("IN-2"), "{last}");
    dunlin.end().await;
}

#[tokio::test]
async fn three_failed_payments_ask_for_another_card() {
    let dunlin = Dunlin::start(START).await;
    let mut invoice = draft("in_1", "cus_1", dunlin.clock.now(), None);
    invoice.status = "open";
    dunlin.tell_of("invoice.finalized", &invoice).await;
    for day in ["2026-06-02T12:00:00Z", "2026-06-04T12:00:00Z", "2026-06-09T12:00:00Z"] {
        assert_eq!(dunlin.mails(), NOTHING, "the processor tries again by itself");
        dunlin.live_until(day).await;
        invoice.attempts += 1;
        dunlin.tell_of("invoice.payment_failed", &invoice).await;
    }
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(dunlin.mails(), ["Tue 9 Jun in_1:payment-failed"]);
    dunlin.end().await;
}

#[tokio::test]
async fn a_partial_payment_leaves_the_rest_to_be_reminded() {
    let dunlin = Dunlin::start(START).await;
    let mut invoice = dunlin.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin.live_until("2026-06-11T12:00:00Z").await;
    dunlin.pay(&mut invoice, 6_000).await;
    dunlin.live_until("2026-06-15T12:00:00Z").await;
    let mails = dunlin.catcher.mails();
    assert_eq!(dunlin.mails(), ["Thu 11 Jun in_1:overdue-3", "Mon 15 Jun in_1:overdue-7"]);
    assert!(mails[0].text().contains("100.00") && !mails[0].text().contains("40.00"), "{}", mails[0].text());
    assert!(mails[1].text().contains("40.00"), "{}", mails[1].text());
    dunlin.pay(&mut invoice, 4_000).await;
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(dunlin.mails().len(), 2);
    dunlin.end().await;
}

#[tokio::test]
async fn a_payment_may_come_before_its_invoice() {
    let dunlin = Dunlin::start(START).await;
    let now = dunlin.clock.now();
    let open = Invoice { status: "open", ..draft("in_1", "cus_1", now, Some("2026-06-08")) };
    let mut paid = open.clone();
    paid.pay(10_000, now);
    dunlin.tell([event("invoice.paid", &paid, at("2026-06-01T08:00:05Z"))]).await;
    dunlin.settle().await;
    dunlin.tell([event("invoice.finalized", &open, now)]).await;
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(dunlin.mails(), NOTHING);
    assert_eq!(dunlin.decisions().await, NOTHING);
    dunlin.end().await;
}

#[tokio::test]
async fn the_same_webhook_ten_times_is_one() {
    let dunlin = Dunlin::start(START).await;
    let open = Invoice { status: "open", ..draft("in_1", "cus_1", dunlin.clock.now(), Some("2026-06-08")) };
    let finalized = event("invoice.finalized", &open, dunlin.clock.now());
    let posts = (0..10).map(|_| dunlin.processor.post_once(finalized.to_string()));
    let mut verdicts = Vec::new();
    for response in futures_util::future::join_all(posts).await {
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        verdicts.push(answer["verdict"].as_str().unwrap().to_owned());
    }
    verdicts.sort();
    assert_eq!(verdicts.iter().filter(|v| *v == "accepted").count(), 1, "{verdicts:?}");
    assert_eq!(verdicts.iter().filter(|v| *v == "duplicate").count(), 9, "{verdicts:?}");
    dunlin.live_until("2026-06-12T08:00:00Z").await;
    assert_eq!(dunlin.mails(), ["Thu 11 Jun in_1:overdue-3"]);
    let emitted = dunlin.system.emitted(Service::Ingest).await.unwrap();
    assert_eq!(emitted.iter().filter(|e| e.invoice().is_some()).count(), 1);
    dunlin.end().await;
}

/// A few weeks of several customers, as the processor tells them: paid in time, late, in parts, never; a failing card; a
/// void invoice; a lost dispute; customers who move.
fn some_weeks() -> Vec<Value> {
    let after = |second: i64| at(SUNDAY) + jiff::SignedDuration::from_secs(second);
    let mut events = Vec::new();
    let mut tell = |kind: &str, second: i64, object: Value| {
        let id = format!("evt_{:03}", events.len());
        events.push(stripe::event(&id, kind, after(second), object));
    };
    for n in 0..12 {
        let customer = format!("cus_{}", n % 5);
        let mut invoice = draft(&format!("in_{n:02}"), &customer, at(SUNDAY), Some("2026-06-08"));
        tell("invoice.created", n, invoice.object());
        invoice.status = "open";
        tell("invoice.finalized", n + 1, invoice.object());
        match n % 6 {
            0 => {
                invoice.pay(10_000, after(500 + n));
                tell("invoice.paid", 500 + n, invoice.object());
                tell("invoice.payment_succeeded", 500 + n, invoice.object());
            }
            1 => {
                invoice.pay(2_500, after(600 + n));
                tell("invoice.updated", 600 + n, invoice.object());
            }
            2 => {
                for attempt in 1..=3 {
                    invoice.attempts = attempt;
                    tell("invoice.payment_failed", 700 + n + i64::from(attempt), invoice.object());
                }
            }
            3 => {
                invoice.status = "void";
                tell("invoice.voided", 800 + n, invoice.object());
            }
            4 => {
                invoice.pay(10_000, after(900 + n));
                tell("invoice.paid", 900 + n, invoice.object());
                tell("charge.dispute.created", 1_000 + n, invoice.dispute("needs_response"));
                tell("charge.dispute.closed", 1_100 + n, invoice.dispute("lost"));
            }
            _ => {}
        }
    }
    for n in 0..5 {
        let zone = ["Europe/Lisbon", "Asia/Tokyo"][n % 2];
        let id = format!("cus_{n}");
        tell("customer.created", 1, stripe::customer(&id, "Somebody", "old@payers.example", None));
        tell("customer.updated", 400, stripe::customer(&id, "Somebody", "new@payers.example", Some(zone)));
    }
    events
}

#[tokio::test]
async fn the_order_of_events_does_not_matter() {
    /// Lives through the same weeks with events in an order, and gives what remains.
    async fn live(events: &[Value]) -> (Vec<String>, Vec<String>) {
        let dunlin = Dunlin::start(SUNDAY).await;
        let posts = events.chunks(8).map(|chunk| async {
            let posts = chunk.iter().map(|event| dunlin.processor.post(event, PATIENCE));
            futures_util::future::try_join_all(posts).await.unwrap();
        });
        for post in posts {
            post.await;
        }
        dunlin.live_until("2026-07-20T08:00:00Z").await;
        let mut mails = dunlin.mails();
        mails.sort();
        let state = book::end_state(&dunlin.pool).await.unwrap();
        dunlin.end().await;
        (mails, state)
    }
    let events = some_weeks();
    let (mails, state) = live(&events).await;
    assert!(mails.len() > 6 && state.len() > 60, "{} mails, {} facts", mails.len(), state.len());
    for seed in ["one", "two"] {
        // Every event three times, in another order each time.
        let mut shuffled: Vec<(u64, &Value)> = Vec::new();
        for copy in ["a", "b", "c"] {
            let key = |e: &Value| kernel::id::stable_hash(&[seed, copy, e["id"].as_str().unwrap()]);
            shuffled.extend(events.iter().map(|e| (key(e), e)));
        }
        shuffled.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<Value> = shuffled.into_iter().map(|(_, e)| e.clone()).collect();
        let (mails_then, state_then) = live(&shuffled).await;
        assert_eq!(mails_then, mails, "order {seed}");
        let lost: Vec<_> = state.iter().filter(|line| !state_then.contains(line)).collect();
        let new: Vec<_> = state_then.iter().filter(|line| !state.contains(line)).collect();
        assert!(lost.is_empty() && new.is_empty(), "order {seed}: lost {lost:#?}, new {new:#?}");
    }
}

#[tokio::test]
async fn a_chargeback_opens_a_new_epoch() {
    let dunlin = Dunlin::start(START).await;
    let mut invoice = dunlin.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin.live_until("2026-06-12T08:00:00Z").await;
    dunlin.pay(&mut invoice, 10_000).await;
    dunlin.live_until("2026-06-22T08:00:00Z").await;
    let now = dunlin.clock.now();
    dunlin.tell([stripe::event("evt_d1", "charge.dispute.created", now, invoice.dispute("needs_response"))]).await;
    dunlin.live_until("2026-06-29T08:00:00Z").await;
    assert_eq!(dunlin.mails(), ["Thu 11 Jun in_1:overdue-3"], "while the bank decides nobody is reminded");
    let now = dunlin.clock.now();
    dunlin.tell([stripe::event("evt_d2", "charge.dispute.closed", now, invoice.dispute("lost"))]).await;
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    // The money went back on Monday the 29th: the ladder begins anew, counted from that day.
    let expected = ["Thu 11 Jun in_1:overdue-3", "Thu 2 Jul in_1:overdue-3", "Mon 6 Jul in_1:overdue-7"];
    assert_eq!(dunlin.mails(), expected);
    let epochs: Vec<_> = dunlin.catcher.mails().iter().flat_map(|m| m.lines()).map(|l| l.epoch).collect();
    assert_eq!(epochs, ["1", "2", "2"]);
    dunlin.end().await;
}

#[tokio::test]
async fn two_invoices_of_a_customer_become_one_mail() {
    let dunlin = Dunlin::start(START).await;
    dunlin.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin.issue("in_2", "cus_1", "2026-06-08").await;
    dunlin.issue("in_3", "cus_2", "2026-06-08").await;
    dunlin.live_until("2026-06-12T08:00:00Z").await;
    let mut mails = dunlin.mails();
    mails.sort();
    assert_eq!(mails, ["Thu 11 Jun in_1:overdue-3 in_2:overdue-3", "Thu 11 Jun in_3:overdue-3"]);
    let both = dunlin.catcher.mails().into_iter().find(|m| m.lines().len() == 2).unwrap();
    for expected in ["IN-1", "IN-2", "200.00"] {
        assert!(both.text().contains(expected), "{expected} is missing:\n{}", both.text());
    }
    dunlin.end().await;
}

#[tokio::test]
async fn nights_and_weekends_wait() {
    // Due on Wednesday the 3rd: three days later is a Saturday.
    let dunlin = Dunlin::start(START).await;
    let mut invoice = dunlin.issue("in_1", "cus_1", "2026-06-03").await;
    dunlin.live_until("2026-06-07T22:00:00Z").await;
    assert_eq!(dunlin.mails(), NOTHING);
    // It is nine o'clock in Berlin at seven UTC.
    dunlin.live_until("2026-06-08T06:59:59Z").await;
    assert_eq!(dunlin.mails(), NOTHING);
    dunlin.live_until("2026-06-08T07:15:00Z").await;
    assert_eq!(dunlin.mails(), ["Mon 8 Jun in_1:overdue-3"]);

    dunlin.pay(&mut invoice, 10_000).await;

    // In the customer's zone, where it is known: nine o'clock in Tokyo is midnight UTC.
    let now = dunlin.clock.now();
    let tokyo = stripe::customer("cus_2", "Aiko Tanaka", "aiko@payers.example", Some("Asia/Tokyo"));
    dunlin.tell([stripe::event("evt_tokyo", "customer.created", now, tokyo)]).await;
    dunlin.issue("in_2", "cus_2", "2026-06-08").await;
    dunlin.live_until("2026-06-10T23:59:59Z").await;
    assert_eq!(dunlin.mails().len(), 1);
    dunlin.live_until("2026-06-11T00:15:00Z").await;
    assert_eq!(dunlin.mails().len(), 2);
    dunlin.end().await;
}

#[tokio::test]
async fn who_unsubscribes_hears_nothing_more() {
    let dunlin = Dunlin::start(START).await;
    dunlin.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin.live_until("2026-06-12T08:00:00Z").await;
    let mail = dunlin.catcher.mails()[0].clone();
    assert_eq!(mail.headers("List-Unsubscribe-Post"), ["List-Unsubscribe=One-Click"]);
    let link = mail.headers("List-Unsubscribe").join("");
    let path = link.trim_matches(['<', '>']).strip_prefix("http://127.0.0.1:9").unwrap().to_owned();
    let url = format!("http://{}{path}", dunlin.address(Service::Tracker, "pages"));
    // A mail scanner follows links; only a POST means it.
    assert_eq!(dunlin.client.get(&url).send().await.unwrap().status(), 200);
    dunlin.settle().await;
    let gone = || async {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM notifier.suppression").fetch_one(&dunlin.pool).await.unwrap();
        count
    };
    assert_eq!(gone().await, 0);
    let post = dunlin.client.post(&url).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(post.body("List-Unsubscribe=One-Click").send().await.unwrap().status(), 200);
    wait::until_true("a suppression", PATIENCE, || async { gone().await == 1 }).await;
    dunlin.issue("in_2", "cus_1", "2026-06-15").await;
    dunlin.live_until("2026-07-20T08:00:00Z").await;
    assert_eq!(dunlin.mails(), ["Thu 11 Jun in_1:overdue-3"]);
    let expected = [
        "in_1/1 upcoming skipped condition",
        "in_1/1 overdue-3 sent",
        "in_2/1 upcoming skipped opted_out",
        "in_1/1 follow-up skipped opted_out",
        "in_1/1 overdue-7 skipped opted_out",
        "in_2/1 follow-up skipped base_not_sent",
        "in_2/1 overdue-3 skipped opted_out",
        "in_2/1 overdue-7 skipped opted_out",
        "in_1/1 payment-failed skipped sequence_ended",
        "in_2/1 payment-failed skipped sequence_ended",
    ];
    assert_eq!(dunlin.decisions().await, expected);
    dunlin.end().await;
}

#[tokio::test]
async fn the_pay_link_leads_to_the_payment_page_and_the_visit_is_noted() {
    let dunlin = Dunlin::start(START).await;
    dunlin.issue("in_1", "cus_1", "2026-06-08").await;
    dunlin.live_until("2026-06-12T08:00:00Z").await;
    let link = dunlin.catcher.mails()[0].pay_links().remove(0);
    let path = link.strip_prefix("http://127.0.0.1:9").unwrap();
    let url = format!("http://{}{path}", dunlin.address(Service::Tracker, "pages"));
    let response = dunlin.client.get(&url).send().await.unwrap();
    assert_eq!(response.status(), 303, "{url}");
    assert_eq!(response.headers()["location"], "https://pay.example.com/in_1");
    let stats =
        format!("http://{}/v1/stats?from=2026-06-01&to=2026-06-30", dunlin.address(Service::Tracker, "dashboard"));
    let stats: Value =
        serde_json::from_str(&dunlin.client.get(stats).send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(stats["by_step"][0]["visits"], 1, "{stats:#}");
    dunlin.end().await;
}
