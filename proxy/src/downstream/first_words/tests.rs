use super::*;
use crate::tls;

/// The longest silence.
const SILENCE: Duration = Duration::from_secs(10);

const BOTH: Expected = Expected { http: true, mesh_tls: true, names: false };

/// A ClientHello as rustls writes it.
pub(in crate::downstream) fn client_hello(name: &str, protocols: &[&[u8]]) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut config = config;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("written");
    hello
}

#[test]
fn a_request_line_is_http_with_its_version_and_the_greetings_of_others_are_not() {
    let few = |like_http| Words::Few { like_http };
    let rows: [(&[u8], Words); 27] = [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Words::Http(Spoken::Http1)),
        (b"GET / HTTP/1.0\r\n\r\n", Words::Http(Spoken::Http1)),
        (b"OPTIONS * HTTP/1.1\r\n", Words::Http(Spoken::Http1)),
        (b"CONNECT a:443 HTTP/1.1\r\n", Words::Http(Spoken::Http1)),
        (b"GET http://a/b HTTP/1.1\r\n", Words::Http(Spoken::Http1)),
        (b"PROPFIND /\xc3\xa9 HTTP/1.1\r\n", Words::Http(Spoken::Http1)),
        (b"GET /x HTTP/1.", Words::Http(Spoken::Http1)),
        (PREFACE, Words::Http(Spoken::Http2)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Words::Http(Spoken::Http2)),
        (b"", few(false)),
        (b"G", few(false)),
        (b"GET ", few(false)),
        (b"GET /a", few(true)),
        (b"GET /a HTTP", few(true)),
        (b"PRI * HTTP/2.0\r\n", few(false)),
        // Redis by hand, Redis by its protocol, memcached, SMTP, SSH, PostgreSQL, MySQL's answer, MongoDB.
        (b"GET key\r\n", Words::Other),
        (b"PING\r\n", Words::Other),
        (b"*1\r\n$4\r\nPING\r\n", Words::Other),
        (b"get key\r\n", Words::Other),
        (b"EHLO client.example.com\r\n", Words::Other),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Words::Other),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Words::Other),
        (b"\x20\x00\x00\x01\x85\xa6\xff\x01", Words::Other),
        (b"\x3b\x00\x00\x00\x01\x00\x00\x00", Words::Other),
        (b"GET /a HTTP/2.0\r\n", Words::Other),
        (b"GET  / HTTP/1.1\r\n", Words::Other),
        (b"GET /a b HTTP/1.1\r\n", Words::Other),
    ];
    for (heard, expected) in rows {
        assert_eq!(Words::of(heard), expected, "{:?}", heard.escape_ascii().to_string());
    }
}

#[test]
fn any_part_of_a_request_or_preface_is_too_few_words_or_tells_the_same_as_all_of_it() {
    for whole in [&b"GET /index.html?a=b HTTP/1.1\r\nhost: a\r\n\r\n"[..], PREFACE, b"DELETE / HTTP/1.0\r\n\r\n"] {
        let told = Words::of(whole);
        for end in 0..whole.len() {
            let words = Words::of(&whole[..end]);
            assert!(matches!(words, Words::Few { .. }) || words == told, "{end} bytes: {words:?}");
        }
    }
}

