//! Secrets as Envoy reads them from files: a discovery response in YAML with the secret in it.

use leno_config::ir::Secret;
use leno_proxy::identity::{Issued, Trust};
use zeroize::Zeroizing;

/// Certificate and key.
pub(super) const OWN_FILE: &str = "default.yaml";
/// Roots and revocations.
pub(super) const ROOTS_FILE: &str = "ROOTCA.yaml";

/// The own certificate. The text is erased when it is dropped, and was never copied: its buffer is large enough from
/// the start.
pub(super) fn own_certificate(issued: &Issued) -> Zeroizing<String> {
    let (chain, key) = (issued.chain_pem(), issued.key_pem());
    let lines = chain.lines().chain(key.lines()).count();
    let mut text = Zeroizing::new(String::with_capacity(chain.len() + key.len() + lines * 16 + 1024));
    begin(&mut text, Secret::OWN_CERTIFICATE);
    text.push_str("  tls_certificate:\n    certificate_chain:\n");
    inline(&mut text, 6, &chain);
    text.push_str("    private_key:\n");
    inline(&mut text, 6, &key);
    text
}

/// The roots. With those of several trust domains, Envoy has to keep them apart, which only its SPIFFE validator does.
pub(super) fn roots(trust: &Trust) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    begin(&mut text, Secret::ROOTS);
    text.push_str("  validation_context:\n");
    let domains: Vec<&str> = trust.domains().collect();
    if let [domain] = domains.as_slice() {
        text.push_str("    trusted_ca:\n");
        inline(&mut text, 6, &trust.roots_pem(domain));
    } else {
        text.push_str(SPIFFE_VALIDATOR);
        for domain in domains {
            // The name is made of letters, digits, `.`, `-` and `_`; quoted, so that YAML takes none for a number.
            text.push_str(&format!("        - name: \"{domain}\"\n          trust_bundle:\n"));
            inline(&mut text, 12, &trust.roots_pem(domain));
        }
    }
    let revoked = trust.revocations_pem();
    if !revoked.is_empty() {
        text.push_str("    crl:\n");
        inline(&mut text, 6, &revoked);
    }
    text
}

const SPIFFE_VALIDATOR: &str = "    custom_validator_config:
      name: envoy.tls.cert_validator.spiffe
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig
        trust_domains:
";

fn begin(text: &mut String, name: &str) {
    text.push_str(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: ",
    );
    text.push_str(name);
    text.push('\n');
}

/// `inline_string`, as a block.
fn inline(text: &mut String, indent: usize, pem: &str) {
    let mut line = |indent: usize, content: &str| {
        text.extend(std::iter::repeat_n(' ', indent));
        text.push_str(content);
        text.push('\n');
    };
    line(indent, "inline_string: |");
    for content in pem.lines() {
        line(indent + 2, content);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use serde_yaml::Value;

    use super::*;

    fn root(name: &str) -> (String, CertificateParams, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), params, key)
    }

    fn secret(text: &str) -> Value {
        let value: Value = serde_yaml::from_str(text).unwrap();
        value["resources"][0].clone()
    }

    #[test]
    fn the_own_certificate_is_a_secret_of_envoy_with_chain_and_key() {
        let (root, params, key) = root("root");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap())];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let mut trust = Trust::default();
        trust.add("cluster.local", root.as_bytes()).unwrap();
        let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
        let issued = Issued::new(vec![leaf.der().clone()], pkcs8.into(), trust.roots("cluster.local").to_vec());
        issued.svid(SystemTime::now()).unwrap();

        let text = own_certificate(&issued);
        let secret = secret(&text);
        assert_eq!(secret["name"], "default");
        assert_eq!(secret["@type"], "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
        let certificate = &secret["tls_certificate"];
        assert_eq!(certificate["certificate_chain"]["inline_string"], issued.chain_pem().as_str());
        assert_eq!(certificate["private_key"]["inline_string"], issued.key_pem().as_str());
        assert!(text.capacity() > text.len(), "it never had to grow");
    }

    #[test]
    fn the_roots_of_one_domain_are_trusted_and_those_of_several_are_kept_apart() {
        let (one, other) = (root("one").0, root("other").0);
        let mut trust = Trust::default();
        trust.add("cluster.local", one.as_bytes()).unwrap();
        let single = secret(&roots(&trust));
        assert_eq!(single["name"], "ROOTCA");
        let normalised = trust.roots_pem("cluster.local");
        assert_eq!(single["validation_context"]["trusted_ca"]["inline_string"], normalised.as_str());
        trust.add("1.20", other.as_bytes()).unwrap();
        let both = secret(&roots(&trust));
        assert!(both["validation_context"]["trusted_ca"].is_null(), "it would believe either for both");
        let domains = &both["validation_context"]["custom_validator_config"]["typed_config"]["trust_domains"];
        assert_eq!(domains[0]["name"], "1.20");
        assert_eq!(domains[0]["trust_bundle"]["inline_string"], trust.roots_pem("1.20").as_str());
        assert_eq!(domains[1]["name"], "cluster.local");
        let nobody = secret(&roots(&Trust::default()));
        assert!(
            nobody["validation_context"]["custom_validator_config"].is_mapping(),
            "nobody is believed, not everybody"
        );
    }
}
