//! What comes over TCP: request heads and messages from strangers and clients, answers of proxies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::HEADER_LEN;
use p2p_net_proto::carriage::{
    Carried, MAX_HEAD, MAX_PACKET, Queue, Request, page, read_head, read_message,
};
use p2p_net_proto::proxy::{Proxies, Socks5, SocksStep, connect_answer, connect_request};

/// Room of the queue that is fed, bytes.
const MOST: usize = 4_096;

fuzz_target!(|bytes: &[u8]| {
    match read_head(bytes) {
        Some((request, used)) => {
            assert!(used <= bytes.len());
            if let Request::Upgrade { key } = &request {
                assert_eq!(key.len(), 24);
            }
            assert!(page(&request).starts_with("HTTP/1.1 "));
        }
        None => assert!(bytes.len() < MAX_HEAD),
    }
    if let Ok(Carried::Packet(packet)) = read_message(bytes.to_vec().into()) {
        assert!((HEADER_LEN..=MAX_PACKET).contains(&packet.len()));
    }
    let mut queue = Queue::new(MOST);
    for packet in bytes.chunks(97) {
        queue.push(packet.to_vec().into());
    }
    let held: usize = std::iter::from_fn(|| queue.pop())
        .map(|packet| packet.len())
        .sum();
    assert!(held <= MOST && queue.is_empty());

    if let Ok(Some(used)) = connect_answer(bytes) {
        assert!(used <= bytes.len());
    }
    let login = ("user".to_owned(), "password".to_owned());
    if let Ok((mut socks, _)) = Socks5::start("relay.example", 443, Some(&login)) {
        let mut rest = bytes;
        while let Some((now, later)) = rest.split_at_checked(socks.need()) {
            rest = later;
            if !matches!(socks.take(now), Ok(SocksStep::Send(_) | SocksStep::Read)) {
                break;
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let proxies = Proxies::read(|name| Some(text.to_owned()).filter(|_| name != "no_proxy"));
        let _ = proxies.for_host("relay.example");
        let excepted = Proxies::read(|name| {
            Some(if name == "no_proxy" { text } else { "http://p" }.to_owned())
        });
        let _ = excepted.for_host("192.0.2.1");
        if let Ok(request) = connect_request(text, 443, None) {
            assert_eq!(
                request
                    .windows(4)
                    .filter(|four| four == b"\r\n\r\n")
                    .count(),
                1
            );
        }
    }
});
