//! How the bookshop's sidecars talk to each other: what they counted themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::bookshop::Bookshop;
use super::load;
use super::topology::Workload;

/// What the sidecars took from their peers. The customers' is called by the demo alone, on its outbound side.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Encryption {
    /// Requests that came with a certificate of the mesh, by service.
    mutual_tls: BTreeMap<String, u64>,
    /// Requests in clear text.
    clear_text: u64,
    /// What the handshakes agreed on.
    groups: BTreeSet<String>,
}

impl Encryption {
    /// Asks every sidecar for its figures.
    pub(super) async fn observe(bookshop: &Bookshop) -> anyhow::Result<Self> {
        let mut observed = Self::default();
        for running in &bookshop.workloads {
            let metrics = load::text_of(running.admin, "/stats/prometheus").await?;
            observed.read(&running.workload, &metrics);
        }
        Ok(observed)
    }

    fn read(&mut self, workload: &Workload, metrics: &str) {
        for line in metrics.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            // A counter, written as a float.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = value.parse::<f64>().unwrap_or_default() as u64;
            if name.starts_with("http_requests_total{") && name.contains(r#"direction="inbound""#) {
                match name.contains(r#"connection_security_policy="mutual_tls""#) {
                    true => *self.mutual_tls.entry(workload.service.to_owned()).or_default() += count,
                    false => self.clear_text += count,
                }
            }
            if name.starts_with("leno_tls_handshakes_total{")
                && let Some((_, rest)) = name.split_once(r#"group=""#)
                && let Some((group, _)) = rest.split_once('"')
            {
                self.groups.insert(group.to_owned());
            }
        }
    }

    /// In words, what is not as it should be.
    pub(super) fn disagreements(&self) -> Vec<String> {
        match self.clear_text {
            0 => Vec::new(),
            some => vec![format!("{some} requests went between sidecars in clear text")],
        }
    }

    /// `mtls` of `leno demo -o json`: the requests that one service of those that productpage calls took with mTLS.
    pub(super) fn as_json(&self) -> Value {
        let requests = self.mutual_tls.get("reviews").copied().unwrap_or_default();
        json!({"requests": requests, "clear_text": self.clear_text, "group": self.group(), "by_service": self.mutual_tls})
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        let total: u64 = self.mutual_tls.values().sum();
        format!(
            "mTLS on {total} of {} requests between sidecars, key exchange {}",
            total + self.clear_text,
            self.group()
        )
    }

    fn group(&self) -> String {
        self.groups.iter().cloned().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::WORKLOADS;
    use super::*;

    #[test]
    fn the_figures_of_a_sidecar_are_understood() {
        let metrics = r#"
http_requests_total{connection_security_policy="mutual_tls",direction="inbound",route="x",response_code="200"} 7
http_requests_total{connection_security_policy="none",direction="inbound",route="x",response_code="200"} 2
http_requests_total{connection_security_policy="unknown",direction="outbound",route="x",response_code="200"} 5
leno_tls_handshakes_total{direction="inbound",version="TLSv1.3",group="X25519MLKEM768",resumed="false"} 1
"#;
        let mut observed = Encryption::default();
        observed.read(&WORKLOADS[2], metrics);
        assert_eq!(observed.as_json()["requests"], 7);
        assert_eq!(observed.as_json()["group"], "X25519MLKEM768");
        assert_eq!(observed.disagreements(), ["2 requests went between sidecars in clear text"]);
        assert_eq!(observed.summary(), "mTLS on 7 of 9 requests between sidecars, key exchange X25519MLKEM768");
    }
}
