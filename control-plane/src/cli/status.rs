//! `leno status`: which proxy holds what, and what is wrong with the rules; with `--proxy`, how one proxy's circuit
//! breakers stand.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use leno_proxy::admin::clusters::ClusterStatus;

use super::Output;
use super::ask::{Question, ask, ask_whom};
use super::breakers;
use super::failure::Failure;
use super::table::{Cell, Column, Room, Table, below};
use crate::ads::status::{ClearText, ProxyStatus, RemarkStatus, RulesStatus, Status, TypeStatus};

/// Versions are hashes; so many characters tell two apart.
const SHOWN: usize = 8;

/// `leno status`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// HTTP address of the control plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    address: String,
    /// HTTP address of the admin interface of one proxy: shows its circuit breakers, health checks and limits in place of
    /// what the control plane knows
    #[arg(long, value_name = "URL", conflicts_with = "resources")]
    proxy: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// With the version of each resource, not only of each set (with -o json)
    #[arg(long)]
    resources: bool,
}

/// Asks a running control plane and prints what it says.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some(proxy) = &arguments.proxy {
        return of_proxy(proxy, arguments.output);
    }
    let path = if arguments.resources { "/debug/status?resources" } else { "/debug/status" };
    let (code, answer) = ask(&arguments.address, &Question::get(path))?;
    if !code.is_success() {
        let address = &arguments.address;
        return Err(Failure::unreachable(anyhow!("{address} answers {code}: {}", answer.trim())));
    }
    let status: Status = serde_json::from_str(&answer).context("the answer is not a status of Leno")?;
    arguments.output.print(&status, |room| table(&status, room))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks one proxy how its breakers stand.
fn of_proxy(address: &str, output: Output) -> Result<ExitCode, Failure> {
    let hint = "is it running? --proxy takes its `admin` address, which stands in ports.json of its state directory";
    let (code, answer) = ask_whom("the proxy", hint, address, &Question::get(breakers::PATH))?;
    if !code.is_success() {
        return Err(Failure::unreachable(anyhow!("{address} answers {code}: {}", answer.trim())));
    }
    let clusters: Vec<ClusterStatus> =
        serde_json::from_str(&answer).context("the answer is not that of a proxy of Leno")?;
    output.print(&clusters, |room| breakers::table(&clusters, room))?;
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [Column; 9] = [
    Column::text("PROXY"),
    Column::text("VARIANT").extra(),
    Column::text("TYPE"),
    Column::text("STATE"),
    Column::text("SENT"),
    Column::text("ACKED").extra(),
    Column::text("AGE"),
    Column::text("CERT"),
    Column::text("LAST NACK").wrapped(),
];

/// One row per proxy and type, then what is wrong with the rules.
fn table(status: &Status, room: Room) -> String {
    let mut table = Table::new(COLUMNS);
    for proxy in &status.proxies {
        proxy_rows(proxy).into_iter().for_each(|row| table.push(row));
    }
    let mut text = match table.is_empty() {
        true => "No proxy is connected.\n".to_owned(),
        false => table.render(room),
    };
    text.push_str(&remarks(&status.proxies, room));
    text.push('\n');
    text.push_str(&rules(&status.rules, room));
    text
}

fn proxy_rows(proxy: &ProxyStatus) -> Vec<[Cell; 9]> {
    let name = short(&proxy.node);
    let row = |label: &str, status: &TypeStatus| {
        let version =
            |version: &Option<String>| version.as_ref().map(|text| text.chars().take(SHOWN).collect::<String>());
        [
            name.into(),
            proxy.variant.as_str().into(),
            label.into(),
            state(status),
            version(&status.sent).into(),
            version(&status.acked).into(),
            age(Duration::from_millis(status.age_ms)).into(),
            certificate(proxy),
            status.nack.as_deref().map(Cell::bad).into(),
        ]
    };
    match proxy.types.is_empty() {
        false => proxy.types.iter().map(|(label, status)| row(label, status)).collect(),
        true => {
            let nothing = Cell::nothing;
            let state = Cell::doubtful("NOT ASKED");
            let variant = proxy.variant.as_str().into();
            let certificate = certificate(proxy);
            vec![[name.into(), variant, nothing(), state, nothing(), nothing(), nothing(), certificate, nothing()]]
        }
    }
}

/// How long it is still good; the newest that the proxy's identity was issued.
fn certificate(proxy: &ProxyStatus) -> Cell {
    match &proxy.certificate {
        None => Cell::nothing(),
        Some(certificate) if certificate.left_s == 0 => Cell::bad("EXPIRED"),
        Some(certificate) => age(Duration::from_secs(certificate.left_s)).into(),
    }
}

/// What cannot be told to whom.
fn remarks(proxies: &[ProxyStatus], room: Room) -> String {
    let mut text = String::new();
    for proxy in proxies {
        let name = short(&proxy.node);
        for RemarkStatus { kind, resource, outcome, reason } in &proxy.remarks {
            if text.is_empty() {
                text.push_str("\nThe rules cannot be told in full\n");
            }
            let (resource, reason) = (resource.escape_debug(), reason.escape_debug());
            let sentence = format!("{name} ({}): {kind} {resource} {outcome}: {reason}", proxy.dialect);
            text.push_str(&below(&sentence, room));
        }
    }
    text
}

/// The name in a node id as we write it: `sidecar~IP~NAME.NAMESPACE~DOMAIN`.
pub(super) fn short(node: &str) -> &str {
    node.split('~').nth(2).unwrap_or(node)
}

/// In the words of `istioctl proxy-status`, with one for refusals.
fn state(status: &TypeStatus) -> Cell {
    match (&status.sent, &status.acked, &status.nack) {
        (_, _, Some(_)) => Cell::bad("REFUSED"),
        (None, _, None) => Cell::doubtful("NOT SENT"),
        (sent, acked, None) if sent == acked => Cell::good("SYNCED"),
        (Some(_), _, None) => Cell::doubtful("STALE"),
    }
}

/// A span of time in at most two units: `7ms`, `1m1s`, `2h3m`.
pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        seconds @ 1..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
    }
}

