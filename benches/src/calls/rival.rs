//! A TCP download by the kernel, with CUBIC, through the link that a call uses: what a call meets at home while
//! somebody fetches a film.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::emulator::inside;

/// Where the download is taken: the callee's address in `lab/call-link`.
const TAKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 2, 2), 5_001);
/// What controls the flow.
const CONTROL: &str = "cubic";
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a thread waits in the kernel before it looks whether it should end.
const GLANCE: Duration = Duration::from_millis(200);

/// A running download; it ends when dropped.
pub struct Download {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Download {
    /// Starts to send as much as goes from one namespace to the other.
    ///
    /// # Errors
    /// Where the kernel has no CUBIC, or there is no way.
    pub fn start(from: &str, to: &str) -> Result<Self> {
        let listener = inside(to, || TcpListener::bind(TAKER).context("listening"))?;
        let sending = inside(from, connect)?;
        let (taking, _) = listener.accept()?;
        taking.set_read_timeout(Some(GLANCE))?;
        sending.set_write_timeout(Some(GLANCE))?;
        let ending = Arc::new(AtomicBool::new(false));
        let (end_sending, end_taking) = (ending.clone(), ending.clone());
        let threads = vec![
            Builder::new()
                .name("download out".to_owned())
                .spawn(move || send(sending, &end_sending))?,
            Builder::new()
                .name("download in".to_owned())
                .spawn(move || take(taking, &end_taking))?,
        ];
        Ok(Self { ending, threads })
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connect() -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    set_tcp_congestion(&socket, CONTROL)
        .with_context(|| format!("this kernel has no {CONTROL}; try modprobe tcp_{CONTROL}"))?;
    // What is still to be sent when the download ends is thrown away.
    socket.set_linger(Some(Duration::ZERO))?;
    socket
        .connect_timeout(&SockAddr::from(TAKER), CONNECT)
        .context("connecting through the link")?;
    let used = tcp_congestion(&socket)?;
    anyhow::ensure!(
        used == CONTROL,
        "the kernel uses {used} instead of {CONTROL}"
    );
    Ok(socket.into())
}

fn send(mut stream: TcpStream, ending: &AtomicBool) {
    let piece = vec![0x5a; 1 << 16];
    go_on(ending, || stream.write(&piece));
}

fn take(mut stream: TcpStream, ending: &AtomicBool) {
    let mut piece = vec![0; 1 << 16];
    go_on(ending, || stream.read(&mut piece));
}

/// Repeats `step` until the end is wanted or comes by itself.
fn go_on(ending: &AtomicBool, mut step: impl FnMut() -> std::io::Result<usize>) {
    while !ending.load(Ordering::Relaxed) {
        match step() {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
