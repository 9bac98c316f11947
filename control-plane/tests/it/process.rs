//! A running `leno serve`, and what a person does with it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than anything takes that works.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn leno() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leno"));
    command.env_remove("LENO_LOG").env("NO_COLOR", "1");
    command
}

/// A directory of rules and one for state.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.rules()).unwrap();
        place
    }

    pub(crate) fn rules(&self) -> PathBuf {
        self.directory.path().join("rules")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// As a careful editor does it: whole files, by renaming.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let hidden = self.rules().join(".new");
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(hidden, self.rules().join(name)).unwrap();
    }

    pub(crate) fn serve(&self) -> Serve {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, flags: &[&str]) -> Serve {
        self.start("127.0.0.1:0", flags)
    }

    /// At an address of the test, where a successor can be too.
    pub(crate) fn serve_at(&self, xds: &str) -> Serve {
        self.start(xds, &[])
    }

    /// Beside the rules.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, xds: &str, flags: &[&str]) -> Serve {
        let mut command = leno();
        command.arg("serve").arg("--rules").arg(self.rules()).arg("--state").arg(self.state());
        command
            .args(["--xds-address", xds, "--tls-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"])
            .args(flags);
        Serve::start(command, &self.state())
    }
}

/// A running control plane. Dropping it kills it.
pub(crate) struct Serve {
    process: Child,
    log: Receiver<String>,
    pub(crate) xds: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Serve {
    fn start(mut command: Command, state: &Path) -> Self {
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (lines, log) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut serve = Self { process, log, xds: unknown, tls: unknown, http: unknown };
        serve.waits_for("serving");
        let written = std::fs::read(state.join("serve.json")).unwrap();
        let addresses: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(addresses["pid"], serve.process.id());
        let address = |key: &str| addresses[key].as_str().unwrap().parse().unwrap();
        (serve.xds, serve.tls, serve.http) = (address("xds"), address("tls"), address("http"));
        serve
    }

    /// The next line of the log that says so.
    pub(crate) fn waits_for(&mut self, words: &str) -> String {
        let deadline = Instant::now() + SOON;
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("`{words}` is not in the log:\n{}", seen.join("\n")),
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.says("GET", path, "")
    }

    /// With header lines.
    pub(crate) fn post(&self, path: &str, headers: &str) -> (u16, String) {
        self.says("POST", path, headers)
    }

    fn says(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.http).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let host = format!("host: {}\r\nconnection: close\r\n", self.http);
        write!(socket, "{method} {path} HTTP/1.1\r\n{host}{headers}\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// `leno status` with these flags.
    pub(crate) fn status(&self, flags: &[&str]) -> Output {
        leno().arg("status").arg("--address").arg(format!("http://{}", self.http)).args(flags).output().unwrap()
    }

    pub(crate) fn status_json(&self) -> serde_json::Value {
        let output = self.status(&["-o", "json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// SIGTERM.
    pub(crate) fn is_told_to_stop(&self) {
        assert!(Command::new("kill").arg(self.pid().to_string()).status().unwrap().success());
    }

    /// Its exit code.
    pub(crate) fn ends(mut self) -> Option<i32> {
        let deadline = Instant::now() + SOON;
        // The log ends with the process.
        while self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        assert!(Instant::now() < deadline, "the process does not end");
        self.process.wait().unwrap().code()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
