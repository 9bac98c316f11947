//! `leno bug-report`: one file with what somebody needs who is to help, and without what he must not see.
//!
//! It is made for the moment in which something is broken: what cannot be asked is noted in the manifest, and the rest is
//! there. Everything is bounded, so that the report of a large mesh can be attached to a ticket. Everything is redacted
//! before it is written ([`redact`]), and the manifest says what was taken out of what.

mod redact;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use leno_config::rules;
use leno_proxy::version::{REVISION, RUSTC, TARGET, TLS, VERSION};
use serde::Serialize;

use super::ask::{Question, ask};
use super::failure::Failure;
use super::proxy_client::{ProxyClient, connected};
use super::status::short;
use crate::ads::status::rfc3339;
use redact::Counts;

/// Proxies that are asked; the others are named in the manifest.
const MAX_PROXIES: usize = 50;
/// Of one file in the report; the rest is cut off, and the manifest says so.
const MAX_FILE: usize = 8 << 20;
/// Of the whole report.
const MAX_TOTAL: usize = 256 << 20;

/// What the control plane is asked, and what the answer is called.
const CONTROL_PLANE: [(&str, &str); 6] = [
    ("/debug/status?resources", "status.json"),
    ("/debug/ca", "ca.json"),
    ("/proxies", "proxies.json"),
    ("/logging?format=json", "logging.json"),
    ("/ready", "ready.txt"),
    ("/metrics", "metrics.txt"),
];

/// What each proxy is asked.
const PROXY: [(&str, &str); 9] = [
    ("/server_info", "server_info.json"),
    ("/ready", "ready.txt"),
    ("/config_dump", "config_dump.json"),
    ("/clusters?format=json", "clusters.json"),
    ("/listeners", "listeners.txt"),
    ("/certs", "certs.json"),
    ("/figures", "figures.json"),
    ("/logging?format=json", "logging.json"),
    ("/stats/prometheus", "metrics.txt"),
];

/// `leno bug-report`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// File or directory with rules, as they are written; may be given several times
    #[arg(short = 'f', long = "rules", value_name = "RULES")]
    rules: Vec<PathBuf>,
    /// HTTP address of the control plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    address: String,
    /// HTTP address of the admin interface of a proxy that is not connected to it; may be given several times
    #[arg(long, value_name = "URL")]
    proxy: Vec<String>,
    /// Where to write it [default: leno-bug-report-TIME.tar]
    #[arg(long, value_name = "FILE.tar")]
    output: Option<PathBuf>,
}

