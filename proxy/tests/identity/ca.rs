//! A certificate authority that issues what it is asked for, good or bad.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A point in time, in whole seconds as certificates have them.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

/// Now, in whole seconds.
pub(crate) fn today() -> SystemTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

/// What a leaf says.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) valid: (SystemTime, SystemTime),
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) is_ca: bool,
}

impl Leaf {
    /// A good one: `spiffe://cluster.local/ns/default/sa/cart`, from ten minutes before `now` for a day.
    pub(crate) fn cart(now: SystemTime) -> Self {
        Self {
            uris: vec!["spiffe://cluster.local/ns/default/sa/cart".to_owned()],
            hosts: Vec::new(),
            valid: (now - 10 * MINUTE, now + DAY),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            is_ca: false,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.hosts.clone()).unwrap();
        params.subject_alt_names.extend(self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())));
        params.distinguished_name.remove(DnType::CommonName);
        params.extended_key_usages.clone_from(&self.usages);
        (params.not_before, params.not_after) = (self.valid.0.into(), self.valid.1.into());
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }
}

/// A root with its key.
pub(crate) struct Ca {
    root: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name);
        let root = params.self_signed(&key).unwrap();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// An authority below this one, and its certificate (PEM).
    pub(crate) fn intermediate(&self, name: &str) -> (Self, String) {
        let key = KeyPair::generate().unwrap();
        let params = authority(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pem = certificate.pem();
        (Self { root: certificate, issuer: Issuer::new(params, key) }, pem)
    }

    /// The root, PEM.
    pub(crate) fn root(&self) -> String {
        self.root.pem()
    }

    pub(crate) fn root_der(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    /// Answers a request: the leaf, PEM.
    pub(crate) fn sign(&self, csr: &str, leaf: &Leaf) -> String {
        let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        self.issue(&request.public_key, leaf)
    }

    /// A leaf for a key, PEM.
    pub(crate) fn issue(&self, key: &impl PublicKeyData, leaf: &Leaf) -> String {
        leaf.params().signed_by(key, &self.issuer).unwrap().pem()
    }

    /// A list of revoked certificates, PEM; there are none.
    pub(crate) fn revocations(&self) -> String {
        let list = CertificateRevocationListParams {
            this_update: (today() - HOUR).into(),
            next_update: (today() + DAY).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A leaf and its key, both PEM.
    pub(crate) fn pair(&self, leaf: &Leaf) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (self.issue(&key, leaf), key.serialize_pem())
    }

    /// A leaf and its key, for TLS.
    pub(crate) fn pair_der(&self, leaf: &Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (leaf, key) = self.pair(leaf);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        (vec![CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap()], key)
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
