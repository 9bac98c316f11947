//! How callers come in: with a certificate of the mesh, in clear text, or either way.
//!
//! Envoy tells callers apart by what its TLS inspector saw in their first bytes, and has a chain for each:
//!
//! ```text
//!                  TLS, ALPN of the mesh    TLS, other        clear text
//! strict           mTLS                     mTLS              (closed)
//! permissive HTTP  mTLS                     mTLS              as it is
//! permissive TCP   mTLS                     as it is          as it is
//! ```
//!
//! Istio writes the same, except that its HTTP chain asks for the ALPN as well and closes the connections of others. Leno
//! lets them show their certificate.

use super::pb;
use crate::ir::{ListenerProtocol, MtlsMode, StringMatch};
use crate::xds::node::Flavour;
use crate::xds::refusal::{Problem, Result, Within, unsupported};
use crate::xds::tls::{self, Inside};
use pb::core::TransportSocket;
use pb::listener::{FilterChain, FilterChainMatch};

/// Protocols that callers of the mesh offer before the one that they speak: Leno's, and Istio's for every version.
const MESH: [&str; 6] = ["leno", "istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// What the TLS inspector calls a handshake.
const TLS: &str = "tls";
/// What Envoy calls everything else.
const CLEAR: &str = "raw_buffer";

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the chains, with a condition.
    Listed,
    /// The default: takes what no other chain takes.
    Default,
}

/// Whose connections a chain takes, and what it does about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Ends every TLS handshake, with the certificate of the mesh.
    Mesh,
    /// Ends those that offer a protocol of the mesh.
    MeshByAlpn,
    /// Takes the bytes of other TLS handshakes as they are.
    Handshakes,
    /// Takes clear text.
    Clear,
    /// Takes everything as it is; beside chains that tell callers apart, what they leave.
    Everything,
    /// Takes as it is what the other chains leave.
    Rest,
}

/// What is spoken on a listener, as far as TLS is concerned.
pub(super) fn inside(protocol: &ListenerProtocol) -> Inside {
    match protocol {
        ListenerProtocol::Http(_) => Inside::Http,
        ListenerProtocol::Tcp(_) => Inside::Bytes,
    }
}

/// The chains of a listener, of which each does what `chain` does.
pub(super) fn to_xds(mtls: MtlsMode, inside: Inside, chain: FilterChain, flavour: &Flavour) -> Vec<FilterChain> {
    let taking = |name: &str, transport: &str, alpn: &[&str]| FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: transport.to_owned(),
            application_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        }),
        ..chain.clone()
    };
    let mesh = |alpn: &[&str]| FilterChain {
        transport_socket: Some(tls::listener_to_xds(inside, flavour)),
        ..taking("mtls", TLS, alpn)
    };
    match (mtls, inside) {
        (MtlsMode::Disable, _) => vec![chain],
        (MtlsMode::Strict, _) => vec![mesh(&[])],
        (MtlsMode::Permissive, Inside::Http) => vec![mesh(&[]), taking("clear", CLEAR, &[])],
        (MtlsMode::Permissive, Inside::Bytes) => {
            vec![mesh(&MESH), taking("handshakes", TLS, &[]), taking("clear", CLEAR, &[])]
        }
    }
}

/// What one chain says, and conditions on the callers' SPIFFE IDs.
pub(super) fn from_xds(
    condition: Option<FilterChainMatch>,
    socket: Option<TransportSocket>,
    place: Place,
) -> Result<(Entry, Vec<StringMatch>)> {
    let condition = condition.map(condition_from_xds).transpose().within("filter_chain_match")?.unwrap_or_default();
    let names = socket.map(tls::listener_from_xds).transpose().within("transport_socket")?.flatten();
    let entry = match (&names, place, condition) {
        (None, Place::Default, _) => Entry::Rest,
        (None, Place::Listed, Condition { transport: Transport::Any, alpn: false }) => Entry::Everything,
        (None, Place::Listed, Condition { transport: Transport::Clear, alpn: false }) => Entry::Clear,
        (None, Place::Listed, Condition { transport: Transport::Tls, alpn: false }) => Entry::Handshakes,
        (Some(_), Place::Listed, Condition { transport: Transport::Any | Transport::Tls, alpn: true }) => {
            Entry::MeshByAlpn
        }
        (Some(_), Place::Listed, Condition { transport: Transport::Any | Transport::Tls, alpn: false })
        | (Some(_), Place::Default, _) => Entry::Mesh,
        (None, Place::Listed, Condition { alpn: true, .. }) => {
            let reason = "callers that offer a protocol of the mesh are to be met with its certificate";
            return Err(Problem::new("transport_socket", reason));
        }
        (Some(_), Place::Listed, Condition { transport: Transport::Clear, .. }) => {
            let reason = "clear text cannot be ended as TLS: write `tls`";
            return Err(Problem::new("filter_chain_match.transport_protocol", reason));
        }
    };
    Ok((entry, names.unwrap_or_default()))
}

