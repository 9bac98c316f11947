//! Where Leno differs from Envoy.
//!
//! [`ALL`] are the differences that are meant: there are at most fifteen, each has its reason and the cases that show it,
//! and the judge fails when Leno does anything else there, Envoy's way included.

/// One difference, wherever it shows.
#[derive(Debug)]
pub(super) struct Difference {
    /// In one line.
    pub(super) title: &'static str,
    pub(super) why: &'static str,
    /// The cases that show it; empty: whichever.
    pub(super) cases: &'static [&'static str],
    /// Field, what Envoy does, what Leno does; `*` stands for anything.
    shown: &'static [(&'static str, &'static str, &'static str)],
}

/// Where Leno differs because it is meant to.
pub(super) const ALL: &[Difference] = &[
    Difference {
        title: "a reused connection that closes without an answer does not fail an idempotent request",
        why: "the keep-alive race is the most frequent 503 of a mesh; without a body and idempotent (RFC 9110 §9.2.2) the \
              request is sent once more, whatever the policy, and the free attempt is not one of the policy's",
        cases: &["race-close", "race-reset", "default-http", "on-nothing", "on-5xx"],
        shown: &[
            ("status", "503", "200"),
            ("flags", "UC", "-"),
            ("body", "*", "v1"),
            ("header content-length", "95", "2"),
            ("header content-type", "text/plain", ""),
            ("attempts", "v1", "v1,v1"),
            ("attempts", "v1,v1,v1", "v1,v1,v1,v1"),
            ("sent x-envoy-attempt-count", "1", "2"),
            ("sent x-envoy-attempt-count", "3", "4"),
        ],
    },
    Difference {
        title: "a stream that the peer did not look at is sent again, whatever the policy says",
        why: "REFUSED_STREAM says that nothing was done (RFC 9113 §8.7), so sending it again can do no harm",
        cases: &["h2-refused-stream"],
        shown: &[("attempts", "v1", "v1,v1,v1,v1,v1"), ("sent x-envoy-attempt-count", "1", "5")],
    },
    Difference {
        title: "what comes in on an outbound listener is from inside, whatever `x-forwarded-for` says",
        why: "only the own app can reach that listener; a header that anybody can write says nothing about who calls",
        cases: &["caller-outside", "time-of-caller"],
        shown: &[
            ("status", "503", "200"),
            ("status", "200", "504"),
            ("flags", "-", "UT"),
            ("body", "v1", "upstream request timeout"),
            ("header content-length", "2", "24"),
            ("header content-type", "", "text/plain"),
            ("attempts", "v1", "v1,v1"),
            ("sent x-envoy-attempt-count", "1", "2"),
            ("sent x-envoy-expected-rq-timeout-ms", "", "1000"),
        ],
    },
    Difference {
        title: "no `x-envoy-internal`",
        why: "it tells the next hop what the sender thinks of the caller; between sidecars the certificate tells who calls",
        cases: &[],
        shown: &[("sent x-envoy-internal", "true", "")],
    },
    Difference {
        title: "headers that an answer's `Connection` names go no further",
        why: "RFC 9110 §7.6.1 wants them removed from answers as well; Envoy does it in requests alone",
        cases: &["hop-by-hop"],
        shown: &[("header x-mine", "1", "")],
    },
    Difference {
        title: "a connection is kept after an answer that was given before the request's body had come",
        why: "the rest of a small body is read and dropped, which costs less than another connection",
        cases: &[],
        shown: &[("header connection", "close", "")],
    },
];

const _: () = assert!(ALL.len() <= 15, "more than fifteen differences are no longer the same semantics");

/// The difference that this one belongs to, if it is meant.
pub(super) fn known(case: &str, field: &str, envoy: &str, leno: &str) -> Option<&'static Difference> {
    let is = |pattern: &str, text: &str| pattern == "*" || pattern == text;
    ALL.iter().find(|difference| {
        let here = difference.cases.is_empty() || difference.cases.contains(&case);
        let shown = |(of, theirs, ours): &(&str, &str, &str)| *of == field && is(theirs, envoy) && is(ours, leno);
        here && difference.shown.iter().any(shown)
    })
}
