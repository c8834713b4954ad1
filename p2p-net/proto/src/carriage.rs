//! Relay frames over TCP, where UDP is blocked: one binary WebSocket message (RFC 6455) is one control
//! frame or one relayed packet, told apart by the first byte. Here is what both ends must agree on, the
//! head of the request that opens it, and the bounded queue before each writer. Pure: no socket, no clock.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::codec::{CodecError, Frame, FrameDecoder, MAX_FRAME_LEN};
use crate::{Class, HEADER_LEN, PacketKind, classify};

/// Where on a relay's HTTPS server the WebSocket is.
pub const PATH: &str = "/landline";
/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "landline-relay.1";
/// The ALPN of that TLS connection: it is plain HTTPS until it is upgraded.
pub const ALPN: &[u8] = b"http/1.1";
/// The largest message, bytes: a control frame with its length.
pub const MAX_MESSAGE: usize = 4 + MAX_FRAME_LEN;
/// The largest relayed packet with its header, bytes: more than any path carries unfragmented.
pub const MAX_PACKET: usize = 1_600;
/// What a client may send in one relayed packet over TCP, header included, bytes: the largest packet
/// between peers and the header (`wire.md` §1), so that nothing is split before the relay.
pub const LEG_MTU: u16 = 1_452;
/// The longest head of a request that is read, bytes; browsers stay below 4 KiB.
pub const MAX_HEAD: usize = 8 * 1_024;

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// A relayed packet with its header, as it would be in a UDP payload.
    Packet(Bytes),
    /// A control frame.
    Frame(Frame),
}

/// Why a message is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CarriageError {
    /// A relayed packet that is too short or too long.
    #[error("a relayed packet of {0} bytes is outside {HEADER_LEN} to {MAX_PACKET}")]
    Packet(usize),
    /// Not one whole control frame.
    #[error("a message holds less or more than one control frame")]
    Frame,
    /// A frame that the codec refuses.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Reads one binary message.
///
/// # Errors
/// [`CarriageError`]: the other side does not keep to the rules, and the connection ends.
pub fn read_message(message: Bytes) -> Result<Carried, CarriageError> {
    if classify(&message) == PacketKind::Relayed {
        let fits = (HEADER_LEN..=MAX_PACKET).contains(&message.len());
        return if fits {
            Ok(Carried::Packet(message))
        } else {
            Err(CarriageError::Packet(message.len()))
        };
    }
    if message.len() > MAX_MESSAGE {
        return Err(CarriageError::Frame);
    }
    let mut decoder = FrameDecoder::default();
    decoder.push(&message);
    match decoder.next_frame()? {
        Some(frame) if decoder.pending() == 0 => Ok(Carried::Frame(frame)),
        Some(_) | None => Err(CarriageError::Frame),
    }
}

/// What a request head asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The WebSocket; the value of `Sec-WebSocket-Key`.
    Upgrade {
        /// 24 characters of base64.
        key: String,
    },
    /// Whether anybody is there: `/` or `/healthz`.
    Health,
    /// Something that a relay does not have.
    NotFound,
    /// The WebSocket, but not as this version speaks it.
    UpgradeRequired,
    /// Not a request that is understood.
    Bad,
}

/// Reads a request head from the beginning of what a connection brought; `None` until its empty line is
/// there. With it, how many bytes the head has. More than [`MAX_HEAD`] bytes without an end are
/// [`Request::Bad`].
pub fn read_head(bytes: &[u8]) -> Option<(Request, usize)> {
    let searched = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(end) = searched.windows(4).position(|four| four == b"\r\n\r\n") else {
        return (bytes.len() >= MAX_HEAD).then_some((Request::Bad, bytes.len()));
    };
    let request = std::str::from_utf8(&bytes[..end]).map_or(Request::Bad, judge_head);
    Some((request, end + 4))
}

fn judge_head(head: &str) -> Request {
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (first.next(), first.next(), first.next(), first.next())
    else {
        return Request::Bad;
    };
    if !matches!(method, "GET" | "HEAD") {
        return Request::Bad;
    }
    let path = target.split('?').next().unwrap_or_default();
    if path != PATH {
        return match path {
            "/" | "/healthz" => Request::Health,
            _ => Request::NotFound,
        };
    }
    let mut asked = Asked::default();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Request::Bad;
        };
        asked.header(name, value.trim());
    }
    match asked {
        Asked {
            upgrade: true,
            connection: true,
            version: true,
            protocol: true,
            key: Some(key),
        } if method == "GET" => Request::Upgrade { key },
        _ => Request::UpgradeRequired,
    }
}

/// The headers that make an upgrade (RFC 6455 §4.2.1).
#[derive(Default)]
struct Asked {
    upgrade: bool,
    connection: bool,
    version: bool,
    protocol: bool,
    key: Option<String>,
}

