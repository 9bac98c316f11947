//! HealthChecks.

use crate::run;

#[test]
fn health_checks_are_checked() {
    run(
        "HealthCheck",
        &[
            ("host: a\nhttp: {path: /health, status: [200, 204-299], retriable: ['503']}\ninterval: 5s", &[]),
            ("host: a\nsubset: v1\nport: 80\ntcp: {send: PING, receive: PONG}\ntimeout: 200ms", &[]),
            ("host: b\ngrpc: {}\nunhealthyThreshold: 3\nhealthyThreshold: 2\nidleInterval: 1m", &[]),
            ("host: a", &[("L0101", "spec", "spec")]),
            ("host: a\ntcp: {}\ngrpc: {}", &[("L0102", "spec", "spec")]),
            ("host: '*.a'\ntcp: {}", &[("L0103", "spec.host", "'*.a'")]),
            (
                "host: a\nhttp: {path: health, status: [600, 299-200, ok]}",
                &[
                    ("L0112", "spec.http.path", "health"),
                    ("L0110", "spec.http.status[0]", "600"),
                    ("L0110", "spec.http.status[1]", "299-200"),
                    ("L0110", "spec.http.status[2]", "ok"),
                ],
            ),
            (
                "host: a\ntcp: {}\ninterval: 0s\ntimeout: soon\nhealthyThreshold: 0",
                &[
                    ("L0105", "spec.interval", "0s"),
                    ("L0105", "spec.timeout", "soon"),
                    ("L0116", "spec.healthyThreshold", "0"),
                ],
            ),
            ("host: nobody\ntcp: {}", &[("L0201", "spec.host", "nobody")]),
            ("host: a\ntcp: {}\nport: 82", &[("L0203", "spec.port", "82")]),
            ("host: a\ntcp: {}\nsubset: v9", &[("L0202", "spec.subset", "v9")]),
        ],
    );
}
