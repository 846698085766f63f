//! Conditions with a deadline instead of sleeps.

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Polls until the condition gives a value; panics with `what` when the deadline has passed.
#[expect(clippy::panic, reason = "a test that waits in vain has failed")]
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        if Instant::now() > deadline {
            panic!("waited {within:?} in vain for: {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same for a condition that is true or not.
pub async fn until_true<F: Future<Output = bool>>(what: &str, within: Duration, mut condition: impl FnMut() -> F) {
    until(what, within, || {
        let now = condition();
        async move { now.await.then_some(()) }
    })
    .await;
}
