//! Access logs: Envoy's file logger with its formats and filters.
//!
//! A log only tells, so nothing here refuses a listener. What a foreign control plane asks for and Leno cannot do (a logger
//! that calls a server, a filter by headers) is left out, each with a sentence that `/config_dump` shows; an operator that
//! Leno has nothing for comes out as missing.

use super::any;
use super::pb;
use super::refusal::{Problem, Result, Within, each, required};
use super::scalar::{fraction_from_xds, fraction_to_xds};
use crate::ir::{
    AccessLog, AccessLogs, Comparison, Fraction, LogFilter, LogFormat, LogObject, LogSink, LogText, LogValue,
    ResponseFlag, Sensitive,
};
use pb::access_log::access_log::ConfigType;
use pb::access_log::access_log_filter::FilterSpecifier;
use pb::access_log::comparison_filter::Op;
use pb::access_log::{
    AccessLogFilter, AndFilter, ComparisonFilter, DurationFilter, OrFilter, ResponseFlagFilter, RuntimeFilter,
    StatusCodeFilter,
};
use pb::core::substitution_format_string::Format;
use pb::core::{DataSource, SubstitutionFormatString, data_source::Specifier};
use pb::file_log::{FileAccessLog, file_access_log};
use pb::protobuf::{ListValue, Struct, Value, value::Kind};
use pb::stream_log::{StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log};

/// Envoy has no field for what is redacted and leaves the name of a log to whoever writes it.
const REDACTED: &str = "leno.mesh/redacted";
const SHOWN: &str = "leno.mesh/shown";
/// Envoy wants a key for each share. Nobody sets these.
const SAMPLE_KEY: &str = "leno.mesh.access_log.sample";
const STATUS_KEY: &str = "leno.mesh.access_log.status";
const DURATION_KEY: &str = "leno.mesh.access_log.duration";

pub(super) fn to_xds(logs: &AccessLogs) -> Vec<pb::access_log::AccessLog> {
    let AccessLogs { logs, left_out: _ } = logs;
    logs.iter().map(log_to_xds).collect()
}

pub(super) fn from_xds(messages: Vec<pb::access_log::AccessLog>) -> AccessLogs {
    let mut read = AccessLogs::default();
    for message in messages {
        match log_from_xds(message) {
            Ok(log) => {
                let unknown = log.format.unknown().into_iter();
                read.left_out.extend(unknown.map(|text| format!("access log: Leno has nothing for `%{text}%`")));
                read.logs.push(log);
            }
            Err(problem) => read.left_out.push(problem.of("access log").to_string()),
        }
    }
    read
}

fn log_to_xds(log: &AccessLog) -> pb::access_log::AccessLog {
    let AccessLog { sink, format, filter, sensitive } = log;
    let file = FileAccessLog {
        path: sink.path().to_owned(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format_to_xds(format))),
    };
    pb::access_log::AccessLog {
        name: match sensitive {
            Sensitive::Redacted => REDACTED.to_owned(),
            Sensitive::Shown => SHOWN.to_owned(),
        },
        filter: (*filter != LogFilter::default()).then(|| filter_to_xds(filter)),
        config_type: Some(ConfigType::TypedConfig(any::pack(&file))),
    }
}

fn log_from_xds(message: pb::access_log::AccessLog) -> Result<AccessLog> {
    let pb::access_log::AccessLog { name, filter, config_type } = message;
    let ConfigType::TypedConfig(config) = required("typed_config", config_type)?;
    let (sink, format) = if any::is::<FileAccessLog>(&config) {
        let FileAccessLog { path, access_log_format } = any::unpack(&config)?;
        (LogSink::at(&path).within("path")?, access_log_format)
    } else if any::is::<StdoutAccessLog>(&config) {
        let StdoutAccessLog { access_log_format } = any::unpack(&config)?;
        let format = access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
        (LogSink::Stdout, format.map(file_access_log::AccessLogFormat::LogFormat))
    } else if any::is::<StderrAccessLog>(&config) {
        let StderrAccessLog { access_log_format } = any::unpack(&config)?;
        let format = access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(format)| format);
        (LogSink::Stderr, format.map(file_access_log::AccessLogFormat::LogFormat))
    } else {
        let reason = format!("Leno has no logger `{}`", any::type_name(&config));
        return Err(Problem::new("typed_config", reason));
    };
    Ok(AccessLog {
        sink,
        format: format_from_xds(format).within("log_format")?,
        filter: filter.map(filter_from_xds).transpose().within("filter")?.unwrap_or_default(),
        sensitive: if name == SHOWN { Sensitive::Shown } else { Sensitive::Redacted },
    })
}

