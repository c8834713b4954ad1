//! STUN Binding (RFC 8489): requests parsed, answers built, and the other way round for clients.
//! An answer is 32 (IPv4) or 44 (IPv6) bytes for a request of 20: XOR-MAPPED-ADDRESS alone. A *full* request,
//! padded to [`FULL_LEN`], may ask for an answer from elsewhere or to another port (RFC 5780 §7), and is told
//! the server's other address and its time; no answer is longer than a full request.

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
const BINDING_INDICATION: u16 = 0x0011;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 5780 §7.2: four bytes, of which two bits count.
const CHANGE_REQUEST: u16 = 0x0003;
const CHANGE_ADDRESS: u8 = 0x04;
const CHANGE_PORT: u8 = 0x02;
/// RFC 5780 §7.6: fills a request.
const PADDING: u16 = 0x0026;
/// RFC 5780 §7.5: the port of the asker that is to be answered instead of the one that asks.
const RESPONSE_PORT: u16 = 0x0027;
/// RFC 5780 §7.4: from where the server answers if both bits of CHANGE-REQUEST are set.
const OTHER_ADDRESS: u16 = 0x802c;
/// Ours, of the range that anybody may ignore: the server's time, µs since 1970. It also says that the
/// server follows RFC 5780 as described here.
const TIME: u16 = 0xfe4c;
/// Bytes of a full request: as many as the longest answer, that of IPv6 with all it may carry
/// (20 + 24 + 24 + 12).
pub const FULL_LEN: usize = 80;
/// Attributes from here on may be ignored by who does not know them (RFC 8489 §14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;
/// What an answer may carry besides the mapped address and what we pass over: MAPPED-ADDRESS, the
/// SOURCE-ADDRESS and CHANGED-ADDRESS of RFC 3489, and proofs that we did not ask for (USERNAME,
/// MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256).
const PASSED_OVER: [u16; 6] = [0x0001, 0x0004, 0x0005, 0x0006, 0x0008, 0x001c];

/// What a Binding request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// By which its answer is known.
    pub transaction: [u8; 12],
    /// It has room for a long answer; only then the other fields may be set.
    pub full: bool,
    /// The answer shall come from the server's other address.
    pub change_address: bool,
    /// The answer shall come from the server's other port.
    pub change_port: bool,
    /// The answer shall go to this port of whoever asks.
    pub response_port: Option<u16>,
}

impl Request {
    /// A request without wishes: 20 bytes.
    pub fn short(transaction: [u8; 12]) -> Self {
        Self {
            transaction,
            ..Self::default()
        }
    }

    /// A full request without wishes.
    pub fn full(transaction: [u8; 12]) -> Self {
        Self {
            full: true,
            ..Self::short(transaction)
        }
    }

    /// Its bytes: 20, or [`FULL_LEN`].
    pub fn encode(&self) -> Vec<u8> {
        if !self.full {
            return header(BINDING_REQUEST, 0, self.transaction);
        }
        let mut packet = header(
            BINDING_REQUEST,
            (FULL_LEN - HEADER_LEN) as u16,
            self.transaction,
        );
        if self.change_address || self.change_port {
            let address = if self.change_address {
                CHANGE_ADDRESS
            } else {
                0
            };
            let port = if self.change_port { CHANGE_PORT } else { 0 };
            put(&mut packet, CHANGE_REQUEST, &[0, 0, 0, address | port]);
        }
        if let Some(port) = self.response_port {
            let [p0, p1] = port.to_be_bytes();
            put(&mut packet, RESPONSE_PORT, &[p0, p1, 0, 0]);
        }
        let rest = FULL_LEN - packet.len() - 4;
        put(&mut packet, PADDING, &vec![0; rest]);
        packet
    }
}

