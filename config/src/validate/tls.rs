//! Encryption: of clients and of sockets that end TLS themselves.

use super::findings::Findings;
use crate::diagnostic::codes;
use crate::identity::SpiffeId;
use crate::rules::{ClientTlsMode, ClientTlsSettings, Path, ServerTlsMode, ServerTlsSettings};

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
                found.add(codes::TLS, path, message).help("name the file");
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
    if tls.ca_crl.as_ref().is_some_and(|file| !file.is_empty()) {
        let message = "this version cannot check whether a certificate was revoked";
        let help = "remove `caCrl` only if a revoked certificate may be taken for a good one";
        found.add(codes::CANNOT_PROTECT, &path.key("caCrl"), message).on_key().help(help);
    }
    if tls.insecure_skip_verify == Some(true) && tls.ca_certificates.is_some() {
        let message = "`caCertificates` is not looked at with `insecureSkipVerify`";
        found.add(codes::NO_EFFECT, &path.key("caCertificates"), message).on_key();
    }
}

pub(super) fn check_server(tls: &ServerTlsSettings, path: &Path, found: &mut Findings) {
    let mode = tls.mode.unwrap_or_default();
    let needs_certificate = match mode {
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => true,
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough | ServerTlsMode::IstioMutual => false,
    };
    let has_secret = tls.credential_name.is_some() || !tls.credential_names.is_empty();
    if needs_certificate && !has_secret && tls.tls_certificates.is_empty() {
        for (field, is_set) in
            [("serverCertificate", tls.server_certificate.is_some()), ("privateKey", tls.private_key.is_some())]
        {
            if !is_set {
                let message = format!("`{}` needs `{field}`", mode.as_str());
                found.add(codes::TLS, path, message).help("name the file");
            }
        }
    }
    if mode == ServerTlsMode::Mutual && !has_secret && tls.ca_certificates.is_none() {
        found.add(codes::TLS, path, "`MUTUAL` needs `caCertificates`").help("name the file with the clients' roots");
    }
    if let (Some(oldest), Some(newest)) = (tls.min_protocol_version, tls.max_protocol_version)
        && oldest > newest
        && newest != crate::rules::TlsProtocol::Auto
    {
        let message = "`maxProtocolVersion` is older than `minProtocolVersion`";
        found.add(codes::TLS, &path.key("maxProtocolVersion"), message);
    }
}
