//! What two ends say to each other in a life: numbered lines on a stream, which arrive once and in order, and
//! numbered datagrams, which arrive at most once, both ways.

use std::time::Duration;

use bytes::Bytes;
use p2p_net::{Connection, PathInfo, PathKind, RecvStream, SendStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::stand::PATIENCE;

/// Between two lines that each side says.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a line.
const LINE: usize = 160;
/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(20);

/// What is told of one reader's progress.
type Heard = tokio::sync::watch::Receiver<(u64, Instant)>;

/// A connection full of numbered lines and datagrams, both ways.
pub(super) struct Talk {
    ends: [Connection; 2],
    stop: tokio::sync::watch::Sender<bool>,
    writers: Vec<JoinHandle<u64>>,
    readers: Vec<JoinHandle<u64>>,
    heard: Vec<Heard>,
    datagrams: Vec<JoinHandle<()>>,
}

impl Talk {
    pub(super) fn new(ends: [(Connection, SendStream, RecvStream); 2]) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (mut writers, mut readers, mut heard, mut datagrams) = (vec![], vec![], vec![], vec![]);
        let ends = ends.map(|(connection, send, receive)| {
            writers.push(tokio::spawn(write(send, stopped.clone())));
            let (tell, told) = tokio::sync::watch::channel((0, Instant::now()));
            readers.push(tokio::spawn(read(receive, tell)));
            heard.push(told);
            datagrams.push(tokio::spawn(speak(connection.clone(), stopped.clone())));
            datagrams.push(tokio::spawn(listen(connection.clone())));
            connection
        });
        Self {
            ends,
            stop,
            writers,
            readers,
            heard,
            datagrams,
        }
    }

    /// The caller's path and the callee's.
    pub(super) fn paths(&self) -> [PathInfo; 2] {
        [0, 1].map(|end| *self.ends[end].path().borrow())
    }

    pub(super) async fn both(&self, kind: PathKind) {
        for end in &self.ends {
            let mut path = end.path();
            let _ = path.wait_for(|path| path.kind == kind).await;
        }
    }

    /// Waits until both have heard something said after `since`; the longer wait.
    pub(super) async fn progress(&self, since: Instant) -> Duration {
        let (before, asked) = (
            self.heard
                .iter()
                .map(|heard| heard.borrow().0)
                .collect::<Vec<_>>(),
            Instant::now(),
        );
        for (heard, before) in self.heard.iter().zip(before) {
            let mut heard = heard.clone();
            // Ten lines more than were under way.
            let more = heard.wait_for(|(lines, _)| *lines >= before + 10);
            timeout(PATIENCE, more)
                .await
                .expect("it goes on")
                .expect("alive");
        }
        assert!(self.ends.iter().all(|end| !end.is_closed()), "a reconnect");
        asked
            .elapsed()
            .max(Instant::now() - since)
            .saturating_sub(10 * PAUSE)
    }

    /// Everything written has been read, once and in order.
    pub(super) async fn finish(self) {
        let _ = self.stop.send(true);
        let mut written = vec![];
        for writer in self.writers {
            written.push(writer.await.expect("it wrote"));
        }
        for (reader, lines) in self.readers.into_iter().zip(written.into_iter().rev()) {
            let read = timeout(PATIENCE, reader)
                .await
                .expect("all arrives")
                .expect("as it was sent");
            assert_eq!(read, lines, "lines that arrived, and that were written");
        }
        self.ends[0].close(0, "done");
        for task in self.datagrams {
            timeout(PATIENCE, task)
                .await
                .expect("it ends")
                .expect("each datagram once");
        }
    }
}

fn line(number: u64) -> [u8; LINE] {
    let mut line = [number as u8; LINE];
    line[..8].copy_from_slice(&number.to_be_bytes());
    line
}

async fn write(mut send: SendStream, mut stopped: tokio::sync::watch::Receiver<bool>) -> u64 {
    let mut number = 0;
    while !*stopped.borrow_and_update() {
        send.write_all(&line(number))
            .await
            .expect("the connection lives");
        number += 1;
        sleep(PAUSE).await;
    }
    send.finish().expect("not yet finished");
    number
}

async fn read(mut receive: RecvStream, tell: tokio::sync::watch::Sender<(u64, Instant)>) -> u64 {
    let mut number = 0;
    let mut buffer = [0; LINE];
    loop {
        let mut have = 0;
        while have < LINE {
            match receive
                .read(&mut buffer[have..])
                .await
                .expect("the connection lives")
            {
                Some(more) => have += more,
                None => {
                    assert_eq!(have, 0, "half a line");
                    return number;
                }
            }
        }
        assert_eq!(buffer, line(number), "line {number}");
        number += 1;
        tell.send_replace((number, Instant::now()));
    }
}

/// Numbered datagrams, fifty a second.
async fn speak(connection: Connection, stopped: tokio::sync::watch::Receiver<bool>) {
    let mut number = 0u64;
    while !*stopped.borrow() {
        let mut datagram = vec![0; 100];
        datagram[1..9].copy_from_slice(&number.to_be_bytes());
        let _ = connection.send_datagram(Bytes::from(datagram));
        number += 1;
        sleep(INTERVAL).await;
    }
}

/// No datagram comes twice.
async fn listen(connection: Connection) {
    let mut seen = std::collections::BTreeSet::new();
    while let Ok(datagram) = connection.read_datagram().await {
        let mut number = [0; 8];
        number.copy_from_slice(&datagram[1..9]);
        assert!(seen.insert(number), "a datagram came twice");
    }
}
