//! A new endpoint gets its share slowly: caches are cold and connections not open yet (Envoy's slow start).

use std::time::Duration;

use leno_config::ir;

/// How much of its weight an endpoint has after being available for `age`, up to 1: it grows from `min_share` along
/// `(age / window)^(1 / aggression)`.
pub(super) fn factor(settings: &ir::SlowStart, age: Duration) -> f64 {
    if age >= settings.window || settings.window.is_zero() {
        return 1.0;
    }
    // Envoy counts at least a millisecond.
    let elapsed = age.max(Duration::from_millis(1)).as_secs_f64() / settings.window.as_secs_f64();
    let grown = if settings.aggression == 1.0 { elapsed } else { elapsed.powf(1.0 / settings.aggression) };
    grown.max(f64::from(settings.min_share.millionths()) / 1e6).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_its_minimum_along_the_curve() {
        let settings = |aggression: f64| ir::SlowStart {
            window: Duration::from_secs(100),
            aggression,
            min_share: ir::Fraction::from_percent(10.0).expect("a percentage"),
        };
        for (aggression, seconds, expected) in [
            (1.0, 0, 0.1),
            (1.0, 5, 0.1),
            (1.0, 50, 0.5),
            (1.0, 99, 0.99),
            (1.0, 100, 1.0),
            (1.0, 1000, 1.0),
            (2.0, 25, 0.5),
            (2.0, 0, 0.1),
            (0.5, 50, 0.25),
        ] {
            let found = factor(&settings(aggression), Duration::from_secs(seconds));
            assert!((found - expected).abs() < 1e-6, "{aggression} after {seconds} s: {found}");
        }
    }
}
