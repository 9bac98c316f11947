//! Tests that need something from outside.

/// Says that a test cannot run here. With `LENO_TEST_STRICT=1`, which CI sets, that is a failure.
pub(crate) fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED {what} {why}");
    let strict = std::env::var("LENO_TEST_STRICT").is_ok_and(|strict| strict == "1");
    assert!(!strict, "{what} was to be skipped ({why}), and LENO_TEST_STRICT=1 forbids that");
}
