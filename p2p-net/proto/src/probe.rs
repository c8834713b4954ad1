//! Probes and pongs: 64 bytes each, sealed and authenticated.
//!
//! 0 kind · 1–3 zero · 4–11 key id · 12–19 counter (nonce; one key per direction and kind) · 20–47 sealed
//! body · 48–63 tag. ChaCha20-Poly1305 covers bytes 0–19 as associated data.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{PeerId, ReplayWindow, Transaction};

/// Bytes of a probe and of a pong.
pub const PROBE_LEN: usize = 64;
/// First byte of a probe.
pub const PROBE: u8 = 0x20;
/// First byte of a pong.
pub const PONG: u8 = 0x21;

/// Bytes before the sealed body: what the tag covers in the clear.
const HEADER_LEN: usize = 20;
const BODY_LEN: usize = 28;

/// Told apart from every other use of the static-static secret, and from each other.
const KEY_LABEL: &[u8] = b"landline probe 1 key";
const ID_LABEL: &[u8] = b"landline probe 1 id";

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Repeated in the pong.
    pub transaction: Transaction,
    /// The prober's number of the pair.
    pub path: u32,
}

/// What a pong answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// From the probe.
    pub transaction: Transaction,
    /// From where the probe came, as seen by the peer. Travels without flow label and scope; an IPv4
    /// address in IPv6 clothing arrives as plain IPv4.
    pub observed: SocketAddr,
    /// Loss that the peer sees on this path, in 1/255.
    pub loss: u8,
}

/// A probe or a pong that is authentic and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Answer it to where it came from.
    Probe(Probe),
    /// One of ours came back.
    Pong(Pong),
}

/// The keys of one session on one side: seals what we send, opens what the peer sends, refuses replay.
pub struct ProbeKeys {
    outgoing_id: u64,
    incoming_id: u64,
    outgoing_probe: Sealer,
    outgoing_pong: Sealer,
    incoming_probe: Opener,
    incoming_pong: Opener,
}

/// One key of ours and the next counter.
struct Sealer {
    cipher: ChaCha20Poly1305,
    counter: u64,
}

/// One key of the peer's and the counters already seen. The window is wider than the 64 packets that
/// the wire asks for; it refuses the same replays.
struct Opener {
    cipher: ChaCha20Poly1305,
    window: ReplayWindow,
}

impl ProbeKeys {
    /// Derives all keys (HKDF-SHA256) from the static-static secret and the nonces of Offer and Answer.
    /// Each side calls it with itself as `me`; what one seals the other opens.
    pub fn derive(
        secret: &[u8; 32],
        me: &PeerId,
        peer: &PeerId,
        offer_nonce: &[u8; 16],
        answer_nonce: &[u8; 16],
    ) -> Self {
        let salt = [*offer_nonce, *answer_nonce].concat();
        let hkdf = Hkdf::<Sha256>::new(Some(&salt), secret);
        Self {
            outgoing_id: direction_id(&hkdf, me, peer),
            incoming_id: direction_id(&hkdf, peer, me),
            outgoing_probe: Sealer::new(&hkdf, me, peer, PROBE),
            outgoing_pong: Sealer::new(&hkdf, me, peer, PONG),
            incoming_probe: Opener::new(&hkdf, peer, me, PROBE),
            incoming_pong: Opener::new(&hkdf, peer, me, PONG),
        }
    }

    /// The key id that packets *to us* bear in this session.
    pub fn incoming_id(&self) -> u64 {
        self.incoming_id
    }

    /// Seals a probe.
    pub fn seal_probe(&mut self, probe: &Probe) -> [u8; PROBE_LEN] {
        let mut body = [0; BODY_LEN];
        body[..8].copy_from_slice(&probe.transaction.0.to_be_bytes());
        body[8..12].copy_from_slice(&probe.path.to_be_bytes());
        self.outgoing_probe.seal(PROBE, self.outgoing_id, &body)
    }

    /// Seals a pong.
    pub fn seal_pong(&mut self, pong: &Pong) -> [u8; PROBE_LEN] {
        let address = match pong.observed.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut body = [0; BODY_LEN];
        body[..8].copy_from_slice(&pong.transaction.0.to_be_bytes());
        body[8..24].copy_from_slice(&address.octets());
        body[24..26].copy_from_slice(&pong.observed.port().to_be_bytes());
        body[26] = pong.loss;
        self.outgoing_pong.seal(PONG, self.outgoing_id, &body)
    }

