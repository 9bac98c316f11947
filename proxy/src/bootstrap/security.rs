//! The part of the bootstrap that says whom to believe and how to prove who one is: `control_plane` and `identity`.
//!
//! ```yaml
//! control_plane:
//!   address: https://leno.leno-system.svc:15012    # or several, with commas
//!   root: root.pem          # https:// needs it
//!   token: token            # or `certificate` and `key`; or neither, with `identity`
//! identity:                 # a certificate from files in place of one from the control plane
//!   certificate: own.pem
//!   key: own.key
//!   roots: roots.pem
//!   revoked: crl.pem        # may be left out
//! ```
//!
//! Over `https://` the control plane also issues the own certificate, unless `identity` has one. Over `http://`, which is
//! for this machine alone, there is nothing to prove anything with: a token would travel in clear text, so it is refused.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::BootstrapError;
use crate::control_plane::{Address, ControlPlane, KeyFiles, Tls};
use crate::identity::IdentityFiles;

/// Most addresses of one control plane.
const MAX_REPLICAS: usize = 16;

/// Flags and variables for `control_plane` and `identity`.
#[derive(Debug, Clone, Default, Args)]
pub struct SecurityFlags {
    /// Control plane, as https://HOST:15012, or http://127.0.0.1:15010 on this machine; several replicas with commas
    #[arg(long, value_name = "URL", env = "LENO_CONTROL_PLANE_ADDRESS")]
    pub control_plane_address: Option<String>,
    /// Certificates (PEM) that the control plane's must chain to; https:// needs it
    #[arg(long, value_name = "FILE", env = "LENO_CONTROL_PLANE_ROOT")]
    pub control_plane_root: Option<PathBuf>,
    /// Token that says who this proxy is, read at each use
    #[arg(long, value_name = "FILE", env = "LENO_CONTROL_PLANE_TOKEN")]
    pub control_plane_token: Option<PathBuf>,
    /// Certificate (PEM) that says who this proxy is, in place of a token
    #[arg(long, value_name = "FILE", env = "LENO_CONTROL_PLANE_CERTIFICATE")]
    pub control_plane_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", env = "LENO_CONTROL_PLANE_KEY")]
    pub control_plane_key: Option<PathBuf>,
    /// Own certificate (PEM), in place of one from the control plane; read again when it changes
    #[arg(long, value_name = "FILE", env = "LENO_IDENTITY_CERTIFICATE")]
    pub identity_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", env = "LENO_IDENTITY_KEY")]
    pub identity_key: Option<PathBuf>,
    /// Roots (PEM) of the own trust domain
    #[arg(long, value_name = "FILE", env = "LENO_IDENTITY_ROOTS")]
    pub identity_roots: Option<PathBuf>,
    /// Revocation lists (PEM)
    #[arg(long, value_name = "FILE", env = "LENO_IDENTITY_REVOKED")]
    pub identity_revoked: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileControlPlane {
    address: Option<String>,
    root: Option<PathBuf>,
    token: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileIdentity {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    roots: Option<PathBuf>,
    revoked: Option<PathBuf>,
}

/// The control plane, if one is named. `identity` is what [`identity`] found.
pub(super) fn control_plane(
    flags: &SecurityFlags,
    file: Option<FileControlPlane>,
    identity: Option<&IdentityFiles>,
) -> Result<Option<ControlPlane>, BootstrapError> {
    let file = file.unwrap_or_default();
    let address = flags.control_plane_address.clone().or(file.address);
    let root = flags.control_plane_root.clone().or(file.root);
    let token = flags.control_plane_token.clone().or(file.token);
    let certificate = flags.control_plane_certificate.clone().or(file.certificate);
    let key = flags.control_plane_key.clone().or(file.key);
    let Some(address) = address else {
        return match [&root, &token, &certificate, &key].iter().all(|file| file.is_none()) {
            true => Ok(None),
            false => Err(wrong("control_plane.address", "is missing, and the other keys of control_plane need it")),
        };
    };
    let (address, further) = addresses(&address)?;
    let certificate = pair(["control_plane.certificate", "control_plane.key"], certificate, key)?;
    let tls = match address.is_https() {
        true => Some(tls(root, token, certificate, identity)?),
        false => {
            refuse_in_clear_text(root.is_some(), token.is_some(), certificate.is_some())?;
            None
        }
    };
    Ok(Some(ControlPlane { address, further, tls }))
}

/// One address, or several with commas between them.
fn addresses(text: &str) -> Result<(Address, Vec<Address>), BootstrapError> {
    let parse =
        |part: &str| Address::parse(part.trim()).map_err(|error| wrong("control_plane.address", &error.to_string()));
    let mut parts = text.split(',');
    let first = parse(parts.next().unwrap_or_default())?;
    let further = parts.map(parse).collect::<Result<Vec<_>, _>>()?;
    if further.len() >= MAX_REPLICAS {
        return Err(wrong("control_plane.address", "names more replicas than anyone has; a host name stands for many"));
    }
    if further.iter().any(|other| other.is_https() != first.is_https()) {
        return Err(wrong("control_plane.address", "mixes https:// and http://, which are for different proxies"));
    }
    Ok((first, further))
}

/// The identity's files, if they are named.
pub(super) fn identity(
    flags: &SecurityFlags,
    file: Option<FileIdentity>,
) -> Result<Option<IdentityFiles>, BootstrapError> {
    let file = file.unwrap_or_default();
    let certificate = flags.identity_certificate.clone().or(file.certificate);
    let key = flags.identity_key.clone().or(file.key);
    let roots = flags.identity_roots.clone().or(file.roots);
    let revoked = flags.identity_revoked.clone().or(file.revoked);
    let needless = roots.is_some() || revoked.is_some();
    let Some(own) = pair(["identity.certificate", "identity.key"], certificate, key)? else {
        return match needless {
            true => Err(wrong("identity.certificate", "is missing, and the other keys of identity need it")),
            false => Ok(None),
        };
    };
    let Some(roots) = roots else {
        return Err(wrong("identity.roots", "is missing: without roots no peer could be believed"));
    };
    Ok(Some(IdentityFiles { own, roots, revoked }))
}

fn tls(
    root: Option<PathBuf>,
    token: Option<PathBuf>,
    certificate: Option<KeyFiles>,
    identity: Option<&IdentityFiles>,
) -> Result<Tls, BootstrapError> {
    let Some(root) = root else {
        let reason = "is missing: https:// needs the certificates that the control plane's must chain to (`leno serve` \
                      writes them to root.pem of its state directory)";
        return Err(wrong("control_plane.root", reason));
    };
    if token.is_some() && certificate.is_some() {
        return Err(wrong("control_plane.token", "a proxy says who it is by a token or by a certificate, not by both"));
    }
    if token.is_none() && certificate.is_none() && identity.is_none() {
        let reason = "is missing: the control plane wants to know who this proxy is; write a token with `leno token \
                      create`, or give control_plane.certificate and control_plane.key, or identity";
        return Err(wrong("control_plane.token", reason));
    }
    Ok(Tls { root, token, certificate })
}

fn refuse_in_clear_text(root: bool, token: bool, certificate: bool) -> Result<(), BootstrapError> {
    let named = [
        (
            token,
            "control_plane.token",
            "would travel in clear text over http://; use the https:// address, or leave it out",
        ),
        (root, "control_plane.root", "is of no use over http://; use the https:// address, or leave it out"),
        (
            certificate,
            "control_plane.certificate",
            "is of no use over http://; use the https:// address, or leave it out",
        ),
    ];
    match named.into_iter().find(|(is_there, _, _)| *is_there) {
        Some((_, key, reason)) => Err(wrong(key, reason)),
        None => Ok(()),
    }
}

fn pair(
    [certificate_name, key_name]: [&'static str; 2],
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<KeyFiles>, BootstrapError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(KeyFiles { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(wrong(key_name, "is missing: a certificate is of no use without its key")),
        (None, Some(_)) => Err(wrong(certificate_name, "is missing: a key is of no use without its certificate")),
    }
}

fn wrong(key: &'static str, reason: &str) -> BootstrapError {
    BootstrapError::Value { key, reason: reason.to_owned() }
}
