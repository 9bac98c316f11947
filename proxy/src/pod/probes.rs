//! What the kubelet would ask the app, had its requests not been turned to the proxy.
//!
//! Under STRICT mTLS the app's port refuses a kubelet, which has no certificate. So the injector rewrites a probe to ask
//! `/app-health/CONTAINER/{livez,readyz,startupz}` of the proxy, and hands the probe itself to it: `LENO_APP_PROBES`, JSON
//! in the form of Istio's `ISTIO_KUBE_APP_PROBERS`, that is a path with the probe of the pod's specification:
//!
//! ```json
//! {"/app-health/shop/readyz": {"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1}}
//! ```
//!
//! What is not listed cannot be asked: a caller chooses among these probes and has no say in where they lead.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

/// Where nothing is said of it (Kubernetes).
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that is believed to be meant.
const LONGEST: u32 = 3600;
/// More containers with probes than a pod can have.
const MOST: usize = 300;

/// The probes of a pod, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<String, Probe>);

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) action: Action,
    /// For all of it.
    pub(super) timeout: Duration,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// `httpGet`: a status from 200 to 399.
    Http(HttpGet),
    /// `tcpSocket`: a connection.
    Tcp {
        /// `None`: the pod's address.
        host: Option<String>,
        port: u16,
    },
    /// `grpc`: `SERVING` of `grpc.health.v1.Health`.
    Grpc {
        port: u16,
        /// Empty: the server as a whole.
        service: String,
    },
}

/// `httpGet`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpGet {
    /// `None`: the pod's address.
    pub(super) host: Option<String>,
    pub(super) port: u16,
    /// With TLS; nobody's certificate is verified (Kubernetes).
    pub(super) encrypted: bool,
    pub(super) path: PathAndQuery,
    /// All that are sent but `host`, which is there if the probe names it.
    pub(super) headers: HeaderMap,
}

/// Why probes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// It is not JSON of the form that is expected.
    #[error("{0}")]
    Form(String),
    /// One of them makes no sense.
    #[error("`{path}`: {reason}")]
    Probe {
        /// The path of the probe.
        path: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// As it is written. What a probe says of how often it is made is the kubelet's own business, and ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WrittenProbe {
    http_get: Option<WrittenHttp>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHttp {
    port: WrittenPort,
    #[serde(default)]
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<WrittenHeader>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTcp {
    port: WrittenPort,
    #[serde(default)]
    host: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrpc {
    port: u16,
    #[serde(default)]
    service: Option<String>,
}

/// Kubernetes' `IntOrString`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum WrittenPort {
    Number(u16),
    Text(String),
}

impl Probes {
    /// Reads the JSON of `LENO_APP_PROBES`.
    pub fn parse(json: &str) -> Result<Self, ProbesError> {
        let written: BTreeMap<String, WrittenProbe> =
            serde_json::from_str(json).map_err(|error| ProbesError::Form(format!("is not JSON of probes: {error}")))?;
        Self::new(written)
    }

    /// Checks what is written.
    pub fn new(written: BTreeMap<String, WrittenProbe>) -> Result<Self, ProbesError> {
        if written.len() > MOST {
            return Err(ProbesError::Form(format!("has {} probes, and a pod has at most {MOST}", written.len())));
        }
        let checked = written.into_iter().map(|(path, probe)| match is_path(&path) {
            true => match Probe::new(probe) {
                Ok(probe) => Ok((path, probe)),
                Err(reason) => Err(ProbesError::Probe { path, reason }),
            },
            false => {
                let reason = "a probe's path is /app-health/CONTAINER/livez, readyz or startupz".to_owned();
                Err(ProbesError::Probe { path, reason })
            }
        });
        checked.collect::<Result<_, _>>().map(Self)
    }

    /// The probe with this path.
    pub(super) fn at(&self, path: &str) -> Option<&Probe> {
        self.0.get(path)
    }

    /// The ports of the pod at which the app is asked.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.values().filter_map(|probe| match &probe.action {
            Action::Http(HttpGet { host: None, port, .. })
            | Action::Tcp { host: None, port }
            | Action::Grpc { port, service: _ } => Some(*port),
            Action::Http(_) | Action::Tcp { .. } => None,
        })
    }
}

fn is_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(parts.as_slice(), ["", "app-health", container, "livez" | "readyz" | "startupz"] if !container.is_empty())
}

impl Probe {
    fn new(written: WrittenProbe) -> Result<Self, String> {
        let timeout = match written.timeout_seconds {
            // Kubernetes takes 0 for not said.
            None | Some(0) => TIMEOUT,
            Some(seconds @ 1..=LONGEST) => Duration::from_secs(seconds.into()),
            Some(other) => return Err(format!("timeoutSeconds: {other} is not between 1 and {LONGEST}")),
        };
        let action = match (written.http_get, written.tcp_socket, written.grpc) {
            (Some(http), None, None) => Action::Http(HttpGet::new(http)?),
            (None, Some(WrittenTcp { port, host }), None) => Action::Tcp { host: given(host), port: port.number()? },
            (None, None, Some(WrittenGrpc { port, service })) => {
                Action::Grpc { port: WrittenPort::Number(port).number()?, service: service.unwrap_or_default() }
            }
            _ => return Err("a probe is one of httpGet, tcpSocket and grpc".to_owned()),
        };
        Ok(Self { action, timeout })
    }
}