    /// Opens a packet of ours; `None` for anything forged, replayed or malformed.
    pub fn open(&mut self, packet: &[u8]) -> Option<Opened> {
        if key_id(packet)? != self.incoming_id {
            return None;
        }
        let packet: &[u8; PROBE_LEN] = packet.try_into().ok()?;
        if packet[0] == PROBE {
            self.incoming_probe
                .open(packet)
                .and_then(|body| Probe::read(&body))
                .map(Opened::Probe)
        } else {
            self.incoming_pong
                .open(packet)
                .and_then(|body| Pong::read(&body))
                .map(Opened::Pong)
        }
    }
}

impl fmt::Debug for ProbeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeKeys")
            .field("incoming_id", &self.incoming_id)
            .finish_non_exhaustive()
    }
}

/// The key id of a packet of kind probe or pong, to look up its session; `None` if it is neither.
pub fn key_id(packet: &[u8]) -> Option<u64> {
    let packet: &[u8; PROBE_LEN] = packet.try_into().ok()?;
    if !matches!(packet[..4], [PROBE | PONG, 0, 0, 0]) {
        return None;
    }
    Some(u64_at(packet, 4))
}

impl Probe {
    fn read(body: &[u8; BODY_LEN]) -> Option<Self> {
        let path = u32::from_be_bytes(body[8..12].try_into().ok()?);
        let zeros = body[12..].iter().all(|&byte| byte == 0);
        zeros.then_some(Self {
            transaction: Transaction(u64_at(body, 0)),
            path,
        })
    }
}

impl Pong {
    fn read(body: &[u8; BODY_LEN]) -> Option<Self> {
        let address: [u8; 16] = body[8..24].try_into().ok()?;
        let address = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
        let port = u16::from_be_bytes([body[24], body[25]]);
        (body[27] == 0).then_some(Self {
            transaction: Transaction(u64_at(body, 0)),
            observed: SocketAddr::new(address, port),
            loss: body[26],
        })
    }
}

impl Sealer {
    fn new(hkdf: &Hkdf<Sha256>, sender: &PeerId, receiver: &PeerId, kind: u8) -> Self {
        Self {
            cipher: cipher(hkdf, sender, receiver, kind),
            counter: 0,
        }
    }

    fn seal(&mut self, kind: u8, id: u64, body: &[u8; BODY_LEN]) -> [u8; PROBE_LEN] {
        let mut packet = [0; PROBE_LEN];
        packet[0] = kind;
        packet[4..12].copy_from_slice(&id.to_be_bytes());
        packet[12..20].copy_from_slice(&self.counter.to_be_bytes());
        let (header, sealed) = packet.split_at_mut(HEADER_LEN);
        let (text, tag) = sealed.split_at_mut(BODY_LEN);
        text.copy_from_slice(body);
        let made = self
            .cipher
            .encrypt_inout_detached(&nonce(self.counter), header, text.into())
            .expect("28 bytes are not too long for the cipher");
        tag.copy_from_slice(&made);
        // At a million packets a second the counter lasts half a million years.
        self.counter += 1;
        packet
    }
}

impl Opener {
    fn new(hkdf: &Hkdf<Sha256>, sender: &PeerId, receiver: &PeerId, kind: u8) -> Self {
        Self {
            cipher: cipher(hkdf, sender, receiver, kind),
            window: ReplayWindow::default(),
        }
    }

    fn open(&mut self, packet: &[u8; PROBE_LEN]) -> Option<[u8; BODY_LEN]> {
        let (header, sealed) = packet.split_at(HEADER_LEN);
        let (text, tag) = sealed.split_at(BODY_LEN);
        let counter = u64_at(header, 12);
        if !self.window.is_new(counter) {
            return None;
        }
        let mut body: [u8; BODY_LEN] = text.try_into().ok()?;
        let tag = Tag::try_from(tag).ok()?;
        self.cipher
            .decrypt_inout_detached(&nonce(counter), header, body.as_mut_slice().into(), &tag)
            .ok()?;
        self.window.accept(counter).then_some(body)
    }
}

fn cipher(hkdf: &Hkdf<Sha256>, sender: &PeerId, receiver: &PeerId, kind: u8) -> ChaCha20Poly1305 {
    let mut key = Zeroizing::new([0; 32]);
    let info = [KEY_LABEL, sender.as_bytes(), receiver.as_bytes(), &[kind]];
    hkdf.expand_multi_info(&info, key.as_mut_slice())
        .expect("HKDF gives more than 32 bytes");
    ChaCha20Poly1305::new((&*key).into())
}

fn direction_id(hkdf: &Hkdf<Sha256>, sender: &PeerId, receiver: &PeerId) -> u64 {
    let mut id = [0; 8];
    let info = [ID_LABEL, sender.as_bytes(), receiver.as_bytes()];
    hkdf.expand_multi_info(&info, &mut id)
        .expect("HKDF gives more than 8 bytes");
    u64::from_be_bytes(id)
}

