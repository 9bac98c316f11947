//! HTTP/1.1 as bytes, through hyper and the sanitize stage, to an endpoint that reads strictly.

use http::header;
use leno_config::ir::PathNormalization;
use leno_proxy::sanitize;

use crate::Target;
use crate::strict::{self, Message};
use crate::wire::{Forwarded, Spoken, in_clear_text, requests};

pub(crate) const TARGET: Target = Target {
    name: "sanitize",
    property: "each request that is sent on is exactly one to the strictest reader, is what policies saw, is canonical \
               already, and is the one that a strict reader finds in the caller's bytes",
    check,
    words: &[
        "\r\n",
        "\r\n\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Connection: close, host\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\n",
        "http://b/",
        "%2e%2e/",
        "\\",
        "\u{b}",
        "0x",
    ],
};

fn check(data: &[u8]) {
    let requests = requests(data, Spoken::Http1);
    for request in requests.iter().flatten() {
        is_one(request);
        is_canonical(request);
    }
    as_read_strictly(data, &requests);
}

/// What holds of whatever was sent on, whoever sent it.
pub(super) fn is_one(request: &Forwarded) {
    let shown = String::from_utf8_lossy(&request.bytes);
    let message = match &request.read {
        Ok(Some(message)) => message,
        // The caller left in the middle of a body, and so do we.
        Ok(None) => return,
        Err(problem) => panic!("{problem}: {shown}"),
    };
    let (_, length) = strict::request(&request.bytes).ok().flatten().expect("it was read before");
    assert_eq!(length, request.bytes.len(), "bytes behind the request: {shown}");
    assert_eq!(message.method, request.seen.method.as_str(), "{shown}");
    let (path, query) = (request.seen.uri.path(), request.seen.uri.query());
    let seen = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    assert_eq!(message.target, seen, "what policies saw is what is sent on");
    assert!(message.target.starts_with('/') || message.target == "*", "{shown}");
    let hosts: Vec<&[u8]> = message.values("host").collect();
    assert_eq!(hosts, [request.authority.as_bytes()], "{shown}");
    for gone in ["connection", "keep-alive", "proxy-connection", "upgrade", "expect", "x-forwarded-client-cert"] {
        assert_eq!(message.values(gone).count(), 0, "{gone}: {shown}");
    }
}

/// A second pass changes nothing: the next hop sees what this one saw.
fn is_canonical(request: &Forwarded) {
    let mut again = request.seen.clone();
    sanitize::request(&mut again, in_clear_text(PathNormalization::BASE)).expect("what was taken once is taken again");
    assert_eq!((&again.uri, &again.headers), (&request.seen.uri, &request.seen.headers));
}

/// As long as a strict reader understands what the caller says, its requests are the ones that were dealt with, one by one.
fn as_read_strictly(mut bytes: &[u8], requests: &[Option<Forwarded>]) {
    for request in requests {
        let Ok(Some((written, length))) = strict::request(bytes) else { return };
        bytes = bytes.get(length..).unwrap_or_default();
        if let Some(Forwarded { read: Ok(Some(read)), .. }) = request {
            assert!(is_same(&written, read), "{written:?} became {read:?}");
        }
    }
}

fn is_same(written: &Message, read: &Message) -> bool {
    let host = |message: &Message| message.values(header::HOST.as_str()).map(<[u8]>::to_vec).collect::<Vec<_>>();
    written.method == read.method && written.body == read.body && host(written) == host(read)
}
