//! Where UDP is silent: whether TCP reaches the relay's host, and whether something answers the web in its place,
//! as the sign-in pages of hotels and trains do. Nobody but the relay's own address is asked.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_net_proto::Portal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a connection, and an answer, may take.
const LIMIT: Duration = Duration::from_secs(3);
/// Where sign-in pages listen: at every address's port of the plain web.
const WEB_PORT: u16 = 80;
/// Of an answer, so much is looked at, bytes: its head fits.
const MAX_HEAD: usize = 4_096;

/// Whether the relay's port takes TCP, and who answers the web there.
pub(crate) async fn look(relay: SocketAddr) -> (Option<bool>, Option<Portal>) {
    let (tcp, portal) = tokio::join!(
        timeout(LIMIT, TcpStream::connect(relay)),
        timeout(LIMIT, ask_web(SocketAddr::new(relay.ip(), WEB_PORT)))
    );
    let tcp = matches!(tcp, Ok(Ok(_)));
    (Some(tcp), portal.ok().flatten())
}

async fn ask_web(to: SocketAddr) -> Option<Portal> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        to.ip()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    let mut stream = stream.take(MAX_HEAD as u64);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            break;
        }
    }
    Portal::parse(&head)
}
