//! The way to the control plane, for both that need it: xDS and the certificate service.
//!
//! Over `https://` the two sides prove who they are to each other. The control plane by a certificate that chains to the
//! root which the operator gave the proxy, for the host of the address, as on the web. The proxy by a [`Credential`]: a
//! token from a file, a certificate from files, or its own certificate once it has one. Over `http://` nobody proves
//! anything, so that is for this machine alone, and neither tokens nor certificate requests go that way.
//!
//! * [`Address`]: where it is.
//! * [`Access`]: which credentials there are right now, in the order in which they are worth a try.
//! * [`Link`]: one connection.
//!
//! A control plane may have several replicas: several addresses, or a name with several.

mod access;
mod address;
mod link;
mod places;
mod token;

use std::path::PathBuf;

pub use access::{Access, Credential, Issuer, Purpose};
pub use address::{Address, AddressError};
pub use link::{CONNECT_DEADLINE, ConnectError, Link, Refusal};

/// What the bootstrap says of the control plane.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// Where it is.
    pub address: Address,
    /// Where other replicas of it are, of the same scheme.
    pub further: Vec<Address>,
    /// How it is authenticated; there for `https://` and only then.
    pub tls: Option<Tls>,
}

/// How the two sides of a connection prove who they are.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates that the control plane's must chain to, PEM. Read anew for each connection.
    pub root: PathBuf,
    /// File with a token that says who this proxy is. Read anew at each use.
    pub token: Option<PathBuf>,
    /// A certificate that says who this proxy is, in place of a token. Read anew at each use.
    pub certificate: Option<KeyFiles>,
}

/// A certificate with its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's key.
    pub key: PathBuf,
}
