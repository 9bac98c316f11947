//! Asking a running proxy, by whichever way it can be reached.
//!
//! A proxy's admin interface listens on loopback alone. Who is on the same machine asks it directly (`--proxy URL`);
//! everybody else asks the control plane (`--address URL`), to which every proxy holds a stream open, and names the proxy.
//! What comes back is the same: the control plane hands on the answer of the proxy as it is, at
//! `/proxies/NODE/<admin path>`.

use anyhow::anyhow;
use http::{Method, StatusCode};
use serde_json::Value;

use super::ask::{Question, ask, ask_whom};
use super::failure::Failure;
use super::status::short;
use crate::percent::escaped;

/// By which way a proxy is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Way {
    /// HTTP address of the control plane, through which a proxy is asked that is given by name
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    pub(crate) address: String,
    /// HTTP address of the admin interface of one proxy, which is then asked without the control plane
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
}

/// One proxy that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxyClient {
    /// At its admin address.
    Direct {
        /// `http://HOST:PORT`
        admin: String,
    },
    /// Through the control plane.
    Relayed {
        /// `http://HOST:PORT` of the control plane.
        address: String,
        /// Its node id, or its name as the control plane knows it.
        node: String,
    },
}

impl ProxyClient {
    /// The proxy that is meant: the one of `--proxy`, or the one of this name. Without either, the only one there is.
    pub(crate) fn new(way: &Way, name: Option<&str>) -> Result<Self, Failure> {
        match (&way.proxy, name) {
            (Some(_), Some(name)) => {
                Err(Failure::usage(anyhow!("`{name}` names a proxy and --proxy another; leave one of them out")))
            }
            (Some(admin), None) => Ok(Self::Direct { admin: admin.clone() }),
            (None, Some(name)) => Ok(Self::Relayed { address: way.address.clone(), node: name.to_owned() }),
            (None, None) => Self::only(&way.address),
        }
    }

    fn only(address: &str) -> Result<Self, Failure> {
        let mut nodes = connected(address)?;
        match (nodes.pop(), nodes.is_empty()) {
            (Some(node), true) => Ok(Self::Relayed { address: address.to_owned(), node }),
            (None, _) => Err(Failure::usage(anyhow!(
                "no proxy is connected to {address}; --proxy takes the admin address of one that is not"
            ))),
            (Some(last), false) => {
                nodes.push(last);
                Err(Failure::usage(anyhow!("name one of the proxies: {}", names(&nodes))))
            }
        }
    }

    /// The body of a page of its admin interface; `path` with the query.
    pub(crate) fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::GET, path)
    }

    /// The same for what changes something.
    pub(crate) fn post(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::POST, path)
    }

    /// The JSON of a page.
    pub(crate) fn json(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.get(path)?;
        let read = serde_json::from_str(&answer);
        read.map_err(|error| anyhow!("what {self} answers to {path} is not JSON: {error}").into())
    }

    fn ask(&self, method: Method, path: &str) -> Result<String, Failure> {
        let (status, body) = match self {
            Self::Direct { admin } => {
                let hint = "is it running? --proxy takes its `admin` address, which stands in ports.json of its state directory";
                ask_whom("the proxy", hint, admin, &Question { method, path, token: None })?
            }
            Self::Relayed { address, node } => {
                let path = format!("/proxies/{}{path}", escaped(node));
                ask(address, &Question { method, path: &path, token: None })?
            }
        };
        match status.is_success() {
            true => Ok(body),
            false => Err(self.refusal(status, body.trim(), path)),
        }
    }

    /// Who is not there is a mistake of whoever asks; who is there and cannot be asked is not.
    fn refusal(&self, status: StatusCode, body: &str, path: &str) -> Failure {
        let error = anyhow!("{self} answers {path} with {status}: {body}");
        match (self, status) {
            // Either nobody is called so, or several are, or the proxy itself does not know the page.
            (Self::Relayed { address, node }, StatusCode::NOT_FOUND) => match connected(address) {
                Ok(known) if known.iter().filter(|known| is_meant(node, known)).count() != 1 => {
                    Failure::usage(anyhow!(
                        "{}; connected are: {}",
                        body.lines().next().unwrap_or_default(),
                        if known.is_empty() { "none".to_owned() } else { names(&known) }
                    ))
                }
                Ok(_) | Err(_) => error.into(),
            },
            (
                Self::Relayed { .. },
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
            ) => Failure::unreachable(error),
            (Self::Relayed { .. } | Self::Direct { .. }, _) => error.into(),
        }
    }
}

impl std::fmt::Display for ProxyClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct { admin } => write!(f, "the proxy at {admin}"),
            Self::Relayed { node, .. } => write!(f, "the proxy {}", short(node)),
        }
    }
}

/// The node ids of all proxies that the control plane has a stream of.
pub(crate) fn connected(address: &str) -> Result<Vec<String>, Failure> {
    let (status, answer) = ask(address, &Question::get("/debug/status"))?;
    if !status.is_success() {
        return Err(Failure::unreachable(anyhow!("{address} answers {status}: {}", answer.trim())));
    }
    let status: Value = serde_json::from_str(&answer)?;
    let proxies = status.get("proxies").and_then(Value::as_array).into_iter().flatten();
    let nodes = proxies.filter_map(|proxy| proxy.get("node")?.as_str());
    Ok(nodes.map(str::to_owned).collect())
}

/// Whether what a person wrote is this node: its id, `NAME.NAMESPACE` or `NAME`.
fn is_meant(written: &str, node: &str) -> bool {
    let name = short(node);
    written == node || written == name || name.split('.').next() == Some(written)
}

fn names(nodes: &[String]) -> String {
    nodes.iter().map(|node| short(node)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(proxy: Option<&str>) -> Way {
        Way { address: "http://127.0.0.1:15014".to_owned(), proxy: proxy.map(str::to_owned) }
    }

    #[test]
    fn a_proxy_is_meant_by_address_or_by_name_and_not_by_both() {
        let direct = ProxyClient::new(&way(Some("http://127.0.0.1:15000")), None).ok();
        assert_eq!(direct, Some(ProxyClient::Direct { admin: "http://127.0.0.1:15000".to_owned() }));
        let relayed = ProxyClient::new(&way(None), Some("shop")).ok();
        assert!(matches!(relayed, Some(ProxyClient::Relayed { node, .. }) if node == "shop"));
        assert!(ProxyClient::new(&way(Some("http://127.0.0.1:15000")), Some("shop")).is_err());
    }

    #[test]
    fn a_proxy_goes_by_its_id_and_by_its_names() {
        let node = "sidecar~10.0.0.1~shop-1.default~default.svc.cluster.local";
        for written in [node, "shop-1.default", "shop-1"] {
            assert!(is_meant(written, node), "{written}");
        }
        assert!(!is_meant("shop", node) && !is_meant("default", node));
    }
}