/// Four zeros and the counter; each key counts for itself.
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

/// The 8 bytes from `at` on, which the caller's fixed layout holds.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Identity;

    const OFFER: [u8; 16] = [0x0f; 16];
    const ANSWER: [u8; 16] = [0xa5; 16];

    fn keys(me: &Identity, peer: &PeerId, offer: &[u8; 16], answer: &[u8; 16]) -> ProbeKeys {
        let secret = me.shared_secret(peer).expect("a good key");
        ProbeKeys::derive(&secret, &me.id(), peer, offer, answer)
    }

    fn pair() -> (ProbeKeys, ProbeKeys) {
        let (a, b) = (
            Identity::from_secret([1; 32]),
            Identity::from_secret([2; 32]),
        );
        (
            keys(&a, &b.id(), &OFFER, &ANSWER),
            keys(&b, &a.id(), &OFFER, &ANSWER),
        )
    }

    fn probe(number: u64) -> Probe {
        Probe {
            transaction: Transaction(number),
            path: 0x0102_0304,
        }
    }

    fn pong(observed: &str) -> Pong {
        let observed = observed.parse().expect("an address");
        Pong {
            transaction: Transaction(u64::MAX),
            observed,
            loss: 17,
        }
    }

    #[test]
    fn each_side_opens_what_the_other_seals() {
        let (mut a, mut b) = pair();
        for number in 0..3 {
            let packet = a.seal_probe(&probe(number));
            assert_eq!(key_id(&packet), Some(b.incoming_id()));
            assert_eq!(b.open(&packet), Some(Opened::Probe(probe(number))));
            let packet = b.seal_probe(&probe(number));
            assert_eq!(key_id(&packet), Some(a.incoming_id()));
            assert_eq!(a.open(&packet), Some(Opened::Probe(probe(number))));
        }
        for address in ["192.0.2.7:65535", "[2001:db8::1]:1", "127.0.0.1:0"] {
            let packet = b.seal_pong(&pong(address));
            assert_eq!(a.open(&packet), Some(Opened::Pong(pong(address))));
        }
        assert_ne!(a.incoming_id(), b.incoming_id());
    }

    #[test]
    fn mapped_addresses_arrive_as_ipv4() {
        let (mut a, mut b) = pair();
        let packet = a.seal_pong(&pong("[::ffff:192.0.2.7]:9"));
        assert_eq!(b.open(&packet), Some(Opened::Pong(pong("192.0.2.7:9"))));
    }

    #[test]
    fn the_layout_is_that_of_the_wire() {
        let (mut a, b) = pair();
        a.seal_probe(&probe(0));
        let packet = a.seal_probe(&probe(0));
        assert_eq!(packet[..4], [0x20, 0, 0, 0]);
        assert_eq!(packet[4..12], b.incoming_id().to_be_bytes());
        assert_eq!(packet[12..20], 1u64.to_be_bytes());
        let packet = a.seal_pong(&pong("192.0.2.7:9"));
        assert_eq!(packet[..4], [0x21, 0, 0, 0]);
        assert_eq!(
            packet[12..20],
            0u64.to_be_bytes(),
            "each kind counts for itself"
        );
    }

    /// Computed with an implementation of another language (Python's cryptography) from the wire page.
    #[test]
    fn packets_are_the_same_as_another_implementation_makes() {
        let (mut a, _) = pair();
        let packets = [
            a.seal_probe(&probe(7)).to_vec(),
            a.seal_pong(&pong("192.0.2.7:9")).to_vec(),
        ];
        let expected = [
            [
                "200000001cfcc9a560783947000000000000000015f77c936dc7383a08d77b81",
                "dc5ab333ce6c0bbfd38b46193c090188008dfcf2622b85491d1f76413e13bd81",
            ],
            [
                "210000001cfcc9a5607839470000000000000000d6f1cf9f3f077b370642a950",
                "9c705b7a96088352391553790dc3a3cb0d2d3b30f0bdc78202ec2c377dea53f3",
            ],
        ];
        assert_eq!(
            packets.map(|it| data_encoding::HEXLOWER.encode(&it)),
            expected.map(|it| it.concat())
        );
    }

    #[test]
    fn every_altered_bit_is_refused() {
        let (mut a, mut b) = pair();
        for packet in [a.seal_probe(&probe(1)), a.seal_pong(&pong("192.0.2.7:9"))] {
            for bit in 0..PROBE_LEN * 8 {
                let mut altered = packet;
                altered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(b.open(&altered), None, "bit {bit}");
            }
            assert!(b.open(&packet).is_some(), "and the true one still opens");
        }
    }

    #[test]
    fn replayed_packets_are_refused_in_any_order() {
        let (mut a, mut b) = pair();
        let packets: Vec<_> = (0..64).map(|number| a.seal_probe(&probe(number))).collect();
        for packet in packets.iter().rev() {
            assert!(b.open(packet).is_some());
        }
        for packet in &packets {
            assert_eq!(b.open(packet), None);
        }
        for _ in 0..ReplayWindow::WIDTH {
            let packet = a.seal_probe(&probe(0));
            assert!(b.open(&packet).is_some() && b.open(&packet).is_none());
        }
        assert_eq!(b.open(&packets[63]), None, "long past the window");
    }

    #[test]
    fn what_we_sent_ourselves_does_not_open() {
        let (mut a, _) = pair();
        let packets = [a.seal_probe(&probe(1)), a.seal_pong(&pong("192.0.2.7:9"))];
        for mut packet in packets {
            assert_eq!(a.open(&packet), None);
            let id = a.incoming_id();
            packet[4..12].copy_from_slice(&id.to_be_bytes());
            assert_eq!(
                a.open(&packet),
                None,
                "nor with the id of the other direction"
            );
        }
    }

    #[test]
    fn one_kind_is_not_taken_for_the_other() {
        let (mut a, mut b) = pair();
        let mut packet = a.seal_probe(&probe(1));
        packet[0] = PONG;
        assert_eq!(b.open(&packet), None);
    }

    #[test]
    fn another_session_or_peer_has_other_keys() {
        let (mut a, b) = pair();
        let packet = a.seal_probe(&probe(1));
        let (one, two) = (
            Identity::from_secret([1; 32]),
            Identity::from_secret([2; 32]),
        );
        let third = Identity::from_secret([3; 32]);
        for mut other in [
            keys(&two, &one.id(), &[0; 16], &ANSWER),
            keys(&two, &one.id(), &OFFER, &[0; 16]),
            keys(&two, &one.id(), &ANSWER, &OFFER),
            keys(&two, &third.id(), &OFFER, &ANSWER),
            keys(&third, &one.id(), &OFFER, &ANSWER),
        ] {
            assert_ne!(other.incoming_id(), b.incoming_id());
            let mut renamed = packet;
            renamed[4..12].copy_from_slice(&other.incoming_id().to_be_bytes());
            assert_eq!(other.open(&renamed), None);
        }
    }

    #[test]
    fn authentic_packets_with_stray_bytes_are_malformed() {
        let (mut a, mut b) = pair();
        let mut body = [0; BODY_LEN];
        body[BODY_LEN - 1] = 1;
        let id = b.incoming_id();
        assert_eq!(b.open(&a.outgoing_probe.seal(PROBE, id, &body)), None);
        assert_eq!(b.open(&a.outgoing_pong.seal(PONG, id, &body)), None);
    }

    #[test]
    fn debug_shows_no_key() {
        let (a, b) = pair();
        let text = format!("{a:?}");
        assert_eq!(
            text,
            format!("ProbeKeys {{ incoming_id: {}, .. }}", a.incoming_id())
        );
        assert_ne!(text, format!("{b:?}"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (mut a, _) = pair();
            let _ = key_id(&packet);
            prop_assert_eq!(a.open(&packet), None);
        }

        #[test]
        fn forged_packets_with_a_good_header_are_refused(rest in any::<[u8; 32]>(), tag in any::<[u8; 20]>()) {
            let (mut a, _) = pair();
            let mut packet = [0; PROBE_LEN];
            packet[0] = PROBE;
            packet[4..12].copy_from_slice(&a.incoming_id().to_be_bytes());
            packet[12..44].copy_from_slice(&rest);
            packet[44..].copy_from_slice(&tag);
            prop_assert_eq!(key_id(&packet), Some(a.incoming_id()));
            prop_assert_eq!(a.open(&packet), None);
        }

        #[test]
        fn probes_and_pongs_survive_the_way(
            transaction in any::<u64>(), path in any::<u32>(), address in any::<IpAddr>(),
            port in any::<u16>(), loss in any::<u8>(),
        ) {
            let (mut a, mut b) = pair();
            let sent = Probe { transaction: Transaction(transaction), path };
            prop_assert_eq!(b.open(&a.seal_probe(&sent)), Some(Opened::Probe(sent)));
            let observed = SocketAddr::new(address.to_canonical(), port);
            let sent = Pong { transaction: Transaction(transaction), observed, loss };
            prop_assert_eq!(b.open(&a.seal_pong(&sent)), Some(Opened::Pong(sent)));
        }
    }
}
