//! Roots and keys on disk, over restarts.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::client::Client;
use leno_config::xds::Kind;

const FREE_PORTS: [&str; 3] = ["--xds-address=127.0.0.1:0", "--tls-address=127.0.0.1:0", "--http-address=127.0.0.1:0"];

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn keys_are_for_their_owner_and_a_restart_keeps_them() {
    let (place, serve) = plane();
    let state = place.state();
    let files = [("root.pem", 0o644), ("ca/root.pem", 0o644), ("ca/root.key", 0o600), ("ca/token.key", 0o600)];
    let read = |name: &str| std::fs::read(state.join(name)).unwrap();
    for (name, expected) in files {
        assert_eq!(mode(&state.join(name)), expected, "{name}");
    }
    let before = files.map(|(name, _)| read(name));
    let old = token(&place, "shop", "cart", "1h");
    drop(serve);
    let serve = started(&place, &[]);
    assert_eq!(files.map(|(name, _)| read(name)), before);
    let (csr, _) = request();
    let bearer = format!("Bearer {old}");
    assert!(create(&connected(&place, &serve).await, Some(&bearer), &csr, 0).await.is_ok());
}

#[test]
fn a_token_goes_into_a_file_of_its_own() {
    let place = Place::new();
    let path = place.file("token");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = leno();
    command.args(["token", "create", "--namespace", "shop", "--service-account", "cart", "--state"]);
    let output = command.arg(place.state()).arg("-o").arg(&path).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim().split('.').count(), 3);
    let rows: [(&[&str], &str); 3] = [
        (&["--namespace", "a/b", "--service-account", "c"], "do not make an identity"),
        (&["--namespace", "a", "--service-account", "b", "--ttl", "0s"], "above zero"),
        (&["--namespace", "a", "--service-account", "b", "--ttl", "soon"], "duration"),
    ];
    for (arguments, words) in rows {
        let output = leno().args(["token", "create", "--state"]).arg(place.state()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(words), "{}", text(&output));
    }
}

#[test]
fn a_root_that_is_not_whole_stops_the_start_with_a_remedy() {
    let (place, serve) = plane();
    drop(serve);
    std::fs::remove_file(place.state().join("ca/root.key")).unwrap();
    let mut command = leno();
    command.arg("serve").arg("--rules").arg(place.rules()).arg("--state").arg(place.state());
    let output = command.args(FREE_PORTS).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("root.key` is missing") && text(&output).contains("restore it"),
        "{}",
        text(&output)
    );
}

#[test]
fn flags_that_make_no_authority_are_refused() {
    let place = Place::new();
    place.write("rules.yaml", RULES);
    let rows: [(&[&str], i32, &str); 6] = [
        (&["--certificate-ttl", "59s"], 2, "at least 60 s"),
        (&["--ca-cert", "a.pem"], 2, "--ca-key"),
        (&["--ca-cert", "/dev/null", "--ca-key", "/dev/null"], 1, "not PEM"),
        (&["--bundle", "other"], 2, "TRUST-DOMAIN=FILE"),
        (&["--bundle", "other=/dev/null"], 1, "no certificate"),
        (&["--tls-san", "a b"], 2, "neither a host name nor an address"),
    ];
    for (flags, code, words) in rows {
        let mut command = leno();
        command.arg("serve").arg("--rules").arg(place.rules()).args(FREE_PORTS);
        let output = command.args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{flags:?}: {}", text(&output));
    }
}

#[tokio::test]
async fn foreign_bundles_are_sent_by_trust_domain_and_never_mixed() {
    let (other, other_serve) = plane();
    drop(other_serve);
    let foreign = std::fs::read_to_string(other.state().join("root.pem")).unwrap();
    let flag = format!("other.example={}", other.state().join("root.pem").display());
    let (place, serve) = plane_with(&["--bundle", &flag]);
    let mut client = Client::connect(serve.xds, "cart").await;
    client.asks(Kind::Secret, &["ROOTCA".to_owned()]).await;
    let response = client.hears().await.unwrap();
    let secret = secret_of(&response);
    let own = std::fs::read_to_string(place.state().join("root.pem")).unwrap();
    let found = secret.bundles.iter().map(|(domain, bundle)| (domain.as_str(), bundle.roots.as_str()));
    assert_eq!(found.collect::<Vec<_>>(), [("cluster.local", own.as_str()), ("other.example", foreign.as_str())]);
}

/// The trust bundle of a response.
pub(super) fn secret_of(
    response: &envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse,
) -> leno_config::ir::Secret {
    let any = response.resources[0].resource.clone().unwrap();
    match leno_config::xds::decode(Kind::Secret, &any).unwrap() {
        leno_config::xds::Decoded::Secret(secret) => secret,
        other => panic!("{other:?}"),
    }
}
