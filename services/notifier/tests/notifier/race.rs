//! Payments at random moments around final dots.
//!
//! What is checked is the order of two critical sections. Whoever records a payment holds the lock of the balance's row from
//! its UPDATE to its commit; the clerk holds it while dots are written. Each takes a number from one counter inside its own
//! section: the payment after its UPDATE, the dot after it was written and before the clerk may commit. Since the sections of
//! one row exclude each other, the numbers come in their order, however long anything takes: an accepted copy whose number is
//! above that of its payment was let out after the payment had the row. There are no false alarms, as no clock is compared.
//!
//! `RACE_TRIALS` says how many payments; `make soak` tries many.

use super::*;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use testkit::smtp::Reaction::{Delay, Proceed};

/// The server takes so long to answer DATA; and payments come up to so long before or after the moment when dots are written.
const AROUND: Duration = Duration::from_millis(50);
/// Reminders on their way together.
const WAVE: usize = 2_000;

static NEXT: AtomicU64 = AtomicU64::new(1);
/// Numbers of dots, by delivery.
static DOTS: LazyLock<Mutex<HashMap<Uuid, u64>>> = LazyLock::new(Mutex::default);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_final_dot_follows_the_payment() {
    let trials = std::env::var("RACE_TRIALS").map_or(WAVE, |n| n.parse().unwrap());
    runtime::failpoint::look_on(|point, id| {
        if point == "dot written" {
            DOTS.lock().unwrap().insert(id, NEXT.fetch_add(1, Ordering::SeqCst));
        }
    });
    let smtp = SmtpServer::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let settings = SmtpSettings { connections: 64, ..SmtpSettings::new("127.0.0.1", smtp.address.port()) };
    let rig = Rig::start_by(smtp, settings).await;
    let payments = Arc::new(Payments {
        pool: rig.pool.clone(),
        deliveries: Mutex::default(),
        numbers: Mutex::default(),
        centre: AtomicU64::new(AROUND.as_micros() as u64),
    });
    let payer = payments.clone();
    rig.smtp.script(move |phase, to| {
        if phase != Phase::Data {
            return Proceed;
        }
        // A second attempt is not paid for a second time.
        if let Some(delivery) = payer.deliveries.lock().unwrap().remove(&to[0]) {
            tokio::spawn(payer.clone().pay(to[0].clone(), delivery));
        }
        Delay(AROUND)
    });

    let (mut sent, mut late) = (0, Vec::new());
    let mut done = 0;
    while done < trials {
        let wave: Vec<usize> = (done..trials.min(done + WAVE)).collect();
        done += wave.len();
        let deliveries = send(&rig, &payments, &wave, done).await;
        let paid = payments.numbers.lock().unwrap().clone();
        for mail in rig.smtp.take_mails() {
            let (dot, payment) = (DOTS.lock().unwrap()[&deliveries[&mail.to[0]]], paid[&mail.to[0]]);
            if dot > payment {
                late.push(mail.to[0].clone());
            }
            sent += 1;
        }
    }
    println!("{trials} trials: {sent} sent before the payment, {} cancelled, {} too late", trials - sent, late.len());
    assert_eq!(late, [] as [&str; 0], "sent after the payment");
    rig.wait_for("delivery WHERE state = 'handed_off'", i64::try_from(sent).unwrap()).await;
    rig.wait_for("delivery WHERE state = 'suppressed' AND reason = 'paid'", i64::try_from(trials - sent).unwrap())
        .await;
    assert!(sent > trials / 20 && sent < trials - trials / 20, "too one-sided to prove anything");
    rig.end().await;
}

/// Asks for reminders, and waits until all are at an end and paid. Returns the deliveries by address.
async fn send(rig: &Rig, payments: &Payments, wave: &[usize], done: usize) -> HashMap<String, Uuid> {
    let issued = wave.iter().map(|n| v1::InvoiceIssued { invoice: Some(billed(&address(*n), 1, 100)) });
    rig.emit(&INGEST_INTAKE, issued).await;
    rig.wait_for("balance", i64::try_from(done).unwrap()).await;
    let requests: Vec<_> = wave
        .iter()
        .map(|n| {
            let mut request = due(&[&address(*n)]);
            request.reminder.as_mut().unwrap().customer_id = address(*n);
            request
        })
        .collect();
    let id = |request: &v1::ReminderDue| request.reminder.as_ref().unwrap().reminder_id.parse().unwrap();
    let deliveries: HashMap<String, Uuid> =
        wave.iter().zip(&requests).map(|(n, request)| (address(*n), id(request))).collect();
    payments.deliveries.lock().unwrap().extend(deliveries.clone());
    rig.emit(&SCHEDULER_TIMERS, requests).await;
    let many = Duration::from_secs(120);
    wait::until_true("all ends and payments", many, || async {
        let sql = "SELECT (SELECT count(*) FROM notifier.delivery WHERE state IN ('handed_off', 'suppressed')),
                          (SELECT count(*) FROM notifier.balance WHERE version = 2)";
        let (ended, paid): (i64, i64) = sqlx::query_as(sql).fetch_one(&rig.pool).await.unwrap();
        usize::try_from(ended.min(paid)).unwrap() == done
    })
    .await;
    deliveries
}

/// The address is the invoice and the customer too.
fn address(n: usize) -> String {
    format!("payer{n}@example.com")
}

fn billed(address: &str, version: i64, open_minor: i64) -> v1::Invoice {
    let (customer_id, bill_to_email) = (address.to_owned(), address.to_owned());
    v1::Invoice { customer_id, bill_to_email, ..invoice(address, version, open_minor) }
}

struct Payments {
    pool: PgPool,
    /// By address; of those that are not paid yet.
    deliveries: Mutex<HashMap<String, Uuid>>,
    /// By address.
    numbers: Mutex<HashMap<String, u64>>,
    /// How long after DATA dots are written, in microseconds: found by seeing which of the two came first.
    centre: AtomicU64,
}

impl Payments {
    async fn pay(self: Arc<Self>, address: String, delivery: Uuid) {
        const STEP: u64 = 500;
        // Ids made at different times are as good as random.
        let chance = kernel::id::stable_hash(&[&address, &kernel::id::new(&kernel::SystemClock).to_string()]);
        let centre = Duration::from_micros(self.centre.load(Ordering::Relaxed));
        let after = centre + AROUND * 2 * u32::try_from(chance % 1_000).unwrap() / 1_000;
        tokio::time::sleep(after.saturating_sub(AROUND)).await;
        let paid = events::Invoice::try_from(&billed(&address, 2, 0)).unwrap();
        let key = (paid.merchant.clone(), paid.invoice.clone());
        let mut tx = self.pool.begin().await.unwrap();
        notifier::store::upsert_balances(&mut tx, &BTreeMap::from([(key, paid)])).await.unwrap();
        self.numbers.lock().unwrap().insert(address, NEXT.fetch_add(1, Ordering::SeqCst));
        tx.commit().await.unwrap();
        if DOTS.lock().unwrap().contains_key(&delivery) {
            self.centre.fetch_sub(STEP.min(self.centre.load(Ordering::Relaxed)), Ordering::Relaxed);
        } else {
            self.centre.fetch_add(STEP, Ordering::Relaxed);
        }
    }
}
