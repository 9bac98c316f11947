//! HTTP/1.1 messages as the strictest endpoint reads them (RFC 9112): what it would answer with 400 is an error here.
//!
//! Written against the grammar and not against hyper or httparse, whose reading it judges. Nothing is tolerated: no bare LF, no
//! whitespace before a colon, no folded lines, one `Host`, one canonical `Content-Length` or `Transfer-Encoding: chunked`.

/// Names and values, in their order.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_slice())
    }
}

/// The first request of some bytes and how many of them it has; `None`: it has not ended yet.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<(Message, usize)>, &'static str> {
    let mut reader = Reader { bytes, at: 0 };
    let Some(line) = reader.line()? else { return Ok(None) };
    let (method, target) = request_line(line)?;
    let Some(fields) = fields(&mut reader)? else { return Ok(None) };
    let head = Message { method, target, fields, body: Vec::new() };
    if head.values("host").count() != 1 {
        return Err("there is not exactly one Host");
    }
    let Some(body) = body(&head, &mut reader)? else { return Ok(None) };
    Ok(Some((Message { body, ..head }, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Up to the next CRLF, without it.
    fn line(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or("a line ends in a bare LF")?;
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err("a line holds CR or NUL");
        }
        self.at += end + 1;
        Ok(Some(line))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

fn is_token(text: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(allowed)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `method SP request-target SP HTTP-version` (§3).
fn request_line(line: &[u8]) -> Result<(String, String), &'static str> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(b"HTTP/1.1"), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the request line is not METHOD TARGET HTTP/1.1");
    };
    if !is_token(method) {
        return Err("the method is not a token");
    }
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err("the target is empty or holds a control character");
    }
    Ok((text(method), text(target)))
}

/// `field-name ":" OWS field-value OWS` (§5), up to the empty line.
fn fields(reader: &mut Reader<'_>) -> Result<Option<Fields>, &'static str> {
    let mut fields = Vec::new();
    loop {
        let Some(line) = reader.line()? else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some(fields));
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a field has no colon")?;
        let (name, value) = line.split_at(colon);
        if !is_token(name) {
            return Err("the name of a field is not a token");
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
            return Err("a value holds a control character");
        }
        fields.push((text(name).to_ascii_lowercase(), value.to_vec()));
    }
}

fn body(head: &Message, reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, &'static str> {
    let codings: Vec<&[u8]> = head.values("transfer-encoding").collect();
    let lengths: Vec<&[u8]> = head.values("content-length").collect();
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(Some(Vec::new())),
        ([], [text]) => Ok(reader.take(length(text)?).map(<[u8]>::to_vec)),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => chunked(reader),
        ([_], []) => Err("a Transfer-Encoding other than chunked"),
        ([_, ..], [_, ..]) => Err("Transfer-Encoding and Content-Length"),
        ([_, _, ..], []) => Err("more than one Transfer-Encoding"),
        ([], [_, _, ..]) => Err("more than one Content-Length"),
    }
}

/// `1*DIGIT` (RFC 9110 §8.6), without sign, list or underscore.
fn length(text: &[u8]) -> Result<usize, &'static str> {
    let digits = std::str::from_utf8(text).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or("a Content-Length that is no number")
}

/// §7.1, without extensions.
fn chunked(reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, &'static str> {
    let mut body = Vec::new();
    loop {
        let Some(line) = reader.line()? else { return Ok(None) };
        let digits =
            std::str::from_utf8(line).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).ok_or("a chunk without a size")?;
        if size == 0 {
            let Some(trailers) = fields(reader)? else { return Ok(None) };
            let forbidden = ["content-length", "transfer-encoding", "host", "authorization", "connection"];
            return match trailers.iter().any(|(name, _)| forbidden.contains(&name.as_str())) {
                true => Err("a trailer that belongs into the head"),
                false => Ok(Some(body)),
            };
        }
        let (Some(data), Some(end)) = (reader.take(size), reader.take(2)) else { return Ok(None) };
        if end != b"\r\n" {
            return Err("a chunk is longer than its size");
        }
        body.extend_from_slice(data);
    }
}
