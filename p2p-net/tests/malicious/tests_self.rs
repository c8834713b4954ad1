//! The evil relay itself: plain QUIC clients without `p2p_net` get through it, and its deeds take effect,
//! so that the other tests prove something.

use std::net::SocketAddr;
use std::sync::Arc;

use p2p_net_proto::codec::{FrameDecoder, encode};
use p2p_net_proto::tls::{self, RelayTrust};
use p2p_net_proto::wire::{
    ChannelAccept, ChannelOpen, FromRelay, Hello, PresenceSubscribe, ToRelay, VERSION,
};
use p2p_net_proto::{
    CHANNEL_KEY_LABEL, ChannelEnd, ChannelId, Class, Direction, HEADER_LEN, Header, HeaderKey,
    Identity, PeerId, channel_key_context,
};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::sync::mpsc;

use crate::malicious::{DemuxSocket, EvilRelay, PacketDeeds, Record, noise, within};

/// A client of the relay that trusts it with plaintext.
struct Plain {
    id: PeerId,
    socket: Arc<DemuxSocket>,
    relay: SocketAddr,
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    decoder: FrameDecoder,
    packets: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    counter: u32,
}

impl Plain {
    async fn login(relay: &EvilRelay, secret: u8) -> Self {
        let identity = Identity::from_secret([secret; 32]);
        let (socket, packets) = DemuxSocket::bind(Arc::new(Record::default())).expect("a port");
        // Packets without the fixed bit would not be told apart from the rest.
        let mut config = quinn::EndpointConfig::default();
        config.grease_quic_bit(false);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config,
            None,
            Arc::clone(&socket) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(quinn::TokioRuntime),
        )
        .expect("an endpoint");
        let pin = relay.address().fingerprint.expect("a pinned key");
        let (crypto, _) = tls::relay_client(&identity, RelayTrust::Pinned(pin)).expect("TLS");
        let crypto = QuicClientConfig::try_from(crypto).expect("TLS 1.3");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let relay = SocketAddr::from(([127, 0, 0, 1], relay.address().port));
        let connection = endpoint
            .connect_with(config, relay, "relay.invalid")
            .expect("a usable configuration")
            .await
            .expect("a connection");
        let (send, receive) = connection.open_bi().await.expect("a stream");
        let (id, decoder) = (identity.id(), FrameDecoder::default());
        let mut plain = Self {
            id,
            socket,
            relay,
            connection,
            send,
            receive,
            decoder,
            packets,
            counter: 0,
        };
        let (versions, capabilities) = (vec![VERSION], Vec::new());
        plain
            .say(Hello {
                versions,
                capabilities,
                token: None,
            })
            .await;
        assert!(matches!(plain.hear().await, FromRelay::Welcome(_)));
        plain
    }

    async fn say(&mut self, message: impl Into<ToRelay>) {
        let bytes = message.into().encode().expect("a message that fits");
        self.send
            .write_all(&bytes)
            .await
            .expect("the relay listens");
    }

    async fn hear(&mut self) -> FromRelay {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("frames") {
                return FromRelay::decode(&frame)
                    .expect("a body")
                    .expect("a known kind");
            }
            let chunk = self
                .receive
                .read_chunk(65_536, true)
                .await
                .expect("a living relay");
            self.decoder.push(&chunk.expect("no end").bytes);
        }
    }

    fn key(&self, channel: ChannelId, direction: Direction) -> HeaderKey {
        let mut key = [0; 16];
        let context = channel_key_context(channel, direction);
        self.connection
            .export_keying_material(&mut key, CHANNEL_KEY_LABEL, &context)
            .expect("an exporter");
        HeaderKey::new(key)
    }

    fn relay_packet(&mut self, channel: ChannelId, end: ChannelEnd, payload: &[u8]) {
        self.counter += 1;
        let (class, counter) = (Class::Bulk, self.counter);
        let header = Header {
            epoch: false,
            class,
            ecn: 2,
            fragment: false,
            end,
            counter,
        };
        let mut packet = vec![0; HEADER_LEN];
        packet.extend_from_slice(payload);
        header.write(&self.key(channel, Direction::Up), &mut packet);
        self.socket.send(self.relay, &packet);
    }

    async fn next_packet(&mut self, channel: ChannelId) -> (Header, Vec<u8>) {
        let (_, packet) = self.packets.recv().await.expect("an open socket");
        let header = Header::verify(&self.key(channel, Direction::Down), &packet);
        (
            header.expect("a tag that holds"),
            packet[HEADER_LEN..].to_vec(),
        )
    }
}

