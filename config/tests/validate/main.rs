//! What validation says about rules: the code, the path, and the very text it points at.

mod health_check;
mod security;
mod virtual_service;

use leno_config::diagnostic::{Diagnostic, Style, render};
use leno_config::rules::{SourceText, parse};
use leno_config::validate::check;

fn findings(text: &str) -> Vec<Diagnostic> {
    check(&parse(&[SourceText { name: "rules.yaml".into(), text: text.into() }]))
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.trim().lines().map(|line| format!("  {line}\n")).collect();
    let version = match kind {
        "MeshConfig" | "HealthCheck" | "RateLimit" => "leno.mesh/v1alpha1",
        "Service" => "v1",
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "security.istio.io/v1",
        _ => "networking.istio.io/v1",
    };
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}")
}

/// Services and subsets that the rules of the tables may name.
fn surroundings() -> String {
    let service = |name: &str, ports: &str| document("Service", name, &format!("ports: [{ports}]"));
    [
        service("a", "{port: 80, name: http}, {port: 81, name: http-more}"),
        service("b", "{port: 80, name: http}"),
        document("DestinationRule", "a", "host: a\nsubsets: [{name: v1, labels: {version: v1}}]"),
    ]
    .concat()
}

/// One row: a rule, and the code, path and marked text of what is found; nothing else is.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str, &'a str)]);

