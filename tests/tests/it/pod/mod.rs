//! A sidecar in its pod: what the kubelet and scrapers ask of it, and how it comes and goes.

mod asked;
mod hooks;
mod leaving;
mod probes;
mod rolling;
mod scraping;

use std::net::SocketAddr;
use std::process::Command;

use leno_tests::pki::Authority;
use leno_tests::{Outcome, Sidecar, SidecarBuilder, feed, free_port, leno_proxy, sidecar};
use serde_json::{Value, json};

/// Nobody is let in without a certificate.
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: {name: default, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
/// Who the sidecar is.
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

/// A sidecar that takes nobody in without a certificate, and its port 15020.
struct Strict {
    sidecar: Sidecar,
    merged: SocketAddr,
}

/// Starts one in front of an app; `keys` as in a bootstrap file.
async fn strict(app: SocketAddr, keys: &[(&'static str, Value)]) -> Strict {
    let root = Authority::new("root");
    let (builder, merged) = merged(sidecar(app, STRICT));
    let builder = keys.iter().fold(builder, |builder, (key, value)| builder.bootstrap(key, value.clone()));
    Strict { sidecar: builder.identity(&root, SHOP).start().await, merged }
}

/// The same sidecar with a port 15020.
fn merged(builder: SidecarBuilder<'_>) -> (SidecarBuilder<'_>, SocketAddr) {
    let merged = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (builder.bootstrap("merged", json!(merged)), merged)
}

/// Runs `leno-proxy` to its end with nothing in its environment but these variables: no shell, no path.
fn run(arguments: &[&str], environment: &[(&str, String)]) -> Outcome {
    let mut command = Command::new(leno_proxy());
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let output = feed(&mut command, "").expect("cannot run leno-proxy");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
