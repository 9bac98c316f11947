//! Inputs that are made by encoders: ours for xDS, rustls's for a ClientHello. What a hand can write stands in the corpora as
//! it was written.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use leno_config::compile::compile;
use leno_config::ir::Locality;
use leno_config::mesh::Mesh;
use leno_config::node::{Interception, Node};
use leno_config::rules::{SourceText, parse};
use leno_config::xds::{self, Flavour, Kind};
use rustls::crypto::aws_lc_rs;

/// Every rule that Leno knows, as `config/tests` has it.
const RULES: &str = include_str!("../../../../config/tests/data/everything.yaml");
/// Inputs of a kind that are kept, and their size.
const MOST: usize = 6;
const LARGEST: usize = 6 * 1024;

/// Target, name and bytes.
type Seed = (&'static str, String, Vec<u8>);

/// `LENO_RENEW=1` writes them anew.
#[test]
fn what_encoders_make_is_in_the_corpora() {
    for (target, name, bytes) in resources().into_iter().chain(hellos()) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target).join(name);
        if std::env::var_os("LENO_RENEW").is_some() {
            fs::create_dir_all(path.parent().expect("a directory")).expect("created");
            fs::write(&path, bytes).expect("written");
        }
        assert!(path.is_file(), "{} is missing; LENO_RENEW=1 makes it", path.display());
    }
}

/// What one proxy of those rules is sent, a few of each kind.
fn resources() -> Vec<Seed> {
    let parsed = parse(&[SourceText { name: "everything.yaml".into(), text: RULES.into() }]);
    let node = Node {
        name: "reviews-1".to_owned(),
        ip: Ipv4Addr::new(10, 0, 0, 1).into(),
        namespace: "default".to_owned(),
        service_account: "reviews".to_owned(),
        workload: "reviews".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "reviews".to_owned())]),
        locality: Locality::default(),
        interception: Interception::Redirect,
    };
    let resources = compile(&Mesh::new(&parsed.documents), &node);
    let mut seeds = Vec::new();
    for (kind, all) in xds::encode(&resources, &Flavour::Sidecar) {
        let number = Kind::PUSH_ORDER.iter().position(|one| *one == kind).expect("a kind");
        let bytes = all.into_values().map(|encoded| encoded.any.value).filter(|bytes| bytes.len() < LARGEST);
        for (at, bytes) in bytes.take(MOST).enumerate() {
            let prefix = u8::try_from(number).expect("few kinds");
            seeds.push(("xds", format!("{}-{at}", kind.label()), [vec![prefix], bytes].concat()));
        }
    }
    seeds
}

/// Hellos of the mesh, of Istio, of a browser and of somebody who names nobody.
fn hellos() -> Vec<Seed> {
    let rows: [(&str, &str, &[&str]); 5] = [
        ("mesh", "reviews.default.svc.cluster.local", &["leno", "h2"]),
        ("istio", "outbound_.9080_._.reviews.default.svc.cluster.local", &["istio-peer-exchange", "istio"]),
        ("browser", "shop.example", &["h2", "http/1.1"]),
        ("no-protocol", "a.b", &[]),
        ("address", "10.0.0.1", &["http/1.1"]),
    ];
    let hello = |name: &str, protocols: &[&str]| {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("written");
        bytes
    };
    rows.into_iter().map(|(file, name, protocols)| ("client_hello", file.to_owned(), hello(name, protocols))).collect()
}