fn run(kind: &str, rows: &[Row<'_>]) {
    run_beside("", kind, rows);
}

/// The same with more documents around the rule.
fn run_beside(others: &str, kind: &str, rows: &[Row<'_>]) {
    for (spec, expected) in rows {
        let text = surroundings() + others + &document(kind, "rule", spec);
        let found: Vec<(String, String, String)> = findings(&text)
            .into_iter()
            .filter(|finding| finding.code != "L0301")
            .map(|finding| {
                let snippet = finding.snippet.clone().expect("every finding shows its line");
                assert!(render(&finding, Style::Plain).contains(&snippet.text), "{finding}");
                (finding.code.to_owned(), finding.path.clone(), snippet.text[snippet.mark].to_owned())
            })
            .collect();
        let found: Vec<(&str, &str, &str)> =
            found.iter().map(|(code, path, text)| (code.as_str(), path.as_str(), text.as_str())).collect();
        assert_eq!(&found, expected, "\n{spec}");
    }
}

/// The same for one HTTP rule, which goes to `b` unless it says something else.
fn run_http(rows: &[Row<'_>]) {
    let to_b = "route: [{destination: {host: b}}]";
    for (rule, expected) in rows {
        let has_action =
            ["route:", "redirect:", "directResponse:", "delegate:"].iter().any(|word| rule.starts_with(word));
        let rule = if has_action { (*rule).to_owned() } else { format!("{to_b}\n{rule}") };
        let rule: String = rule.trim().lines().map(|line| format!("  {line}\n")).collect();
        let spec = format!("hosts: [b]\nhttp:\n- {}", rule.trim_start());
        run("VirtualService", &[(&spec, expected)]);
    }
}

#[test]
fn destination_rules_are_checked() {
    run(
        "DestinationRule",
        &[
            ("host: b\nsubsets: [{name: v1, labels: {a: b}}]", &[]),
            ("host: ''", &[("L0101", "spec.host", "''")]),
            ("host: x", &[("L0201", "spec.host", "x")]),
            ("host: '*.example.com'", &[]),
            (
                "host: b\nsubsets: [{name: a}, {name: a}, {}]",
                &[("L0118", "spec.subsets[1].name", "a"), ("L0101", "spec.subsets[2].name", "{")],
            ),
            ("host: b\ntrafficPolicy: {}", &[("L0122", "spec.trafficPolicy", "trafficPolicy")]),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, consistentHash: {useSourceIp: true}}}",
                &[("L0102", "spec.trafficPolicy.loadBalancer.consistentHash", "consistentHash")],
            ),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {simple: ROUNDROBIN}}",
                &[("L0007", "spec.trafficPolicy.loadBalancer.simple", "ROUNDROBIN")],
            ),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {consistentHash: {}}}",
                &[("L0101", "spec.trafficPolicy.loadBalancer.consistentHash", "consistentHash")],
            ),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}}",
                &[("L0102", "spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp", "useSourceIp")],
            ),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 10}}}}",
                &[("L0116", "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize", "10")],
            ),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r/z, to: {r/*: 90}}], failover: [{from: a, to: a}]}}}",
                &[
                    ("L0120", "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to", "to"),
                    ("L0102", "spec.trafficPolicy.loadBalancer.localityLbSetting.failover", "failover"),
                    ("L0120", "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to", "a"),
                ],
            ),
            (
                "host: b\ntrafficPolicy: {loadBalancer: {warmup: {aggression: 0.5}}}",
                &[
                    ("L0101", "spec.trafficPolicy.loadBalancer.warmup", "warmup"),
                    ("L0116", "spec.trafficPolicy.loadBalancer.warmup.aggression", "0.5"),
                ],
            ),
            (
                "host: b\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s}}}",
                &[
                    ("L0116", "spec.trafficPolicy.connectionPool.tcp.maxConnections", "-1"),
                    ("L0105", "spec.trafficPolicy.connectionPool.tcp.connectTimeout", "0s"),
                ],
            ),
            (
                "host: b\ntrafficPolicy: {outlierDetection: {maxEjectionPercent: 101, consecutiveErrors: 5}}",
                &[
                    ("L0106", "spec.trafficPolicy.outlierDetection.maxEjectionPercent", "101"),
                    ("L0121", "spec.trafficPolicy.outlierDetection.consecutiveErrors", "consecutiveErrors"),
                ],
            ),
            (
                "host: b\ntrafficPolicy: {tls: {mode: MUTUAL, clientCertificate: a}}",
                &[("L0123", "spec.trafficPolicy.tls", "tls")],
            ),
            (
                "host: b\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL, privateKey: a}}",
                &[("L0123", "spec.trafficPolicy.tls.privateKey", "privateKey")],
            ),
            (
                "host: b\ntrafficPolicy: {portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}, {}, {port: {number: 99}}]}",
                &[
                    ("L0118", "spec.trafficPolicy.portLevelSettings[1].port.number", "80"),
                    ("L0101", "spec.trafficPolicy.portLevelSettings[2].port.number", "{"),
                    ("L0203", "spec.trafficPolicy.portLevelSettings[3].port.number", "99"),
                ],
            ),
            (
                "host: b\ntrafficPolicy: {retryBudget: {percent: 200}}",
                &[("L0106", "spec.trafficPolicy.retryBudget.percent", "200")],
            ),
            (
                "host: b\ntrafficPolicy: {tunnel: {protocol: GET, targetHost: x, targetPort: 0}}",
                &[
                    ("L0117", "spec.trafficPolicy.tunnel.protocol", "GET"),
                    ("L0104", "spec.trafficPolicy.tunnel.targetPort", "0"),
                ],
            ),
        ],
    );
}

#[test]
fn service_entries_and_workloads_are_checked() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let rows = [
        (
            format!(
                "hosts: [x.y]\n{ports}\nresolution: STATIC\nendpoints: [{{address: 10.0.0.1, ports: {{http: 8080}}}}]"
            ),
            vec![],
        ),
        (format!("hosts: []\n{ports}"), vec![("L0101", "spec", "spec")]),
        (format!("hosts: ['*']\n{ports}"), vec![("L0103", "spec.hosts[0]", "'*'")]),
        ("hosts: [x.y]".into(), vec![("L0122", "spec", "spec")]),
        (
            "hosts: [x.y]\nports: [{number: 0, name: a}, {number: 80, name: a, protocol: HTPT}, {number: 80}]".into(),
            vec![
                ("L0104", "spec.ports[0].number", "0"),
                ("L0118", "spec.ports[1].name", "a"),
                ("L0117", "spec.ports[1].protocol", "HTPT"),
                ("L0101", "spec.ports[2]", "{"),
                ("L0118", "spec.ports[2].number", "80"),
            ],
        ),
        (
            format!("hosts: [x.y]\n{ports}\naddresses: [10.0.0.0/8, x]\nresolution: DNS"),
            vec![("L0124", "spec.addresses[0]", "10.0.0.0/8"), ("L0115", "spec.addresses[1]", "x")],
        ),
        (
            format!("hosts: [x.y]\n{ports}\nendpoints: [{{address: 10.0.0.1}}]"),
            vec![("L0124", "spec.endpoints", "endpoints")],
        ),
        (
            format!("hosts: [x.y]\n{ports}\nresolution: STATIC\nendpoints: [{{address: a.b}}]"),
            vec![("L0124", "spec.endpoints[0].address", "a.b")],
        ),
        (format!("hosts: ['*.y']\n{ports}\nresolution: DNS"), vec![("L0124", "spec.hosts[0]", "'*.y'")]),
        (
            format!("hosts: [x.y]\n{ports}\nresolution: DNS\nendpoints: [{{address: 'unix:///a'}}]"),
            vec![("L0124", "spec.endpoints[0].address", "'unix:///a'")],
        ),
        (
            format!(
                "hosts: [x.y]\n{ports}\nresolution: STATIC\nworkloadSelector: {{}}\nendpoints: [{{address: 10.0.0.1}}]"
            ),
            vec![("L0102", "spec.workloadSelector", "workloadSelector")],
        ),
        (
            format!(
                "hosts: [x.y]\n{ports}\nresolution: STATIC\nendpoints:\n- {{address: 10.0.0.1, ports: {{htp: 1}}}}\n- {{address: 10.0.0.2:80}}\n- {{}}\n- {{address: 10.0.0.3, serviceAccount: x}}"
            ),
            vec![
                ("L0203", "spec.endpoints[0].ports.htp", "htp"),
                ("L0115", "spec.endpoints[1].address", "10.0.0.2:80"),
                ("L0101", "spec.endpoints[2]", "{"),
                ("L0208", "spec.endpoints[3].serviceAccount", "x"),
            ],
        ),
        (
            format!(
                "hosts: [x.y]\n{ports}\nresolution: STATIC\nlocation: MESH_INTERNAL\nendpoints:\n- {{address: 10.0.0.3, serviceAccount: x, labels: {{security.istio.io/tlsMode: istio}}}}"
            ),
            vec![],
        ),
    ];
    for (spec, expected) in &rows {
        run("ServiceEntry", &[(spec, expected)]);
    }
    run(
        "WorkloadEntry",
        &[
            ("address: 10.0.0.1\nlocality: a/b/c", &[]),
            ("network: n", &[]),
            ("labels: {a: b}", &[("L0101", "spec", "spec")]),
            ("address: 10.0.0.1\nports: {http: 0}", &[("L0104", "spec.ports.http", "0")]),
            ("address: unix:///a\nports: {http: 1}", &[("L0115", "spec.ports", "ports")]),
            ("address: 10.0.0.1\nlocality: a/b/c/d", &[("L0120", "spec.locality", "a/b/c/d")]),
            ("address: 10.0.0.1\nserviceAccount: x", &[("L0208", "spec.serviceAccount", "x")]),
        ],
    );
}

#[test]
fn sidecars_are_checked() {
    run(
        "Sidecar",
        &[
            ("egress: [{hosts: ['./*', '*/b', 'shop/a']}]", &[]),
            ("{}", &[("L0122", "spec", "spec")]),
            ("ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: 127.0.0.1:8080}]", &[]),
            (
                "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: 10.0.0.1:8080}]",
                &[("L0115", "spec.ingress[0].defaultEndpoint", "10.0.0.1:8080")],
            ),
            (
                "ingress: [{port: {number: 80}, defaultEndpoint: 127.0.0.1:0}]",
                &[("L0104", "spec.ingress[0].defaultEndpoint", "127.0.0.1:0")],
            ),
            (
                "ingress: [{port: {number: 80}, defaultEndpoint: app}]",
                &[("L0115", "spec.ingress[0].defaultEndpoint", "app")],
            ),
            ("ingress: [{}]", &[("L0101", "spec.ingress[0]", "{")]),
            (
                "ingress: [{port: {number: 80}}, {port: {number: 80}}]",
                &[("L0118", "spec.ingress[1].port.number", "80")],
            ),
            ("egress: [{hosts: []}]", &[("L0101", "spec.egress[0]", "{")]),
            (
                "egress: [{hosts: [b, 'A/b', './x']}]",
                &[
                    ("L0103", "spec.egress[0].hosts[0]", "b"),
                    ("L0119", "spec.egress[0].hosts[1]", "'A/b'"),
                    ("L0201", "spec.egress[0].hosts[1]", "'A/b'"),
                    ("L0201", "spec.egress[0].hosts[2]", "'./x'"),
                ],
            ),
            ("egress: [{bind: 127.0.0.1, hosts: ['*/*']}]", &[("L0101", "spec.egress[0].bind", "127.0.0.1")]),
            ("egress: [{hosts: ['*/*']}, {port: {number: 80}, hosts: ['*/*']}]", &[("L0204", "spec.egress[0]", "{")]),
            (
                "egress: [{port: {number: 80, protocol: X}, bind: x, hosts: ['*/*']}]",
                &[("L0117", "spec.egress[0].port.protocol", "X"), ("L0115", "spec.egress[0].bind", "x")],
            ),
            (
                "outboundTrafficPolicy: {egressProxy: {host: b}}",
                &[("L0122", "spec.outboundTrafficPolicy.egressProxy", "egressProxy")],
            ),
            (
                "ingress: [{port: {number: 80}, tls: {mode: SIMPLE, serverCertificate: a}}]",
                &[("L0122", "spec.ingress[0].tls", "tls"), ("L0123", "spec.ingress[0].tls", "tls")],
            ),
        ],
    );
}