/// Opens a channel from one to the other; the channel, both ends.
async fn open(caller: &mut Plain, callee: &mut Plain) -> (ChannelId, ChannelEnd, ChannelEnd) {
    let (sealed, flight) = (b"sealed offer".to_vec(), vec![b"first packet".to_vec()]);
    caller
        .say(ChannelOpen {
            request: 7,
            to: callee.id,
            sealed,
            attest: true,
            flight,
        })
        .await;
    let FromRelay::ChannelOpened(opened) = caller.hear().await else {
        panic!("opened first")
    };
    assert_eq!(opened.request, 7);
    let FromRelay::ChannelOffered(offered) = callee.hear().await else {
        panic!("an offer")
    };
    assert_eq!((offered.from, offered.channel), (caller.id, opened.channel));
    assert_eq!(
        (offered.sealed, offered.flight),
        (b"sealed offer".to_vec(), vec![b"first packet".to_vec()])
    );
    assert_eq!(offered.observed.len(), 1);
    let channel = offered.channel;
    let (sealed, flight) = (b"sealed answer".to_vec(), Vec::new());
    callee
        .say(ChannelAccept {
            channel,
            sealed,
            attest: false,
            flight,
        })
        .await;
    let FromRelay::ChannelReady(ready) = caller.hear().await else {
        panic!("ready")
    };
    assert_eq!(
        (ready.sealed, ready.observed.len()),
        (b"sealed answer".to_vec(), 0)
    );
    (channel, opened.end, offered.end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_see_and_reach_each_other_and_the_relay_reads_them() {
    within(20, "the self-test", async {
        let relay = EvilRelay::start(1);
        let mut one = Plain::login(&relay, 1).await;
        let mut other = Plain::login(&relay, 2).await;
        other.say(PresenceSubscribe {}).await;
        let FromRelay::PresenceSnapshot(there) = other.hear().await else {
            panic!("presence")
        };
        assert_eq!((there.peers, there.more), (vec![one.id], false));
        let (channel, end, _) = open(&mut one, &mut other).await;
        let secret = b"plaintext that any relay could read";
        one.relay_packet(channel, end, secret);
        let (header, payload) = other.next_packet(channel).await;
        assert_eq!(
            (header.class, header.ecn, payload),
            (Class::Bulk, 2, secret.to_vec())
        );
        // The positive control of `data::reads_everything_and_learns_nothing`.
        assert!(relay.record().contains(secret));
        assert!(!relay.record().contains(b"something that nobody has said"));
        // Neither a wrong tag nor an unknown kind of frame stops it.
        one.relay_packet(channel, ChannelEnd(0x00ff_fff0), secret);
        one.send
            .write_all(&[0, 0, 0, 3, 0x7f, 0xff, 1])
            .await
            .expect("written");
        one.say(ChannelOpen {
            request: 8,
            to: PeerId::from_bytes([9; 32]),
            sealed: Vec::new(),
            attest: false,
            flight: Vec::new(),
        })
        .await;
        assert!(
            matches!(one.hear().await, FromRelay::ChannelClosed(closed) if closed.request == 8)
        );
        relay
            .until(|s| s.seen.refused_packets == 1 && s.seen.strange_frames == 1)
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_packet_deeds_take_effect() {
    within(20, "the self-test", async {
        let relay = EvilRelay::start(2);
        let mut one = Plain::login(&relay, 3).await;
        let mut other = Plain::login(&relay, 4).await;
        let (channel, end, _) = open(&mut one, &mut other).await;
        let payload = noise(2, 600);
        relay.packets(PacketDeeds {
            alter: 100,
            ..PacketDeeds::default()
        });
        one.relay_packet(channel, end, &payload);
        let (_, altered) = other.next_packet(channel).await;
        assert!(altered.len() == payload.len() && altered != payload);
        relay.packets(PacketDeeds {
            duplicate: 100,
            replay: 100,
            ..PacketDeeds::default()
        });
        one.relay_packet(channel, end, &payload);
        let mut counters = Vec::new();
        for _ in 0..3 {
            let (header, again) = other.next_packet(channel).await;
            assert!(
                again == payload,
                "the original twice and an old one unaltered"
            );
            counters.push(header.counter);
        }
        counters.dedup();
        assert_eq!(counters.len(), 3, "each copy has a counter of its own");
        relay.packets(PacketDeeds {
            drop: 100,
            ..PacketDeeds::default()
        });
        one.relay_packet(channel, end, &payload);
        relay.until(|s| s.seen.dropped == 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_greeting_and_tampering_take_effect() {
    within(20, "the self-test", async {
        let relay = EvilRelay::start(3);
        let mut one = Plain::login(&relay, 5).await;
        let mut other = Plain::login(&relay, 6).await;
        relay.set(|deeds| {
            deeds.tamper = Some(Box::new(|sealed| {
                sealed.bytes.iter().map(|b| b ^ 1).collect()
            }));
        });
        let (sealed, flight) = (vec![4; 40], Vec::new());
        one.say(ChannelOpen {
            request: 1,
            to: other.id,
            sealed,
            attest: false,
            flight,
        })
        .await;
        let FromRelay::ChannelOffered(offered) = other.hear().await else {
            panic!("an offer")
        };
        assert_eq!(offered.sealed, vec![5; 40]);
        let lie = SocketAddr::from(([127, 0, 0, 9], 9));
        relay.set(|deeds| deeds.greeting = Some(crate::malicious::welcome(lie)));
        let hello = Hello {
            versions: vec![VERSION],
            capabilities: Vec::new(),
            token: None,
        };
        assert_eq!(
            encode(&hello).expect("fits"),
            ToRelay::from(hello.clone()).encode().expect("fits")
        );
        one.say(hello).await;
        assert!(matches!(one.hear().await, FromRelay::ChannelOpened(_)));
        let FromRelay::Welcome(welcome) = one.hear().await else {
            panic!("a greeting")
        };
        assert_eq!(welcome.observed, lie);
    })
    .await;
}