/// The mode in which these chains take callers.
pub(super) fn mode(entries: &[Entry], inside: Inside) -> Result<MtlsMode> {
    let only =
        |expected: &[Entry]| entries.len() == expected.len() && expected.iter().all(|entry| entries.contains(entry));
    let one_of = |all: &[&[Entry]]| all.iter().any(|expected| only(expected));
    let strict: [&[Entry]; 2] = [&[Entry::Mesh], &[Entry::MeshByAlpn]];
    let (clear, either): (&[&[Entry]], &[&[Entry]]) = match inside {
        Inside::Http => (
            &[&[Entry::Everything], &[Entry::Rest], &[Entry::Clear]],
            &[
                &[Entry::Mesh, Entry::Clear],
                &[Entry::Mesh, Entry::Everything],
                &[Entry::Mesh, Entry::Rest],
                &[Entry::MeshByAlpn, Entry::Clear],
                &[Entry::MeshByAlpn, Entry::Everything],
                &[Entry::MeshByAlpn, Entry::Rest],
            ],
        ),
        Inside::Bytes => (
            &[&[Entry::Everything], &[Entry::Rest], &[Entry::Handshakes, Entry::Clear]],
            &[&[Entry::MeshByAlpn, Entry::Handshakes, Entry::Clear], &[Entry::MeshByAlpn, Entry::Rest]],
        ),
    };
    if one_of(clear) {
        return Ok(MtlsMode::Disable);
    }
    if one_of(&strict) {
        return Ok(MtlsMode::Strict);
    }
    if one_of(either) {
        return Ok(MtlsMode::Permissive);
    }
    Err(Problem::new(
        "",
        match inside {
            Inside::Http => {
                "an HTTP listener has one chain, or one with the certificate of the mesh for `transport_protocol: tls` \
                 and one in clear text"
            }
            Inside::Bytes => {
                "a TCP listener has one chain, or three: with the certificate of the mesh for `tls` with \
                 `application_protocols: [istio, …]`, in clear text for other `tls`, and in clear text for `raw_buffer`"
            }
        },
    ))
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Transport {
    #[default]
    Any,
    Tls,
    Clear,
}

/// Which connections a chain asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Condition {
    transport: Transport,
    /// Those that offer a protocol of the mesh.
    alpn: bool,
}

fn condition_from_xds(condition: FilterChainMatch) -> Result<Condition> {
    let FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = condition;
    unsupported(&[
        ("destination_port", &destination_port),
        ("prefix_ranges", &prefix_ranges),
        ("address_suffix", &address_suffix),
        ("suffix_len", &suffix_len),
        ("direct_source_prefix_ranges", &direct_source_prefix_ranges),
        ("source_type", &source_type),
        ("source_prefix_ranges", &source_prefix_ranges),
        ("source_ports", &source_ports),
        ("server_names", &server_names),
    ])?;
    let transport = match transport_protocol.as_str() {
        "" => Transport::Any,
        TLS => Transport::Tls,
        CLEAR => Transport::Clear,
        other => {
            let reason = format!("is `{TLS}` or `{CLEAR}`; Leno cannot tell `{other}`");
            return Err(Problem::new("transport_protocol", reason));
        }
    };
    if let Some(other) = application_protocols.iter().find(|name| !MESH.contains(&name.as_str())) {
        let reason =
            format!("Leno tells callers of the mesh from others, by `istio` and its kind, and none by `{other}`");
        return Err(Problem::new("application_protocols", reason));
    }
    Ok(Condition { transport, alpn: !application_protocols.is_empty() })
}
