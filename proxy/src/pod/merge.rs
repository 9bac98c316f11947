//! One exposition out of two: the proxy's own and the app's.
//!
//! The proxy's own come first and win: an app must not be able to say something in the proxy's name. Families that both
//! have (the OpenTelemetry names, say) become one, since a second `TYPE` line would end a parser's patience; of the app's
//! samples in them, those whose series the proxy has too are left out, and all of them where the app says that the family
//! is of another type.

use std::collections::{HashMap, HashSet};

use super::exposition::{Exposition, Family, Labels, Sample};

/// What came of it.
pub(super) struct Merged<'a> {
    /// All of it.
    pub(super) exposition: Exposition<'a>,
    /// Samples of the app that are not in it.
    pub(super) left_out: u64,
}

/// Puts `app` behind `own`; both in the same format.
pub(super) fn merge<'a>(mut own: Exposition<'a>, app: Exposition<'a>) -> Merged<'a> {
    let known = Known::new(&own, &app);
    let mut left_out = 0;
    for mut family in app.families {
        let before = family.samples.len();
        if own.family(&family.name).is_some_and(|same| !is_alike(same.kind, family.kind)) {
            family.samples.clear();
        } else {
            family.samples.retain(|sample| !known.has(sample));
        }
        left_out = before.saturating_sub(family.samples.len()).saturating_add(left_out);
        match own.family_mut(&family.name) {
            Some(same) => same.samples.append(&mut family.samples),
            None if family.samples.is_empty() && before > 0 => {}
            None => own.push(family),
        }
    }
    Merged { exposition: own, left_out: left_out as u64 }
}

/// Whether two families of one name are of one type, as far as is said.
fn is_alike(own: Option<&str>, other: Option<&str>) -> bool {
    match (own, other) {
        (Some(own), Some(other)) => own == other,
        (None, _) | (_, None) => true,
    }
}

/// The series that the proxy has, of the names that the app has too.
struct Known<'a>(HashMap<&'a str, HashSet<Labels<'a>>>);

impl<'a> Known<'a> {
    fn new(own: &Exposition<'a>, app: &Exposition<'a>) -> Self {
        let samples = |exposition: &Exposition<'a>| -> Vec<Sample<'a>> {
            exposition.families.iter().flat_map(|family: &Family<'a>| &family.samples).copied().collect()
        };
        let mut known: HashMap<&str, HashSet<Labels<'a>>> =
            samples(app).into_iter().map(|sample| (sample.name, HashSet::new())).collect();
        for sample in samples(own) {
            if let Some(series) = known.get_mut(sample.name) {
                series.insert(sample.labels());
            }
        }
        known.retain(|_, series| !series.is_empty());
        Self(known)
    }

    fn has(&self, sample: &Sample<'a>) -> bool {
        self.0.get(sample.name).is_some_and(|series| series.contains(&sample.labels()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposition::Format;
    use super::*;

    const OWN: &str = "# TYPE istio_requests_total counter\nistio_requests_total{code=\"200\"} 7\n\
                       # TYPE up gauge\nup 1\n# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 2\ntook_count 2\n";

    #[test]
    fn what_both_have_is_one_family_and_the_proxys_own_wins() {
        let rows = [
            ("jobs 3\n", "jobs 3\n", 0),
            ("# TYPE istio_requests_total counter\nistio_requests_total{code=\"500\"} 1\n", "{code=\"500\"} 1", 0),
            ("istio_requests_total{ code=\"200\" } 9\n", "", 1),
            ("# TYPE up counter\nup{a=\"b\"} 1\n", "", 1),
            ("took_count 5\n", "", 1),
            ("took_count{a=\"b\"} 5\n", "took_count{a=\"b\"} 5\n", 0),
            ("# HELP empty Nothing yet\n", "# HELP empty Nothing yet\n", 0),
        ];
        for (app, expected, left_out) in rows {
            let own = Exposition::parse(OWN, Format::Text).expect("valid");
            let merged = merge(own, Exposition::parse(app, Format::Text).expect(app));
            let text = merged.exposition.write(Format::Text);
            assert!(
                text.contains(expected) && text.contains("istio_requests_total{code=\"200\"} 7\n"),
                "{app}: {text}"
            );
            assert_eq!(merged.left_out, left_out, "{app}");
            for name in ["istio_requests_total", "up"] {
                assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{app}: {text}");
            }
        }
    }
}
