//! Logs that another control plane asks for: what Leno can do is done, the rest is left out and named, and no listener is
//! refused for it. And every operator is one that a real Envoy knows.

use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, AccessLogFilter, NotHealthCheckFilter};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::HttpGrpcAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Any;
use leno_config::ir::{self, LogFormat, LogSink, Sensitive};
use leno_config::xds::{Decoded, Kind};
use prost::{Message, Name};

use crate::messages::{self, change, filter_config, pack};

fn logger<M: Message + Name>(config: &M) -> AccessLog {
    AccessLog { name: "any".to_owned(), filter: None, config_type: Some(ConfigType::TypedConfig(pack(config))) }
}

fn read(logs: Vec<AccessLog>) -> ir::AccessLogs {
    let mut listener = messages::listener();
    change(filter_config(&mut listener), |manager: &mut HttpConnectionManager| manager.access_log = logs);
    let any = pack(&listener);
    match leno_config::xds::decode(Kind::Listener, &any) {
        Ok(Decoded::Listener(listener)) => listener.access_logs,
        other => panic!("a listener: {other:?}"),
    }
}

#[test]
fn files_and_standard_output_are_known_in_all_their_forms() {
    let file = |format| logger(&FileAccessLog { path: "/dev/stdout".to_owned(), access_log_format: format });
    #[allow(deprecated)]
    let old = file(Some(AccessLogFormat::Format("%PROTOCOL%\n".to_owned())));
    let read = read(vec![file(None), old, logger(&StdoutAccessLog { access_log_format: None })]);
    assert_eq!(read.left_out, Vec::<String>::new());
    let formats: Vec<_> = read.logs.iter().map(|log| log.format.clone()).collect();
    let protocol = LogFormat::Text(ir::LogText::parse("%PROTOCOL%").unwrap());
    assert_eq!(formats, [LogFormat::default_text(), protocol, LogFormat::default_text()]);
    assert!(read.logs.iter().all(|log| log.sink == LogSink::Stdout && log.sensitive == Sensitive::Redacted));
}

#[test]
fn what_leno_cannot_do_is_left_out_and_named() {
    let file = FileAccessLog { path: "/tmp/a".to_owned(), access_log_format: None };
    let filter = FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {});
    let filtered = AccessLog { filter: Some(AccessLogFilter { filter_specifier: Some(filter) }), ..logger(&file) };
    let unknown = ConfigType::TypedConfig(Any { type_url: "x/example.Mine".to_owned(), value: vec![1] });
    let relative = FileAccessLog { path: "a".to_owned(), ..file.clone() };
    #[allow(deprecated)]
    let strange = AccessLogFormat::Format("%PROTOCOL% %FILTER_STATE(a)%".to_owned());
    let strange = FileAccessLog { access_log_format: Some(strange), ..file.clone() };
    for (log, kept, reason) in [
        (logger(&HttpGrpcAccessLogConfig::default()), 0, "HttpGrpcAccessLogConfig"),
        (AccessLog { config_type: Some(unknown), ..Default::default() }, 0, "example.Mine"),
        (AccessLog::default(), 0, "typed_config: is required"),
        (filtered, 0, "not_health_check_filter"),
        (logger(&relative), 0, "absolute path"),
        (logger(&strange), 1, "`%FILTER_STATE(a)%`"),
        (logger(&file), 1, ""),
    ] {
        let read = read(vec![log]);
        assert_eq!(read.logs.len(), kept, "{read:?}");
        assert_eq!(read.left_out.len(), usize::from(!reason.is_empty()), "{read:?}");
        assert!(read.left_out.iter().all(|line| line.contains(reason)), "{read:?}");
    }
}

/// Words of [`ir::Plain`] and [`ir::End`] are Envoy's: `crate::envoy` shows them to a real one.
pub(crate) fn every_operator() -> ir::AccessLogs {
    let plain = ir::Plain::ALL.iter().map(|plain| format!("%{}%", plain.as_str()));
    let ends = ir::End::ALL
        .iter()
        .flat_map(|end| ["ADDRESS", "ADDRESS_WITHOUT_PORT", "PORT"].map(|part| format!("%{}_{part}%", end.as_str())));
    let time = "%START_TIME% %START_TIME(%Y %y %m %b %d %e %a %j %H %M %S %s %f %3f %z %Z %F %T %R)% %EMIT_TIME%";
    let more = "%REQ(a?b):5% %RESP(a)% %TRAILER(a):9% %METADATA(ROUTE:leno.mesh)% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%";
    let text = plain.chain(ends).chain([time.to_owned(), more.to_owned()]).collect::<Vec<_>>().join(" ");
    let log = ir::AccessLog {
        sink: LogSink::Stdout,
        format: LogFormat::Text(ir::LogText::parse(&text).unwrap()),
        filter: ir::LogFilter::default(),
        sensitive: Sensitive::Redacted,
    };
    ir::AccessLogs { logs: vec![log], left_out: Vec::new() }
}