fn format_to_xds(format: &LogFormat) -> SubstitutionFormatString {
    let format = match format {
        // Envoy ends no line by itself.
        LogFormat::Text(text) => Format::TextFormatSource(DataSource {
            specifier: Some(Specifier::InlineString(format!("{text}\n"))),
            ..Default::default()
        }),
        LogFormat::Json(object) => Format::JsonFormat(object_to_xds(object)),
    };
    SubstitutionFormatString { format: Some(format), ..Default::default() }
}

#[allow(deprecated)] // Older control planes use what is deprecated now.
fn format_from_xds(format: Option<file_access_log::AccessLogFormat>) -> Result<LogFormat> {
    use file_access_log::AccessLogFormat as Written;
    let written = match format {
        None => return Ok(LogFormat::default_text()),
        Some(Written::Format(text)) => return text_from_xds(&text),
        Some(Written::JsonFormat(object) | Written::TypedJsonFormat(object)) => return json_from_xds(object),
        Some(Written::LogFormat(written)) => written,
    };
    let SubstitutionFormatString {
        format,
        // Of operators that come as extensions; without them their values are missing.
        formatters: _,
        // What is missing is told as missing, and keys are always sorted.
        omit_empty_values: _,
        json_format_options: _,
        // Of answers, not of logs.
        content_type: _,
    } = written;
    match required("format", format)? {
        Format::TextFormat(text) => text_from_xds(&text),
        Format::JsonFormat(object) => json_from_xds(object),
        Format::TextFormatSource(DataSource { watched_directory: _, specifier }) => match specifier {
            Some(Specifier::InlineString(text)) => text_from_xds(&text),
            Some(Specifier::InlineBytes(bytes)) => text_from_xds(&String::from_utf8_lossy(&bytes)),
            Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
                Err(Problem::new("text_format_source", "only inline text is supported"))
            }
            None => Err(Problem::missing("text_format_source")),
        },
    }
}

fn text_from_xds(text: &str) -> Result<LogFormat> {
    Ok(LogFormat::Text(compiled(text.strip_suffix('\n').unwrap_or(text))?))
}

fn compiled(text: &str) -> Result<LogText> {
    LogText::tolerant(text).map_err(|error| Problem::new("", error.what))
}

fn json_from_xds(object: Struct) -> Result<LogFormat> {
    LogFormat::json(object_from_xds(object)?).map_err(|error| Problem::new("json_format", error.what))
}

fn object_to_xds(object: &LogObject) -> Struct {
    Struct { fields: object.iter().map(|(key, value)| (key.clone(), value_to_xds(value))).collect() }
}

fn object_from_xds(Struct { fields }: Struct) -> Result<LogObject> {
    fields.into_iter().map(|(key, value)| Ok((key, value_from_xds(value)?))).collect()
}

fn value_to_xds(value: &LogValue) -> Value {
    let kind = match value {
        LogValue::Text(text) => Kind::StringValue(text.to_string()),
        LogValue::Number(number) => Kind::NumberValue(*number),
        LogValue::Bool(value) => Kind::BoolValue(*value),
        LogValue::Null => Kind::NullValue(0),
        LogValue::Object(object) => Kind::StructValue(object_to_xds(object)),
        LogValue::List(list) => Kind::ListValue(ListValue { values: list.iter().map(value_to_xds).collect() }),
    };
    Value { kind: Some(kind) }
}

fn value_from_xds(Value { kind }: Value) -> Result<LogValue> {
    Ok(match kind {
        None | Some(Kind::NullValue(_)) => LogValue::Null,
        Some(Kind::NumberValue(number)) => LogValue::Number(number),
        Some(Kind::BoolValue(value)) => LogValue::Bool(value),
        Some(Kind::StringValue(text)) => LogValue::Text(compiled(&text)?),
        Some(Kind::StructValue(object)) => LogValue::Object(object_from_xds(object)?),
        Some(Kind::ListValue(ListValue { values })) => {
            LogValue::List(values.into_iter().map(value_from_xds).collect::<Result<_>>()?)
        }
    })
}

