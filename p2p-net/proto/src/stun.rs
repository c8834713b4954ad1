//! STUN Binding (RFC 8489): requests parsed, answers built, and the other way round for clients.
//! An answer is 32 (IPv4) or 44 (IPv6) bytes for a request of 20: XOR-MAPPED-ADDRESS alone.

use std::net::{IpAddr, SocketAddr};

/// Why bytes are not a Binding message that we handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// Not STUN: length, magic cookie or attribute lengths do not fit.
    #[error("not a STUN message")]
    Malformed,
    /// Another method or class than the one asked for.
    #[error("not the expected STUN message")]
    Unexpected,
    /// Carries comprehension-required attributes that we do not know (RFC 8489 §5: answered with
    /// 420 by full servers, dropped by us, since the answer would be longer than the question).
    #[error("unknown comprehension-required attribute {0:#06x}")]
    UnknownAttribute(u16),
}

const HEADER_LEN: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Attributes from here on may be ignored by who does not know them (RFC 8489 §14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;
/// What an answer may carry besides the mapped address and what we pass over: MAPPED-ADDRESS, the
/// SOURCE-ADDRESS and CHANGED-ADDRESS of RFC 3489, and proofs that we did not ask for (USERNAME,
/// MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256).
const PASSED_OVER: [u16; 6] = [0x0001, 0x0004, 0x0005, 0x0006, 0x0008, 0x001c];

/// The transaction of a Binding request.
///
/// # Errors
/// [`StunError`].
pub fn parse_request(packet: &[u8]) -> Result<[u8; 12], StunError> {
    let message = Message::parse(packet)?;
    if message.kind != BINDING_REQUEST {
        return Err(StunError::Unexpected);
    }
    for attribute in message.attributes() {
        let (kind, _) = attribute?;
        if kind < COMPREHENSION_OPTIONAL {
            return Err(StunError::UnknownAttribute(kind));
        }
    }
    Ok(message.transaction)
}

/// The Binding success response that tells `observed` (v4-mapped IPv6 is told as IPv4).
pub fn answer(transaction: [u8; 12], observed: SocketAddr) -> Vec<u8> {
    let mask = mask(&transaction);
    let (family, mut address) = match observed.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    for (byte, mask) in address.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    let [p0, p1] = observed.port().to_be_bytes();
    let value_len = 4 + address.len() as u16;
    let mut packet = header(BINDING_SUCCESS, 4 + value_len, transaction);
    packet.extend_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
    packet.extend_from_slice(&value_len.to_be_bytes());
    packet.extend_from_slice(&[0, family, p0 ^ mask[0], p1 ^ mask[1]]);
    packet.extend_from_slice(&address);
    packet
}

/// A Binding request without attributes: 20 bytes.
pub fn request(transaction: [u8; 12]) -> Vec<u8> {
    header(BINDING_REQUEST, 0, transaction)
}

/// Transaction and mapped address of a Binding success response.
///
/// # Errors
/// [`StunError`].
pub fn parse_answer(packet: &[u8]) -> Result<([u8; 12], SocketAddr), StunError> {
    let message = Message::parse(packet)?;
    if message.kind != BINDING_SUCCESS {
        return Err(StunError::Unexpected);
    }
    let mut mapped = None;
    for attribute in message.attributes() {
        let (kind, value) = attribute?;
        if kind == XOR_MAPPED_ADDRESS {
            let address = unmask(value, &message.transaction)?;
            mapped.get_or_insert(address);
        } else if kind < COMPREHENSION_OPTIONAL && !PASSED_OVER.contains(&kind) {
            return Err(StunError::UnknownAttribute(kind));
        }
    }
    mapped
        .map(|address| (message.transaction, address))
        .ok_or(StunError::Malformed)
}

fn header(kind: u16, body_len: u16, transaction: [u8; 12]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER_LEN + usize::from(body_len));
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&body_len.to_be_bytes());
    packet.extend_from_slice(&COOKIE);
    packet.extend_from_slice(&transaction);
    packet
}

/// What an address is XORed with: cookie and transaction (RFC 8489 §14.2).
fn mask(transaction: &[u8; 12]) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE);
    mask[4..].copy_from_slice(transaction);
    mask
}

fn unmask(value: &[u8], transaction: &[u8; 12]) -> Result<SocketAddr, StunError> {
    let mask = mask(transaction);
    let (&[_, family, p0, p1], address) =
        value.split_first_chunk::<4>().ok_or(StunError::Malformed)?;
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    let ip = match (family, address.len()) {
        (1, 4) => IpAddr::from(std::array::from_fn::<u8, 4, _>(|i| address[i] ^ mask[i])),
        (2, 16) => IpAddr::from(std::array::from_fn::<u8, 16, _>(|i| address[i] ^ mask[i])),
        _ => return Err(StunError::Malformed),
    };
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

/// A message whose header fits; its attributes are checked while they are walked.
struct Message<'a> {
    kind: u16,
    transaction: [u8; 12],
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(packet: &'a [u8]) -> Result<Self, StunError> {
        let (header, body) = packet
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(StunError::Malformed)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if kind & 0xc000 != 0 || header[4..8] != COOKIE || length != body.len() || length % 4 != 0 {
            return Err(StunError::Malformed);
        }
        Ok(Self {
            kind,
            transaction: std::array::from_fn(|i| header[8 + i]),
            body,
        })
    }

    fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.body }
    }
}