#[test]
fn the_mesh_and_kubernetes_kinds_are_checked() {
    run(
        "RateLimit",
        &[
            ("limits: [{requests: 10, per: 1h, burst: 5, match: {path: {prefix: /a}}, by: {header: x-k}}]", &[]),
            ("limits: []", &[("L0101", "spec", "spec")]),
            ("limits: [{per: 1s}]", &[("L0101", "spec.limits[0]", "{")]),
            ("limits: [{requests: 0, per: 1s}]", &[("L0116", "spec.limits[0].requests", "0")]),
            ("limits: [{requests: 1, per: 1s, burst: 1000000}]", &[("L0116", "spec.limits[0].burst", "1000000")]),
            ("limits: [{requests: 1}]", &[("L0101", "spec.limits[0]", "{")]),
            ("limits: [{requests: 1, per: 10ms}]", &[("L0105", "spec.limits[0].per", "10ms")]),
            ("limits: [{requests: 1, per: 25h}]", &[("L0105", "spec.limits[0].per", "25h")]),
            ("limits: [{requests: 1, per: fast}]", &[("L0105", "spec.limits[0].per", "fast")]),
            (
                "limits: [{requests: 1, per: 1s, by: {header: 'x y'}}]",
                &[("L0109", "spec.limits[0].by.header", "'x y'")],
            ),
            ("limits: [{requests: 1, per: 1s, by: {}}]", &[("L0101", "spec.limits[0].by", "by")]),
            (
                "limits: [{requests: 1, per: 1s, match: {path: {regex: '('}}}]",
                &[("L0108", "spec.limits[0].match.path.regex", "'('")],
            ),
            (
                "limits: [{requests: 1, per: 1s, match: {headers: {':path': {}}}}]",
                &[("L0109", "spec.limits[0].match.headers[\":path\"]", "':path'")],
            ),
            (
                "selector: {matchLabels: {}}\nlimits: [{requests: 1, per: 1s}]",
                &[("L0122", "spec.selector", "selector")],
            ),
            ("limits: [{requests: 1, per: 1s, bye: {header: a}}]", &[("L0005", "spec.limits[0].bye", "bye")]),
        ],
    );
    run(
        "MeshConfig",
        &[
            ("trustDomain: cluster.local\nprofile: istio", &[]),
            ("trustDomain: A B", &[("L0103", "spec.trustDomain", "A B")]),
            ("rootNamespace: A", &[("L0119", "spec.rootNamespace", "A")]),
            (
                "tracing: {otlp: localhost, sampling: 101}",
                &[("L0115", "spec.tracing.otlp", "localhost"), ("L0106", "spec.tracing.sampling", "101")],
            ),
            ("tracing: {otlp: 'http://collector:4317', sampling: 0.01}", &[]),
            ("tracing: {otlp: 'https://collector/own/path', protocol: http}", &[]),
            ("tracing: {sampling: 1}", &[("L0101", "spec.tracing", "tracing")]),
            (
                "tracing: {otlp: 'http://collector:4317/v1/traces'}",
                &[("L0115", "spec.tracing.otlp", "'http://collector:4317/v1/traces'")],
            ),
            (
                "tracing: {otlp: 'http://me@collector:4317'}",
                &[("L0115", "spec.tracing.otlp", "'http://me@collector:4317'")],
            ),
            ("tracing: {otlp: 'http://c:1', protocol: thrift}", &[("L0007", "spec.tracing.protocol", "thrift")]),
            ("tracing: {otlp: 'http://c:1', customTags: {zone: {literal: {value: a}}}}", &[]),
            (
                "tracing: {otlp: 'http://c:1', customTags: {zone: {}, user: {header: {name: 'x y'}}}}",
                &[
                    ("L0101", "spec.tracing.customTags.zone", "zone"),
                    ("L0109", "spec.tracing.customTags.user.header.name", "'x y'"),
                ],
            ),
            (
                "tracing: {otlp: 'http://c:1', customTags: {a: {literal: {value: b}, header: {name: c}}}}",
                &[("L0102", "spec.tracing.customTags.a", "a")],
            ),
            ("access_log: {}", &[]),
            (
                "access_log: {format: json, filter: {minStatus: 500, minDuration: 1s, sample: 0.5, flags: [UF, UAEX]}}",
                &[],
            ),
            (
                "access_log: {custom: {text: '%REQ(:METHOD)% %RESPONSE_CODE%'}, path: /var/log/a.log, sensitive: shown}",
                &[],
            ),
            ("access_log: {custom: {json: {code: '%RESPONSE_CODE%'}}}", &[]),
            ("access_log: {format: xml}", &[("L0007", "spec.access_log.format", "xml")]),
            (
                "access_log: {custom: {json: {a: '%RESPONSE_COD%', b: '%ENVIRONMENT(TOKEN)%'}}}",
                &[
                    ("L0129", "spec.access_log.custom.json.a", "'%RESPONSE_COD%'"),
                    ("L0129", "spec.access_log.custom.json.b", "'%ENVIRONMENT(TOKEN)%'"),
                ],
            ),
            ("access_log: {custom: {text: '50%'}}", &[("L0129", "spec.access_log.custom.text", "'50%'")]),
            ("access_log: {custom: {}}", &[("L0101", "spec.access_log.custom", "custom")]),
            (
                "access_log: {format: text, custom: {text: a, json: {a: b}}}",
                &[("L0102", "spec.access_log.format", "text"), ("L0102", "spec.access_log.custom", "custom")],
            ),
            (
                "access_log: {filter: {minStatus: 600, sample: 101, minDuration: 5, flags: [UFO]}}",
                &[
                    ("L0110", "spec.access_log.filter.minStatus", "600"),
                    ("L0106", "spec.access_log.filter.sample", "101"),
                    ("L0006", "spec.access_log.filter.minDuration", "5"),
                    ("L0007", "spec.access_log.filter.flags[0]", "UFO"),
                ],
            ),
            ("access_log: {path: access.log}", &[("L0112", "spec.access_log.path", "access.log")]),
            ("accessLog: {}", &[("L0005", "spec.accessLog", "accessLog")]),
        ],
    );
    run(
        "Service",
        &[
            ("clusterIP: None\nports: [{port: 80, targetPort: http}]", &[]),
            (
                "ports: [{port: 0, targetPort: 0}]",
                &[("L0104", "spec.ports[0].port", "0"), ("L0104", "spec.ports[0].targetPort", "0")],
            ),
            (
                "ports: [{port: 80}, {port: 80, name: a}]",
                &[("L0101", "spec.ports[0]", "{"), ("L0118", "spec.ports[1].port", "80")],
            ),
            ("ports: [{port: 80, protocol: HTTP}]", &[("L0117", "spec.ports[0].protocol", "HTTP")]),
            ("type: ExternalName", &[("L0101", "spec.externalName", "spec")]),
            ("type: Cluster", &[("L0007", "spec.type", "Cluster")]),
            ("clusterIP: x", &[("L0115", "spec.clusterIP", "x")]),
        ],
    );
}

