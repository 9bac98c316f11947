//! The access log of the mesh, on every listener.

use std::sync::Arc;

use super::Output;
use super::clusters::duration;
use crate::ir::{
    AccessLog, AccessLogs, Comparison, Direction, FormatError, Fraction, HttpManager, ListenerProtocol, LogFilter,
    LogFormat, LogSink, LogText, LogValue, Origin, ResponseFlag, RouteConfig, RouteSource, Sensitive,
};
use crate::mesh::Mesh;
use crate::rules::{self, AccessLogFormat, CustomLogFormat, SensitiveWords};

/// Gives every listener the log that the mesh asks for, and tells routes where their rules stand: a line of the log says
/// it. Without a log nobody would read it, and looking it up means to read all rules again.
pub(super) fn finish(mesh: &Mesh, output: &mut Output<'_>) {
    let Some(written) = &mesh.settings().access_log else { return };
    for listener in output.resources.listeners.values_mut() {
        let listener = Arc::make_mut(listener);
        let logs =
            AccessLogs { logs: compile(written, listener.direction).into_iter().collect(), left_out: Vec::new() };
        for port in listener.ports.values_mut() {
            port.access_logs = logs.clone();
            place_protocol(mesh, &mut port.protocol);
        }
        listener.access_logs = logs;
        place_protocol(mesh, &mut listener.protocol);
    }
    for table in output.resources.routes.values_mut() {
        place(mesh, Arc::make_mut(table));
    }
}

fn place_protocol(mesh: &Mesh, protocol: &mut ListenerProtocol) {
    if let Some(HttpManager { routes: RouteSource::Inline(table), .. }) = protocol.http_mut() {
        place(mesh, Arc::make_mut(table));
    }
    protocol.tcp_routes_mut(&mut |route| place_one(mesh, route.origin.as_mut()));
}

fn place(mesh: &Mesh, table: &mut RouteConfig) {
    let routes = table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes);
    routes.for_each(|route| place_one(mesh, route.origin.as_mut()));
}

fn place_one(mesh: &Mesh, origin: Option<&mut Origin>) {
    if let Some(origin) = origin {
        origin.place = mesh.known_place_of(origin);
    }
}

/// The log; `None`: what is written is no format, which validation refuses.
fn compile(written: &rules::AccessLog, direction: Direction) -> Option<AccessLog> {
    let rules::AccessLog { format: form, custom, filter, path, sensitive } = written;
    let format = match custom {
        Some(custom) => self::custom(custom).ok()?,
        None => match form.unwrap_or_default() {
            AccessLogFormat::Text => LogFormat::default_text(),
            AccessLogFormat::Json => LogFormat::default_json(direction),
        },
    };
    Some(AccessLog {
        sink: path.as_deref().map_or(Ok(LogSink::Stdout), LogSink::at).ok()?,
        format,
        filter: filter.as_ref().map(self::filter).unwrap_or_default(),
        sensitive: match sensitive.unwrap_or_default() {
            SensitiveWords::Redacted => Sensitive::Redacted,
            SensitiveWords::Shown => Sensitive::Shown,
        },
    })
}

fn custom(written: &CustomLogFormat) -> Result<LogFormat, FormatError> {
    match &written.text {
        Some(text) => LogText::parse(text).map(LogFormat::Text),
        None => {
            let member = |(key, text): (&String, &String)| Ok((key.clone(), LogValue::Text(LogText::parse(text)?)));
            LogFormat::json(written.json.iter().map(member).collect::<Result<_, _>>()?)
        }
    }
}

fn filter(written: &rules::AccessLogFilter) -> LogFilter {
    let rules::AccessLogFilter { min_status, min_duration, sample, flags } = written;
    let status = min_status.map(|status| LogFilter::Status(Comparison::AtLeast, status));
    let long = duration(min_duration.as_ref())
        .map(|least| LogFilter::Duration(Comparison::AtLeast, u32::try_from(least.as_millis()).unwrap_or(u32::MAX)));
    let flags: Vec<_> = flags.iter().filter_map(|flag| ResponseFlag::parse(flag).ok()).collect();
    let flags = (!flags.is_empty()).then_some(LogFilter::Flags(flags));
    // The last: who is left out already needs no draw.
    let sample = sample.and_then(|sample| Fraction::from_percent(sample).ok()).map(LogFilter::Sample);
    LogFilter::all_of([status, long, flags, sample].into_iter().flatten().collect())
}
