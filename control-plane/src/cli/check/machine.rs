//! Is this machine fit? Ports, limits, the kernel.

use std::net::{Ipv4Addr, TcpListener};

use rustix::process::{Resource, Rlimit, getrlimit};

use super::holder;
use super::report::Section;

/// Ports that Leno takes unless it is told otherwise, with who takes them and the flag that moves them.
const PORTS: &[(u16, &str, &str)] = &[
    (15010, "discovery in clear text", "leno serve --rules RULES --xds-address 127.0.0.1:0"),
    (15012, "discovery and certificates", "leno serve --rules RULES --tls-address 127.0.0.1:0"),
    (15014, "status and metrics of the control plane", "leno serve --rules RULES --http-address 127.0.0.1:0"),
    (15000, "admin of a proxy", "leno-proxy run --config FILE --admin 127.0.0.1:0"),
    (15001, "outbound listener of a proxy", "ss -ltnp 'sport = :15001'"),
];

/// A proxy takes three descriptors per connection of a caller, a control plane one per proxy.
const FILES: u64 = 4096;
/// Connections that wait to be accepted.
const BACKLOG: u64 = 1024;

/// What has to hold before anything is started.
pub(super) fn before() -> [Section; 2] {
    let mut ports = Section::new("ports of this machine");
    for (port, what, next) in PORTS {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
            Ok(_) => ports.ok(format!("port {port} is free ({what})")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match holder::of_port(*port) {
                Some(holder) if holder.is_leno() => {
                    ports.warns(format!("port {port} ({what}) is held by {holder}: Leno runs already"), "leno check");
                }
                Some(holder) => ports.fails(format!("port {port} ({what}) is held by {holder}"), *next),
                None => ports.fails(format!("port {port} ({what}) is held by a process of somebody else"), *next),
            },
            Err(error) => ports.fails(format!("port {port} ({what}) cannot be listened on: {error}"), *next),
        }
    }
    let mut machine = running();
    kernel(&mut machine);
    [ports, machine]
}

/// What has to hold while something runs.
pub(super) fn running() -> Section {
    let mut section = Section::new("this machine");
    files(&mut section, &getrlimit(Resource::Nofile));
    section
}

fn files(section: &mut Section, limit: &Rlimit) {
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let shown = |limit: u64| if limit == u64::MAX { "any number of".to_owned() } else { limit.to_string() };
    match (soft >= FILES, hard >= FILES) {
        (true, _) => section.ok(format!("a process may open {} files", shown(soft))),
        (false, true) => section.warns(
            format!("a process may open {soft} files at first; a proxy takes a third of that as connections"),
            format!("ulimit -n {}", hard.min(65_536)),
        ),
        (false, false) => section.warns(
            format!("a process may open {hard} files at most, enough for {} connections of a proxy", hard / 3),
            "sudo prlimit --pid $$ --nofile=65536:65536",
        ),
    }
}

/// Only words of advice: in this version the app calls its proxy, and nothing is intercepted.
fn kernel(section: &mut Section) {
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        section.ok(format!("the kernel is Linux {}", release.trim()));
    }
    let backlog = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    match backlog.ok().and_then(|backlog| backlog.trim().parse::<u64>().ok()) {
        Some(backlog) if backlog < BACKLOG => section.warns(
            format!("only {backlog} connections wait to be accepted; a burst beyond that is turned away"),
            "sudo sysctl -w net.core.somaxconn=4096",
        ),
        Some(backlog) => section.ok(format!("{backlog} connections may wait to be accepted")),
        None => {}
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    match has("iptables") || has("nft") {
        true => section.ok("iptables or nft is there, for transparent interception"),
        false => section.warns(
            "neither iptables nor nft is in the PATH; transparent interception would need one (calling the proxy does not)",
            "sudo apt-get install iptables",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_a_warning_with_the_command_that_raises_them() {
        let said = |current, maximum| {
            let mut section = Section::new("machine");
            files(&mut section, &Rlimit { current, maximum });
            serde_json::to_value(&section).unwrap()["checks"][0].clone()
        };
        assert_eq!(said(Some(1_000_000), None)["outcome"], "ok");
        assert_eq!(said(None, None)["outcome"], "ok");
        assert_eq!(said(Some(1024), Some(8192))["next"], "ulimit -n 8192");
        assert_eq!(said(Some(1024), None)["next"], "ulimit -n 65536");
        assert_eq!(said(Some(1024), Some(1024))["outcome"], "warning");
    }
}
