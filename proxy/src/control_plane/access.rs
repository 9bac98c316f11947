//! Which credentials there are right now, in the order in which they are worth a try.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::places::{Places, Reached};
use super::token;
use super::{Address, ControlPlane, KeyFiles, Tls};
use crate::identity::{Identity, Svid};

/// The control plane, and what this proxy can show it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    plane: Arc<ControlPlane>,
    identity: Arc<Identity>,
    issuer: Issuer,
    places: Arc<Places>,
}

/// Who issues the own certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issuer {
    /// The control plane itself. So it knows the certificate, and the roots of the mesh are its own too.
    ControlPlane,
    /// Somebody else, who leaves it in files.
    Files,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// xDS: whatever proves best who the proxy is now.
    Discovery,
    /// A certificate: whoever vouches for the proxy from outside is asked first, since a certificate that only ever
    /// renewed itself would outlive its permission.
    Certificate,
}

/// How a proxy says who it is.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Not at all: `http://` on this machine.
    None,
    /// By the token in a file.
    Token(PathBuf),
    /// By the certificate in files.
    Certificate(KeyFiles),
    /// By its own certificate.
    Own(Arc<Svid>),
}

impl Access {
    /// With what the bootstrap says, and the identity that this process will have.
    pub fn new(plane: ControlPlane, identity: Arc<Identity>, issuer: Issuer) -> Self {
        Self { plane: Arc::new(plane), identity, issuer, places: Arc::default() }
    }

    /// To an address on this machine, without credentials.
    pub fn plain(address: Address) -> Self {
        Self::new(ControlPlane { address, further: Vec::new(), tls: None }, Arc::default(), Issuer::Files)
    }

    /// Where its replicas are, for people.
    pub fn addresses(&self) -> String {
        let all = std::iter::once(&self.plane.address).chain(&self.plane.further);
        all.map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// TCP to one of its replicas.
    pub(super) async fn reach(&self) -> Result<Reached, (Address, std::io::Error)> {
        let all: Vec<Address> = std::iter::once(&self.plane.address).chain(&self.plane.further).cloned().collect();
        self.places.connect(&all).await
    }

    /// What can be shown now, the best first. Empty: nothing, so there is no use in connecting.
    pub fn credentials(&self, purpose: Purpose, now: SystemTime) -> Vec<Credential> {
        let Some(tls) = &self.plane.tls else { return vec![Credential::None] };
        let own = self.identity.now().svid.filter(|svid| svid.is_valid_at(now)).map(Credential::Own);
        let given = given(tls, now);
        match (purpose, self.issuer) {
            (Purpose::Discovery, Issuer::ControlPlane) => own.into_iter().chain(given).collect(),
            (Purpose::Discovery, Issuer::Files) | (Purpose::Certificate, _) => given.into_iter().chain(own).collect(),
        }
    }

    /// Why there is nothing to show, and what to do about it.
    pub fn without_credentials(&self) -> String {
        let Some(path) = self.plane.tls.as_ref().and_then(|tls| tls.token.as_ref()) else {
            return "no token is configured and the proxy has no valid certificate yet".to_owned();
        };
        let what = match token::read(path) {
            Ok(_) => "has expired".to_owned(),
            Err(error) => format!("cannot be read ({error})"),
        };
        let path = path.display();
        format!(
            "the token in {path} {what}, and there is no valid certificate; write a new one with `leno token create`"
        )
    }

    /// The file with the roots that the operator gave.
    pub fn root_file(&self) -> Option<&Path> {
        self.plane.tls.as_ref().map(|tls| tls.root.as_path())
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.plane.tls.as_ref()
    }

    /// Roots of the mesh that the control plane's certificate may chain to as well: after a rotation of the root, the
    /// file that the proxy was given at its start may hold the old one alone.
    pub(super) fn roots_of_the_mesh(&self) -> Vec<CertificateDer<'static>> {
        let now = self.identity.now();
        match (self.issuer, now.svid) {
            (Issuer::ControlPlane, Some(svid)) => now.trust.roots(svid.id().trust_domain()).to_vec(),
            (Issuer::ControlPlane, None) | (Issuer::Files, _) => Vec::new(),
        }
    }
}

/// What the operator gave. A token whose time is over is left out while there may be something better; one that cannot
/// be read too.
fn given(tls: &Tls, now: SystemTime) -> Vec<Credential> {
    let is_usable = |path: &&PathBuf| token::read(path).is_ok_and(|token| !token::has_expired(&token, now));
    let token = tls.token.as_ref().filter(is_usable).cloned().map(Credential::Token);
    token.into_iter().chain(tls.certificate.clone().map(Credential::Certificate)).collect()
}

impl Credential {
    /// What the operator can do when the control plane does not accept it.
    pub fn remedy(&self) -> String {
        match self {
            Self::None => {
                "it wants to know who this proxy is: use its https:// address with a root and a token".to_owned()
            }
            Self::Token(path) => format!(
                "write a token for this workload to {} with `leno token create --namespace … --service-account …`",
                path.display()
            ),
            Self::Certificate(KeyFiles { certificate, key: _ }) => {
                format!(
                    "check that {} is of a CA that the control plane knows, and of this workload",
                    certificate.display()
                )
            }
            Self::Own(svid) => format!("its certificate is of {}; the node must say the same workload", svid.id()),
        }
    }
}

/// As part of a sentence: `the token in /run/token`.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("a proxy without credentials"),
            Self::Token(path) => write!(f, "the token in {}", path.display()),
            Self::Certificate(files) => write!(f, "the certificate in {}", files.certificate.display()),
            Self::Own(_) => f.write_str("the proxy's own certificate"),
        }
    }
}
