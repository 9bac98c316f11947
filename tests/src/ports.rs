//! Ports that rules have to name before anybody binds them.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// A port of 127.0.0.1 that nobody listens on, never given twice by one process.
///
/// It lies below the range from which the kernel serves port 0 and outgoing connections, so that nobody takes it
/// between this call and its use, above the ports that Istio has given names, and below those of `leno demo`; two runs at
/// once start at different places.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 16_000;
    const RANGE: u32 = 8_000;
    for _ in 0..RANGE {
        let offset = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % RANGE;
        let port = u16::try_from(FIRST + offset).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + RANGE);
}