#[test]
fn what_the_proxy_does_not_do_yet_is_said_once_per_document_and_feature() {
    let route = "route: [{destination: {host: b}}]";
    let service = document(
        "VirtualService",
        "rule",
        &format!(
            "hosts: [b]\nhttp:\n- match: [{{uri: {{prefix: /a}}}}]\n  headers: {{response: {{set: {{x: '%PROTOCOL%'}}}}}}\n  {route}\n- headers: {{response: {{set: {{x: '%PROTOCOL%'}}}}}}\n  {route}"
        ),
    );
    let policy = document(
        "DestinationRule",
        "rule",
        "host: b\ntrafficPolicy:\n  connectionPool: {http: {http2MaxRequests: 5, maxRetries: 1}}\n  tls: {mode: ISTIO_MUTUAL}\nsubsets:\n- name: v1\n  trafficPolicy: {outlierDetection: {consecutiveErrors: 1}}\n- name: v2\n  trafficPolicy: {outlierDetection: {consecutiveErrors: 1}}",
    );
    let found: Vec<String> = findings(&(surroundings() + &service + &policy))
        .into_iter()
        .filter(|finding| finding.code == "L0301")
        .map(|finding| finding.path)
        .collect();
    assert_eq!(
        found,
        ["spec.http[0].headers.response.set.x", "spec.subsets[0].trafficPolicy.outlierDetection.consecutiveErrors"]
    );
}

