//! Encryption: of clients, and of a Sidecar's sockets that end TLS themselves.

use super::findings::Findings;
use crate::diagnostic::codes;
use crate::identity::SpiffeId;
use crate::ir::Credential;
use crate::rules::{ClientTlsMode, ClientTlsSettings, Path, ServerTlsMode, ServerTlsSettings, TlsProtocol};

pub(super) fn check_client(tls: &ClientTlsSettings, path: &Path, found: &mut Findings) {
    let files = [
        ("clientCertificate", tls.client_certificate.is_some()),
        ("privateKey", tls.private_key.is_some()),
        ("caCertificates", tls.ca_certificates.is_some()),
    ];
    match tls.mode.unwrap_or_default() {
        ClientTlsMode::Mutual if tls.credential_name.is_none() => {
            for (field, is_set) in files.into_iter().take(2).filter(|(_, is_set)| !is_set) {
                debug_assert!(!is_set);
                let message = format!("`MUTUAL` needs `{field}`");
                found.add(codes::TLS, path, message).help("name the file, or a secret by `credentialName`");
            }
        }
        ClientTlsMode::IstioMutual => {
            for (field, _) in files.into_iter().filter(|(_, is_set)| *is_set) {
                let message = format!("`{field}` has no place with `ISTIO_MUTUAL`, which uses the mesh's identities");
                found.add(codes::TLS, &path.key(field), message).on_key().help("remove it, or use `MUTUAL`");
            }
        }
        ClientTlsMode::Disable | ClientTlsMode::Simple | ClientTlsMode::Mutual => {}
    }
    if tls.mode == Some(ClientTlsMode::IstioMutual) {
        for (index, name) in tls.subject_alt_names.iter().enumerate().filter(|(_, name)| SpiffeId::parse(name).is_err())
        {
            let message = format!("no workload of the mesh has the identity `{name}`");
            let help = "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
            found.add(codes::IDENTITY, &path.key("subjectAltNames").index(index), message).help(help);
        }
    }
    if tls.credential_name.is_some() {
        for (field, _) in files.into_iter().filter(|(_, is_set)| *is_set) {
            let message = format!("`{field}` stands beside `credentialName`");
            found.add(codes::EXCLUSIVE, &path.key(field), message).on_key().help("remove one of the two");
        }
    }
    check_credential(tls.credential_name.as_deref(), path, found);
    let has_list = tls.ca_crl.as_ref().is_some_and(|file| !file.is_empty());
    if tls.insecure_skip_verify == Some(true) && has_list {
        found.add(codes::NO_EFFECT, &path.key("caCrl"), "`caCrl` is not looked at with `insecureSkipVerify`").on_key();
    }
    if tls.insecure_skip_verify == Some(true) && tls.ca_certificates.is_some() {
        let message = "`caCertificates` is not looked at with `insecureSkipVerify`";
        found.add(codes::NO_EFFECT, &path.key("caCertificates"), message).on_key();
    }
}

/// A secret is known by its name alone: it is a directory beside the proxy.
fn check_credential(name: Option<&str>, path: &Path, found: &mut Findings) {
    if let Some(name) = name.filter(|name| !name.is_empty() && !Credential::is_name(name)) {
        let message = format!("`{name}` is no name of a Kubernetes secret");
        let help = "write lower-case letters, digits, `-` and `.`; it is a secret of the workload's own namespace, mounted \
                    in the sidecar";
        found.add(codes::TLS, &path.key("credentialName"), message).help(help);
    }
}

pub(super) fn check_server(tls: &ServerTlsSettings, path: &Path, found: &mut Findings) {
    let mode = tls.mode.unwrap_or_default();
    match mode {
        ServerTlsMode::Simple | ServerTlsMode::Mutual => {}
        ServerTlsMode::OptionalMutual
        | ServerTlsMode::Passthrough
        | ServerTlsMode::AutoPassthrough
        | ServerTlsMode::IstioMutual => {
            let message = format!("a sidecar does not end TLS in the mode `{}`", mode.as_str());
            let help = "write `SIMPLE`, or `MUTUAL` for callers with a certificate; the mesh's own TLS needs no `tls`";
            found.add(codes::TLS, &path.key("mode"), message).help(help);
            return;
        }
    }
    check_credential(tls.credential_name.as_deref(), path, found);
    check_for_gateways(tls, path, found);
    let has_secret = tls.credential_name.is_some();
    if !has_secret {
        for (field, is_set) in
            [("serverCertificate", tls.server_certificate.is_some()), ("privateKey", tls.private_key.is_some())]
        {
            if !is_set {
                let message = format!("`{}` needs `{field}`", mode.as_str());
                found.add(codes::TLS, path, message).help("name the file, or a secret by `credentialName`");
            }
        }
    }
    if mode == ServerTlsMode::Mutual && !has_secret && tls.ca_certificates.is_none() {
        found.add(codes::TLS, path, "`MUTUAL` needs `caCertificates`").help("name the file with the clients' roots");
    }
    if mode == ServerTlsMode::Mutual {
        let pins = [
            ("verifyCertificateSpki", tls.verify_certificate_spki.is_empty()),
            ("verifyCertificateHash", tls.verify_certificate_hash.is_empty()),
        ];
        for (field, _) in pins.into_iter().filter(|(_, is_empty)| !is_empty) {
            let message = "callers are known by their names and roots, not by a hash";
            let help = "use `subjectAltNames`, with a root of their own in `caCertificates`";
            found.add(codes::CANNOT_PROTECT, &path.key(field), message).on_key().help(help);
        }
    }
    if let (Some(oldest), Some(newest)) = (tls.min_protocol_version, tls.max_protocol_version)
        && oldest > newest
        && newest != TlsProtocol::Auto
    {
        let message = "`maxProtocolVersion` is older than `minProtocolVersion`";
        found.add(codes::TLS, &path.key("maxProtocolVersion"), message);
    }
}

/// What Istio reads for gateways alone, and what Leno decides itself.
fn check_for_gateways(tls: &ServerTlsSettings, path: &Path, found: &mut Findings) {
    let several = [
        ("credentialNames", tls.credential_names.is_empty()),
        ("caCertCredentialName", tls.ca_cert_credential_name.is_none()),
        ("tlsCertificates", tls.tls_certificates.is_empty()),
    ];
    for (field, _) in several.into_iter().filter(|(_, is_empty)| !is_empty) {
        let help = "name one certificate by `serverCertificate` and `privateKey`, or one secret by `credentialName`";
        let message = format!("`{field}` is for gateways");
        found.add(codes::TLS, &path.key(field), message).on_key().help(help);
    }
    let older = matches!(tls.max_protocol_version, Some(TlsProtocol::V1_0 | TlsProtocol::V1_1 | TlsProtocol::V1_2));
    let unread = [
        ("httpsRedirect", tls.https_redirect == Some(true), "clear text is closed, not redirected"),
        ("cipherSuites", !tls.cipher_suites.is_empty(), "Leno chooses the cipher suites"),
        ("maxProtocolVersion", older, "TLS 1.3 is spoken with whoever can"),
    ];
    for (field, _, message) in unread.into_iter().filter(|(_, is_set, _)| *is_set) {
        found.add(codes::NO_EFFECT, &path.key(field), message).on_key();
    }
}
