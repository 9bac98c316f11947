//! Trust bundles (SDS).
//!
//! Envoy's plain `trusted_ca` knows no trust domains: whatever chains to one of its roots is believed, whoever it claims
//! to be. So a bundle with a name travels in Envoy's SPIFFE validator, which keeps the domains apart, and `trusted_ca`
//! is what Istio sends: the roots of the proxy's own domain, without its name.
//!
//! Certificates with keys are never taken from a control plane: a key that travels is a key that others have.

use std::collections::BTreeMap;

use super::any;
use super::pb;
use super::refusal::{Problem, Result, Within, nonempty, required, unsupported};
use super::validation::{self, Validation};
use crate::identity::check_trust_domain;
use crate::ir::{Secret, TrustBundle, TrustDomain};
use pb::core::data_source::Specifier;
use pb::core::{DataSource, TypedExtensionConfig};
use pb::tls::certificate_validation_context::TrustChainVerification;
use pb::tls::spiffe_cert_validator_config as spiffe;
use pb::tls::{CertificateValidationContext, SpiffeCertValidatorConfig, secret};

/// Envoy's name of the validator.
const SPIFFE: &str = "envoy.tls.cert_validator.spiffe";

pub(super) fn to_xds(secret: &Secret) -> pb::tls::Secret {
    let Secret { name, bundles, revoked } = secret;
    let own = bundles.get("").map(|bundle| inline(&bundle.roots));
    let trust_domains: Vec<_> = bundles
        .iter()
        .filter(|(domain, _)| !domain.is_empty())
        .map(|(domain, bundle)| spiffe::TrustDomain {
            name: domain.clone(),
            trust_bundle: Some(inline(&bundle.roots)),
            workload_trust_domain: String::new(),
        })
        .collect();
    // Without any roots, a validator that nobody accepts is better than a context that believes everybody.
    let validator = (own.is_none() || !trust_domains.is_empty()).then(|| TypedExtensionConfig {
        name: SPIFFE.to_owned(),
        typed_config: Some(any::pack(&SpiffeCertValidatorConfig { trust_domains, trust_bundles: None })),
    });
    let context = CertificateValidationContext {
        trusted_ca: own,
        crl: revoked.as_deref().map(inline),
        custom_validator_config: validator,
        ..Default::default()
    };
    pb::tls::Secret { name: name.clone(), r#type: Some(secret::Type::ValidationContext(context)) }
}

pub(super) fn from_xds(secret: pb::tls::Secret) -> Result<Secret> {
    let pb::tls::Secret { name, r#type } = secret;
    let name = nonempty("name", name)?;
    match r#type {
        Some(secret::Type::ValidationContext(context)) => context_from_xds(name, context).within("validation_context"),
        Some(secret::Type::TlsCertificate(_)) => Err(Problem::new(
            "tls_certificate",
            "Leno's own certificate is local: no control plane gives it a key. Send the roots alone, as \
             `validation_context`",
        )),
        Some(secret::Type::SessionTicketKeys(_)) => Err(Problem::unsupported("session_ticket_keys")),
        Some(secret::Type::GenericSecret(_)) => Err(Problem::unsupported("generic_secret")),
        None => Err(Problem::missing("validation_context")),
    }
}

fn context_from_xds(name: String, context: CertificateValidationContext) -> Result<Secret> {
    let Validation {
        trusted_ca,
        system_root_certs,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        crl,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
    } = validation::from_xds(context)?;
    let untrusted =
        TrustChainVerification::try_from(trust_chain_verification) != Ok(TrustChainVerification::VerifyTrustChain);
    unsupported(&[
        ("system_root_certs", &system_root_certs),
        ("match_typed_subject_alt_names", &match_typed_subject_alt_names),
        ("match_subject_alt_names", &match_subject_alt_names),
        ("trust_chain_verification", &untrusted),
        ("only_verify_leaf_cert_crl", &only_verify_leaf_cert_crl),
    ])?;
    let mut bundles = match custom_validator_config {
        Some(config) => validator_from_xds(config).within("custom_validator_config")?,
        None => BTreeMap::new(),
    };
    if let Some(source) = trusted_ca {
        bundles.insert(TrustDomain::new(), bundle_from_xds(source).within("trusted_ca")?);
    }
    if bundles.is_empty() {
        return Err(Problem::new("trusted_ca", "is required: without roots nobody could be believed"));
    }
    let revoked = crl.map(text_from_xds).transpose().within("crl")?;
    Ok(Secret { name, bundles, revoked })
}

fn validator_from_xds(config: TypedExtensionConfig) -> Result<BTreeMap<TrustDomain, TrustBundle>> {
    let TypedExtensionConfig { name, typed_config } = config;
    let config = required("typed_config", typed_config)?;
    if !any::is::<SpiffeCertValidatorConfig>(&config) {
        let reason = format!("Leno has no validator `{name}` (`{}`); it knows `{SPIFFE}`", any::type_name(&config));
        return Err(Problem::new("", reason));
    }
    let SpiffeCertValidatorConfig { trust_domains, trust_bundles } = any::unpack(&config).within("typed_config")?;
    unsupported(&[("typed_config.trust_bundles", &trust_bundles)])?;
    let mut bundles = BTreeMap::new();
    for (index, domain) in trust_domains.into_iter().enumerate() {
        let (name, bundle) = domain_from_xds(domain).within_item("trust_domains", index).within("typed_config")?;
        if bundles.insert(name.clone(), bundle).is_some() {
            let problem = Problem::new("name", format!("`{name}` stands twice"));
            return Err(problem).within_item("trust_domains", index).within("typed_config");
        }
    }
    Ok(bundles)
}

fn domain_from_xds(domain: spiffe::TrustDomain) -> Result<(TrustDomain, TrustBundle)> {
    let spiffe::TrustDomain { name, trust_bundle, workload_trust_domain } = domain;
    unsupported(&[("workload_trust_domain", &workload_trust_domain)])?;
    check_trust_domain(&name)
        .map_err(|_| Problem::new("name", format!("`{name}` is not the name of a SPIFFE trust domain")))?;
    let bundle = bundle_from_xds(required("trust_bundle", trust_bundle)?).within("trust_bundle")?;
    Ok((name, bundle))
}

fn bundle_from_xds(source: DataSource) -> Result<TrustBundle> {
    Ok(TrustBundle { roots: text_from_xds(source)? })
}

fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())), watched_directory: None }
}

/// A text that came along. A control plane does not say which files of the proxy's host are read.
fn text_from_xds(source: DataSource) -> Result<String> {
    let DataSource { specifier, watched_directory: _ } = source;
    match specifier {
        Some(Specifier::InlineString(text)) if !text.is_empty() => Ok(text),
        Some(Specifier::InlineBytes(bytes)) if !bytes.is_empty() => {
            String::from_utf8(bytes).map_err(|_| Problem::new("inline_bytes", "is not PEM: it is not even text"))
        }
        Some(Specifier::InlineString(_) | Specifier::InlineBytes(_)) | None => {
            Err(Problem::new("", "is empty; write PEM as `inline_bytes`"))
        }
        Some(Specifier::Filename(_)) => Err(Problem::unsupported("filename")),
        Some(Specifier::EnvironmentVariable(_)) => Err(Problem::unsupported("environment_variable")),
    }
}
