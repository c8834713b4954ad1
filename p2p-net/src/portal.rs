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
/// Of a place to go to, so much is shown, characters.
const MAX_LOCATION: usize = 120;

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
    parse(&head)
}

/// An answer that no web server of the relay's own would give: a redirection, or "network authentication
/// required" (RFC 6585 §6). Anything else may be a web server on the relay's host.
fn parse(head: &[u8]) -> Option<Portal> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let status_line = lines.next()?.strip_prefix("HTTP/1.")?;
    let status: u16 = status_line.split_whitespace().nth(1)?.parse().ok()?;
    if !matches!(status, 301 | 302 | 303 | 307 | 308 | 511) {
        return None;
    }
    let location = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim())
    });
    let printable = |text: &str| -> String {
        let shown = text.chars().filter(|letter| letter.is_ascii_graphic());
        shown.take(MAX_LOCATION).collect()
    };
    Some(Portal {
        status,
        location: location.map(printable).filter(|text| !text.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_told_from_web_servers_and_rubbish() {
        let portal = |status, location: Option<&str>| {
            let location = location.map(str::to_owned);
            Some(Portal { status, location })
        };
        let table: [(&[u8], Option<Portal>); 8] = [
            (
                b"HTTP/1.1 302 Found\r\nServer: x\r\nLOCATION: http://login.example/?a=b\r\n\r\n",
                portal(302, Some("http://login.example/?a=b")),
            ),
            (
                b"HTTP/1.0 511 Network Authentication Required\r\n\r\n",
                portal(511, None),
            ),
            // What stands behind the head is no head.
            (
                b"HTTP/1.1 307 x\r\n\r\nLocation: http://x/",
                portal(307, None),
            ),
            (
                b"HTTP/1.1 302 x\r\nLocation: \x1b[31m\xff\r\n\r\n",
                portal(302, Some("[31m")),
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", None),
            (b"HTTP/1.1", None),
            (b"", None),
        ];
        for (head, expected) in table {
            assert_eq!(parse(head), expected, "{}", String::from_utf8_lossy(head));
        }
        let long = format!("HTTP/1.1 302 x\r\nLocation: {}\r\n\r\n", "y".repeat(4_000));
        let location = parse(long.as_bytes()).expect("a portal").location;
        assert_eq!(location.map(|text| text.len()), Some(MAX_LOCATION));
    }
}
