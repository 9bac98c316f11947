//! Certificates of every kind, good and bad, made on the spot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::mesh::write;

/// A certificate authority of a test.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    /// From the authority's own certificate up to, and without, the root; empty for a root.
    chain: Vec<CertificateDer<'static>>,
}

/// What a leaf says of itself.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Common name of the subject.
    pub common_name: Option<String>,
    /// Valid from so long before now; negative: in the future.
    pub since: i64,
    /// Valid until so many seconds from now; negative: in the past.
    pub until: i64,
    /// It may show itself to servers.
    pub client: bool,
    /// It may show itself to clients.
    pub server: bool,
    /// It is itself an authority.
    pub is_ca: bool,
    /// Its serial number.
    pub serial: u64,
}

impl Leaf {
    /// A good identity for an hour.
    pub fn of(id: &str) -> Self {
        Self {
            uris: vec![id.to_owned()],
            dns: Vec::new(),
            common_name: None,
            since: 60,
            until: 3600,
            client: true,
            server: true,
            is_ca: false,
            serial: 7,
        }
    }
}

/// A chain, leaf first, with the leaf's key.
pub struct Identity {
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Identity {
    /// The leaf's key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// Writes `NAME.pem` and `NAME.key` below a directory, each in place of the one before.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        write(directory, &format!("{name}.pem"), &pem(&self.chain));
        write(directory, &format!("{name}.key"), &self.key.serialize_pem());
        (certificate, key)
    }
}

impl Authority {
    /// A root.
    pub fn new(name: &str) -> Self {
        let (params, key) = (ca_params(name), key());
        let certificate = params.self_signed(&key).expect("a root signs itself").der().clone();
        Self { params, key, certificate, chain: Vec::new() }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), key());
        let certificate = params.signed_by(&key, &self.issuer()).expect("an authority signs").der().clone();
        let chain = [vec![certificate.clone()], self.chain.clone()].concat();
        Self { params, key, certificate, chain }
    }

    /// Its key, for whoever signs in its name.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A leaf signed by this authority, with the chain up to the root.
    pub fn issue(&self, leaf: &Leaf) -> Identity {
        let key = key();
        let certificate = leaf_params(leaf).signed_by(&key, &self.issuer()).expect("an authority signs");
        Identity { chain: [vec![certificate.der().clone()], self.chain.clone()].concat(), key }
    }

    /// A leaf that has signed itself.
    pub fn self_signed(leaf: &Leaf) -> Identity {
        let key = key();
        let certificate = leaf_params(leaf).self_signed(&key).expect("a leaf signs itself");
        Identity { chain: vec![certificate.der().clone()], key }
    }

    /// A leaf signed by another leaf, which is no authority.
    pub fn issue_below(&self, between: &Leaf, leaf: &Leaf) -> Identity {
        let (between_key, leaf_key) = (key(), key());
        let between_params = leaf_params(between);
        let between = between_params.signed_by(&between_key, &self.issuer()).expect("an authority signs");
        let issuer = Issuer::from_params(&between_params, &between_key);
        let certificate = leaf_params(leaf).signed_by(&leaf_key, &issuer).expect("a leaf can sign, if nobody looks");
        Identity { chain: vec![certificate.der().clone(), between.der().clone()], key: leaf_key }
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        pem(std::slice::from_ref(&self.certificate))
    }

    /// A list of revoked serial numbers, PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        self.revoke_until(serials, 3600)
    }

    /// The same; the next list was to come so many seconds from now, or before now.
    pub fn revoke_until(&self, serials: &[u64], until: i64) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - Duration::from_secs(60),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::from_secs(7200),
            next_update: now + time::Duration::seconds(until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).and_then(|list| list.pem()).expect("an authority signs")
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(leaf: &Leaf) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let at = |seconds: i64| now + time::Duration::seconds(seconds);
    let ascii = |text: &String| text.as_str().try_into().expect("a name in ASCII");
    let uris = leaf.uris.iter().map(|uri| SanType::URI(ascii(uri)));
    let dns = leaf.dns.iter().map(|name| SanType::DnsName(ascii(name)));
    let usages =
        [(leaf.client, ExtendedKeyUsagePurpose::ClientAuth), (leaf.server, ExtendedKeyUsagePurpose::ServerAuth)];
    let mut params = CertificateParams::default();
    params.not_before = at(-leaf.since);
    params.not_after = at(leaf.until);
    params.serial_number = Some(SerialNumber::from(leaf.serial));
    params.subject_alt_names = uris.chain(dns).collect();
    params.distinguished_name = leaf.common_name.as_deref().map_or_else(DistinguishedName::new, named);
    params.extended_key_usages = usages.into_iter().filter_map(|(wanted, usage)| wanted.then_some(usage)).collect();
    params.is_ca = match leaf.is_ca {
        true => IsCa::Ca(BasicConstraints::Unconstrained),
        false => IsCa::ExplicitNoCa,
    };
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn pem(chain: &[CertificateDer<'_>]) -> String {
    use base64::Engine as _;
    let one = |der: &CertificateDer<'_>| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    chain.iter().map(one).collect()
}