/// Kind and value of each attribute; ends after the first malformed one.
struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), StunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some((&[k0, k1, l0, l1], rest)) = rest.split_first_chunk::<4>() else {
            return Some(Err(StunError::Malformed));
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let padded = length.next_multiple_of(4);
        if padded > rest.len() {
            return Some(Err(StunError::Malformed));
        }
        self.rest = &rest[padded..];
        Some(Ok((u16::from_be_bytes([k0, k1]), &rest[..length])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 5769 §2.1: a request with SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME and proofs.
    const SAMPLE_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c\
        69656e74002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56\
        781ef2b5b2d3f249c1b571a280280004e57a3bcf";
    /// RFC 5769 §2.2: the response that maps to 192.0.2.1:32853.
    const SAMPLE_IPV4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
        002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    /// RFC 5769 §2.3: the response that maps to [2001:db8:1234:5678:11:2233:4455:6677]:32853.
    const SAMPLE_IPV6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
        002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004\
        c8fb0b4c";
    const TRANSACTION: [u8; 12] = [
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ];

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .expect("hexadecimal")
    }

    #[test]
    fn the_sample_responses_of_rfc_5769_are_understood() {
        let v4 = ("192.0.2.1:32853").parse().expect("an address");
        assert_eq!(parse_answer(&hex(SAMPLE_IPV4)), Ok((TRANSACTION, v4)));
        let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
            .parse()
            .expect("an address");
        assert_eq!(parse_answer(&hex(SAMPLE_IPV6)), Ok((TRANSACTION, v6)));
    }

    #[test]
    fn the_sample_attributes_are_made_the_same_way() {
        let sample = hex(SAMPLE_IPV4);
        let ours = answer(TRANSACTION, "192.0.2.1:32853".parse().expect("an address"));
        assert_eq!(ours[20..32], sample[36..48]);
        let sample = hex(SAMPLE_IPV6);
        let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
            .parse()
            .expect("an address");
        assert_eq!(answer(TRANSACTION, address)[20..44], sample[36..60]);
    }

    #[test]
    fn required_attributes_of_a_request_are_not_known_here() {
        // PRIORITY is the first comprehension-required attribute of the sample.
        assert_eq!(
            parse_request(&hex(SAMPLE_REQUEST)),
            Err(StunError::UnknownAttribute(0x0024))
        );
    }

    #[test]
    fn optional_attributes_are_passed_over() {
        let mut packet = header(BINDING_REQUEST, 8, TRANSACTION);
        packet.extend_from_slice(&[0x80, 0x22, 0, 3, b'a', b'b', b'c', 0]);
        assert_eq!(parse_request(&packet), Ok(TRANSACTION));
    }

    #[test]
    fn answers_have_32_or_44_bytes_and_unmap() {
        let mapped = "[::ffff:192.0.2.7]:9".parse().expect("an address");
        let packet = answer(TRANSACTION, mapped);
        assert_eq!(packet.len(), 32);
        let plain = "192.0.2.7:9".parse().expect("an address");
        assert_eq!(parse_answer(&packet), Ok((TRANSACTION, plain)));
        assert_eq!(
            answer(TRANSACTION, "[2001:db8::1]:9".parse().expect("an address")).len(),
            44
        );
        assert_eq!(request(TRANSACTION).len(), 20);
        assert_eq!(parse_request(&request(TRANSACTION)), Ok(TRANSACTION));
    }

    #[test]
    fn other_messages_are_told_apart_from_garbage() {
        let own_answer = answer(TRANSACTION, "192.0.2.7:9".parse().expect("an address"));
        assert_eq!(parse_request(&own_answer), Err(StunError::Unexpected));
        assert_eq!(
            parse_answer(&request(TRANSACTION)),
            Err(StunError::Unexpected)
        );
        let mut no_cookie = request(TRANSACTION);
        no_cookie[4] = 0;
        let mut long = request(TRANSACTION);
        long[3] = 4;
        let mut cut_attribute = header(BINDING_REQUEST, 4, TRANSACTION);
        cut_attribute.extend_from_slice(&[0x80, 0x22, 0, 1]);
        let mut odd = header(BINDING_REQUEST, 3, TRANSACTION);
        odd.extend_from_slice(&[0; 3]);
        for packet in [&[][..], &[0; 19], &no_cookie, &long, &cut_attribute, &odd] {
            assert_eq!(
                parse_request(packet),
                Err(StunError::Malformed),
                "{packet:?}"
            );
        }
        // A response without the one attribute that matters.
        assert_eq!(
            parse_answer(&header(BINDING_SUCCESS, 0, TRANSACTION)),
            Err(StunError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn answers_tell_any_address(transaction: [u8; 12], ip: IpAddr, port: u16) {
            let packet = answer(transaction, SocketAddr::new(ip, port));
            let expected = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(parse_answer(&packet), Ok((transaction, expected)));
            prop_assert_eq!(crate::classify(&packet), crate::PacketKind::Stun);
        }

        #[test]
        fn arbitrary_bytes_never_panic(packet: Vec<u8>) {
            let _ = parse_request(&packet);
            let _ = parse_answer(&packet);
        }

        #[test]
        fn arbitrary_attributes_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..96)) {
            body.truncate(body.len() / 4 * 4);
            for kind in [BINDING_REQUEST, BINDING_SUCCESS] {
                let mut packet = header(kind, body.len() as u16, TRANSACTION);
                packet.extend_from_slice(&body);
                let _ = parse_request(&packet);
                let _ = parse_answer(&packet);
            }
        }
    }
}
