//! Every flag, by where connections arrive: with each backend, over IPv4 and IPv6.

use super::{BACKENDS, Stage, Version};

/// Flags, and who calls whom and where that arrives.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str, &'static str)]);

/// What the rules are without flags, row by row as in `istio-iptables`.
const DEFAULT: Case = (
    &[],
    &[
        // What leaves is captured, wherever it goes, with its destination.
        ("a", "b:8080", "a outbound"),
        ("a", "b:22", "a outbound"),
        ("a", "service:80", "a outbound"),
        // But for names, and for what the proxy itself says.
        ("a", "b:53", "b dns"),
        ("a's proxy", "b:8080", "b app"),
        ("a's group", "b:8080", "b app"),
        ("a's proxy", "service:80", "nobody: NetworkUnreachable"),
        // What comes in is captured, but for the proxy's own ports.
        ("b", "a:8080", "a inbound"),
        ("b", "a:22", "a inbound"),
        ("b", "a:53", "a inbound"),
        ("b", "a:15020", "a stats"),
        // Containers of the pod talk to each other past the proxy.
        ("a", "loopback:8080", "a app"),
        ("a", "a:8080", "a app"),
        ("a's proxy", "loopback:8080", "a app"),
        // The app calls its own service: the proxy picked this pod, and that comes in again; from there it ends.
        ("a's proxy", "a:8080", "a inbound"),
        ("a's inbound", "a:8080", "a app"),
        // The other pod has no rules.
        ("b", "loopback:8080", "b app"),
    ],
);

/// Each in place of the one before: what one says must not linger in the next.
const CASES: &[Case] = &[
    DEFAULT,
    (
        &["--exclude-inbound-ports", "8080,22"],
        &[("b", "a:8080", "a app"), ("b", "a:22", "a ssh"), ("b", "a:53", "a inbound"), ("b", "a:15020", "a inbound")],
    ),
    (
        &["--include-inbound-ports", "8080"],
        &[
            ("b", "a:8080", "a inbound"),
            ("b", "a:22", "a ssh"),
            ("a", "b:8080", "a outbound"),
            ("a's proxy", "a:8080", "a inbound"),
        ],
    ),
    (
        &["--include-inbound-ports", "8080,22", "--exclude-inbound-ports", "22"],
        &[("b", "a:8080", "a inbound"), ("b", "a:22", "a ssh")],
    ),
    (
        &["--include-inbound-ports", ""],
        &[("b", "a:8080", "a app"), ("b", "a:22", "a ssh"), ("a", "b:8080", "a outbound")],
    ),
    (
        &["--exclude-outbound-ports", "8080,80"],
        &[
            ("a", "b:8080", "b app"),
            ("a", "service:80", "nobody: NetworkUnreachable"),
            ("a", "service:443", "a outbound"),
            ("a", "b:22", "a outbound"),
        ],
    ),
    (
        &["--include-outbound-ports", "8080", "--include-outbound-ranges", ""],
        &[
            ("a", "b:8080", "a outbound"),
            ("a", "b:22", "b ssh"),
            ("a", "loopback:8080", "a app"),
            ("b", "a:8080", "a inbound"),
        ],
    ),
    (
        &["--include-outbound-ranges", ""],
        &[
            ("a", "b:8080", "b app"),
            ("a", "loopback:8080", "a app"),
            ("a", "a:8080", "a app"),
            ("b", "a:8080", "a inbound"),
        ],
    ),
    (
        &["--include-outbound-ranges", "10.96.0.0/16,fd00:96::/64"],
        &[
            ("a", "b:8080", "b app"),
            ("a", "service:80", "a outbound"),
            ("a's proxy", "service:80", "nobody: NetworkUnreachable"),
        ],
    ),
    (
        &["--exclude-outbound-ranges", "10.244.1.0/24,fd00:244:1::2"],
        &[("a", "b:8080", "b app"), ("a", "service:80", "a outbound")],
    ),
    // An exclusion comes before an inclusion of the same port or address.
    (
        &["--include-outbound-ports", "8080", "--exclude-outbound-ranges", "10.244.1.2,fd00:244:1::/64"],
        &[("a", "b:8080", "b app"), ("a", "service:8080", "a outbound")],
    ),
    (&["--include-outbound-ports", "53"], &[("a", "b:53", "a outbound")]),
    // Who names an address of the loopback device wants it captured; 127.0.0.1 and ::1 are not for all that.
    (
        &["--include-outbound-ranges", "127.0.0.9/32,::1,10.244.0.2,fd00:244:0::2"],
        &[("a", "loopback:8080", "a app"), ("a", "a:8080", "a outbound"), ("a's inbound", "a:8080", "a app")],
    ),
    (
        &["--outbound-port", "16001", "--inbound-port", "16006"],
        &[
            ("a", "b:8080", "a other outbound"),
            ("b", "a:8080", "a other inbound"),
            ("a's proxy", "a:8080", "a other inbound"),
        ],
    ),
    // The app's user is the proxy's now, and the proxy anybody.
    (
        &["--proxy-uid", "1999", "--proxy-gid", "1999"],
        &[("a", "b:8080", "b app"), ("a's proxy", "b:8080", "a outbound"), ("a's group", "a:8080", "a inbound")],
    ),
    DEFAULT,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_where_the_flags_say_with_nft() {
    connections_go_where_the_flags_say(BACKENDS[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_where_the_flags_say_with_iptables_on_nf_tables() {
    connections_go_where_the_flags_say(BACKENDS[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_where_the_flags_say_with_iptables_on_the_old_tables() {
    connections_go_where_the_flags_say(BACKENDS[2]);
}

fn connections_go_where_the_flags_say((backend, program): (&str, &str)) {
    let Some(stage) = Stage::start(&format!("capture with {backend}"), program) else { return };
    for (flags, expected) in CASES {
        let arguments = [&["apply", "--backend", backend], *flags].concat();
        let said = stage.redirect(&arguments);
        assert!(said.contains(&format!("captured with {backend}")) && said.contains("IPv4 and IPv6"), "{said}");
        stage.expect(&format!("{backend} {flags:?}"), expected);
    }
    datagrams_are_left_alone(&stage);
}

/// DNS as it mostly is, and QUIC.
fn datagrams_are_left_alone(stage: &Stage) {
    for version in [Version::Four, Version::Six] {
        for port in [53, 443] {
            let server = stage.b.datagrams(stage.address(version, &format!("b:{port}")));
            let client = stage.a.datagrams(stage.address(version, "a:0"));
            client.send_to(b"who is there?", server.local_addr().unwrap()).unwrap();
            let mut heard = [0; 64];
            let (length, from) = server.recv_from(&mut heard).unwrap();
            assert_eq!((&heard[..length], from), (&b"who is there?"[..], client.local_addr().unwrap()));
            server.send_to(b"b", from).unwrap();
            assert_eq!(client.recv_from(&mut heard).unwrap(), (1, server.local_addr().unwrap()));
        }
    }
}
