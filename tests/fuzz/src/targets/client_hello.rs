//! The peek at a ClientHello: the bytes are a connection's first.

use leno_proxy::downstream::fuzzing::{First, undeclared};

use crate::{Target, hello};

pub(crate) const TARGET: Target = Target {
    name: "client_hello",
    property: "server name and protocols are those that a reading by the RFC finds, and half a hello decides nothing",
    check,
    words: &["\u{16}\u{3}\u{1}", "\u{1}", "\u{0}\u{0}", "\u{0}\u{10}", "leno", "istio", "istio-peer-exchange", "h2"],
};

fn check(data: &[u8]) {
    let read = hello::read(data);
    match undeclared(data) {
        First::Tls => {
            let read = read.expect("a ClientHello is well-formed");
            assert!(is_mesh(&read), "{read:?}");
        }
        First::OtherTls(name) => {
            let read = read.expect("a ClientHello is well-formed");
            assert!(!is_mesh(&read), "{read:?}");
            // rustls leaves a name out that is none of DNS, an address say; it never makes one up.
            if let Some(name) = name {
                let written = read.server_name.unwrap_or_default();
                let written = String::from_utf8_lossy(&written).to_ascii_lowercase();
                assert_eq!(written.trim_end_matches('.'), name.to_ascii_lowercase().trim_end_matches('.'));
            }
        }
        First::TooLittle | First::Other | First::Http1 | First::Http2 => {}
    }
    // The record says how long it is: before its end nothing is decided in favour of somebody.
    if let Some(&[22, _, _, high, low]) = data.first_chunk::<5>() {
        let end = 5 + usize::from(u16::from_be_bytes([high, low]));
        for length in [1, 5, end / 2, end.saturating_sub(1)] {
            if let Some(half) = data.get(..length.min(end.saturating_sub(1))) {
                let found = undeclared(half);
                assert!(matches!(found, First::TooLittle | First::Other), "{found:?} after {length} of {end} bytes");
            }
        }
    }
}

fn is_mesh(hello: &hello::Hello) -> bool {
    hello.protocols.iter().any(|name| name == b"leno" || name.starts_with(b"istio"))
}
