//! The mesh's access log: on every listener, with the places of the rules, and without a push for a comment.

use leno_config::ir::{
    AccessLog, Comparison, Fraction, LogFilter, LogFormat, LogSink, Resources, ResponseFlag, Sensitive, version,
};

use crate::support::*;

fn with(access_log: &str) -> Resources {
    let mesh = document("MeshConfig", "mesh", &format!("{{access_log: {access_log}}}"));
    compile(
        &format!("{SERVICES}{mesh}{}", reviews("[{route: [{destination: {host: reviews, subset: v1}}]}]")),
        &client(),
    )
}

fn logs(resources: &Resources) -> Vec<Vec<AccessLog>> {
    resources.listeners.values().map(|listener| listener.access_logs.logs.clone()).collect()
}

#[test]
fn nothing_is_logged_unless_somebody_asks() {
    let resources = compile(SERVICES, &client());
    assert!(logs(&resources).iter().all(Vec::is_empty));
}

#[test]
fn an_empty_block_logs_everything_as_envoy_does_and_redacted() {
    let logs = logs(&with("{}"));
    assert!(logs.len() > 1, "HTTP and TCP: {logs:?}");
    for log in logs {
        let [log] = log.as_slice() else { panic!("one log: {log:?}") };
        assert_eq!(log.sink, LogSink::Stdout);
        assert_eq!(log.format, LogFormat::default_text());
        assert_eq!(log.filter, LogFilter::default());
        assert_eq!(log.sensitive, Sensitive::Redacted);
    }
}

#[test]
fn what_is_written_is_what_comes_out() {
    let resources = with(
        "{custom: {json: {code: '%RESPONSE_CODE%'}}, path: /tmp/a.log, sensitive: shown, filter: {minStatus: 400, minDuration: 1.5s, sample: 10, flags: [UF]}}",
    );
    let log = logs(&resources).remove(0).remove(0);
    assert_eq!(log.sink, LogSink::File("/tmp/a.log".to_owned()));
    assert_eq!(serde_json::to_string(&log.format).unwrap(), r#"{"json":{"code":{"text":"%RESPONSE_CODE%"}}}"#);
    assert_eq!(log.sensitive, Sensitive::Shown);
    assert_eq!(
        log.filter,
        LogFilter::And(vec![
            LogFilter::Status(Comparison::AtLeast, 400),
            LogFilter::Duration(Comparison::AtLeast, 1500),
            LogFilter::Flags(vec![ResponseFlag::parse("UF").unwrap()]),
            LogFilter::Sample(Fraction::from_percent(10.0).unwrap()),
        ])
    );
    let alone = with("{filter: {sample: 1}}");
    let sample = LogFilter::Sample(Fraction::from_percent(1.0).unwrap());
    assert_eq!(logs(&alone).remove(0).remove(0).filter, sample);
}

/// File and line of the one rule that a VirtualService has.
fn place(resources: &Resources) -> Option<(String, u32)> {
    let mut routes = resources.routes.values().flat_map(|table| &table.virtual_hosts).flat_map(|host| &host.routes);
    let rule = |origin: &leno_config::ir::Origin| origin.kind == "VirtualService";
    let origin = routes.find_map(|route| route.origin.as_ref().filter(|origin| rule(origin)))?;
    origin.place.0.as_ref().map(|place| (place.file.to_string(), place.line))
}

#[test]
fn routes_know_where_their_rules_stand_and_a_comment_pushes_nothing() {
    let rule = reviews("[{route: [{destination: {host: reviews, subset: v1}}]}]");
    let mesh = document("MeshConfig", "mesh", "{access_log: {}}");
    let one = compile(&format!("{SERVICES}{mesh}{rule}"), &client());
    let other = compile(&format!("{SERVICES}{mesh}# a\n# comment\n{rule}"), &client());
    let ((file, line), (_, moved)) = (place(&one).expect("a place"), place(&other).expect("a place"));
    assert_eq!(file, "rules.yaml");
    assert!(moved > line, "{line} → {moved}");
    for (name, table) in &one.routes {
        assert_eq!(version(table), version(&other.routes[name]));
    }
    let without = compile(&format!("{SERVICES}{rule}"), &client());
    assert_eq!(place(&without), None, "nobody reads it");
}
