//! Whom the proxies of the mesh believe: roots by trust domain, never mixed.
//!
//! The mesh's own roots come from the authority, under the name of its trust domain and under the aliases that the
//! domain had or will have. Those of other meshes (federation) come from files (`--bundle DOMAIN=FILE`). A peer's chain
//! has to end in the bundle of the domain that its own identity names, so a foreign root can vouch for its own people
//! alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use leno_config::identity::check_trust_domain;
use leno_config::ir::{Secret, TrustBundle, TrustDomain};

use super::files::{self, FileError};
use super::pem;

/// Most foreign trust domains.
const MAX_DOMAINS: usize = 256;

/// Roots of the mesh and of others, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bundles {
    /// Of this mesh, the one of new leaves first; empty: there is no authority, and nothing is distributed.
    own: String,
    external: BTreeMap<TrustDomain, String>,
}

/// The trust domain of the mesh, by all its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domains {
    /// What new identities begin with.
    pub(crate) own: TrustDomain,
    /// Other names for the same.
    pub(crate) aliases: Vec<TrustDomain>,
}

/// `DOMAIN=FILE` on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct External {
    domain: TrustDomain,
    file: PathBuf,
}

/// Why a foreign bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// The form of the flag.
    #[error("`{0}` is not of the form TRUST-DOMAIN=FILE")]
    Form(String),
    /// The name.
    #[error("`{0}` is not the name of a trust domain: lower-case letters, digits, `.`, `-` and `_`")]
    Domain(String),
    /// Given twice.
    #[error("the bundle of trust domain `{0}` is given twice; put all its roots into one file")]
    Twice(String),
    /// Too many.
    #[error("there are more than {MAX_DOMAINS} bundles of other trust domains")]
    TooMany,
    /// The file.
    #[error("the bundle of trust domain `{domain}`: {reason}")]
    File { domain: String, reason: FileError },
    /// What is in it.
    #[error("the bundle of trust domain `{domain}` (`{file}`) holds no certificate in PEM, or a broken one")]
    Pem { domain: String, file: String },
}

impl Bundles {
    /// `own` roots in PEM and foreign ones by domain.
    pub(crate) fn new(own: String, external: BTreeMap<TrustDomain, String>) -> Self {
        Self { own, external }
    }

    /// The resource that proxies are sent; `None`: nothing is distributed. Our own names win over foreign bundles of the
    /// same name: nobody else may vouch for our people.
    pub(crate) fn secret(&self, domains: &Domains) -> Option<Secret> {
        if self.own.is_empty() {
            return None;
        }
        let bundle = |roots: &String| TrustBundle { roots: roots.clone() };
        let external = self.external.iter().map(|(domain, roots)| (domain.clone(), bundle(roots)));
        let own = domains.names().map(|domain| (domain.clone(), bundle(&self.own)));
        // The later of two entries with one name stays.
        let bundles = external.chain(own).collect();
        Some(Secret { name: Secret::ROOTS.to_owned(), bundles, revoked: None })
    }

    /// Foreign bundles that our own names hide.
    pub(crate) fn hidden(&self, domains: &Domains) -> Vec<TrustDomain> {
        domains.names().filter(|domain| self.external.contains_key(*domain)).cloned().collect()
    }
}

impl Domains {
    /// Whether an identity of this domain is of this mesh.
    pub(crate) fn include(&self, domain: &str) -> bool {
        self.names().any(|name| name == domain)
    }

    fn names(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.own).chain(&self.aliases)
    }
}

impl FromStr for External {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        let (domain, file) = text.split_once('=').ok_or_else(|| BundleError::Form(text.to_owned()))?;
        if file.is_empty() {
            return Err(BundleError::Form(text.to_owned()));
        }
        check_trust_domain(domain).map_err(|_| BundleError::Domain(domain.to_owned()))?;
        Ok(Self { domain: domain.to_owned(), file: file.into() })
    }
}

/// Reads foreign bundles. All of them or none: half a federation is not what anyone meant.
pub(crate) fn read(external: &[External]) -> Result<BTreeMap<TrustDomain, String>, BundleError> {
    if external.len() > MAX_DOMAINS {
        return Err(BundleError::TooMany);
    }
    let mut bundles = BTreeMap::new();
    for External { domain, file } in external {
        let text = files::read_present(file).map_err(|reason| BundleError::File { domain: domain.clone(), reason })?;
        let roots = pem::read_certificates(&text).filter(|roots| !roots.is_empty());
        let broken = || BundleError::Pem { domain: domain.clone(), file: file.display().to_string() };
        // Written anew, so that comments and keys that somebody left in the file do not travel.
        let roots = pem::certificates(&roots.ok_or_else(broken)?);
        if bundles.insert(domain.clone(), roots).is_some() {
            return Err(BundleError::Twice(domain.clone()));
        }
    }
    Ok(bundles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(own: &str, aliases: &[&str]) -> Domains {
        Domains { own: own.to_owned(), aliases: aliases.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn each_domain_has_its_own_roots_and_ours_cannot_be_replaced() {
        let external = [("other".to_owned(), "B".to_owned()), ("old".to_owned(), "C".to_owned())];
        let bundles = Bundles::new("A".to_owned(), external.into());
        let secret = bundles.secret(&domains("mesh", &["old"])).unwrap();
        let found = secret.bundles.iter().map(|(domain, bundle)| (domain.as_str(), bundle.roots.as_str()));
        assert_eq!(found.collect::<Vec<_>>(), [("mesh", "A"), ("old", "A"), ("other", "B")]);
        assert_eq!(bundles.hidden(&domains("mesh", &["old"])), ["old"]);
        assert_eq!(Bundles::default().secret(&domains("mesh", &[])), None);
    }

    #[test]
    fn a_flag_is_a_domain_and_a_file() {
        let rows = [
            ("other.example=roots.pem", true),
            ("other=a=b.pem", true),
            ("other", false),
            ("other=", false),
            ("=roots.pem", false),
            ("Other=roots.pem", false),
            ("spiffe://other=roots.pem", false),
        ];
        for (text, expected) in rows {
            assert_eq!(External::from_str(text).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn only_certificates_are_taken_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
            External { domain: "other".to_owned(), file: directory.path().join(name) }
        };
        let certificate = pem::encode("CERTIFICATE", b"certificate");
        let key = pem::encode("PRIVATE KEY", b"key");
        let good = file("good", &format!("a comment\n{key}{certificate}"));
        assert_eq!(read(std::slice::from_ref(&good)).unwrap()["other"], certificate);
        assert!(matches!(read(&[good.clone(), good]), Err(BundleError::Twice(_))));
        assert!(matches!(read(&[file("key", &key)]), Err(BundleError::Pem { .. })));
        assert!(matches!(read(&[file("empty", "")]), Err(BundleError::Pem { .. })));
        let missing = External { domain: "other".to_owned(), file: directory.path().join("missing") };
        assert!(matches!(read(&[missing]), Err(BundleError::File { .. })));
    }
}
