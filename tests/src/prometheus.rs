//! Debian's Prometheus, scraping what a test started; and `promtool`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::Call;
use crate::ports::free_port;
use crate::process::Process;
use crate::python::skip;
use crate::wait::eventually;

/// A Prometheus that ends with the value.
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    // Last: the process writes into it until it ends.
    _directory: TempDir,
}

/// One series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels, with `__name__` if it has a name.
    pub labels: BTreeMap<String, String>,
    /// Its value now.
    pub value: f64,
}

impl Series {
    /// A label; empty when it is not there.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Whether `prometheus` and `promtool` are here; `false` after saying that `what` is skipped.
pub fn has_prometheus(what: &str) -> bool {
    for program in ["prometheus", "promtool"] {
        let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            skip(what, &format!("(no `{program}`: apt-get install prometheus)"));
            return false;
        }
    }
    true
}

/// Runs `promtool` with an input: all that it said.
pub fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot start promtool");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_owned();
    // Whoever needs no input ends the pipe, which is its right.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("cannot wait for promtool");
    let _ = writer.join();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

impl Prometheus {
    /// Starts it with these files, of which `prometheus.yml` is its configuration, and waits until it is ready.
    pub async fn start(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("leno-prometheus-").expect("cannot create a directory");
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        for (name, text) in files {
            std::fs::write(path(name), text).expect("cannot write a file");
        }
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new("prometheus");
        command.arg(flag("config.file", &path("prometheus.yml"))).arg(flag("storage.tsdb.path", &path("data")));
        command.arg(format!("--web.listen-address={address}"));
        let process = Process::start("prometheus", &mut command, &path("log"));
        let prometheus = Self { process, address, _directory: directory };
        eventually("Prometheus is ready", async || {
            // A call would fail the test where nobody listens yet.
            TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let reply = Call::get("http://prometheus/-/ready").try_send(address).await?;
            if reply.status == 200 { Ok(()) } else { Err(format!("{}\n{}", reply.text(), prometheus.process.log())) }
        })
        .await;
        prometheus
    }

    /// What a query selects now, or why it is refused.
    pub async fn query(&self, query: &str) -> Result<Vec<Series>, String> {
        let data = self.ask(&format!("query?query={}", percent_encoded(query))).await?;
        let number = |value: &Value| value.as_str().and_then(|text| text.parse::<f64>().ok());
        let series = |one: &Value| Some(Series { labels: labels(&one["metric"]), value: number(&one["value"][1])? });
        match data["resultType"].as_str() {
            Some("vector") => Ok(data["result"].as_array().into_iter().flatten().filter_map(series).collect()),
            Some("scalar") => {
                let value = number(&data["result"][1]).ok_or("a scalar without a value")?;
                Ok(vec![Series { labels: BTreeMap::new(), value }])
            }
            other => Err(format!("`{query}` is a {other:?}")),
        }
    }

    /// Health of each target by its job and address: `up`, `down` with the error, or `unknown`.
    pub async fn targets(&self) -> Result<BTreeMap<(String, String), String>, String> {
        let data = self.ask("targets?state=active").await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = |target: &Value| {
            let key = (text(&target["labels"]["job"]), text(&target["labels"]["instance"]));
            (key, format!("{} {}", text(&target["health"]), text(&target["lastError"])).trim().to_owned())
        };
        Ok(data["activeTargets"].as_array().into_iter().flatten().map(target).collect())
    }

    /// Names of the alerts that are pending or fire, and which.
    pub async fn alerts(&self) -> Result<BTreeMap<String, String>, String> {
        let data = self.ask("alerts").await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = data["alerts"].as_array().into_iter().flatten();
        Ok(alerts.map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["state"]))).collect())
    }

    /// Each rule with what became of its last evaluation: `ok`, `unknown` if there was none, or the error.
    pub async fn rules(&self) -> Result<BTreeMap<String, String>, String> {
        let data = self.ask("rules").await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rules = data["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array());
        let health = |rule: &Value| format!("{} {}", text(&rule["health"]), text(&rule["lastError"]));
        Ok(rules.flatten().map(|rule| (text(&rule["name"]), health(rule).trim().to_owned())).collect())
    }

    async fn ask(&self, what: &str) -> Result<Value, String> {
        let reply = Call::get(&format!("http://prometheus/api/v1/{what}")).try_send(self.address).await?;
        let answer: Value =
            serde_json::from_slice(&reply.body).map_err(|error| format!("{error}: {}", reply.text()))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(format!("{what}: {}", answer["error"])),
        }
    }
}

fn labels(metric: &Value) -> BTreeMap<String, String> {
    let labels = metric.as_object().into_iter().flatten();
    labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// A query as part of a URL (RFC 3986).
fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_fits_into_a_url() {
        assert_eq!(percent_encoded("a{b=~\"c\"} / 1"), "a%7Bb%3D~%22c%22%7D%20%2F%201");
    }
}