#[test]
fn a_client_hello_tells_by_its_alpn_whether_it_wants_the_mesh_and_else_whom() {
    let rows: [(&[&[u8]], Words); 5] = [
        (&[b"leno"], Words::Mesh),
        (&[b"istio"], Words::Mesh),
        (&[b"istio-peer-exchange", b"istio"], Words::Mesh),
        (&[b"h2", b"http/1.1"], Words::OtherTls(Some("db.example.com".into()))),
        (&[], Words::OtherTls(Some("db.example.com".into()))),
    ];
    for (protocols, expected) in rows {
        let hello = client_hello("db.example.com", protocols);
        assert_eq!(Words::of(&hello), expected, "{protocols:?}");
        for end in 1..hello.len() {
            assert_eq!(Words::of(&hello[..end]), Words::HalfHello, "{end} bytes of {}", hello.len());
        }
    }
    assert_eq!(Words::of(&client_hello("10.0.0.1", &[])), Words::OtherTls(None));
    assert_eq!(Words::of(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"), Words::Other, "not a ClientHello");
    assert_eq!(Words::of(b"\x16 is no TLS at all"), Words::Other);
}

#[test]
fn a_request_line_without_end_is_http_if_it_looks_like_it() {
    let long = |start: &str| [start.as_bytes(), &vec![b'a'; MOST_HEARD]].concat();
    assert_eq!(Words::of(&long("GET /")), Words::Http(Spoken::Http1), "it is answered as too long");
    assert_eq!(Words::of(&long("GET ")), Words::Other);
    assert_eq!(Words::of(&long("")), Words::Other, "no method is so long");
}

/// What happens, after so many milliseconds.
type Step<'a> = (u64, Event<'a>);

fn run(expected: Expected, steps: &[Step<'_>]) -> (Option<Verdict>, Duration) {
    let began = Instant::now();
    let mut detection = Detection::new(expected, began, (SILENCE, tls::HANDSHAKE));
    for (at, event) in steps {
        let verdict = detection.on(*event, began + Duration::from_millis(*at));
        if verdict.is_some() {
            return (verdict, detection.deadline() - began);
        }
    }
    (None, detection.deadline() - began)
}

#[test]
fn who_speaks_first_decides() {
    let mesh = client_hello("a", &[b"leno"]);
    let other = client_hello("db.example.com", &[]);
    let bytes = |known| Some(Verdict::Bytes(known));
    let request: &[u8] = b"GET / HTTP/1.1\r\n";
    let rows: Vec<(&str, Vec<Step<'_>>, Option<Verdict>)> = vec![
        ("nobody", vec![], None),
        ("the endpoint", vec![(5, Event::Answered)], bytes(Known::Endpoint)),
        ("the caller, HTTP/1", vec![(5, Event::Heard(request))], Some(Verdict::Http(Spoken::Http1))),
        ("the caller, HTTP/2", vec![(5, Event::Heard(PREFACE))], Some(Verdict::Http(Spoken::Http2))),
        ("the caller, the mesh's TLS", vec![(5, Event::Heard(&mesh))], Some(Verdict::Mesh)),
        ("the caller, other TLS", vec![(5, Event::Heard(&other))], bytes(Known::Tls(Some("db.example.com".into())))),
        ("the caller, bytes", vec![(5, Event::Heard(b"\0\0\0\x08"))], bytes(Known::Caller)),
        (
            "the caller in parts",
            vec![(5, Event::Heard(b"GE")), (9, Event::Heard(request))],
            Some(Verdict::Http(Spoken::Http1)),
        ),
        ("the caller, who leaves", vec![(5, Event::Ended), (255, Event::Late)], Some(Verdict::Nothing)),
        ("the caller, who only listens", vec![(5, Event::Ended), (9, Event::Answered)], bytes(Known::Endpoint)),
        ("nobody, and nobody is there", vec![(5, Event::Ended), (9, Event::Unreachable)], Some(Verdict::Nothing)),
        (
            "the caller, who has said a little and no more",
            vec![(5, Event::Heard(b"PI")), (9, Event::Ended)],
            bytes(Known::Caller),
        ),
        (
            "the caller, too little, then the endpoint",
            vec![(5, Event::Heard(b"HELO")), (9, Event::Answered)],
            bytes(Known::Endpoint),
        ),
        ("too little", vec![(5, Event::Heard(b"HELO")), (255, Event::Late)], bytes(Known::Silence)),
        (
            "too little, but like HTTP",
            vec![(5, Event::Heard(b"GET /a")), (255, Event::Late)],
            Some(Verdict::Http(Spoken::Http1)),
        ),
        ("nobody for long", vec![(10_000, Event::Late)], bytes(Known::Silence)),
        (
            "nobody can be reached, and the caller asks",
            vec![(1, Event::Unreachable), (9, Event::Heard(request))],
            Some(Verdict::Http(Spoken::Http1)),
        ),
        ("nobody can be reached", vec![(1, Event::Unreachable), (251, Event::Late)], bytes(Known::Silence)),
    ];
    for (what, steps, expected) in rows {
        assert_eq!(run(BOTH, &steps).0, expected, "{what}");
    }
}

#[test]
fn what_is_not_looked_for_is_bytes() {
    let mesh = client_hello("a", &[b"istio"]);
    let (no_http, no_mesh) = (Expected { http: false, ..BOTH }, Expected { mesh_tls: false, ..BOTH });
    let rows: [(Expected, &[u8], Verdict); 5] = [
        (no_http, b"GET / HTTP/1.1\r\n", Verdict::Bytes(Known::Caller)),
        (no_http, b"G", Verdict::Bytes(Known::Caller)),
        (no_http, &mesh, Verdict::Mesh),
        (no_mesh, &mesh, Verdict::Bytes(Known::Caller)),
        (no_mesh, b"GET / HTTP/1.1\r\n", Verdict::Http(Spoken::Http1)),
    ];
    for (expected, heard, verdict) in rows {
        assert_eq!(run(expected, &[(0, Event::Heard(heard))]).0, Some(verdict), "{expected:?}");
    }
}

#[test]
fn doubt_is_bounded_and_a_caller_cannot_prolong_it() {
    let limit = |steps: &[Step<'_>]| run(BOTH, steps).1;
    assert_eq!(limit(&[]), SILENCE);
    assert_eq!(limit(&[(100, Event::Heard(b"G"))]), Duration::from_millis(100) + BEGUN);
    assert_eq!(limit(&[(100, Event::Heard(b"G")), (300, Event::Heard(b"GE"))]), Duration::from_millis(100) + BEGUN);
    assert_eq!(limit(&[(100, Event::Heard(&[22, 3]))]), Duration::from_millis(100) + tls::HANDSHAKE);
    assert_eq!(limit(&[(100, Event::Ended)]), Duration::from_millis(100) + BEGUN);
    assert_eq!(limit(&[(100, Event::Unreachable)]), Duration::from_millis(100) + BEGUN);
    assert_eq!(limit(&[(9_900, Event::Heard(b"G"))]), SILENCE, "never later than in silence");
}
