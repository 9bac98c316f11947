//! The process itself: who it is, how it stands, what it holds and where it listens.

use std::fmt::Write;

use http::StatusCode;
use leno_config::ir::Direction;
use serde_json::{Map, Value, json};

use crate::version;

use super::answer::{self, Answer, json, text};
use super::query::{Query, QueryError};
use super::{Shared, redact};

/// `/server_info`, in Envoy's shape.
pub(super) fn server_info(shared: &Shared) -> Value {
    let node = &shared.node;
    let uptime = format!("{}s", shared.started.elapsed().as_secs());
    json!({
        "version": version::SHORT,
        "state": shared.state(),
        "reason": shared.why_not_ready(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "pid": std::process::id(),
        "command_line_options": redact::arguments(std::env::args()),
        "node": {
            "id": node.id(),
            "cluster": node.workload,
            "metadata": {
                "NAME": node.name,
                "NAMESPACE": node.namespace,
                "SERVICE_ACCOUNT": node.service_account,
                "WORKLOAD_NAME": node.workload,
                "LABELS": node.labels,
                "INTERCEPTION_MODE": node.interception.as_metadata(),
            },
            "locality": {
                "region": node.locality.region,
                "zone": node.locality.zone,
                "sub_zone": node.locality.subzone,
            },
        },
    })
}

/// `/listeners`: a line per listener, or Envoy's JSON with a little more.
pub(super) fn listeners(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let (snapshot, bound, unbound) = (shared.snapshot(), shared.bound(), shared.unbound());
    let is_json = query.one_of("format", &["text", "json"])? == Some("json");
    let mut out = String::new();
    let mut statuses = Vec::new();
    for (name, listener) in &snapshot.listeners {
        let real = bound.get(name);
        let address = real.copied().unwrap_or(listener.config.address);
        let state = match real {
            Some(_) => "listening",
            None if !listener.config.intake.has_sockets() => "handed captured connections",
            None if unbound.contains(name) => "cannot listen",
            None => "closed",
        };
        // Writing to a String does not fail.
        let _ = match real {
            Some(_) => writeln!(out, "{name}::{address}"),
            None => writeln!(out, "{name}::{address} ({state})"),
        };
        let direction = match listener.config.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let socket = json!({ "address": address.ip(), "port_value": address.port() });
        let local = json!({ "socket_address": socket });
        statuses.push(json!({ "name": name, "local_address": local, "direction": direction, "state": state }));
    }
    Ok(if is_json { json(&json!({ "listener_statuses": statuses })) } else { answer::lines(out) })
}

/// `/memory`, under Envoy's names and as texts, as JSON of 64-bit numbers is written: what the system says of the process.
pub(super) fn memory() -> Answer {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => json(&measured(&status)),
        Err(error) => {
            let says = format!("/proc/self/status cannot be read: {error}\n");
            text(StatusCode::INTERNAL_SERVER_ERROR, says)
        }
    }
}

/// Envoy's names and ours, and where the kernel says it (proc(5)), in bytes.
const MEMORY: [(&str, &str); 7] = [
    // Pages of the heap and of stacks that are in memory.
    ("allocated", "RssAnon"),
    // What the heap and stacks have of the address space.
    ("heap_size", "VmData"),
    ("total_physical_bytes", "VmRSS"),
    ("peak_physical_bytes", "VmHWM"),
    // Pages of the program's file, which the kernel can forget at any time.
    ("file_backed_bytes", "RssFile"),
    ("virtual_bytes", "VmSize"),
    ("swapped_bytes", "VmSwap"),
];

fn measured(status: &str) -> Value {
    let kilobytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let figures = MEMORY.iter().filter_map(|(name, field)| {
        let bytes = kilobytes(field)?.saturating_mul(1024);
        Some(((*name).to_owned(), Value::String(bytes.to_string())))
    });
    Value::Object(figures.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        let status = "Name:\tleno-proxy\nVmPeak:\t 9 kB\nVmData:\t  2048 kB\nVmRSS:\t   512 kB\nRssAnon:\t 100 kB\n";
        let expected = json!({"allocated": "102400", "heap_size": "2097152", "total_physical_bytes": "524288"});
        assert_eq!(measured(status), expected);
        assert_eq!(measured("nonsense"), json!({}));
    }
}
