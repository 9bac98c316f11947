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
//!
//! Where the protocol is told by the connection, [`super::detect`] has the chains.

use ipnet::IpNet;

use super::Spoken;
use super::pb;
use crate::ir::{MtlsMode, Port, ServerName, ServerTls};
use crate::xds::base;
use crate::xds::node::Flavour;
use crate::xds::refusal::{Problem, Result, Within, each, unsupported};
use crate::xds::tls::{self, Inside};
use pb::listener::{FilterChain, FilterChainMatch};

/// Protocols that callers of the mesh offer before the one that they speak, whatever that is: Leno's and Istio's.
pub(super) const MESH_BYTES: [&str; 3] = ["leno", "istio", "istio-peer-exchange"];
/// The same for HTTP alone: Istio's for every version.
pub(super) const MESH_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// What Envoy's HTTP inspector calls HTTP in clear text.
pub(super) const CLEAR_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];
/// What the TLS inspector calls a handshake.
pub(super) const TLS: &str = "tls";
/// What Envoy calls everything else.
pub(super) const CLEAR: &str = "raw_buffer";

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
enum Entry {
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

/// Which connections a chain asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// Those that were meant for the port.
    pub(super) port: Option<Port>,
    /// Those that were meant for an address within.
    pub(super) destinations: Vec<IpNet>,
    /// Handshakes for one of the names.
    pub(super) server_names: Vec<ServerName>,
    pub(super) transport: Transport,
    pub(super) alpn: Alpn,
}

impl Condition {
    /// Whether it looks at more than how callers come in.
    pub(super) fn tells_connections(&self) -> bool {
        !self.destinations.is_empty() || !self.server_names.is_empty() || self.alpn == Alpn::ClearHttp
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Transport {
    #[default]
    Any,
    Tls,
    Clear,
}

/// Protocols that are offered in a handshake, or that the HTTP inspector sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Alpn {
    /// Whatever they are.
    #[default]
    Any,
    /// Those of the mesh.
    Mesh,
    /// Those of the mesh for HTTP.
    MeshHttp,
    /// HTTP in clear text.
    ClearHttp,
}

/// The chains of a listener, of which each does what `chain` does.
pub(super) fn to_xds(
    (mtls, tls): (MtlsMode, Option<&ServerTls>),
    inside: Inside,
    chain: FilterChain,
    flavour: &Flavour,
) -> Vec<FilterChain> {
    if let Some(tls) = tls {
        let transport_socket = Some(tls::outside_to_xds(inside, tls));
        return vec![FilterChain { transport_socket, ..taking(&chain, "tls", TLS, &[]) }];
    }
    let mesh = |alpn: &[&str]| with_certificate(taking(&chain, "mtls", TLS, alpn), inside, flavour);
    let every_alpn = [MESH_BYTES, MESH_HTTP].concat();
    match (mtls, inside) {
        (MtlsMode::Disable, _) => vec![chain],
        (MtlsMode::Strict, _) => vec![mesh(&[])],
        (MtlsMode::Permissive, Inside::Http) => vec![mesh(&[]), taking(&chain, "clear", CLEAR, &[])],
        (MtlsMode::Permissive, Inside::Bytes) => {
            vec![mesh(&every_alpn), taking(&chain, "handshakes", TLS, &[]), taking(&chain, "clear", CLEAR, &[])]
        }
    }
}

/// The same chain for some connections only.
pub(super) fn taking(chain: &FilterChain, name: &str, transport: &str, alpn: &[&str]) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: transport.to_owned(),
            application_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        }),
        ..chain.clone()
    }
}

/// The same chain for callers with a certificate of the mesh.
pub(super) fn with_certificate(chain: FilterChain, inside: Inside, flavour: &Flavour) -> FilterChain {
    FilterChain { transport_socket: Some(tls::listener_to_xds(inside, flavour)), ..chain }
}

