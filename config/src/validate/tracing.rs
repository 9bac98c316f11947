//! `tracing` of MeshConfig.

use super::findings::Findings;
use crate::diagnostic::codes;
use crate::ir::Collector;
use crate::rules::{CustomTag, OtlpProtocol, Path, Tracing};

/// Attributes that somebody may add; a span with more is nobody's.
const MOST_TAGS: usize = 32;

pub(super) fn check(tracing: &Tracing, path: &Path, found: &mut Findings) {
    match tracing.otlp.as_deref() {
        None => {
            let help = "write `otlp: \"http://HOST:4317\"`, or leave `tracing` out";
            found.add(codes::REQUIRED, path, "`otlp`, the address of a collector, is missing").help(help);
        }
        Some(url) => check_address(url, tracing.protocol.unwrap_or_default(), &path.key("otlp"), found),
    }
    if let Some(sampling) = tracing.sampling {
        found.percentage(&path.key("sampling"), sampling);
    }
    let tags = path.key("customTags");
    if tracing.custom_tags.len() > MOST_TAGS {
        let message = format!("{} custom tags are more than {MOST_TAGS}", tracing.custom_tags.len());
        found
            .add(codes::NUMBER, &tags, message)
            .help("every span carries all of them: keep those that are searched for");
    }
    for (name, tag) in &tracing.custom_tags {
        check_tag(name, tag, &tags.key(name), found);
    }
}

fn check_address(url: &str, protocol: OtlpProtocol, path: &Path, found: &mut Findings) {
    let usual = match protocol {
        OtlpProtocol::Grpc => "write `http://HOST:4317`",
        OtlpProtocol::Http => "write `http://HOST:4318`",
    };
    let Ok(uri) = Collector::uri(url) else {
        found.add(codes::ADDRESS, path, format!("`{url}` is not an address of a collector")).help(usual);
        return;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let message = format!("`{url}` holds a user, which nobody is told");
        found.add(codes::ADDRESS, path, message).help(usual);
    }
    if uri.query().is_some() || (protocol == OtlpProtocol::Grpc && uri.path() != "/") {
        let message = match protocol {
            OtlpProtocol::Grpc => format!("`{url}` has a path, and gRPC has its own"),
            OtlpProtocol::Http => format!("`{url}` has a query, which OTLP does not know"),
        };
        let help = match protocol {
            OtlpProtocol::Grpc => "leave the path out, or write `protocol: http`",
            OtlpProtocol::Http => usual,
        };
        found.add(codes::ADDRESS, path, message).help(help);
    }
}

fn check_tag(name: &str, tag: &CustomTag, path: &Path, found: &mut Findings) {
    if name.is_empty() {
        found.add(codes::REQUIRED, path, "an attribute without a name").on_key();
    }
    match (&tag.literal, &tag.header) {
        (None, None) => {
            let help = "write `literal: {value: …}` or `header: {name: …}`";
            found.add(codes::REQUIRED, path, format!("`{name}` says nothing")).help(help);
        }
        (Some(_), Some(_)) => {
            let message = format!("`{name}` has both `literal` and `header`");
            found.add(codes::EXCLUSIVE, path, message).help("keep one of the two");
        }
        (Some(literal), None) if literal.value.is_empty() => {
            found.add(codes::REQUIRED, &path.key("literal"), format!("`{name}` has no value")).help("write `value: …`");
        }
        (None, Some(header)) if header.name.parse::<http::HeaderName>().is_err() => {
            let message = format!("`{}` is not the name of a header", header.name);
            found.add(codes::HEADER, &path.key("header").key("name"), message);
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
}
