//! Waiting for something to be so.

use std::time::{Duration, Instant};

/// How long anything on one busy machine may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until `look` gives a value, for [`PATIENCE`] at most; its last `Err` says why the test failed.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same, within a time that is itself part of what is tested.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        let last = match tokio::time::timeout(limit, look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(why)) => why,
            Err(_) => "no answer".to_owned(),
        };
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}; at last: {last}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
