//! `::6` on the loopback device, from which the proxy calls its app over IPv6.
//!
//! All of 127.0.0.0/8 is the loopback device's, of IPv6 only `::1`; so the address is given to it, as `istio-iptables`
//! does (`ip -6 address replace ::6/128 dev lo nodad`), by one message of rtnetlink(7): one program less in the image.

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::rules::INBOUND_SOURCE_V6;

/// From linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h and linux/socket.h, which never change.
const AF_NETLINK: i32 = 16;
const AF_INET6: u8 = 10;
const NETLINK_ROUTE: i32 = 0;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Nobody else on the loopback device can have it: usable at once, without duplicate address detection.
const IFA_F_NODAD: u8 = 0x02;
const SCOPE_HOST: u8 = 254;
const EADDRNOTAVAIL: i32 = 99;
/// The number of the loopback device in every network namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// The kernel answers at once; this is for a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives the address to the loopback device: whether it did not have it before.
pub(super) fn add() -> io::Result<bool> {
    match ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes it away again, where it is there.
pub(super) fn remove() -> io::Result<()> {
    match ask(RTM_DELADDR, 0) {
        Err(error) if error.raw_os_error() == Some(EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

fn ask(kind: u16, flags: u16) -> io::Result<()> {
    let protocol = Some(Protocol::from(NETLINK_ROUTE));
    let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, protocol)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A socket that was not told otherwise sends to the kernel.
    socket.write_all(&message(kind, NLM_F_REQUEST | NLM_F_ACK | flags))?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    verdict(answer.get(..length).unwrap_or_default())
}

/// `struct nlmsghdr`, `struct ifaddrmsg` and two attributes.
#[expect(clippy::expect_used, reason = "16 bytes and a body of constant length")]
fn message(kind: u16, flags: u16) -> Vec<u8> {
    let mut body = vec![AF_INET6, 128, IFA_F_NODAD, SCOPE_HOST];
    body.extend(LOOPBACK.to_ne_bytes());
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        // Its length (2), its kind (2) and the address (16).
        body.extend(20_u16.to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(INBOUND_SOURCE_V6.octets());
    }
    let length = u32::try_from(16 + body.len()).expect("invariant: a message of 64 bytes");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // The number and the sender; one message has no need of them.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// An acknowledgement is an error message whose code is 0.
fn verdict(answer: &[u8]) -> io::Result<()> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not an acknowledgement");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        (None | Some(_), None | Some(_)) => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let message = message(RTM_NEWADDR, NLM_F_REQUEST);
        assert_eq!(message.len(), 64);
        assert_eq!(message.get(..4), Some(&64_u32.to_ne_bytes()[..]));
    }

    #[test]
    fn what_the_kernel_answers_is_read() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; 20];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..].copy_from_slice(&code.to_ne_bytes());
            verdict(&bytes)
        };
        assert!(answer(NLMSG_ERROR, 0).is_ok());
        assert_eq!(answer(NLMSG_ERROR, -17).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(answer(NLMSG_ERROR, i32::MIN).unwrap_err().raw_os_error(), Some(i32::MAX));
        assert_eq!(answer(RTM_NEWADDR, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(verdict(&[]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