impl Asked {
    fn header(&mut self, name: &str, value: &str) {
        let has = |wanted: &str| {
            let mut tokens = value.split(',').map(str::trim);
            tokens.any(|token| token.eq_ignore_ascii_case(wanted))
        };
        match name.to_ascii_lowercase().as_str() {
            "upgrade" => self.upgrade |= has("websocket"),
            "connection" => self.connection |= has("upgrade"),
            "sec-websocket-version" => self.version |= value == "13",
            "sec-websocket-protocol" => self.protocol |= has(SUBPROTOCOL),
            "sec-websocket-key" => {
                let decoded = data_encoding::BASE64.decode(value.as_bytes());
                let valid = decoded.is_ok_and(|nonce| nonce.len() == 16);
                self.key = valid.then(|| value.to_owned());
            }
            _ => {}
        }
    }
}

/// The answer that opens the WebSocket; `accept` is derived from the request's key (RFC 6455 §4.2.2).
pub fn switching(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )
}

/// The answer to any other request; the connection is closed behind it.
pub fn page(request: &Request) -> String {
    let (status, text) = match request {
        Request::Health => ("200 OK", "This is a Landline relay, and it is well.\n"),
        Request::NotFound => ("404 Not Found", "A Landline relay has no such page.\n"),
        Request::Upgrade { .. } | Request::UpgradeRequired => (
            "426 Upgrade Required\r\nUpgrade: websocket",
            "This is where Landline's clients speak WebSocket, with a certificate of their own.\n",
        ),
        Request::Bad => ("400 Bad Request", "That is not understood.\n"),
    };
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}"
    )
}

/// Relayed packets that wait for a TCP connection: the most urgent class first, bounded in bytes. What
/// does not fit pushes out the oldest of the least urgent packets, since old media are worth nothing and
/// a transfer's congestion control has to hear of it early.
#[derive(Debug)]
pub struct Queue {
    classes: [VecDeque<Bytes>; 4],
    bytes: usize,
    most: usize,
}

/// What a packet costs beside its bytes: its place in the queue.
const PLACE: usize = size_of::<Bytes>();

impl Queue {
    /// Empty, for at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            classes: Default::default(),
            bytes: 0,
            most,
        }
    }

    /// Takes a packet; returns how many were dropped for it, itself included where it has to go.
    pub fn push(&mut self, packet: Bytes) -> u64 {
        let cost = packet.len() + PLACE;
        let class = class_of(&packet) as usize;
        let mut dropped = 0;
        while self.bytes + cost > self.most {
            let last = self.classes.iter().rposition(|queue| !queue.is_empty());
            match last.filter(|last| *last >= class) {
                Some(last) => {
                    if let Some(oldest) = self.classes[last].pop_front() {
                        self.bytes -= oldest.len() + PLACE;
                    }
                    dropped += 1;
                }
                None => return dropped + 1,
            }
        }
        self.bytes += cost;
        self.classes[class].push_back(packet);
        dropped
    }

    /// The next packet to be written.
    pub fn pop(&mut self) -> Option<Bytes> {
        let packet = self.classes.iter_mut().find_map(VecDeque::pop_front)?;
        self.bytes -= packet.len() + PLACE;
        Some(packet)
    }

    /// Whether `bytes` more would push something out.
    pub fn is_full_for(&self, bytes: usize) -> bool {
        self.bytes + bytes > self.most
    }

    /// Whether less than half of the room is used.
    pub fn is_low(&self) -> bool {
        self.bytes < self.most / 2
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(VecDeque::is_empty)
    }
}

