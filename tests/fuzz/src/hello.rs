//! The server name and protocols of a ClientHello, read by hand (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1): what rustls is
//! held against.

/// What a whole ClientHello in one record asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The one name of type host_name.
    pub(crate) server_name: Option<Vec<u8>>,
    /// In the caller's order.
    pub(crate) protocols: Vec<Vec<u8>>,
}

/// Reads the record at the front of `bytes`; `None`: it is not a whole, well-formed ClientHello.
pub(crate) fn read(bytes: &[u8]) -> Option<Hello> {
    let mut record = bytes;
    let [22, _, _] = *take::<3>(&mut record)? else { return None };
    let mut handshake = vector(&mut record, 2)?;
    let [1] = *take::<1>(&mut handshake)? else { return None };
    let mut hello = vector(&mut handshake, 3)?;
    if !handshake.is_empty() {
        return None;
    }
    // legacy_version and random
    take::<34>(&mut hello)?;
    let (_session, _suites, _compressions) = (vector(&mut hello, 1)?, vector(&mut hello, 2)?, vector(&mut hello, 1)?);
    let mut extensions = vector(&mut hello, 2)?;
    let mut found = Hello::default();
    while !extensions.is_empty() {
        let kind = u16::from_be_bytes(*take::<2>(&mut extensions)?);
        let mut body = vector(&mut extensions, 2)?;
        match kind {
            0 => found.server_name = server_name(vector(&mut body, 2)?)?,
            16 => found.protocols = protocols(vector(&mut body, 2)?)?,
            _ => continue,
        }
        if !body.is_empty() {
            return None;
        }
    }
    hello.is_empty().then_some(found)
}

fn server_name(mut names: &[u8]) -> Option<Option<Vec<u8>>> {
    let mut found = None;
    while !names.is_empty() {
        // What follows a type that nobody knows has a form that nobody knows (RFC 6066 §3).
        let [0] = *take::<1>(&mut names)? else { break };
        found = Some(vector(&mut names, 2)?.to_vec());
    }
    Some(found)
}

fn protocols(mut list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !list.is_empty() {
        found.push(vector(&mut list, 1)?.to_vec());
    }
    Some(found)
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(taken)
}

/// A length of `size` bytes and as many bytes.
fn vector<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(size)?;
    let length = length.iter().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte));
    let (taken, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}