/// Gathers and writes. 0: it is written; 3: it is written, but nobody who was asked has answered.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let now = SystemTime::now();
    let path = path(arguments.output.as_deref(), now).map_err(Failure::usage)?;
    let written = rules::read(&arguments.rules).map_err(Failure::usage)?;
    let mut report = Report::create(&path, now).map_err(Failure::usage)?;

    report.add("versions.json", "leno", Ok(versions()), redact::page)?;
    for source in &written {
        let name = format!("rules/{}", inside(&source.name));
        report.add(&name, &source.name, Ok(String::from_utf8_lossy(&source.text).into_owned()), redact::yaml)?;
    }
    let asked = control_plane(&mut report, &arguments.address)? + proxies(&mut report, arguments)?;
    report.finish()?;

    writeln!(anstream::stdout(), "{}", path.display())?;
    progress("it is redacted; look into manifest.json before you send it to anybody");
    match asked {
        0 => {
            progress("nobody has answered: --address takes what `leno serve` prints as http, --proxy an admin address");
            Ok(ExitCode::from(3))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// How many pages it answered.
fn control_plane(report: &mut Report, address: &str) -> Result<usize, Failure> {
    progress(&format!("asking the control plane at {address} …"));
    let mut answered = 0;
    for (path, name) in CONTROL_PLANE {
        let page = ask(address, &Question::get(path)).and_then(|(status, answer)| match status.as_u16() {
            // Not ready is an answer.
            200..300 | 503 => Ok(answer),
            _ => Err(anyhow!("{address} answers {path} with {status}: {}", answer.trim()).into()),
        });
        answered += usize::from(page.is_ok());
        report.add(&format!("control-plane/{name}"), path, page, redact::page)?;
        // Who is not there is not asked six times.
        if answered == 0 {
            break;
        }
    }
    Ok(answered)
}

/// How many pages they answered.
fn proxies(report: &mut Report, arguments: &Arguments) -> Result<usize, Failure> {
    let nodes = connected(&arguments.address).unwrap_or_default();
    let relayed = nodes.into_iter().map(|node| {
        let name = short(&node).to_owned();
        (name, ProxyClient::Relayed { address: arguments.address.clone(), node })
    });
    let direct = arguments.proxy.iter().map(|admin| {
        let name = admin.trim_start_matches("http://").trim_end_matches('/').to_owned();
        (name, ProxyClient::Direct { admin: admin.clone() })
    });
    // Those that somebody named come first: they are what it is about.
    let mut answered = 0;
    for (number, (name, proxy)) in direct.chain(relayed).enumerate() {
        if number >= MAX_PROXIES {
            report.omit(&format!("proxies/{name}"), "more proxies than a report holds");
            continue;
        }
        progress(&format!("asking {proxy} …"));
        let mut of_this = 0;
        for (path, file) in PROXY {
            let page = proxy.get(path);
            of_this += usize::from(page.is_ok());
            report.add(&format!("proxies/{}/{file}", inside(&name)), path, page, redact::page)?;
            if of_this == 0 {
                break;
            }
        }
        answered += of_this;
    }
    Ok(answered)
}

fn versions() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let versions = serde_json::json!({
        "leno": VERSION,
        "revision": REVISION,
        "target": TARGET,
        "rustc": RUSTC,
        "tls": TLS,
        "kernel": kernel.trim(),
    });
    versions.to_string()
}

/// Where it goes; a name of its own for each second, where none is given.
fn path(asked: Option<&Path>, now: SystemTime) -> anyhow::Result<PathBuf> {
    let Some(path) = asked else {
        let time: String = rfc3339(now).chars().filter(char::is_ascii_alphanumeric).take(15).collect();
        return Ok(PathBuf::from(format!("leno-bug-report-{time}.tar")));
    };
    let is_packed = path.extension().is_some_and(|end| end == "gz" || end == "tgz" || end == "zip");
    if is_packed {
        anyhow::bail!(
            "a report is a plain tar; name it {} and pack it afterwards",
            path.with_extension("tar").display()
        );
    }
    Ok(path.to_owned())
}

/// A path that leads nowhere outside of where the report is unpacked.
fn inside(name: &str) -> String {
    let parts = Path::new(name).components().filter_map(|part| match part {
        std::path::Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        std::path::Component::Prefix(_)
        | std::path::Component::RootDir
        | std::path::Component::CurDir
        | std::path::Component::ParentDir => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn progress(line: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// The file that is being written.
struct Report {
    tar: tar::Builder<File>,
    /// Of each file in it.
    modified: u64,
    /// What may still be written.
    left: usize,
    manifest: Manifest,
}

/// `manifest.json`
#[derive(Debug, Serialize)]
struct Manifest {
    /// RFC 3339, UTC.
    created: String,
    leno: &'static str,
    /// What is taken out of everything.
    redacts: [&'static str; 6],
    files: Vec<Entry>,
    /// What was left out, and why.
    omitted: Vec<Omitted>,
}

/// A file of the report.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    /// What was asked or read.
    from: String,
    bytes: usize,
    /// Whether its end is missing.
    cut: bool,
    /// How much was taken out, by what it was.
    redacted: Counts,
}

#[derive(Debug, Serialize)]
struct Omitted {
    name: String,
    reason: String,
}

impl Report {
    /// A new file that only its owner may read.
    fn create(path: &Path, now: SystemTime) -> anyhow::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot write `{}`; --output names another file", path.display()))?;
        Ok(Self {
            tar: tar::Builder::new(file),
            modified: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            left: MAX_TOTAL,
            manifest: Manifest {
                created: rfc3339(now),
                leno: VERSION,
                redacts: [
                    "values of authorization and cookie headers, and conditions on them",
                    "fields named like a token, secret, password, key of an API or session",
                    "bearer tokens and basic credentials",
                    "whatever looks like a JWT",
                    "private keys (PEM) and secret halves of JSON Web Keys",
                    "data of Kubernetes Secrets",
                ],
                files: Vec::new(),
                omitted: Vec::new(),
            },
        })
    }

    /// Adds a file, or notes why there is none.
    fn add(
        &mut self,
        name: &str,
        from: &str,
        text: Result<String, Failure>,
        redact: fn(&str, &mut Counts) -> String,
    ) -> anyhow::Result<()> {
        let text = match text {
            Ok(text) => text,
            Err(failure) => {
                // What a server says of a failure may quote anything.
                self.omit(name, &redact::text(&failure.to_string(), &mut Counts::new()));
                return Ok(());
            }
        };
        let mut redacted = Counts::new();
        let clean = redact(&text, &mut redacted);
        let whole = clean.as_bytes();
        let shown = whole.get(..whole.len().min(MAX_FILE)).unwrap_or_default();
        if shown.len() > self.left {
            self.omit(name, "the report is as large as one may be");
            return Ok(());
        }
        self.left -= shown.len();
        self.write(name, shown)?;
        self.manifest.files.push(Entry {
            name: name.to_owned(),
            from: from.to_owned(),
            bytes: shown.len(),
            cut: shown.len() < whole.len(),
            redacted,
        });
        Ok(())
    }

    fn omit(&mut self, name: &str, reason: &str) {
        self.manifest.omitted.push(Omitted { name: name.to_owned(), reason: reason.to_owned() });
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o600);
        header.set_mtime(self.modified);
        Ok(self.tar.append_data(&mut header, format!("leno-bug-report/{name}"), bytes)?)
    }

    /// Writes the manifest.
    fn finish(mut self) -> anyhow::Result<()> {
        let manifest = serde_json::to_string_pretty(&self.manifest)? + "\n";
        self.write("manifest.json", manifest.as_bytes())?;
        Ok(self.tar.into_inner()?.sync_all()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_report_holds_what_could_be_asked_and_says_what_could_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.tar");
        let mut report = Report::create(&path, UNIX_EPOCH).unwrap();
        report.add("a.json", "/a", Ok(r#"{"token": "hunter2"}"#.to_owned()), redact::page).unwrap();
        report.add("b.txt", "/b", Ok("x".repeat(MAX_FILE + 1)), redact::page).unwrap();
        report.add("c.txt", "/c", Err(anyhow!("refused: Bearer hunter2hunter2").into()), redact::page).unwrap();
        report.finish().unwrap();

        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert!(files.values().all(|text| !text.contains("hunter2")), "{files:?}");
        let manifest: serde_json::Value = serde_json::from_str(&files["leno-bug-report/manifest.json"]).unwrap();
        assert_eq!(manifest["files"][0]["redacted"]["field"], 1);
        assert_eq!((&manifest["files"][1]["cut"], files["leno-bug-report/b.txt"].len()), (&true.into(), MAX_FILE));
        assert_eq!(manifest["omitted"][0]["name"], "c.txt");
        assert!(Report::create(&path, UNIX_EPOCH).is_err(), "nothing is overwritten");
    }

    #[test]
    fn names_lead_nowhere_outside() {
        for (name, expected) in [
            ("/etc/rules/a.yaml", "etc/rules/a.yaml"),
            ("../../a.yaml", "a.yaml"),
            ("examples/./a.yaml", "examples/a.yaml"),
            ("127.0.0.1:15000", "127.0.0.1:15000"),
        ] {
            assert_eq!(inside(name), expected);
        }
    }

    #[test]
    fn a_packed_name_is_refused_with_the_plain_one() {
        let error = path(Some(Path::new("x.tar.gz")), UNIX_EPOCH).unwrap_err().to_string();
        assert!(error.contains("a plain tar"), "{error}");
        assert_eq!(path(None, UNIX_EPOCH).unwrap(), Path::new("leno-bug-report-19700101T000000.tar"));
    }
}
