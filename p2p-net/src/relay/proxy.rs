//! TCP connections towards a relay: straight, or through the proxy that the environment names. What is said
//! to proxies is in `proto/src/proxy.rs`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use p2p_net_proto::proxy::{
    MAX_ANSWER, Proxies, Proxy, ProxyError, ProxyKind, Socks5, SocksStep, connect_answer,
    connect_request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Between two addresses of one host (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a proxy that are tried at most.
const MAX_ADDRESSES: usize = 8;

/// A connection to `host:port`, which has these addresses as far as we know, as the environment says.
///
/// # Errors
/// Where nothing answers, or the proxy refuses; the text says which.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    addresses: Vec<SocketAddr>,
) -> io::Result<TcpStream> {
    let proxies = Proxies::read(|name| std::env::var(name).ok());
    match proxies.for_host(host).map_err(io::Error::other)? {
        Some(proxy) => through(proxy, host, port).await,
        None => connect(addresses).await,
    }
}

/// The first of the addresses that answers.
pub(crate) async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter().take(MAX_ADDRESSES).peekable();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address");
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(TcpStream::connect(address));
        }
        let more = waiting.peek().is_some();
        let pause = async {
            if more {
                sleep(STAGGER).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = pause => {}
        }
    }
}

/// A tunnel through `proxy`, which resolves the relay's name itself.
async fn through(proxy: &Proxy, host: &str, port: u16) -> io::Result<TcpStream> {
    let named = |error: io::Error| {
        let text = format!("the proxy {}:{}: {error}", proxy.host, proxy.port);
        io::Error::new(error.kind(), text)
    };
    let addresses = tokio::net::lookup_host((proxy.host.as_str(), proxy.port));
    let addresses = addresses.await.map_err(named)?.collect();
    let mut stream = connect(addresses).await.map_err(named)?;
    let negotiation = async {
        match proxy.kind {
            ProxyKind::Http => http(&mut stream, proxy, host, port).await,
            ProxyKind::Socks5 => socks5(&mut stream, proxy, host, port).await,
        }
    };
    negotiation.await.map_err(named)?;
    Ok(stream)
}

/// HTTP CONNECT. The answer is read byte by byte, so that nothing behind it is swallowed: it is short, and
/// comes once.
async fn http(stream: &mut TcpStream, proxy: &Proxy, host: &str, port: u16) -> io::Result<()> {
    let request = connect_request(host, port, proxy.login.as_ref()).map_err(io::Error::other)?;
    stream.write_all(&request).await?;
    let mut answer = Vec::with_capacity(256);
    while answer.len() < MAX_ANSWER {
        answer.push(stream.read_u8().await?);
        if answer.ends_with(b"\r\n\r\n") {
            return match connect_answer(&answer).map_err(io::Error::other)? {
                Some(_) => Ok(()),
                None => Err(io::Error::other(ProxyError::Protocol)),
            };
        }
    }
    Err(io::Error::other(ProxyError::Protocol))
}

async fn socks5(stream: &mut TcpStream, proxy: &Proxy, host: &str, port: u16) -> io::Result<()> {
    let start = Socks5::start(host, port, proxy.login.as_ref()).map_err(io::Error::other)?;
    let (mut socks, greeting) = start;
    stream.write_all(&greeting).await?;
    loop {
        let mut bytes = vec![0; socks.need()];
        stream.read_exact(&mut bytes).await?;
        match socks.take(&bytes).map_err(io::Error::other)? {
            SocksStep::Send(bytes) => stream.write_all(&bytes).await?,
            SocksStep::Read => {}
            SocksStep::Done => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that reads each question whole, says its part, and then echoes one byte.
    async fn scripted(script: Vec<(&'static [u8], &'static [u8])>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            for (question, answer) in script {
                let mut asked = vec![0; question.len()];
                stream.read_exact(&mut asked).await.expect("a question");
                assert_eq!(asked, question);
                stream.write_all(answer).await.expect("answered");
            }
            let byte = stream.read_u8().await.expect("a byte of the tunnel");
            stream.write_u8(byte + 1).await.expect("answered");
        });
        address
    }

    async fn tunnelled(scheme: &str, address: SocketAddr) -> io::Result<u8> {
        let proxy: Proxy = format!("{scheme}{address}").parse().expect("a proxy");
        let mut stream = through(&proxy, "relay.example", 443).await?;
        stream.write_u8(7).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn http_connect_opens_a_tunnel_and_swallows_nothing() {
        let request = b"CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\n\
            Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n\r\n";
        let answer = b"HTTP/1.1 200 Connection established\r\n\r\n";
        let proxy = scripted(vec![(request, answer)]).await;
        assert_eq!(
            tunnelled("http://user:word@", proxy)
                .await
                .expect("a tunnel"),
            8
        );
        let refusal = b"HTTP/1.1 403 Forbidden\r\n\r\n";
        let proxy = scripted(vec![(request, refusal)]).await;
        let refused = tunnelled("http://user:word@", proxy).await;
        let text = refused.expect_err("refused").to_string();
        assert!(
            text.contains("403") && text.contains(&proxy.to_string()),
            "{text}"
        );
    }

    #[tokio::test]
    async fn socks5_opens_a_tunnel_with_a_password() {
        let proxy = scripted(vec![
            (b"\x05\x02\x00\x02", b"\x05\x02"),
            (b"\x01\x04user\x04word", b"\x01\x00"),
            (
                b"\x05\x01\x00\x03\x0drelay.example\x01\xbb",
                b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
            ),
        ])
        .await;
        assert_eq!(
            tunnelled("socks5://user:word@", proxy)
                .await
                .expect("a tunnel"),
            8
        );
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_the_proxy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let text = tunnelled("http://", address)
            .await
            .expect_err("nobody")
            .to_string();
        assert!(text.contains(&address.to_string()), "{text}");
    }
}