#[test]
fn every_field_that_the_proxy_does_not_act_on_is_named() {
    let to_b = "hosts: [b]\nhttp:\n- route: [{destination: {host: b}}]\n";
    let two = "hosts: [b]\nhttp:\n- route:\n  - {destination: {host: b}, weight: 1}\n  - {destination: {host: b, port: {number: 80}}, weight: 1, headers: {response: {add: {x: '%PROTOCOL%'}}}}";
    let policy = |block: &str| ("DestinationRule", format!("host: b\ntrafficPolicy: {{{block}}}"));
    let pool = |block: &str| policy(&format!("connectionPool: {{{block}}}"));
    let nothing: &[&str] = &[];
    for ((kind, spec), expected) in [
        (pool("http: {maxRequestsPerConnection: 1, idleTimeout: 5s}, tcp: {connectTimeout: 1s, idleTimeout: 1h}"), nothing),
        (policy("loadBalancer: {localityLbSetting: {distribute: [{from: r1, to: {r1: 100}}]}}"), nothing),
        (policy("tls: {mode: DISABLE}"), nothing),
        (policy("tls: {mode: SIMPLE}"), nothing),
        (policy("tls: {mode: ISTIO_MUTUAL}"), nothing),
        (policy("portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]"), nothing),
        (policy("tunnel: {targetHost: b, targetPort: 80}"), &["spec.trafficPolicy.tunnel: without a tunnel"]),
        (policy("proxyProtocol: {version: V2}"), &["spec.trafficPolicy.proxyProtocol: without it"]),
        (
            pool("tcp: {maxConnectionDuration: 1h, tcpKeepalive: {}, maxConnections: 1}, http: {maxConcurrentStreams: 5}"),
            nothing,
        ),
        (
            policy("outlierDetection: {consecutiveErrors: 3}"),
            &["spec.trafficPolicy.outlierDetection.consecutiveErrors: consecutive5xxErrors"],
        ),
        (policy("loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: 0s, attributes: [{name: b}]}}}"), nothing),
        (policy("loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s}}"), nothing),
        (policy("loadBalancer: {simple: PASSTHROUGH}"), nothing),
        (
            ("VirtualService", "hosts: [b]\ntls:\n- match: [{sniHosts: [b], port: 443}]\n  route: [{destination: {host: b}}]".to_owned()),
            nothing,
        ),
        (("VirtualService", format!("{to_b}  headers: {{request: {{set: {{x: 100%}}}}}}")), nothing),
        (
            ("VirtualService", format!("{to_b}  headers: {{request: {{set: {{x: '%REQ(y)%'}}}}}}")),
            &["spec.http[0].headers.request.set.x: as it is written"],
        ),
        (("VirtualService", two.to_owned()), &["spec.http[0].route[1].headers.response.add.x: as it is written"]),
        (
            ("Sidecar", "ingress: [{port: {number: 80, protocol: HTTP}, tls: {mode: SIMPLE, credentialName: a}}]\negress: [{hosts: ['*/*']}]\noutboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: b}}".to_owned()),
            nothing,
        ),
        (
            ("Sidecar", "inboundConnectionPool: {http: {maxRequestsPerConnection: 1, maxRetries: 1}}".to_owned()),
            nothing,
        ),
        (
            ("WorkloadEntry", "address: 10.0.0.1\nlabels: {security.istio.io/tlsMode: istio}".to_owned()),
            nothing,
        ),
        (
            ("MeshConfig", "defaultTrafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}, tls: {mode: SIMPLE}}".to_owned()),
            &["spec.defaultTrafficPolicy.tls: DestinationRules say the rest"],
        ),
    ] {
        let mut found: Vec<(String, String)> = findings(&(surroundings() + &document(kind, "rule", &spec)))
            .into_iter()
            .filter(|finding| finding.code == "L0301")
            .map(|finding| (finding.path, finding.help.unwrap_or_default()))
            .collect();
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_by_key(|row| row.split_once(": ").map(|(path, _)| path));
        assert_eq!(found.len(), expected.len(), "{spec}: {found:?}");
        for ((path, help), expected) in found.iter().zip(expected) {
            let (expected_path, words) = expected.split_once(": ").unwrap();
            assert!(path == expected_path && help.contains(words), "{spec}: {path}: {help}");
        }
    }
}