fn rules(rules: &RulesStatus, room: Room) -> String {
    let RulesStatus { accepted, version, rejected, held_back, problem, clear_text } = rules;
    let version = version.as_deref().unwrap_or("none");
    let mut text = format!(
        "Rules: {accepted} documents in force (version {}), {} rejected\n",
        version.chars().take(SHOWN).collect::<String>(),
        documents(rejected)
    );
    let mut line = |line: std::fmt::Arguments<'_>| text.push_str(&below(&line.to_string(), room));
    if let Some(problem) = problem {
        line(format_args!("the files are not taken: {problem}"));
    }
    for finding in rejected {
        let of = |key| field(finding, key);
        let (file, place) = (of("file"), format!("{}:{}", of("line"), of("column")));
        line(format_args!("{file}:{place}: {} {} {}: {}", of("code"), of("resource"), of("path"), of("message")));
    }
    for (resource, reason) in held_back {
        line(format_args!("{resource} {reason}"));
    }
    if !clear_text.is_empty() {
        text.push_str("In clear text, for want of the label security.istio.io/tlsMode: istio\n");
        for (host, ClearText { endpoints, of }) in clear_text {
            // Writing to a String does not fail.
            let _ = writeln!(text, "  {host}: {endpoints} of {of} endpoints");
        }
    }
    text
}

/// How many documents the findings are about. A file that cannot be read does not say what is in it, and counts once.
fn documents(findings: &[serde_json::Value]) -> usize {
    let about = |finding| match field(finding, "resource") {
        resource if resource.is_empty() => field(finding, "file"),
        resource => resource,
    };
    findings.iter().map(about).collect::<BTreeSet<_>>().len()
}

