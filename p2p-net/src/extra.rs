//! Sockets beside the first one that carry a peer's packets: the lucky one out of many, when a port was
//! guessed. What goes to such a peer's address leaves from its socket; what comes there is sorted as anywhere.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{RecvMeta, Transmit};
use tracing::trace;

/// Sockets that are in use at one time; each costs a look for each batch that is received.
const MAX_EXTRAS: usize = 32;

struct Extra {
    remote: SocketAddr,
    socket: Arc<dyn AsyncUdpSocket>,
    /// Set when a send would have blocked; whoever waits for writability clears it.
    blocked: AtomicBool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Extras {
    list: RwLock<Vec<Arc<Extra>>>,
    /// How many there are: nearly always none, and then nothing else is looked at.
    count: AtomicUsize,
}

impl Extras {
    /// What goes to `remote` leaves from `socket` from now on; says whether there was room.
    pub(crate) fn insert(&self, remote: SocketAddr, socket: Arc<dyn AsyncUdpSocket>) -> bool {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|extra| extra.remote != remote);
        let room = list.len() < MAX_EXTRAS;
        if room {
            list.push(Arc::new(Extra {
                remote,
                socket,
                blocked: AtomicBool::new(false),
            }));
        }
        self.count.store(list.len(), Ordering::Release);
        room
    }

    /// It leaves from the first socket again; the other one is closed.
    pub(crate) fn remove(&self, remote: SocketAddr) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|extra| extra.remote != remote);
        self.count.store(list.len(), Ordering::Release);
    }

    fn at(&self, index: usize) -> Option<Arc<Extra>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.get(index).cloned()
    }

    fn to(&self, remote: SocketAddr) -> Option<Arc<Extra>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|extra| extra.remote == remote).cloned()
    }

    /// Sends from the socket for `to`, if there is one.
    pub(crate) fn try_send(
        &self,
        to: SocketAddr,
        transmit: &Transmit<'_>,
    ) -> Option<io::Result<()>> {
        let extra = self.to(to)?;
        let sent = extra.socket.try_send(transmit);
        if let Err(error) = &sent
            && error.kind() == io::ErrorKind::WouldBlock
        {
            extra.blocked.store(true, Ordering::Release);
        }
        Some(sent)
    }

    /// One batch from whichever has one.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<usize> {
        for index in 0..self.count.load(Ordering::Acquire) {
            let Some(extra) = self.at(index) else { break };
            match extra.socket.poll_recv(cx, bufs, metas) {
                Poll::Pending => {}
                Poll::Ready(Ok(count)) => return Poll::Ready(count),
                Poll::Ready(Err(error)) => {
                    // ICMP errors of other packets; a path that is dead is noticed by its silence.
                    trace!(%error, "receiving failed");
                    return Poll::Ready(0);
                }
            }
        }
        Poll::Pending
    }

    /// Waits for whichever said that it is full.
    pub(crate) fn poll_writable(
        &self,
        cx: &mut Context<'_>,
        pollers: &mut ExtraPollers,
    ) -> Poll<io::Result<()>> {
        for index in 0..self.count.load(Ordering::Acquire) {
            let Some(extra) = self.at(index) else { break };
            if extra.blocked.load(Ordering::Acquire) {
                ready!(pollers.of(&extra).poll_writable(cx))?;
                extra.blocked.store(false, Ordering::Release);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What a task uses to wait for writability, one for each socket that was ever full.
#[derive(Default)]
pub(crate) struct ExtraPollers(Vec<(Arc<Extra>, Poller)>);

type Poller = Pin<Box<dyn UdpPoller>>;

impl ExtraPollers {
    fn of(&mut self, extra: &Arc<Extra>) -> Pin<&mut dyn UdpPoller> {
        let known = self.0.iter().position(|(one, _)| Arc::ptr_eq(one, extra));
        let index = known.unwrap_or_else(|| {
            // Who holds none of a socket but us has seen its end.
            self.0.retain(|(one, _)| Arc::strong_count(one) > 1);
            let poller = extra.socket.clone().create_io_poller();
            self.0.push((extra.clone(), poller));
            self.0.len() - 1
        });
        self.0[index].1.as_mut()
    }
}