#[test]
fn what_would_protect_and_cannot_be_done_is_an_error() {
    let tls = "mode: MUTUAL, credentialName: web, verifyCertificateHash: ['00']";
    let spec = format!("ingress: [{{port: {{number: 80, protocol: HTTPS}}, tls: {{{tls}}}}}]");
    let rule = document("Sidecar", "rule", &spec);
    let found: Vec<(String, String)> = findings(&(surroundings() + &rule))
        .into_iter()
        .filter(Diagnostic::is_error)
        .map(|finding| (finding.code.to_owned(), finding.path))
        .collect();
    assert_eq!(found, [("L0302".to_owned(), "spec.ingress[0].tls.verifyCertificateHash".to_owned())]);
}

#[test]
fn a_sidecar_ends_tls_with_one_certificate_where_the_meshs_own_is_off() {
    let files = "mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem";
    let peer = |spec: &str| document("PeerAuthentication", "peer", spec);
    let off = peer("selector: {matchLabels: {app: a}}\nportLevelMtls: {8443: {mode: DISABLE}}");
    let nothing: &[&str] = &[];
    for (tls, others, expected) in [
        (files, off.clone(), nothing),
        (files, peer("mtls: {mode: DISABLE}"), nothing),
        (files, String::new(), &["L0122 spec.ingress[0].tls"]),
        (files, peer("mtls: {mode: STRICT}"), &["L0122 spec.ingress[0].tls"]),
        ("mode: MUTUAL, credentialName: web", off.clone(), nothing),
        ("mode: SIMPLE, credentialName: ../web", off.clone(), &["L0123 spec.ingress[0].tls.credentialName"]),
        ("mode: ISTIO_MUTUAL", off.clone(), &["L0123 spec.ingress[0].tls.mode"]),
        ("mode: OPTIONAL_MUTUAL", off.clone(), &["L0123 spec.ingress[0].tls.mode"]),
        (
            "mode: SIMPLE, credentialNames: [a, b]",
            off.clone(),
            &["L0123 spec.ingress[0].tls", "L0123 spec.ingress[0].tls", "L0123 spec.ingress[0].tls.credentialNames"],
        ),
        (
            "mode: SIMPLE, credentialName: a, httpsRedirect: true, cipherSuites: [X], maxProtocolVersion: TLSV1_2",
            off,
            &[
                "L0122 spec.ingress[0].tls.httpsRedirect",
                "L0122 spec.ingress[0].tls.cipherSuites",
                "L0122 spec.ingress[0].tls.maxProtocolVersion",
            ],
        ),
    ] {
        let spec = format!("ingress: [{{port: {{number: 8443, protocol: HTTPS}}, tls: {{{tls}}}}}]");
        let text = surroundings() + &document("Sidecar", "rule", &spec) + &others;
        let mut found: Vec<String> = findings(&text)
            .into_iter()
            .filter(|finding| finding.path.starts_with("spec.ingress"))
            .map(|finding| format!("{} {}", finding.code, finding.path))
            .collect();
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{tls}");
    }
}

