//! What the command line says: which connections are captured, and for whom.
//!
//! Names and meaning are those of `istio-iptables`, so that Istio's annotations can be handed on as they are. Two
//! things differ where Istio leaves a contradiction unspoken: a port that is both included and excluded is excluded,
//! and a port or range that cannot be read is an error, where `istio-iptables` goes on without it.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

/// Flags of `redirect apply` and `redirect print`; each is also a variable.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Port of the proxy for connections that leave the pod
    #[arg(long, value_name = "PORT", default_value = "15001", value_parser = port)]
    #[arg(env = "LENO_REDIRECT_OUTBOUND_PORT")]
    pub outbound_port: u16,
    /// Port of the proxy for connections that reach the pod
    #[arg(long, value_name = "PORT", default_value = "15006", value_parser = port)]
    #[arg(env = "LENO_REDIRECT_INBOUND_PORT")]
    pub inbound_port: u16,
    /// User of the proxy, whose own connections are let through
    #[arg(long, value_name = "UID", default_value = "1337", value_parser = id, env = "LENO_REDIRECT_PROXY_UID")]
    pub proxy_uid: u32,
    /// Group of the proxy, whose own connections are let through
    #[arg(long, value_name = "GID", default_value = "1337", value_parser = id, env = "LENO_REDIRECT_PROXY_GID")]
    pub proxy_gid: u32,
    /// Ports of the pod that are captured: * for all, '' for none, or a list
    #[arg(long, value_name = "PORTS", default_value = "*", env = "LENO_REDIRECT_INCLUDE_INBOUND_PORTS")]
    pub include_inbound_ports: Ports,
    /// Ports of the pod that are not captured
    #[arg(long, value_name = "PORTS", default_value = "15020,15021,15090", value_parser = port_list)]
    #[arg(env = "LENO_REDIRECT_EXCLUDE_INBOUND_PORTS")]
    pub exclude_inbound_ports: PortList,
    /// Ports elsewhere that are captured whatever their address
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = port_list)]
    #[arg(env = "LENO_REDIRECT_INCLUDE_OUTBOUND_PORTS")]
    pub include_outbound_ports: PortList,
    /// Ports elsewhere that are not captured
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = port_list)]
    #[arg(env = "LENO_REDIRECT_EXCLUDE_OUTBOUND_PORTS")]
    pub exclude_outbound_ports: PortList,
    /// Addresses elsewhere that are captured: * for all, '' for none, or a list such as 10.96.0.0/12,fd00:10:96::/112
    #[arg(long, value_name = "RANGES", default_value = "*", env = "LENO_REDIRECT_INCLUDE_OUTBOUND_RANGES")]
    pub include_outbound_ranges: Ranges,
    /// Addresses elsewhere that are not captured
    #[arg(long, value_name = "RANGES", default_value = "", value_parser = range_list)]
    #[arg(env = "LENO_REDIRECT_EXCLUDE_OUTBOUND_RANGES")]
    pub exclude_outbound_ranges: RangeList,
    /// What sets the rules; auto takes the first that the kernel and the image have
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto, env = "LENO_REDIRECT_BACKEND")]
    pub backend: BackendChoice,
    /// Whether IPv6 is captured as well; auto where the pod has an IPv6 address
    #[arg(long, value_enum, default_value_t = Ipv6::Auto, env = "LENO_REDIRECT_IPV6")]
    pub ipv6: Ipv6,
}

impl Flags {
    /// What each flag cannot see by itself.
    pub fn check(&self) -> Result<(), String> {
        if self.outbound_port == self.inbound_port {
            return Err(format!(
                "--outbound-port and --inbound-port are both {}: the proxy tells the directions apart by the port, give \
                 each its own",
                self.outbound_port
            ));
        }
        Ok(())
    }
}

/// What sets the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// The first of the others that works
    Auto,
    /// The program `nft`: a table of our own
    Nft,
    /// `iptables` on the kernel's nf_tables
    IptablesNft,
    /// `iptables` on the kernel's old tables
    IptablesLegacy,
}

/// Whether IPv6 is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ipv6 {
    /// Where there is an IPv6 address
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// Some ports, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// `*`
    All,
    /// These, which may be none.
    These(PortList),
}

/// Ports, each once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortList(Vec<u16>);

impl PortList {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }

    /// Whether `port` is among them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

/// Some addresses, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// `*`
    All,
    /// These, which may be none.
    These(RangeList),
}

/// Ranges of addresses of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeList(Vec<IpNet>);

