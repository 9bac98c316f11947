//! Secrets.

use super::*;
use tls::secret::Type;

fn secret(edit: impl FnOnce(&mut tls::Secret)) -> Refusal {
    let mut secret = messages::secret();
    edit(&mut secret);
    refused(Kind::Secret, &secret)
}

fn roots(edit: impl FnOnce(&mut tls::CertificateValidationContext)) -> Refusal {
    secret(|it| match &mut it.r#type {
        Some(Type::ValidationContext(context)) => edit(context),
        _ => panic!("a validation context"),
    })
}

fn spiffe(edit: impl FnOnce(&mut tls::SpiffeCertValidatorConfig)) -> Refusal {
    roots(|it| change(it.custom_validator_config.as_mut().unwrap().typed_config.as_mut().unwrap(), edit))
}

fn source(specifier: core::data_source::Specifier) -> Option<core::DataSource> {
    Some(core::DataSource { specifier: Some(specifier), watched_directory: None })
}

#[test]
fn a_secret_with_a_key_or_of_another_kind_is_refused() {
    let refusal = secret(|it| it.r#type = Some(Type::TlsCertificate(Default::default())));
    assert_eq!(
        refusal.to_string(),
        "ROOTCA: tls_certificate: Leno's own certificate is local: no control plane gives it a key. Send the roots \
         alone, as `validation_context`"
    );
    check(vec![
        (secret(|it| it.name.clear()), "name"),
        (secret(|it| it.r#type = None), "validation_context"),
        (secret(|it| it.r#type = Some(Type::SessionTicketKeys(Default::default()))), "session_ticket_keys"),
        (secret(|it| it.r#type = Some(Type::GenericSecret(Default::default()))), "generic_secret"),
    ]);
}

#[test]
fn what_weakens_or_extends_the_verification_is_refused() {
    use super::core::data_source::Specifier;
    let rows: Vec<Row> = vec![
        (roots(|it| it.trust_chain_verification = 1), "trust_chain_verification"),
        (roots(|it| it.allow_expired_certificate = true), "allow_expired_certificate"),
        (roots(|it| it.verify_certificate_hash.push("00".to_owned())), "verify_certificate_hash"),
        (roots(|it| it.verify_certificate_spki.push("00".to_owned())), "verify_certificate_spki"),
        (roots(|it| it.system_root_certs = Some(Default::default())), "system_root_certs"),
        (roots(|it| it.match_typed_subject_alt_names.push(Default::default())), "match_typed_subject_alt_names"),
        (roots(|it| it.max_verify_depth = number(1)), "max_verify_depth"),
        (roots(|it| it.only_verify_leaf_cert_crl = true), "only_verify_leaf_cert_crl"),
        (roots(|it| it.custom_validator_config = None), "trusted_ca"),
        (roots(|it| it.trusted_ca = source(Specifier::Filename("/etc/passwd".to_owned()))), "trusted_ca.filename"),
        (
            roots(|it| it.trusted_ca = source(Specifier::EnvironmentVariable("HOME".to_owned()))),
            "trusted_ca.environment_variable",
        ),
        (roots(|it| it.trusted_ca = source(Specifier::InlineString(String::new()))), "trusted_ca"),
        (roots(|it| it.trusted_ca = source(Specifier::InlineBytes(vec![0xff]))), "trusted_ca.inline_bytes"),
        (roots(|it| it.crl = source(Specifier::Filename("/crl.pem".to_owned()))), "crl.filename"),
        (
            roots(|it| it.custom_validator_config.as_mut().unwrap().typed_config = Some(unknown())),
            "custom_validator_config",
        ),
        (
            spiffe(|it| it.trust_bundles = source(Specifier::InlineString("{}".to_owned()))),
            "custom_validator_config.typed_config.trust_bundles",
        ),
        (
            spiffe(|it| it.trust_domains[1].name = "spiffe://a".to_owned()),
            "custom_validator_config.typed_config.trust_domains[1].name",
        ),
        (
            spiffe(|it| it.trust_domains[1].name = "cluster.local".to_owned()),
            "custom_validator_config.typed_config.trust_domains[1].name",
        ),
        (
            spiffe(|it| it.trust_domains[0].trust_bundle = None),
            "custom_validator_config.typed_config.trust_domains[0].trust_bundle",
        ),
        (
            spiffe(|it| it.trust_domains[0].workload_trust_domain = "a".to_owned()),
            "custom_validator_config.typed_config.trust_domains[0].workload_trust_domain",
        ),
        (spiffe(|it| it.trust_domains.clear()), "trusted_ca"),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("validation_context.{field}"), "{refusal}");
    }
}