fn filter_to_xds(filter: &LogFilter) -> AccessLogFilter {
    let filters = |filters: &[LogFilter]| filters.iter().map(filter_to_xds).collect();
    let specifier = match filter {
        // Envoy wants two or more in each list.
        LogFilter::And(inner) | LogFilter::Or(inner) if inner.len() == 1 => {
            return inner.first().map(filter_to_xds).unwrap_or_default();
        }
        LogFilter::And(inner) => FilterSpecifier::AndFilter(AndFilter { filters: filters(inner) }),
        LogFilter::Or(inner) => FilterSpecifier::OrFilter(OrFilter { filters: filters(inner) }),
        LogFilter::Status(comparison, status) => FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(comparison_to_xds(*comparison, *status, STATUS_KEY)),
        }),
        LogFilter::Duration(comparison, millis) => FilterSpecifier::DurationFilter(DurationFilter {
            comparison: Some(comparison_to_xds(*comparison, *millis, DURATION_KEY)),
        }),
        LogFilter::Sample(share) => FilterSpecifier::RuntimeFilter(RuntimeFilter {
            runtime_key: SAMPLE_KEY.to_owned(),
            percent_sampled: Some(fraction_to_xds(*share)),
            use_independent_randomness: true,
        }),
        LogFilter::Flags(flags) => FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: flags.iter().map(|flag| flag.as_str().to_owned()).collect(),
        }),
    };
    AccessLogFilter { filter_specifier: Some(specifier) }
}

fn filter_from_xds(filter: AccessLogFilter) -> Result<LogFilter> {
    let AccessLogFilter { filter_specifier } = filter;
    match required("filter_specifier", filter_specifier)? {
        FilterSpecifier::AndFilter(AndFilter { filters }) => {
            Ok(LogFilter::And(each("and_filter.filters", filters, filter_from_xds)?))
        }
        FilterSpecifier::OrFilter(OrFilter { filters }) => {
            Ok(LogFilter::Or(each("or_filter.filters", filters, filter_from_xds)?))
        }
        FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison }) => {
            let (comparison, status) = comparison_from_xds(comparison).within("status_code_filter")?;
            Ok(LogFilter::Status(comparison, status))
        }
        FilterSpecifier::DurationFilter(DurationFilter { comparison }) => {
            let (comparison, millis) = comparison_from_xds(comparison).within("duration_filter")?;
            Ok(LogFilter::Duration(comparison, millis))
        }
        // Envoy draws by the request's id, so that all proxies on its way agree; here each draws for itself.
        FilterSpecifier::RuntimeFilter(RuntimeFilter {
            runtime_key: _,
            percent_sampled,
            use_independent_randomness: _,
        }) => {
            let share = percent_sampled.map(fraction_from_xds).transpose().within("runtime_filter.percent_sampled")?;
            Ok(LogFilter::Sample(share.unwrap_or(Fraction::NONE)))
        }
        FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags }) => {
            let flag = |flag: String| Ok(ResponseFlag::parse(&flag)?);
            let flags = each("response_flag_filter.flags", flags, flag)?;
            let any = || ResponseFlag::ALL.iter().filter_map(|flag| ResponseFlag::parse(flag).ok()).collect();
            // Envoy: none named means any.
            Ok(LogFilter::Flags(if flags.is_empty() { any() } else { flags }))
        }
        FilterSpecifier::NotHealthCheckFilter(_) => Err(Problem::unsupported("not_health_check_filter")),
        FilterSpecifier::TraceableFilter(_) => Err(Problem::unsupported("traceable_filter")),
        FilterSpecifier::HeaderFilter(_) => Err(Problem::unsupported("header_filter")),
        FilterSpecifier::GrpcStatusFilter(_) => Err(Problem::unsupported("grpc_status_filter")),
        FilterSpecifier::ExtensionFilter(_) => Err(Problem::unsupported("extension_filter")),
        FilterSpecifier::MetadataFilter(_) => Err(Problem::unsupported("metadata_filter")),
        FilterSpecifier::LogTypeFilter(_) => Err(Problem::unsupported("log_type_filter")),
    }
}

fn comparison_to_xds(comparison: Comparison, value: u32, runtime_key: &str) -> ComparisonFilter {
    let op = match comparison {
        Comparison::Equal => Op::Eq,
        Comparison::NotEqual => Op::Ne,
        Comparison::AtLeast => Op::Ge,
        Comparison::AtMost => Op::Le,
    };
    let value = pb::core::RuntimeUInt32 { default_value: value, runtime_key: runtime_key.to_owned() };
    ComparisonFilter { op: op.into(), value: Some(value) }
}

/// Without a runtime layer, of which Leno has none, the default is the value.
fn comparison_from_xds(comparison: Option<ComparisonFilter>) -> Result<(Comparison, u32)> {
    let ComparisonFilter { op, value } = required("comparison", comparison)?;
    let comparison = match Op::try_from(op) {
        Ok(Op::Eq) => Comparison::Equal,
        Ok(Op::Ne) => Comparison::NotEqual,
        Ok(Op::Ge) => Comparison::AtLeast,
        Ok(Op::Le) => Comparison::AtMost,
        Err(_) => return Err(Problem::new("comparison.op", format!("Leno does not know comparison {op}"))),
    };
    let pb::core::RuntimeUInt32 { default_value, runtime_key: _ } = required("comparison.value", value)?;
    Ok((comparison, default_value))
}