#[test]
fn a_secret_is_known_by_a_plain_name() {
    for (name, expected) in
        [("web", 0), ("web-tls.v2", 0), ("../web", 1), ("a/b", 1), ("Web", 1), ("-a", 1), ("a..b", 1)]
    {
        let spec = format!("host: b\ntrafficPolicy: {{tls: {{mode: MUTUAL, credentialName: '{name}'}}}}");
        let found = findings(&(surroundings() + &document("DestinationRule", "rule", &spec)));
        let about = found.iter().filter(|finding| finding.path == "spec.trafficPolicy.tls.credentialName");
        assert_eq!(about.count(), expected, "{name}: {found:?}");
    }
}

#[test]
fn a_document_that_was_read_in_part_still_counts_for_the_others() {
    let policy = document("DestinationRule", "b", "host: b\nhots: c\nsubsets: [{name: v1}]");
    let service =
        document("VirtualService", "b", "hosts: [b]\nhttp: [{route: [{destination: {host: b, subset: v1}}]}]");
    let found: Vec<&str> =
        findings(&(surroundings() + &policy + &service)).into_iter().map(|finding| finding.code).collect();
    assert_eq!(found, ["L0005"]);
}

#[test]
fn a_document_that_was_read_in_part_is_checked_as_far_as_it_was() {
    let service = document(
        "VirtualService",
        "b",
        "hosts: [b]\nhttp:\n- timeout: 5x\n  route: [{destination: {host: b}, wieght: 1}, {destination: {host: b}}]\n- rout: []\n- route: [{destination: {host: b}, weight: -1}]",
    );
    let found: Vec<(String, String)> =
        findings(&(surroundings() + &service)).into_iter().map(|found| (found.code.to_owned(), found.path)).collect();
    let expected = [
        ("L0105", "spec.http[0].timeout"),
        ("L0005", "spec.http[0].route[0].wieght"),
        ("L0005", "spec.http[1].rout"),
        ("L0107", "spec.http[2].route[0].weight"),
    ];
    assert_eq!(found, expected.map(|(code, path)| (code.to_owned(), path.to_owned())));
}