impl RangeList {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "*" => Ok(Self::All),
            text => port_list(text).map(Self::These),
        }
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "*" => Ok(Self::All),
            text => range_list(text).map(Self::These),
        }
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.trim().parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a port: give a number from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

fn id(text: &str) -> Result<u32, String> {
    // The highest means "nobody" to the kernel's calls.
    match text.trim().parse() {
        Ok(u32::MAX) | Err(_) => Err(format!("{text:?} is not an id: give a number, such as 1337")),
        Ok(id) => Ok(id),
    }
}

fn port_list(text: &str) -> Result<PortList, String> {
    let mut ports = Vec::new();
    for item in items(text) {
        if item == "*" {
            return Err("* stands for all ports in --include-inbound-ports alone: list the ports".to_owned());
        }
        if item.contains(['-', ':']) {
            return Err(format!("{item:?} is a range of ports: list each, as 8080,8081"));
        }
        let port = port(item)?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(PortList(ports))
}

fn range_list(text: &str) -> Result<RangeList, String> {
    let mut ranges = Vec::new();
    for item in items(text) {
        let range = range(item)?;
        if !ranges.contains(&range) {
            ranges.push(range);
        }
    }
    Ok(RangeList(ranges))
}

/// An address alone is a range of one; bits of the host are dropped, as the kernel would.
fn range(text: &str) -> Result<IpNet, String> {
    if text == "*" {
        return Err("* stands for all addresses in --include-outbound-ranges alone: list the ranges".to_owned());
    }
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    match text.parse().ok().or_else(address) {
        Some(range) => Ok(IpNet::trunc(&range)),
        None => Err(format!("{text:?} is not a range of addresses: write it as 10.0.0.0/8 or fd00::/8")),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    // What a template leaves between two commas is nothing, not an error.
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn read(arguments: &[&str]) -> Result<Flags, String> {
        let line = Line::try_parse_from(std::iter::once(&"redirect").chain(arguments));
        line.map(|line| line.flags).map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_it_is_what_istio_does() {
        let flags = read(&[]).unwrap();
        assert_eq!(
            (flags.outbound_port, flags.inbound_port, flags.proxy_uid, flags.proxy_gid),
            (15001, 15006, 1337, 1337)
        );
        assert_eq!((flags.include_inbound_ports, flags.include_outbound_ranges), (Ports::All, Ranges::All));
        assert_eq!(flags.exclude_inbound_ports.iter().collect::<Vec<_>>(), [15020, 15021, 15090]);
        assert_eq!((flags.include_outbound_ports, flags.exclude_outbound_ports), Default::default());
    }

    #[test]
    fn lists_may_be_empty_have_spaces_and_repeat_themselves() {
        let flags = read(&["--include-inbound-ports", "", "--exclude-outbound-ports", " 80 ,443,,80"]).unwrap();
        assert_eq!(flags.include_inbound_ports, Ports::These(PortList::default()));
        assert_eq!(flags.exclude_outbound_ports.iter().collect::<Vec<_>>(), [80, 443]);
        let flags = read(&["--include-outbound-ranges", "10.1.2.3/8, fd00::1,10.0.0.0/8"]).unwrap();
        let Ranges::These(ranges) = flags.include_outbound_ranges else { panic!("these") };
        assert_eq!(ranges.iter().map(|range| range.to_string()).collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::1/128"]);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_the_flag_and_the_remedy() {
        let cases = [
            (["--outbound-port", "0"], "give a number from 1 to 65535"),
            (["--proxy-uid", "istio-proxy"], "give a number, such as 1337"),
            (["--include-inbound-ports", "80,http"], "\"http\" is not a port"),
            (["--exclude-inbound-ports", "8000-8010"], "list each, as 8080,8081"),
            (["--exclude-inbound-ports", "*"], "--include-inbound-ports alone"),
            (["--include-outbound-ports", "65536"], "\"65536\" is not a port"),
            (["--include-outbound-ranges", "10.0.0.0/33"], "write it as 10.0.0.0/8 or fd00::/8"),
            (["--exclude-outbound-ranges", "*"], "--include-outbound-ranges alone"),
            (["--backend", "ebpf"], "iptables-legacy"),
            (["--ipv6", "yes"], "auto, on, off"),
        ];
        for (arguments, remedy) in cases {
            let error = read(&arguments).unwrap_err();
            assert!(error.contains(arguments[0]) && error.contains(remedy), "{arguments:?}: {error}");
        }
        let both = read(&["--outbound-port", "15006"]).unwrap().check().unwrap_err();
        assert!(both.contains("--outbound-port and --inbound-port are both 15006"), "{both}");
    }
}
