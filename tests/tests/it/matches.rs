//! Every kind of match that a VirtualService knows, live.

use http::Method;
use leno_tests::{Call, Mesh, Protocol, mesh, origin};

/// A match block, and requests that it takes or not.
struct Case {
    /// Also the name of the service.
    name: &'static str,
    /// The match block, in YAML's flow style.
    block: &'static str,
    requests: &'static [Asked],
}

/// Method, path or URL, headers; whether the block takes it.
type Asked = (&'static str, &'static str, &'static [(&'static str, &'static str)], Taken);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Taken {
    Yes,
    No,
}
use Taken::{No, Yes};

const CASES: &[Case] = &[
    Case {
        name: "uri-exact",
        block: "{uri: {exact: /a}}",
        requests: &[
            ("GET", "/a", &[], Yes),
            ("GET", "/a?q=1", &[], Yes),
            ("GET", "/a/", &[], No),
            ("GET", "/A", &[], No),
        ],
    },
    Case {
        name: "uri-prefix",
        block: "{uri: {prefix: /foo}}",
        requests: &[
            ("GET", "/foo", &[], Yes),
            ("GET", "/foobar", &[], Yes),
            ("GET", "/fo", &[], No),
            ("GET", "/x/foo", &[], No),
        ],
    },
    Case {
        name: "uri-regex",
        block: r#"{uri: {regex: "/v[0-9]+/.*"}}"#,
        requests: &[
            ("GET", "/v1/x", &[], Yes),
            ("GET", "/v12/?q", &[], Yes),
            ("GET", "/vx/x", &[], No),
            ("GET", "/a/v1/x", &[], No),
        ],
    },
    Case {
        name: "uri-ignore-case",
        block: "{uri: {prefix: /Foo}, ignoreUriCase: true}",
        requests: &[("GET", "/fOO/x", &[], Yes), ("GET", "/bar", &[], No)],
    },
    Case {
        name: "header-exact",
        block: "{headers: {x-user: {exact: jason}}}",
        requests: &[
            ("GET", "/", &[("x-user", "jason")], Yes),
            ("GET", "/", &[("X-User", "jason")], Yes),
            ("GET", "/", &[("x-user", "Jason")], No),
            ("GET", "/", &[], No),
        ],
    },
    Case {
        name: "header-several-values",
        block: r#"{headers: {x-user: {exact: "a,b"}}}"#,
        requests: &[
            ("GET", "/", &[("x-user", "a"), ("x-user", "b")], Yes),
            ("GET", "/", &[("x-user", "a")], No),
            ("GET", "/", &[("x-user", "b"), ("x-user", "a")], No),
        ],
    },
    Case {
        name: "header-prefix",
        block: "{headers: {x-user: {prefix: ja}}}",
        requests: &[
            ("GET", "/", &[("x-user", "jason")], Yes),
            ("GET", "/", &[("x-user", "xja")], No),
            ("GET", "/", &[], No),
        ],
    },
    Case {
        name: "header-regex",
        block: r#"{headers: {x-user: {regex: "j.*n"}}}"#,
        requests: &[
            ("GET", "/", &[("x-user", "jason")], Yes),
            ("GET", "/", &[("x-user", "jasons")], No),
            ("GET", "/", &[], No),
        ],
    },
    Case {
        name: "header-present",
        block: "{headers: {x-user: {}}}",
        requests: &[
            ("GET", "/", &[("x-user", "anybody")], Yes),
            ("GET", "/", &[("x-user", "")], Yes),
            ("GET", "/", &[], No),
        ],
    },
    Case {
        name: "header-star",
        block: r#"{headers: {x-user: {regex: "*"}}}"#,
        requests: &[("GET", "/", &[("x-user", "anybody")], Yes), ("GET", "/", &[], No)],
    },
    Case {
        name: "without-header",
        block: "{withoutHeaders: {x-user: {exact: jason}}}",
        requests: &[
            ("GET", "/", &[("x-user", "jason")], No),
            ("GET", "/", &[("x-user", "maria")], Yes),
            ("GET", "/", &[], Yes),
        ],
    },
    Case {
        name: "without-any-header",
        block: "{withoutHeaders: {x-user: {}}}",
        requests: &[("GET", "/", &[("x-user", "jason")], No), ("GET", "/", &[], Yes)],
    },
    Case {
        name: "query-exact",
        block: r#"{queryParams: {canary: {exact: "1"}}}"#,
        requests: &[
            ("GET", "/?canary=1", &[], Yes),
            ("GET", "/?a=b&canary=1&c", &[], Yes),
            ("GET", "/?canary=2", &[], No),
            ("GET", "/?xcanary=1", &[], No),
            ("GET", "/", &[], No),
        ],
    },
    Case {
        name: "query-empty",
        block: r#"{queryParams: {key: {exact: ""}}}"#,
        requests: &[("GET", "/?key", &[], Yes), ("GET", "/?key=", &[], Yes), ("GET", "/?key=x", &[], No)],
    },
    Case {
        name: "query-present",
        block: "{queryParams: {key: {}}}",
        requests: &[("GET", "/?key=x", &[], Yes), ("GET", "/?key", &[], Yes), ("GET", "/?other", &[], No)],
    },
    Case {
        name: "query-regex",
        block: r#"{queryParams: {id: {regex: "[0-9]+"}}}"#,
        requests: &[("GET", "/?id=12", &[], Yes), ("GET", "/?id=1a", &[], No), ("GET", "/?id=", &[], No)],
    },
    Case {
        name: "method",
        block: "{method: {exact: POST}}",
        requests: &[("POST", "/", &[], Yes), ("GET", "/", &[], No)],
    },
    Case {
        name: "method-regex",
        block: r#"{method: {regex: "GET|PUT"}}"#,
        requests: &[("GET", "/", &[], Yes), ("PUT", "/", &[], Yes), ("POST", "/", &[], No)],
    },
    Case {
        name: "authority",
        block: "{authority: {prefix: authority.default}}",
        requests: &[
            ("GET", "http://authority.default.svc.cluster.local/", &[], Yes),
            ("GET", "http://authority.default.svc/", &[], Yes),
            ("GET", "http://authority/", &[], No),
        ],
    },
    Case { name: "scheme-http", block: "{scheme: {exact: http}}", requests: &[("GET", "/", &[], Yes)] },
    Case { name: "scheme-https", block: "{scheme: {exact: https}}", requests: &[("GET", "/", &[], No)] },
    Case {
        name: "all-of-a-block",
        block: "{uri: {prefix: /a}, headers: {x: {exact: y}}, method: {exact: GET}}",
        requests: &[
            ("GET", "/a", &[("x", "y")], Yes),
            ("POST", "/a", &[("x", "y")], No),
            ("GET", "/a", &[], No),
            ("GET", "/b", &[("x", "y")], No),
        ],
    },
    Case {
        name: "any-of-the-blocks",
        block: "{uri: {exact: /a}}, {headers: {x: {exact: y}}}",
        requests: &[("GET", "/a", &[], Yes), ("GET", "/b", &[("x", "y")], Yes), ("GET", "/b", &[], No)],
    },
    Case { name: "own-labels", block: "{sourceLabels: {app: client}}", requests: &[("GET", "/", &[], Yes)] },
    Case { name: "other-labels", block: "{sourceLabels: {app: other}}", requests: &[("GET", "/", &[], No)] },
    Case { name: "own-namespace", block: "{sourceNamespace: default}", requests: &[("GET", "/", &[], Yes)] },
    Case { name: "other-namespace", block: "{sourceNamespace: other}", requests: &[("GET", "/", &[], No)] },
    Case { name: "own-port", block: "{port: 80}", requests: &[("GET", "/", &[], Yes)] },
    Case { name: "other-port", block: "{port: 81}", requests: &[("GET", "/", &[], No)] },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_match_takes_what_it_should_and_nothing_else() {
    let app = origin("app").await;
    let mut builder = mesh();
    let mut rules = String::new();
    for Case { name, block, .. } in CASES {
        builder = builder.service(name, &[("v1", app.address())]);
        rules.push_str(&format!(
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  http:
  - match: [{block}]
    directResponse: {{status: 200, body: {{string: Yes}}}}
  - directResponse: {{status: 200, body: {{string: No}}}}
"
        ));
    }
    for workers in [1, 4] {
        must_meet_their_rules(&builder.clone().workers(workers).rules(&rules).start().await).await;
    }
    assert_eq!(app.count(), 0, "a direct response calls nobody");
}

async fn must_meet_their_rules(mesh: &Mesh) {
    let mut wrong = Vec::new();
    for protocol in Protocol::ALL {
        for Case { name, block, requests } in CASES {
            for (method, target, headers, taken) in *requests {
                let url = if target.starts_with('/') { format!("http://{name}{target}") } else { (*target).to_owned() };
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                let call = headers.iter().fold(Call::new(method, &url), |call, (name, value)| call.header(name, value));
                let reply = mesh.send(call.over(protocol)).await;
                if reply.text() != format!("{taken:?}") {
                    wrong.push(format!("{protocol:?} {name} {block}: {target} {headers:?} is {}", reply.text()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} requests met the wrong rule:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_rule_that_matches_wins_whatever_comes_after_it() {
    let app = origin("app").await;
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - match: [{uri: {prefix: /a}}]
    directResponse: {status: 200, body: {string: first}}
  - match: [{uri: {exact: /a/b}}]
    directResponse: {status: 200, body: {string: second}}
  - match: [{uri: {prefix: /}}]
    directResponse: {status: 200, body: {string: third}}
  - match: [{uri: {exact: /c}}]
    directResponse: {status: 200, body: {string: fourth}}
";
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(rules).start().await;
    for (path, rule) in [("/a", "first"), ("/a/b", "first"), ("/b", "third"), ("/c", "third")] {
        assert_eq!(mesh.get(&format!("http://app{path}")).await.text(), rule, "{path}");
    }
}
