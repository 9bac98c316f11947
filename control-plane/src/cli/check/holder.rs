//! Which process holds a port, as far as the system tells: of other people's processes only root learns it.

use std::fmt;
use std::fs;
use std::path::Path;

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pid: u32,
    program: String,
}

impl Holder {
    pub(super) fn is_leno(&self) -> bool {
        self.program == "leno" || self.program == "leno-proxy"
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.program.escape_debug(), self.pid)
    }
}

/// The process that listens on a TCP port of any address; `None` where that cannot be told.
pub(super) fn of_port(port: u16) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes = tables.iter().flat_map(|table| listening(table, port)).collect::<Vec<_>>();
    let links = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect::<Vec<_>>();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let processes =
        processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let mut holders = processes.filter(|(_, process)| holds(process, &links));
    holders.next().map(|(pid, process)| Holder {
        pid,
        program: fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned(),
    })
}

/// Inodes of the sockets of a table that listen on a port.
fn listening(table: &str, port: u16) -> impl Iterator<Item = String> {
    // `  0: 0100007F:3A98 00000000:0000 0A …`: address, peer, state (0A: listening), …, inode in the tenth column.
    let port = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let columns = line.split_whitespace().collect::<Vec<_>>();
        let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
        (local.ends_with(&port) && *state == "0A").then(|| (*inode).to_owned())
    })
}

fn holds(process: &Path, links: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = of_port(port).expect("this process may look at itself");
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.is_leno() || holder.program.starts_with("leno"));
        drop(listener);
        assert_eq!(of_port(port), None);
    }

    #[test]
    fn only_listening_sockets_hold_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:3AA6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 x\n   \
             1: 0100007F:3AA6 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 78 1 x\n";
        assert_eq!(listening(table, 15014).collect::<Vec<_>>(), ["77"]);
        assert_eq!(listening(table, 15015).count(), 0);
        assert_eq!(listening("", 1).count(), 0);
    }
}
