//! The limit that file transfers are measured against: a tuned raw-quinn copy of one file with MD5 at both
//! ends, and nothing else. No identities, no relay, no resume, no consent, no temporary names.
//!
//! Tuned means: the endpoint on a current-thread runtime; disk and MD5 on threads of their own, joined by
//! bounded queues; re-used buffers of 1 MiB; one stream; windows of 16 MiB; segmentation offload; socket
//! buffers of 4 MiB; AES-128-GCM first; ring. Sender and receiver are two processes, so that what each
//! spends can be told apart.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use md5::{Digest, Md5};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;

use crate::process::peak_mib;

/// Bytes read from a disk, hashed and written at a time.
const BLOCK: usize = 1 << 20;
/// Blocks that wait between two stages.
const QUEUE: usize = 8;
/// Flow-control and send window, bytes.
const WINDOW: u32 = 16 << 20;
/// Buffers of a socket, bytes.
const SOCKET_BUFFER: usize = 4 << 20;
const ALPN: &[u8] = b"raw";
/// What the receiver answers once its digest is that of the sender.
const AGREES: u8 = 1;

/// The line by which the receiver tells where it listens.
pub const LISTENING: &str = "listening ";
/// The line by which both tell the digest.
pub const DIGEST: &str = "md5 ";
/// The line by which the receiver tells the most memory that it held, MiB; it ends too soon to be watched.
pub const PEAK: &str = "peak ";

/// Receives one file at `into`: prints [`LISTENING`] with its address and the path of its certificate, and at
/// the end [`DIGEST`].
///
/// # Errors
/// Whatever goes wrong, the digest included.
pub fn receive(into: &Path, certificate_at: &Path) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    std::fs::write(certificate_at, certificate.der())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(transport()?);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = endpoint(Some(server))?;
        say(&format!("{LISTENING}{}", endpoint.local_addr()?))?;
        let connection = endpoint
            .accept()
            .await
            .context("the endpoint closed")?
            .await?;
        let (mut answer, mut data) = connection.accept_bi().await?;
        let mut length = [0; 8];
        data.read_exact(&mut length).await?;
        let digest = take(&mut data, u64::from_be_bytes(length), into).await?;
        let mut stated = [0; 16];
        data.read_exact(&mut stated).await?;
        ensure!(digest == stated, "the digests differ");
        say(&format!("{DIGEST}{}", hex(&digest)))?;
        answer.write_all(&[AGREES]).await?;
        answer.finish()?;
        connection.closed().await;
        say(&format!(
            "{PEAK}{}",
            peak_mib(std::process::id()).unwrap_or(f64::NAN)
        ))
    })
}

/// Sends one file to a receiver, and ends when that one has verified it.
///
/// # Errors
/// Whatever goes wrong, the digest included.
pub fn send(to: SocketAddr, certificate_at: &Path, file: &Path) -> Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate_at)?))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    client.transport_config(transport()?);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = endpoint(None)?;
        let connection = endpoint.connect_with(client, to, "localhost")?.await?;
        let (mut data, mut answer) = connection.open_bi().await?;
        let source = File::open(file)?;
        data.write_all(&source.metadata()?.len().to_be_bytes())
            .await?;
        let digest = give(&mut data, source).await?;
        data.write_all(&digest).await?;
        data.finish()?;
        let mut agrees = [0];
        answer.read_exact(&mut agrees).await?;
        ensure!(agrees == [AGREES], "the receiver does not agree");
        say(&format!("{DIGEST}{}", hex(&digest)))?;
        connection.close(VarInt::from_u32(0), b"done");
        endpoint.wait_idle().await;
        Ok(())
    })
}