/// The mode in which these chains, which all do the same, take callers.
pub(super) fn mode(chains: &[super::Placed], inside: Inside) -> Result<MtlsMode> {
    let entries: Vec<Entry> = chains.iter().map(entry).collect::<Result<_>>()?;
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
        "filter_chains",
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

/// What one chain says.
fn entry(placed: &super::Placed) -> Result<Entry> {
    let super::Placed { place, chain, .. } = placed;
    let Condition { transport, alpn, .. } = &chain.condition;
    let by_alpn = match alpn {
        Alpn::Any => false,
        Alpn::Mesh | Alpn::MeshHttp | Alpn::ClearHttp => true,
    };
    Ok(match (chain.callers.is_some(), place, transport, by_alpn) {
        (false, Place::Default, _, _) => Entry::Rest,
        (false, Place::Listed, Transport::Any, false) => Entry::Everything,
        (false, Place::Listed, Transport::Clear, false) => Entry::Clear,
        (false, Place::Listed, Transport::Tls, false) => Entry::Handshakes,
        (true, Place::Listed, Transport::Any | Transport::Tls, true) => Entry::MeshByAlpn,
        (true, Place::Listed, Transport::Any | Transport::Tls, false) | (true, Place::Default, _, _) => Entry::Mesh,
        (false, Place::Listed, _, true) => {
            let reason = "callers that offer a protocol of the mesh are to be met with its certificate";
            return Err(Problem::new("transport_socket", reason)).within(&placed.field);
        }
        (true, Place::Listed, Transport::Clear, _) => {
            let reason = "clear text cannot be ended as TLS: write `tls`";
            return Err(Problem::new("filter_chain_match.transport_protocol", reason)).within(&placed.field);
        }
    })
}

/// What is spoken, as far as TLS is concerned.
pub(super) fn inside(spoken: &Spoken) -> Inside {
    match spoken {
        Spoken::Http(_) => Inside::Http,
        Spoken::Bytes(_) => Inside::Bytes,
    }
}

pub(super) fn condition_from_xds(condition: FilterChainMatch) -> Result<Condition> {
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
        ("address_suffix", &address_suffix),
        ("suffix_len", &suffix_len),
        ("direct_source_prefix_ranges", &direct_source_prefix_ranges),
        ("source_type", &source_type),
        ("source_prefix_ranges", &source_prefix_ranges),
        ("source_ports", &source_ports),
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
    let port = destination_port.map(|port| {
        let number = u16::try_from(port.value).ok().and_then(Port::new);
        number.ok_or_else(|| Problem::new("destination_port", format!("a port is 1 to 65535, this is {}", port.value)))
    });
    let server_name = |name: String| ServerName::parse(&name).map_err(Problem::from);
    Ok(Condition {
        port: port.transpose()?,
        destinations: each("prefix_ranges", prefix_ranges, base::range_from_xds)?,
        server_names: each("server_names", server_names, server_name)?,
        transport,
        alpn: alpn_from_xds(&application_protocols)?,
    })
}

fn alpn_from_xds(names: &[String]) -> Result<Alpn> {
    let all_of = |known: &[&str]| names.iter().all(|name| known.contains(&name.as_str()));
    if names.is_empty() {
        return Ok(Alpn::Any);
    }
    if all_of(&MESH_HTTP) {
        return Ok(Alpn::MeshHttp);
    }
    if all_of(&[MESH_BYTES, MESH_HTTP].concat()) {
        return Ok(Alpn::Mesh);
    }
    if all_of(&CLEAR_HTTP) {
        return Ok(Alpn::ClearHttp);
    }
    let known = [MESH_BYTES, MESH_HTTP, CLEAR_HTTP].concat();
    let reason = match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(other) => format!(
            "Leno tells callers of the mesh from others, by `istio` and its kind, and HTTP in clear text from other \
             bytes, and none by `{other}`"
        ),
        None => "protocols of the mesh and of HTTP in clear text are for a chain each".to_owned(),
    };
    Err(Problem::new("application_protocols", reason))
}
