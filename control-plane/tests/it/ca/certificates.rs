//! What is issued, looked at by openssl and not by the libraries that made it.

use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::*;

fn path(place: &Place, name: &str, contents: &str) -> String {
    let path = place.file(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn openssl_accepts_the_chain_and_reads_one_spiffe_id() {
    let (place, serve) = plane();
    let root = place.state().join("root.pem").display().to_string();
    let (csr, _) = request();
    let bearer = format!("Bearer {}", token(&place, "shop", "cart", "1h"));
    let chain = create(&connected(&place, &serve).await, Some(&bearer), &csr, 0).await.unwrap();
    assert_eq!(chain[1], std::fs::read_to_string(&root).unwrap());
    let leaf = path(&place, "leaf.pem", &chain[0]);
    for purpose in ["sslclient", "sslserver"] {
        let verified = openssl(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &root, &leaf]);
        assert!(verified.status.success(), "{}", text(&verified));
    }
    let shown = text(&openssl(&["x509", "-in", &leaf, "-noout", "-text"]));
    let names: Vec<_> =
        shown.lines().skip_while(|line| !line.contains("Subject Alternative Name")).nth(1).into_iter().collect();
    assert_eq!(names[0].trim(), "URI:spiffe://cluster.local/ns/shop/sa/cart");
    for words in [
        "Subject: \n",
        "CA:FALSE",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "Digital Signature\n",
    ] {
        assert!(shown.contains(words), "`{words}` in\n{shown}");
    }
    assert!(!shown.contains("somebody-else"), "{shown}");
    assert_eq!(metric(&serve, "leno_ca_certificates_issued_total"), 1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let left = |series: &str| metric(&serve, series).saturating_sub(now) / 86_400;
    // Ten years; the figure is a float and may be off by a second.
    assert!((3649..=3650).contains(&left("leno_ca_root_expiry_timestamp_seconds")));
    assert!(left("leno_ca_own_certificate_expiry_timestamp_seconds") <= 1);
}

#[tokio::test]
async fn keys_of_other_tools_are_taken_and_weak_ones_are_not() {
    let (place, serve) = plane();
    let channel = connected(&place, &serve).await;
    let bearer = format!("Bearer {}", token(&place, "shop", "cart", "1h"));
    let rows: [(&str, &[&str], bool); 6] = [
        ("P-256", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], true),
        ("P-384", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"], true),
        ("P-521", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"], false),
        ("RSA 2048", &["-newkey", "rsa:2048"], true),
        ("RSA 1024", &["-newkey", "rsa:1024"], false),
        ("Ed25519", &["-newkey", "ed25519"], true),
    ];
    for (what, arguments, expected) in rows {
        let common =
            ["req", "-new", "-nodes", "-subj", "/CN=x", "-addext", "nsComment=unusual", "-keyout", "/dev/null"];
        let made = openssl(&[&common[..], arguments].concat());
        let csr = String::from_utf8(made.stdout.clone()).unwrap();
        let answer = create(&channel, Some(&bearer), &csr, 0).await;
        assert_eq!(answer.is_ok(), expected, "{what}: {answer:?} {}", text(&made));
        if let Err(status) = answer {
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains("use ECDSA P-256"), "{status}");
        }
    }
    assert_eq!(metric(&serve, "leno_ca_refused_total{reason=\"request\"}"), 2);
}

#[tokio::test]
async fn a_certificate_renews_itself_without_a_token() {
    let (place, serve) = plane();
    let first = certified(&place, &serve, "shop", "cart").await;
    let root = place.state().join("root.pem");
    let channel = connect(serve.tls, &root, "127.0.0.1", Some(&first)).await.unwrap();
    let (csr, _) = request();
    // A token beside it, long expired, does no harm.
    for authorization in [None, Some("Bearer a.b.c")] {
        let chain = create(&channel, authorization, &csr, 60).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        assert_eq!(leno_proxy::identity::id_of(&leaf).unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
        let (_, ends) = leno_proxy::identity::validity(&leaf).unwrap();
        assert!(ends <= SystemTime::now() + Duration::from_secs(60));
    }
}

#[tokio::test]
async fn an_operators_intermediate_issues_and_its_chain_comes_along() {
    let place = Place::new();
    place.write("rules.yaml", RULES);
    let made = |name: &str, path: u8| {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(path));
        parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        parameters.use_authority_key_identifier_extension = true;
        parameters.not_after = (SystemTime::now() + Duration::from_secs(1800)).into();
        (parameters, KeyPair::generate().unwrap())
    };
    let ((root, root_key), (intermediate, key)) = (made("root", 1), made("intermediate", 0));
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let signed = intermediate.signed_by(&key, &rcgen::Issuer::from_params(&root, &root_key)).unwrap().pem();
    let certificates = path(&place, "operator.pem", &format!("{signed}{root_pem}"));
    let key = path(&place, "operator.key", &key.serialize_pem());
    let serve = started(&place, &["--ca-cert", &certificates, "--ca-key", &key]);

    let bundle = place.state().join("root.pem").display().to_string();
    let (csr, _) = request();
    let bearer = format!("Bearer {}", token(&place, "shop", "cart", "1h"));
    let chain = create(&connected(&place, &serve).await, Some(&bearer), &csr, 0).await.unwrap();
    assert_eq!(chain.len(), 3);
    let (leaf, between) = (path(&place, "leaf.pem", &chain[0]), path(&place, "between.pem", &chain[1]));
    let verified = openssl(&["verify", "-x509_strict", "-CAfile", &bundle, "-untrusted", &between, &leaf]);
    assert!(verified.status.success(), "{}", text(&verified));
    let (_, ends) =
        leno_proxy::identity::validity(&CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap()).unwrap();
    assert!(ends <= SystemTime::now() + Duration::from_secs(1800), "a leaf does not outlive its authority");
    assert!(!place.state().join("ca/root.key").exists(), "no root of our own is made");
}

#[tokio::test]
async fn the_port_speaks_tls_1_3_and_nothing_else() {
    let (place, serve) = plane();
    let address = serve.tls.to_string();
    let root = place.state().join("root.pem").display().to_string();
    for (version, expected) in [("-tls1_3", true), ("-tls1_2", false)] {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &address,
            "-CAfile",
            &root,
            "-verify_return_error",
            version,
            "-alpn",
            "h2",
        ]);
        command.args(["-verify_hostname", "istiod.istio-system.svc"]);
        let shown = command.stdin(std::process::Stdio::null()).output().unwrap();
        let accepted = shown.status.success() && text(&shown).contains("ALPN protocol: h2");
        assert_eq!(accepted, expected, "{version}: {}", text(&shown));
    }
}
