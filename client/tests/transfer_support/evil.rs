//! One end of a transfer that speaks the wire by hand, and need not play by the rules.

use std::path::Path;

use p2p_net_proto::codec::{self, FrameDecoder, Message};
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

use super::transfer_support::*;

pub(crate) const ID: [u8; 16] = [0x5e; 16];

macro_rules! messages {
    ($($kind:literal $name:ident { $($field:ident: $type:ty),* })*) => {
        $(
            #[derive(Debug, Serialize, Deserialize)]
            pub(crate) struct $name { $(pub(crate) $field: $type),* }
            impl Message for $name { const KIND: u16 = $kind; }
        )*
    };
}

messages! {
    0x0201 Offer { transfer: [u8; 16], label: String, files: Option<u64>, total_bytes: Option<u64>, items: Vec<(Vec<u8>, bool, Option<u64>)>, options: u32 }
    0x0202 Accept { have: Vec<u8> }
    0x0204 Manifest { first: u32, entries: Vec<Entry> }
    0x0205 ManifestEnd { entries: u32 }
    0x0206 Digests { digests: Vec<(u32, [u8; 16])> }
    0x0208 AllSent { frames: u64 }
    0x0209 Results { results: Vec<(u32, u8, Option<[u8; 16]>, String)> }
    0x020a Repair { file: u32, chunk: Option<u32> }
    0x020b Finished { verified: u64 }
    0x020c Cancel { code: u16, reason: String }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) parent: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) modified_secs: i64,
    pub(crate) modified_nanos: u32,
    pub(crate) executable: u16,
    pub(crate) note: String,
}

pub(crate) fn entry(kind: u8, parent: u32, name: impl AsRef<[u8]>, size: u64) -> Entry {
    let (name, note) = (name.as_ref().to_vec(), String::new());
    Entry {
        kind,
        parent,
        name,
        size,
        modified_secs: i64::MAX,
        modified_nanos: u32::MAX,
        executable: 0o7777,
        note,
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, size: u64) -> Entry {
    entry(0, 0, name, size)
}

pub(crate) fn folder(parent: u32, name: impl AsRef<[u8]>) -> Entry {
    entry(1, parent, name, 0)
}

/// The hostile half of a transfer, and the honest one.
pub(crate) struct Evil {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    pub(crate) decoder: FrameDecoder,
    pub(crate) lane: Option<SendStream>,
    pub(crate) pair: Pair,
}

impl Evil {
    pub(crate) async fn new(pair: Pair, send: SendStream, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            decoder: FrameDecoder::default(),
            lane: None,
            pair,
        }
    }

    /// A sender whose offer an honest receiver has accepted.
    pub(crate) async fn sender(into: &Path, overwrite: bool) -> (Self, Running) {
        let pair = Pair::new().await;
        let receiving = start_receive(&pair.other, accept(into, overwrite), 4_096);
        let (mut send, recv) = pair.one.0.open_bi().await.expect("a stream");
        send.write_all(&[2]).await.expect("written");
        let mut evil = Self::new(pair, send, recv).await;
        evil.say(&offer(None)).await;
        let Accept { have } = evil.hear().await;
        assert!(have.is_empty());
        (evil, receiving)
    }

    /// A receiver that has accepted an honest sender's offer.
    pub(crate) async fn receiver(paths: Vec<std::path::PathBuf>) -> (Self, Running) {
        let pair = Pair::new().await;
        let sending = start_send(&pair.one, paths, client::transfer::SendOptions::default());
        let (send, mut recv) = pair.other.0.accept_bi().await.expect("a stream");
        recv.read_exact(&mut [0]).await.expect("a kind");
        let mut evil = Self::new(pair, send, recv).await;
        let _: Offer = evil.hear().await;
        evil.say(&Accept { have: Vec::new() }).await;
        (evil, sending)
    }

    pub(crate) async fn say<M: Message>(&mut self, message: &M) {
        // The other side may have given up already; that is what the test is about.
        let _ = self
            .send
            .write_all(&codec::encode(message).expect("fits"))
            .await;
    }

    /// The next message of a kind, whatever comes before it.
    pub(crate) async fn hear<M: Message>(&mut self) -> M {
        let hear = async {
            loop {
                while let Some(frame) = self.decoder.next_frame().expect("frames") {
                    if frame.kind == M::KIND {
                        return frame.decode().expect("a body");
                    }
                }
                let chunk = self.recv.read_chunk(65_536, true).await.expect("a stream");
                self.decoder.push(&chunk.expect("more to hear").bytes);
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.expect("in time")
    }

    /// Writes plain bytes to the lane.
    pub(crate) async fn lane(&mut self, bytes: &[u8]) {
        if self.lane.is_none() {
            let mut lane = self.pair.one.0.open_uni().await.expect("a stream");
            lane.write_all(&[3]).await.expect("written");
            lane.write_all(&ID).await.expect("written");
            self.lane = Some(lane);
        }
        if let Some(lane) = &mut self.lane {
            let _ = lane.write_all(bytes).await;
        }
    }

    /// Writes a frame to the lane.
    pub(crate) async fn frame(
        &mut self,
        kind: u8,
        words: [u32; 2],
        bytes: &[u8],
        blake3: [u8; 32],
    ) {
        let mut frame = vec![kind, 0, 0, 0];
        for word in [words[0], words[1], bytes.len() as u32] {
            frame.extend_from_slice(&word.to_be_bytes());
        }
        frame.extend_from_slice(bytes);
        frame.extend_from_slice(&blake3);
        self.lane(&frame).await;
    }

    pub(crate) async fn chunk(&mut self, file: u32, chunk: u32, bytes: &[u8]) {
        self.frame(1, [file, chunk], bytes, blake3::hash(bytes).into())
            .await;
    }

    pub(crate) async fn pack(&mut self, highest: u32, files: &[(u32, &[u8], [u8; 16])]) {
        let bytes = pack_of(files);
        self.frame(
            2,
            [highest, files.len() as u32],
            &bytes,
            blake3::hash(&bytes).into(),
        )
        .await;
    }

    /// Announces everything there is.
    pub(crate) async fn announce(&mut self, entries: &[Entry]) {
        let mut first = 0;
        for entries in entries.chunks(200) {
            self.say(&Manifest {
                first,
                entries: entries.to_vec(),
            })
            .await;
            first += entries.len() as u32;
        }
        self.say(&ManifestEnd { entries: first }).await;
    }
}

pub(crate) fn offer(total_bytes: Option<u64>) -> Offer {
    Offer {
        transfer: ID,
        label: "evil".into(),
        files: None,
        total_bytes,
        items: vec![],
        options: 0,
    }
}

pub(crate) fn md5(bytes: &[u8]) -> [u8; 16] {
    *md5_of(bytes).as_bytes()
}

pub(crate) fn pack_of(files: &[(u32, &[u8], [u8; 16])]) -> Vec<u8> {
    let mut pack = Vec::new();
    for (file, bytes, md5) in files {
        pack.extend_from_slice(&file.to_be_bytes());
        pack.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        pack.extend_from_slice(bytes);
        pack.extend_from_slice(md5);
    }
    pack
}
