//! Where the control plane is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tonic::transport::Uri;

/// `https://HOST:PORT`, or `http://HOST:PORT` where the host is this machine. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Arc<Uri>);

/// An address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum AddressError {
    #[error("the control plane's address `{0}` is not of the form https://HOST:PORT (or http:// on this machine)")]
    Form(String),
    #[error(
        "the control plane's address `{0}` is not on this machine: without TLS anybody on the way could rewrite every \
         route, so http:// is for loopback addresses only (127.0.0.0/8, [::1], localhost); use https://"
    )]
    NotLoopback(String),
}

impl Address {
    /// Reads an address. The port has to be said.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| form())?;
        let host = uri.host().ok_or_else(form)?;
        let has_path = uri.path() != "/" || uri.query().is_some();
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_path || has_user || uri.port_u16().is_none_or(|port| port == 0) {
            return Err(form());
        }
        match uri.scheme_str() {
            Some("http") if is_this_machine(host) => Ok(Self(Arc::new(uri))),
            Some("http") => Err(AddressError::NotLoopback(text.to_owned())),
            Some("https") => match ServerName::try_from(without_brackets(host)) {
                Ok(_) => Ok(Self(Arc::new(uri))),
                Err(_) => Err(form()),
            },
            Some(_) | None => Err(form()),
        }
    }

    /// Whether both sides prove who they are.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        without_brackets(self.0.host().unwrap_or_default())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or_default()
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_this_machine(host: &str) -> bool {
    let ip = without_brackets(host).parse::<IpAddr>();
    ip.map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_anywhere_or_http_on_this_machine() {
        let good = [
            ("http://127.0.0.1:15010", "127.0.0.1", 15010),
            ("http://127.8.8.8:1/", "127.8.8.8", 1),
            ("http://[::1]:15010", "::1", 15010),
            ("http://localhost:15010", "localhost", 15010),
            ("https://127.0.0.1:15012", "127.0.0.1", 15012),
            ("https://[2001:db8::1]:15012", "2001:db8::1", 15012),
            ("https://leno.istio-system.svc:15012", "leno.istio-system.svc", 15012),
        ];
        for (text, host, port) in good {
            let address = Address::parse(text).expect(text);
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
            assert_eq!(address.is_https(), text.starts_with("https"), "{text}");
        }
        let form = AddressError::Form as fn(String) -> AddressError;
        for (bad, error) in [
            ("http://10.0.0.1:15010", AddressError::NotLoopback as fn(String) -> AddressError),
            ("http://control-plane:15010", AddressError::NotLoopback),
            ("http://127.0.0.1.example.com:15010", AddressError::NotLoopback),
            ("https://127.0.0.1", form),
            ("https://user@127.0.0.1:15012", form),
            ("https://a_host!:15012", form),
            ("http://127.0.0.1", form),
            ("http://127.0.0.1:0", form),
            ("http://127.0.0.1:15010/path", form),
            ("127.0.0.1:15010", form),
            ("unix:///socket", form),
            ("", form),
        ] {
            assert_eq!(Address::parse(bad), Err(error(bad.to_owned())));
        }
    }
}
