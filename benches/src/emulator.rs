//! A link between two network namespaces that is as bad as wanted, in real time: a TUN device on each side,
//! and between them this, which asks [`p2p_net_sim::Link`] for the fate of each packet. Everything that the
//! two sides say to each other goes through it, whatever the program does.
//!
//! Four threads: each device has one that reads and one that writes what is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use p2p_net_sim::{Link, LinkConfig};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Largest packet, bytes.
const MTU: u16 = 1_500;
/// Bytes of IPv4 and UDP headers: the link's model wants what is behind them.
const HEADERS: usize = 28;
/// Where IPv4 says what a packet carries, and what it says for TCP and for UDP.
const PROTOCOL_AT: usize = 9;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Packets under way in one direction at most; a bound, far above what the queues of the links hold.
const MAX_PACKETS: usize = 65_536;

/// One side of the link.
#[derive(Debug, Clone)]
pub struct End {
    /// The namespace's name, as in `ip netns`.
    pub namespace: String,
    /// The TUN device there, made and configured before.
    pub device: String,
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets that went in.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Packets that did not come out.
    pub lost: u64,
    /// Bytes of UDP that came out, or will.
    pub udp_bytes: u64,
    /// Bytes of TCP that came out, or will.
    pub tcp_bytes: u64,
}

/// The running link; ends when dropped.
pub struct Emulator {
    directions: [Arc<Direction>; 2],
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Emulator {
    /// Joins two devices, with one configuration for both directions.
    ///
    /// # Errors
    /// Where a namespace or device is not there.
    pub fn start(ends: [End; 2], config: LinkConfig, seed: u64) -> Result<Self> {
        let devices = [open(&ends[0])?, open(&ends[1])?];
        let directions = [0, 1].map(|index| Arc::new(Direction::new(config, seed ^ index)));
        let ending = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for index in 0..2 {
            let (from, to) = (devices[index].clone(), devices[1 - index].clone());
            let (reading, writing) = (directions[index].clone(), directions[index].clone());
            let (end_reading, end_writing) = (ending.clone(), ending.clone());
            // A reader waits in the kernel for its next packet; it is not joined.
            thread::Builder::new()
                .name(format!("link {index} in"))
                .spawn(move || read(&from, &reading, &end_reading))?;
            threads.push(
                thread::Builder::new()
                    .name(format!("link {index} out"))
                    .spawn(move || write(&to, &writing, &end_writing))?,
            );
        }
        Ok(Self {
            directions,
            ending,
            threads,
        })
    }

    /// Changes both directions; packets under way keep their arrival.
    pub fn set_config(&self, config: LinkConfig) {
        for direction in &self.directions {
            direction.lock().link.set_config(config);
        }
    }

    /// What passed, from the first end to the second and back.
    pub fn passed(&self) -> [Passed; 2] {
        [self.directions[0].passed(), self.directions[1].passed()]
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for direction in &self.directions {
            direction.changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A packet under way, in the order of its arrival and then of its entry.
type Due = Reverse<(Instant, u64, Vec<u8>)>;

struct State {
    link: Link,
    due: BinaryHeap<Due>,
    entered: u64,
}

struct Direction {
    state: Mutex<State>,
    changed: Condvar,
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    udp_bytes: AtomicU64,
    tcp_bytes: AtomicU64,
}

impl Direction {
    fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            state: Mutex::new(State {
                link: Link::new(config, seed),
                due: BinaryHeap::new(),
                entered: 0,
            }),
            changed: Condvar::new(),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            udp_bytes: AtomicU64::new(0),
            tcp_bytes: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, packet: &[u8]) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
        let now = Instant::now();
        let mut state = self.lock();
        let fate = state.link.send(now, packet.len().saturating_sub(HEADERS));
        if fate.arrives.is_none() || state.due.len() >= MAX_PACKETS {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let carried = match packet.get(PROTOCOL_AT) {
            Some(&TCP) => Some(&self.tcp_bytes),
            Some(&UDP) => Some(&self.udp_bytes),
            _ => None,
        };
        if let Some(carried) = carried {
            carried.fetch_add(packet.len() as u64, Ordering::Relaxed);
        }
        for at in fate.arrives.into_iter().chain(fate.copy_arrives) {
            state.entered += 1;
            let number = state.entered;
            state.due.push(Reverse((at, number, packet.to_vec())));
        }
        drop(state);
        self.changed.notify_one();
    }

    fn passed(&self) -> Passed {
        Passed {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            udp_bytes: self.udp_bytes.load(Ordering::Relaxed),
            tcp_bytes: self.tcp_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Does something inside a network namespace: on a thread of its own, since a thread that went there stays.
///
/// # Errors
/// Where there is no such namespace, or it may not be entered, and what `work` gives.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let path = format!("/run/netns/{namespace}");
    let going = thread::Builder::new().name("into a namespace".to_owned());
    let gone = going.spawn(move || -> Result<T> {
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })?;
    gone.join()
        .map_err(|_| anyhow!("the thread inside a namespace failed"))?
}

/// Opens a TUN device of another namespace.
fn open(end: &End) -> Result<Arc<SyncDevice>> {
    let End { namespace, device } = end.clone();
    let what = format!("device {device} in namespace {namespace}");
    let opened = inside(&namespace, move || {
        Ok(DeviceBuilder::new().name(device).mtu(MTU).build_sync()?)
    });
    Ok(Arc::new(opened.with_context(|| format!("opening {what}"))?))
}

fn read(device: &SyncDevice, direction: &Direction, ending: &AtomicBool) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    while !ending.load(Ordering::Relaxed) {
        match device.recv(&mut buffer) {
            Ok(length) => direction.enter(&buffer[..length]),
            Err(_) => return,
        }
    }
}

fn write(device: &SyncDevice, direction: &Direction, ending: &AtomicBool) {
    let mut state = direction.lock();
    while !ending.load(Ordering::Relaxed) {
        let now = Instant::now();
        let next = state.due.peek().map(|Reverse((at, ..))| *at);
        match next {
            Some(at) if at <= now => {
                let packet = state.due.pop();
                drop(state);
                if let Some(Reverse((_, _, packet))) = packet {
                    // A device without room loses packets, as any network does.
                    let _ = device.send(&packet);
                }
                state = direction.lock();
            }
            _ => {
                let wait = next.map_or(Duration::from_millis(100), |at| at - now);
                let waited = direction.changed.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}
