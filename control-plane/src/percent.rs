//! Percent-encoding (RFC 3986 §2.1), for what stands in paths and queries.

/// A part of a path or a value of a query: all that is not unreserved (RFC 3986 §2.3) percent-encoded.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The text behind it. What is not encoded as it should be stays as it is: whoever looks for it finds nothing.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back() {
        assert_eq!(escaped("a~b.c-d_e"), "a~b.c-d_e");
        assert_eq!(escaped("a/b c?ä&"), "a%2Fb%20c%3F%C3%A4%26");
        for text in ["", "a~b", "a/b c?ä&%", "[{\"x\":1}]"] {
            assert_eq!(decoded(&escaped(text)), text);
        }
        for broken in ["%", "%4", "%zz", "100%"] {
            assert_eq!(decoded(broken), broken);
        }
    }
}