/// The class in a relayed packet's first byte.
fn class_of(packet: &[u8]) -> Class {
    match packet.first().map_or(0, |first| first >> 3 & 3) {
        0 => Class::Audio,
        1 => Class::Control,
        2 => Class::Video,
        _ => Class::Bulk,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Ping, ToRelay};
    use crate::{ChannelEnd, Header, HeaderKey};

    fn packet(class: Class, counter: u32, payload: usize) -> Bytes {
        let mut packet = vec![0; HEADER_LEN + payload];
        let header = Header {
            epoch: false,
            class,
            ecn: 0,
            fragment: false,
            end: ChannelEnd(7),
            counter,
        };
        header.write(&HeaderKey::new([1; 16]), &mut packet);
        packet.into()
    }

    fn counter(packet: &[u8]) -> u32 {
        Header::parse(packet).expect("a header").counter
    }

    #[test]
    fn a_message_is_a_packet_or_a_frame() {
        let relayed = packet(Class::Video, 1, 100);
        assert_eq!(
            read_message(relayed.clone()),
            Ok(Carried::Packet(relayed.clone()))
        );
        let ping = ToRelay::from(Ping { nonce: 9 }).encode().expect("small");
        let Ok(Carried::Frame(frame)) = read_message(ping.clone().into()) else {
            panic!("a frame");
        };
        assert!(matches!(
            ToRelay::decode(&frame),
            Ok(Some(ToRelay::Ping(Ping { nonce: 9 })))
        ));
        let twice = [ping.clone(), ping.clone()].concat();
        assert_eq!(read_message(twice.into()), Err(CarriageError::Frame));
        let cut = Bytes::copy_from_slice(&ping[..ping.len() - 1]);
        assert_eq!(read_message(cut), Err(CarriageError::Frame));
        assert_eq!(read_message(Bytes::new()), Err(CarriageError::Frame));
        assert_eq!(
            read_message(relayed.slice(..HEADER_LEN - 1)),
            Err(CarriageError::Packet(HEADER_LEN - 1))
        );
        let long = packet(Class::Bulk, 1, MAX_PACKET);
        assert!(matches!(read_message(long), Err(CarriageError::Packet(_))));
        let huge = Bytes::from_static(&[0xff; 8]);
        assert!(matches!(read_message(huge), Err(CarriageError::Codec(_))));
    }

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn upgrade(change: impl Fn(&str) -> String) -> Request {
        let head = format!(
            "GET {PATH} HTTP/1.1\r\nHost: relay\r\nUpgrade: WebSocket\r\n\
             Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: other, {SUBPROTOCOL}\r\n\r\n"
        );
        let head = change(&head);
        let (request, used) = read_head(head.as_bytes()).expect("a head");
        assert_eq!(used, head.len());
        request
    }

    #[test]
    fn only_a_whole_upgrade_opens_the_websocket() {
        let whole = upgrade(str::to_owned);
        assert_eq!(whole, Request::Upgrade { key: KEY.into() });
        for (part, instead) in [
            ("13", "8"),
            ("keep-alive, Upgrade", "keep-alive"),
            ("WebSocket\r", "h2c\r"),
            (SUBPROTOCOL, "chat"),
            (KEY, "c2hvcnQ="),
            (KEY, "not base64"),
        ] {
            let changed = upgrade(|head| head.replace(part, instead));
            assert_eq!(changed, Request::UpgradeRequired, "{part} → {instead}");
        }
    }

    #[test]
    fn other_requests_get_harmless_pages() {
        let ask = |head: &str| read_head(head.as_bytes()).map(|(request, _)| request);
        assert_eq!(ask("GET / HTTP/1.1\r\n\r\n"), Some(Request::Health));
        assert_eq!(
            ask("GET /healthz?a=b HTTP/1.1\r\nHost: x\r\n\r\n"),
            Some(Request::Health)
        );
        assert_eq!(ask("GET /admin HTTP/1.1\r\n\r\n"), Some(Request::NotFound));
        assert_eq!(ask("POST / HTTP/1.1\r\n\r\n"), Some(Request::Bad));
        assert_eq!(ask("GET / HTTP/1.0\r\n\r\n"), Some(Request::Bad));
        assert_eq!(ask("\x16\x03\x01 \r\n\r\n"), Some(Request::Bad));
        assert_eq!(ask("GET / HTTP/1.1\r\nHost: x\r\n"), None);
        let endless = "a".repeat(MAX_HEAD);
        assert_eq!(ask(&endless), Some(Request::Bad));
        for request in [Request::Health, Request::NotFound, Request::Bad] {
            let page = page(&request);
            let (head, body) = page.split_once("\r\n\r\n").expect("a head");
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
        }
    }

    #[test]
    fn a_full_queue_drops_the_oldest_of_the_least_urgent() {
        let cost = HEADER_LEN + 84 + PLACE;
        let mut queue = Queue::new(4 * cost);
        for n in 0..3 {
            assert_eq!(queue.push(packet(Class::Bulk, n, 84)), 0);
        }
        assert_eq!(queue.push(packet(Class::Audio, 100, 84)), 0);
        assert_eq!(queue.push(packet(Class::Bulk, 3, 84)), 1, "bulk 0 goes");
        assert_eq!(queue.push(packet(Class::Audio, 101, 84)), 1, "bulk 1 goes");
        assert_eq!(queue.push(packet(Class::Video, 50, 84)), 1, "bulk 2 goes");
        assert_eq!(queue.push(packet(Class::Audio, 102, 84)), 1, "bulk 3 goes");
        assert_eq!(queue.push(packet(Class::Bulk, 4, 84)), 1, "it goes itself");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|packet| counter(&packet))
            .collect();
        assert_eq!(order, [100, 101, 102, 50]);
        assert!(queue.is_empty() && queue.is_low());
    }

    proptest! {
        #[test]
        fn the_queue_keeps_its_bound_and_its_count(
            steps in prop::collection::vec((0u8..5, 0usize..1_500), 1..200),
        ) {
            let mut queue = Queue::new(8_192);
            let (mut pushed, mut dropped, mut popped) = (0u64, 0, 0);
            for (class, payload) in steps {
                match class {
                    4 => popped += u64::from(queue.pop().is_some()),
                    class => {
                        let class = [Class::Audio, Class::Control, Class::Video, Class::Bulk]
                            [usize::from(class)];
                        pushed += 1;
                        dropped += queue.push(packet(class, 0, payload));
                    }
                }
                let held: usize = queue.classes.iter().flatten().map(|p| p.len() + PLACE).sum();
                prop_assert_eq!(held, queue.bytes);
                prop_assert!(held <= 8_192);
            }
            let left = std::iter::from_fn(|| queue.pop()).count() as u64;
            prop_assert_eq!(pushed, dropped + popped + left);
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((_, used)) = read_head(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            let _ = read_message(bytes.into());
        }
    }
}