/// Parses a Binding request. Wishes of one that is not full are refused: their answer could be longer.
///
/// # Errors
/// [`StunError`].
pub fn parse_request(packet: &[u8]) -> Result<Request, StunError> {
    let message = Message::parse(packet)?;
    if message.kind != BINDING_REQUEST {
        return Err(StunError::Unexpected);
    }
    let mut request = Request::short(message.transaction);
    request.full = packet.len() >= FULL_LEN;
    for attribute in message.attributes() {
        match attribute? {
            (PADDING, _) if request.full => {}
            (CHANGE_REQUEST, &[_, _, _, bits]) if request.full => {
                request.change_address = bits & CHANGE_ADDRESS != 0;
                request.change_port = bits & CHANGE_PORT != 0;
            }
            (RESPONSE_PORT, &[p0, p1, ..]) if request.full => {
                request.response_port = Some(u16::from_be_bytes([p0, p1]));
            }
            (kind, _) if kind < COMPREHENSION_OPTIONAL => {
                return Err(StunError::UnknownAttribute(kind));
            }
            _ => {}
        }
    }
    Ok(request)
}

/// The Binding success response that tells `observed` (v4-mapped IPv6 is told as IPv4).
pub fn answer(transaction: [u8; 12], observed: SocketAddr) -> Vec<u8> {
    let value = mask_address(observed, &mask(&transaction));
    let mut packet = header(BINDING_SUCCESS, 4 + value.len() as u16, transaction);
    put(&mut packet, XOR_MAPPED_ADDRESS, &value);
    packet
}

/// The answer to a full request: the server's other address, where it has one, and its time besides.
pub fn full_answer(
    transaction: [u8; 12],
    observed: SocketAddr,
    other: Option<SocketAddr>,
    time_micros: u64,
) -> Vec<u8> {
    let mut packet = answer(transaction, observed);
    if let Some(other) = other {
        put(&mut packet, OTHER_ADDRESS, &mask_address(other, &[0; 16]));
    }
    put(&mut packet, TIME, &time_micros.to_be_bytes());
    let length = (packet.len() - HEADER_LEN) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// A Binding request without attributes: 20 bytes.
pub fn request(transaction: [u8; 12]) -> Vec<u8> {
    Request::short(transaction).encode()
}

/// A message that wants no answer (RFC 8489 §3): 20 bytes. We send it to ourselves, to see whether it comes.
pub fn indication(transaction: [u8; 12]) -> Vec<u8> {
    header(BINDING_INDICATION, 0, transaction)
}

/// The transaction of a Binding indication.
///
/// # Errors
/// [`StunError`].
pub fn parse_indication(packet: &[u8]) -> Result<[u8; 12], StunError> {
    let message = Message::parse(packet)?;
    if message.kind != BINDING_INDICATION || !message.body.is_empty() {
        return Err(StunError::Unexpected);
    }
    Ok(message.transaction)
}

/// What a Binding success response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whose answer it is.
    pub transaction: [u8; 12],
    /// From where the server saw the request.
    pub mapped: SocketAddr,
    /// The server's other address and port, where it has one.
    pub other: Option<SocketAddr>,
    /// The server's time, µs since 1970; only of a server that follows the wishes of a [`Request`].
    pub time_micros: Option<u64>,
}

/// Parses a Binding success response.
///
/// # Errors
/// [`StunError`].
pub fn parse_answer(packet: &[u8]) -> Result<Answer, StunError> {
    let message = Message::parse(packet)?;
    if message.kind != BINDING_SUCCESS {
        return Err(StunError::Unexpected);
    }
    let (mut mapped, mut other, mut time_micros) = (None, None, None);
    for attribute in message.attributes() {
        match attribute? {
            (XOR_MAPPED_ADDRESS, value) => {
                let address = unmask(value, &mask(&message.transaction))?;
                mapped.get_or_insert(address);
            }
            (OTHER_ADDRESS, value) => {
                let address = unmask(value, &[0; 16])?;
                other.get_or_insert(address);
            }
            (TIME, value) => {
                let bytes = value.try_into().map_err(|_| StunError::Malformed)?;
                let micros = u64::from_be_bytes(bytes);
                time_micros.get_or_insert(micros);
            }
            (kind, _) if kind < COMPREHENSION_OPTIONAL && !PASSED_OVER.contains(&kind) => {
                return Err(StunError::UnknownAttribute(kind));
            }
            _ => {}
        }
    }
    Ok(Answer {
        transaction: message.transaction,
        mapped: mapped.ok_or(StunError::Malformed)?,
        other,
        time_micros,
    })
}

/// Appends an attribute whose value has a multiple of four bytes.
fn put(packet: &mut Vec<u8>, kind: u16, value: &[u8]) {
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&(value.len() as u16).to_be_bytes());
    packet.extend_from_slice(value);
}