/// Disk → (MD5, stream).
async fn give(data: &mut quinn::SendStream, mut source: File) -> Result<[u8; 16]> {
    let pool = Pool::default();
    let (to_hash, hasher) = hasher()?;
    let (to_stream, mut blocks) = mpsc::channel::<Bytes>(QUEUE);
    let reader = thread::Builder::new()
        .name("read".to_owned())
        .spawn(move || -> Result<()> {
            loop {
                let mut block = pool.take();
                let length = fill(&mut source, &mut block.bytes)?;
                if length == 0 {
                    return Ok(());
                }
                let block = Bytes::from_owner(block).slice(..length);
                if to_hash.blocking_send(block.clone()).is_err()
                    || to_stream.blocking_send(block).is_err()
                {
                    bail!("the other threads ended early");
                }
            }
        })?;
    while let Some(block) = blocks.recv().await {
        data.write_chunk(block).await?;
    }
    join(reader)??;
    join(hasher)
}

/// Stream → (MD5, disk).
async fn take(data: &mut quinn::RecvStream, length: u64, into: &Path) -> Result<[u8; 16]> {
    let pool = Pool::default();
    let (to_hash, hasher) = hasher()?;
    let (to_disk, mut blocks) = mpsc::channel::<Bytes>(QUEUE);
    let mut target = File::create(into)?;
    let writer = thread::Builder::new()
        .name("write".to_owned())
        .spawn(move || -> Result<()> {
            while let Some(block) = blocks.blocking_recv() {
                target.write_all(&block)?;
            }
            Ok(())
        })?;
    let mut left = length;
    while left > 0 {
        let mut block = pool.take();
        let wanted = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        data.read_exact(&mut block.bytes[..wanted]).await?;
        left -= wanted as u64;
        let block = Bytes::from_owner(block).slice(..wanted);
        to_hash.send(block.clone()).await?;
        to_disk.send(block).await?;
    }
    drop((to_hash, to_disk));
    join(writer)??;
    join(hasher)
}

/// A thread that hashes what it is given, in order.
fn hasher() -> Result<(mpsc::Sender<Bytes>, JoinHandle<[u8; 16]>)> {
    let (to, mut blocks) = mpsc::channel::<Bytes>(QUEUE);
    let thread = thread::Builder::new()
        .name("md5".to_owned())
        .spawn(move || {
            let mut hash = Md5::new();
            while let Some(block) = blocks.blocking_recv() {
                hash.update(&block);
            }
            hash.finalize().into()
        })?;
    Ok((to, thread))
}

fn join<T>(thread: JoinHandle<T>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))
}

/// As much as there is, up to the whole buffer.
fn fill(source: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// Buffers come back here when the last reference to them goes. How many there are is bounded by the queues
/// and by quinn's send window, which hold them.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self) -> Block {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Block {
            bytes: free.unwrap_or_else(|| vec![0; BLOCK]),
            home: self.clone(),
        }
    }
}

struct Block {
    bytes: Vec<u8>,
    home: Pool,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| *suite != TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn transport() -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .enable_segmentation_offload(true);
    Ok(Arc::new(transport))
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let buffers = socket2::SockRef::from(&socket);
    // Where the system caps them, they are as large as it allows; both sides of a comparison meet that.
    buffers.set_recv_buffer_size(SOCKET_BUFFER)?;
    buffers.set_send_buffer_size(SOCKET_BUFFER)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok(Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        runtime,
    )?)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How `targets` runs one side of this in a process of its own.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Side {
    /// See [`receive`].
    RawReceive {
        /// Where the file goes.
        into: PathBuf,
        /// Where the certificate goes.
        certificate: PathBuf,
    },
    /// See [`send`].
    RawSend {
        /// The receiver.
        to: SocketAddr,
        /// Its certificate.
        certificate: PathBuf,
        /// What to send.
        file: PathBuf,
    },
}

impl Side {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever goes wrong.
    pub fn run(self) -> Result<()> {
        match self {
            Self::RawReceive { into, certificate } => receive(&into, &certificate),
            Self::RawSend {
                to,
                certificate,
                file,
            } => send(to, &certificate, &file),
        }
    }
}