impl HttpGet {
    fn new(written: WrittenHttp) -> Result<Self, String> {
        let WrittenHttp { port, path, host, scheme, http_headers } = written;
        let encrypted = match scheme.to_ascii_uppercase().as_str() {
            "" | "HTTP" => false,
            "HTTPS" => true,
            other => return Err(format!("scheme: `{other}` is neither HTTP nor HTTPS")),
        };
        let absolute = if path.starts_with('/') { path } else { format!("/{path}") };
        let path = absolute.parse().map_err(|_| format!("path: `{absolute}` is not a path"))?;
        Ok(Self { host: given(host), port: port.number()?, encrypted, path, headers: headers(&http_headers)? })
    }
}

/// The kubelet's own headers stand where the probe does not name them; an empty value takes them away.
fn headers(written: &[WrittenHeader]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for WrittenHeader { name, value } in written {
        let wrong = || format!("httpHeaders: `{name}` is not a header, or its value is none");
        let (name, value): (HeaderName, HeaderValue) =
            (name.parse().map_err(|_| wrong())?, value.parse().map_err(|_| wrong())?);
        headers.append(name, value);
    }
    for (name, usual) in [(USER_AGENT, "kube-probe/leno"), (ACCEPT, "*/*")] {
        match headers.get(&name) {
            None => drop(headers.insert(name, HeaderValue::from_static(usual))),
            Some(value) if value.is_empty() => drop(headers.remove(name)),
            Some(_) => {}
        }
    }
    if headers.get(HOST).is_some_and(HeaderValue::is_empty) {
        headers.remove(HOST);
    }
    Ok(headers)
}

fn given(host: String) -> Option<String> {
    Some(host).filter(|host| !host.is_empty())
}

impl WrittenPort {
    fn number(self) -> Result<u16, String> {
        let number = match &self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        };
        number.filter(|number| *number != 0).ok_or_else(|| match self {
            Self::Number(_) => "port: 0 is not a port".to_owned(),
            Self::Text(name) => {
                format!("port: `{name}` has to be a number here: the injector looks names up in the container's ports")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(probe: &str) -> Result<Probe, String> {
        let json = format!("{{\"/app-health/shop/readyz\": {probe}}}");
        let probes = Probes::parse(&json).map_err(|error| error.to_string())?;
        Ok(probes.at("/app-health/shop/readyz").expect("it is there").clone())
    }

    #[test]
    fn a_probe_is_read_as_the_pod_has_it() {
        let probe = parse(
            r#"{"httpGet": {"path": "/ready?deep=1", "port": 8080, "scheme": "HTTPS", "host": "localhost",
                "httpHeaders": [{"name": "Host", "value": "shop"}, {"name": "Accept", "value": ""}]},
                "timeoutSeconds": 7, "periodSeconds": 3, "failureThreshold": 2}"#,
        );
        let Probe { action: Action::Http(get), timeout } = probe.expect("valid") else { panic!("it is httpGet") };
        assert_eq!((timeout, get.port, get.encrypted), (Duration::from_secs(7), 8080, true));
        assert_eq!((get.host.as_deref(), get.path.as_str()), (Some("localhost"), "/ready?deep=1"));
        let names: Vec<&str> = get.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "user-agent"]);
        let rows = [
            (r#"{"tcpSocket": {"port": "6379"}}"#, Action::Tcp { host: None, port: 6379 }),
            (
                r#"{"grpc": {"port": 50051, "service": null}, "timeoutSeconds": 0}"#,
                Action::Grpc { port: 50051, service: String::new() },
            ),
            (
                r#"{"grpc": {"port": 50051, "service": "shop"}}"#,
                Action::Grpc { port: 50051, service: "shop".to_owned() },
            ),
        ];
        for (json, action) in rows {
            assert_eq!(parse(json).expect(json), Probe { action, timeout: TIMEOUT }, "{json}");
        }
        let Action::Http(get) = parse(r#"{"httpGet": {"path": "live", "port": 1}}"#).expect("valid").action else {
            panic!("it is httpGet")
        };
        assert_eq!((get.path.as_str(), get.encrypted), ("/live", false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            ("{}", "one of httpGet"),
            (r#"{"tcpSocket": {"port": 1}, "grpc": {"port": 1}}"#, "one of httpGet"),
            (r#"{"tcpSocket": {"port": "redis"}}"#, "`redis` has to be a number"),
            (r#"{"tcpSocket": {"port": 0}}"#, "0 is not a port"),
            (r#"{"tcpSocket": {"port": 70000}}"#, "not JSON of probes"),
            (r#"{"httpGet": {"port": 1, "scheme": "GOPHER"}}"#, "neither HTTP nor HTTPS"),
            (r#"{"httpGet": {"port": 1, "path": "/ a"}}"#, "is not a path"),
            (r#"{"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": "c"}]}}"#, "is not a header"),
            (r#"{"httpGet": {"port": 1, "pth": "/"}}"#, "unknown field `pth`"),
            (r#"{"grpc": {"port": 1}, "timeoutSeconds": 4000}"#, "4000 is not between"),
        ];
        for (json, said) in rows {
            let error = parse(json).expect_err(json);
            assert!(error.contains(said), "{json}: {error}");
        }
        for path in
            ["/app-health/readyz", "/app-health//livez", "/app-health/shop/ready", "/healthz", "/app-health/a/b/livez"]
        {
            let error = Probes::parse(&format!("{{\"{path}\": {{\"tcpSocket\": {{\"port\": 1}}}}}}")).expect_err(path);
            assert!(error.to_string().contains("/app-health/CONTAINER/livez"), "{error}");
        }
    }
}