/// A field of a finding as text.
fn field(finding: &serde_json::Value, key: &str) -> String {
    match finding.get(key) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ads::status::CertificateStatus;

    fn types(sent: Option<&str>, acked: Option<&str>, nack: Option<&str>) -> TypeStatus {
        TypeStatus {
            sent: sent.map(str::to_owned),
            acked: acked.map(str::to_owned),
            age_ms: 61_000,
            nack: nack.map(str::to_owned),
            resources: BTreeMap::new(),
        }
    }

    #[test]
    fn a_row_says_how_a_type_stands() {
        let cases = [
            (types(None, None, None), "NOT SENT"),
            (types(Some("a"), None, None), "STALE"),
            (types(Some("a"), Some("b"), None), "STALE"),
            (types(Some("a"), Some("a"), None), "SYNCED"),
            (types(Some("a"), Some("b"), Some("no")), "REFUSED"),
        ];
        for (status, expected) in cases {
            assert_eq!(state(&status).text(), expected, "{status:?}");
        }
    }

    #[test]
    fn the_table_shows_proxies_refusals_and_rejected_rules() {
        let mut of_type = BTreeMap::new();
        of_type.insert("clusters".to_owned(), types(Some("0123456789"), Some("0123456789"), None));
        of_type.insert(
            "routes".to_owned(),
            types(Some("22222222222"), None, Some("9080: field: bad\u{1b}, and one more")),
        );
        let proxy = ProxyStatus {
            node: "sidecar~127.0.0.1~shop.default~default.svc.cluster.local".to_owned(),
            connected_since: String::new(),
            variant: "sotw".to_owned(),
            dialect: "grpc".to_owned(),
            types: of_type,
            certificate: Some(CertificateStatus { expires: String::new(), left_s: 7_200 }),
            remarks: vec![RemarkStatus {
                kind: "routes".to_owned(),
                resource: "reviews:9080".to_owned(),
                outcome: "refused".to_owned(),
                reason: "VirtualService default/reviews[0]: mirrors: gRPC sends no copies".to_owned(),
            }],
        };
        let rules = RulesStatus {
            accepted: 4,
            version: Some("abcdefghijkl".to_owned()),
            rejected: vec![serde_json::json!({
                "code": "L0107", "severity": "error", "file": "rules/a.yaml", "line": 4, "column": 9,
                "resource": "VirtualService default/reviews", "path": "spec.http", "message": "weights add up to 0",
                "help": null
            })],
            held_back: BTreeMap::from([("VirtualService default/reviews".to_owned(), "has an error".to_owned())]),
            problem: None,
            clear_text: BTreeMap::from([("reviews".to_owned(), ClearText { endpoints: 1, of: 3 })]),
        };
        let narrow = "\
PROXY         TYPE      STATE    SENT      AGE   CERT  LAST NACK
shop.default  clusters  SYNCED   01234567  1m1s  2h0m  -
shop.default  routes    REFUSED  22222222  1m1s  2h0m  9080: field: bad\\u{1b},
                                                       and one more
";
        let wide = "\
PROXY         VARIANT  TYPE      STATE    SENT      ACKED     AGE   CERT  LAST NACK
shop.default  sotw     clusters  SYNCED   01234567  01234567  1m1s  2h0m  -
shop.default  sotw     routes    REFUSED  22222222  -         1m1s  2h0m  9080: field: bad\\u{1b}, and one more
";
        let folded = "
The rules cannot be told in full
  shop.default (grpc): routes reviews:9080 refused: VirtualService
    default/reviews[0]: mirrors: gRPC sends no copies
";
        let whole = "
The rules cannot be told in full
  shop.default (grpc): routes reviews:9080 refused: VirtualService default/reviews[0]: mirrors: gRPC sends no copies
";
        let rest_folded = "
Rules: 4 documents in force (version abcdefgh), 1 rejected
  rules/a.yaml:4:9: L0107 VirtualService default/reviews spec.http: weights
    add up to 0
  VirtualService default/reviews has an error
In clear text, for want of the label security.istio.io/tlsMode: istio
  reviews: 1 of 3 endpoints
";
        let rest = "
Rules: 4 documents in force (version abcdefgh), 1 rejected
  rules/a.yaml:4:9: L0107 VirtualService default/reviews spec.http: weights add up to 0
  VirtualService default/reviews has an error
In clear text, for want of the label security.istio.io/tlsMode: istio
  reviews: 1 of 3 endpoints
";
        let status = Status { proxies: vec![proxy], rules };
        for (room, expected) in
            [(Room::Columns(80), [narrow, folded, rest_folded]), (Room::Unbounded, [wide, whole, rest])]
        {
            let shown = anstream::adapter::strip_str(&table(&status, room)).to_string();
            assert_eq!(shown, expected.concat());
        }
    }

    #[test]
    fn documents_are_counted_however_many_errors_they_have() {
        let finding = |resource: Option<&str>, file: &str| serde_json::json!({"resource": resource, "file": file});
        let cases = [
            (vec![], 0),
            (vec![finding(Some("Sidecar a/b"), "a"), finding(Some("Sidecar a/b"), "a")], 1),
            (vec![finding(Some("Sidecar a/b"), "a"), finding(Some("Sidecar a/c"), "a")], 2),
            (vec![finding(None, "a"), finding(None, "a"), finding(None, "b"), finding(Some("Sidecar a/b"), "a")], 3),
        ];
        for (findings, expected) in cases {
            assert_eq!(documents(&findings), expected, "{findings:?}");
        }
    }

    #[test]
    fn ages_are_short() {
        let cases = [(7, "7ms"), (1_500, "1s"), (59_999, "59s"), (61_000, "1m1s"), (7_380_000, "2h3m")];
        for (millis, expected) in cases {
            assert_eq!(age(Duration::from_millis(millis)), expected);
        }
    }
}
