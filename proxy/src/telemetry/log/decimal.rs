//! Numbers in decimal, without what the formatting of the standard library brings along: a line has a dozen of them.

use std::net::{IpAddr, SocketAddr};

/// Digits of the largest number.
const MOST: usize = 20;

/// Writes `number` in decimal.
pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    padded(out, number, 1);
}

/// The same with zeros before it, where it has fewer than `width` digits; at most 20.
pub(super) fn padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let (mut text, mut rest, mut at) = ([b'0'; MOST], number, MOST);
    for digit in text.iter_mut().rev() {
        // The remainder is below ten.
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        at -= 1;
        if rest == 0 {
            break;
        }
    }
    let start = at.min(MOST.saturating_sub(width));
    out.extend_from_slice(text.get(start..).unwrap_or_default());
}

/// Writes an address and its port, as the standard library does.
pub(super) fn socket(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            ip(out, (*v4.ip()).into());
            out.push(b':');
            number(out, v4.port().into());
        }
        SocketAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}

/// Writes an address, as the standard library does.
pub(super) fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        IpAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn the_smallest_and_the_largest_are_whole() {
        for (value, width, expected) in
            [(0, 1, "0"), (0, 3, "000"), (7, 2, "07"), (123, 2, "123"), (u64::MAX, 1, "18446744073709551615")]
        {
            assert_eq!(written(|out| padded(out, value, width)), expected);
        }
        assert_eq!(written(|out| padded(out, 1, 30)), format!("{:020}", 1), "no more than there is room for");
    }

    proptest! {
        #[test]
        fn everything_is_written_as_the_standard_library_does(
            value: u64, width in 1_usize..20, address: IpAddr, port: u16,
        ) {
            prop_assert_eq!(written(|out| padded(out, value, width)), format!("{value:0width$}"));
            prop_assert_eq!(written(|out| ip(out, address)), address.to_string());
            let address = SocketAddr::new(address, port);
            prop_assert_eq!(written(|out| socket(out, address)), address.to_string());
        }
    }
}