#[test]
fn the_annotation_for_what_istio_has_no_word_for() {
    let annotated = |word: &str, spec: &str| {
        let rule = document("DestinationRule", "rule", spec);
        let text = rule.replace(
            "namespace: shop}",
            &format!("namespace: shop, annotations: {{leno.mesh/load-balancer: {word}}}}}"),
        );
        let found = findings(&(surroundings() + &text)).into_iter();
        found
            .filter(|finding| finding.code != "L0301")
            .map(|finding| (finding.code.to_owned(), finding.message))
            .collect::<Vec<_>>()
    };
    assert_eq!(annotated("PEAK_EWMA", "host: b"), []);
    for (word, spec, words) in [
        ("EWMA", "host: b", "`EWMA` is not a policy"),
        (
            "PEAK_EWMA",
            "host: b\ntrafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}",
            "`consistentHash` stands",
        ),
    ] {
        let found = annotated(word, spec);
        assert!(
            matches!(found.as_slice(), [(code, message)] if code == "L0122" && message.contains(words)),
            "{found:?}"
        );
    }
}

#[test]
fn the_annotation_for_what_a_path_may_hold() {
    let annotated = |text: &str| {
        let spec = "hosts: [b]\nhttp:\n  - name: files\n    route: [{destination: {host: b}}]";
        let rule = document("VirtualService", "rule", spec);
        let annotations = format!("namespace: shop, annotations: {{leno.mesh/allow-in-path: \"{text}\"}}}}");
        let found = findings(&(surroundings() + &rule.replace("namespace: shop}", &annotations))).into_iter();
        let mine = found.filter(|finding| finding.message.contains("allow"));
        mine.map(|finding| (finding.code.to_owned(), finding.message)).collect::<Vec<_>>()
    };
    for good in ["%2f", "%2F %5c ;", "files=%2f", "; files=%5C"] {
        assert_eq!(annotated(good), [], "{good}");
    }
    for (text, words) in [("%2e", "`%2e` is nothing"), ("/", "`/` is nothing"), ("other=%2f", "named `other`")] {
        let found = annotated(text);
        assert!(
            matches!(found.as_slice(), [(code, message)] if code == "L0122" && message.contains(words)),
            "{found:?}"
        );
    }
}