/// The value of an address attribute, XORed with `mask`.
fn mask_address(address: SocketAddr, mask: &[u8; 16]) -> Vec<u8> {
    let (family, ip) = match address.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let [p0, p1] = address.port().to_be_bytes();
    let mut value = vec![0, family, p0 ^ mask[0], p1 ^ mask[1]];
    value.extend(ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    value
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

fn unmask(value: &[u8], mask: &[u8; 16]) -> Result<SocketAddr, StunError> {
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

    fn plain(mapped: SocketAddr) -> Answer {
        Answer {
            transaction: TRANSACTION,
            mapped,
            other: None,
            time_micros: None,
        }
    }

    #[test]
    fn the_sample_responses_of_rfc_5769_are_understood() {
        let v4 = ("192.0.2.1:32853").parse().expect("an address");
        assert_eq!(parse_answer(&hex(SAMPLE_IPV4)), Ok(plain(v4)));
        let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
            .parse()
            .expect("an address");
        assert_eq!(parse_answer(&hex(SAMPLE_IPV6)), Ok(plain(v6)));
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
        assert_eq!(parse_request(&packet), Ok(Request::short(TRANSACTION)));
    }

    #[test]
    fn answers_have_32_or_44_bytes_and_unmap() {
        let mapped = "[::ffff:192.0.2.7]:9".parse().expect("an address");
        let packet = answer(TRANSACTION, mapped);
        assert_eq!(packet.len(), 32);
        let unmapped = "192.0.2.7:9".parse().expect("an address");
        assert_eq!(parse_answer(&packet), Ok(plain(unmapped)));
        assert_eq!(
            answer(TRANSACTION, "[2001:db8::1]:9".parse().expect("an address")).len(),
            44
        );
        assert_eq!(request(TRANSACTION).len(), 20);
        let short = Request::short(TRANSACTION);
        assert_eq!(parse_request(&request(TRANSACTION)), Ok(short));
    }

    #[test]
    fn wishes_are_only_taken_from_full_requests() {
        let wishes = Request {
            change_address: true,
            change_port: true,
            response_port: Some(4_242),
            ..Request::full(TRANSACTION)
        };
        let packet = wishes.encode();
        assert_eq!(packet.len(), FULL_LEN);
        assert_eq!(parse_request(&packet), Ok(wishes));
        let full = Request::full(TRANSACTION);
        assert_eq!(full.encode().len(), FULL_LEN);
        assert_eq!(parse_request(&full.encode()), Ok(full));
        // The same wishes without padding.
        let mut short = header(BINDING_REQUEST, 8, TRANSACTION);
        put(&mut short, CHANGE_REQUEST, &[0, 0, 0, CHANGE_PORT]);
        assert_eq!(
            parse_request(&short),
            Err(StunError::UnknownAttribute(CHANGE_REQUEST))
        );
    }

    #[test]
    fn the_longest_answer_is_no_longer_than_a_full_request() {
        let mapped = "[2001:db8::1]:1".parse().expect("an address");
        let other = "[2001:db8::2]:2".parse().expect("an address");
        let packet = full_answer(TRANSACTION, mapped, Some(other), 77);
        assert_eq!(packet.len(), FULL_LEN);
        let expected = Answer {
            transaction: TRANSACTION,
            mapped,
            other: Some(other),
            time_micros: Some(77),
        };
        assert_eq!(parse_answer(&packet), Ok(expected));
    }

    #[test]
    fn indications_are_their_own_kind() {
        let packet = indication(TRANSACTION);
        assert_eq!(parse_indication(&packet), Ok(TRANSACTION));
        assert_eq!(parse_request(&packet), Err(StunError::Unexpected));
        let other = request(TRANSACTION);
        assert_eq!(parse_indication(&other), Err(StunError::Unexpected));
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
            let told = parse_answer(&packet).expect("our own answer");
            prop_assert_eq!((told.transaction, told.mapped), (transaction, expected));
            prop_assert_eq!(crate::classify(&packet), crate::PacketKind::Stun);
        }

        #[test]
        fn arbitrary_bytes_never_panic(packet: Vec<u8>) {
            let _ = parse_request(&packet);
            let _ = parse_answer(&packet);
            let _ = parse_indication(&packet);
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
