//! The ring of samples between a device's callback and the thread that works for it.
//!
//! The callback's side allocates nothing, takes no lock and never waits; the other side may wait. There is one
//! writer and one reader.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use ringbuf::{
    HeapCons, HeapProd, HeapRb,
    traits::{Consumer as _, Observer as _, Producer as _, Split as _},
};

/// Arrivals that may wait for the reader: more than callbacks in the time that a ring lasts.
const ARRIVALS: usize = 64;
/// How long a waiter sleeps at most where the other side does not know it (it waited on another thread first).
const BLIND_NAP: Duration = Duration::from_millis(2);

/// What befell a device, as its error callback saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trouble {
    /// It went away.
    Gone = 1,
    /// It must be opened again.
    Failed = 2,
}

/// Samples that came at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Samples that came until then, counted from the opening; lost ones are not counted.
    pub(crate) samples: u64,
    /// When the device handed them over.
    pub(crate) at: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    waiter: OnceLock<Thread>,
    trouble: AtomicU8,
    /// Samples that found the ring full.
    overflow: AtomicU64,
}

impl Shared {
    fn wake(&self) {
        if let Some(waiter) = self.waiter.get() {
            waiter.unpark();
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        match self.trouble.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Trouble::Gone),
            _ => Some(Trouble::Failed),
        }
    }

    /// Waits until `ready`, or trouble, `timeout` at most; returns whether it is ready.
    fn wait(&self, timeout: Duration, ready: impl Fn() -> bool) -> bool {
        let here = thread::current();
        let known = self.waiter.get_or_init(|| here.clone()).id() == here.id();
        let deadline = Instant::now() + timeout;
        loop {
            if ready() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.trouble().is_some() {
                return false;
            }
            thread::park_timeout(if known { left } else { left.min(BLIND_NAP) });
        }
    }
}

/// A ring for `capacity` samples.
pub(crate) fn ring(capacity: usize) -> (RingWriter, RingReader) {
    let (samples_in, samples_out) = HeapRb::new(capacity.max(1)).split();
    let (arrivals_in, arrivals_out) = HeapRb::new(ARRIVALS).split();
    let shared = Arc::new(Shared::default());
    let writer = RingWriter {
        samples: samples_in,
        arrivals: arrivals_in,
        written: 0,
        shared: Arc::clone(&shared),
    };
    let reader = RingReader {
        samples: samples_out,
        arrivals: arrivals_out,
        shared,
    };
    (writer, reader)
}

/// The end that samples go in at.
pub(crate) struct RingWriter {
    samples: HeapProd<f32>,
    arrivals: HeapProd<Arrival>,
    written: u64,
    shared: Arc<Shared>,
}

impl RingWriter {
    /// Appends samples; those that find no room are lost, and counted. Neither waits nor allocates.
    pub(crate) fn write(&mut self, samples: impl ExactSizeIterator<Item = f32>) {
        let count = samples.len();
        let written = self.samples.push_iter(samples);
        self.written += written as u64;
        if written < count {
            self.shared
                .overflow
                .fetch_add((count - written) as u64, Ordering::Relaxed);
        }
        self.shared.wake();
    }

    /// The same, for samples that the device handed over `at` a moment. Neither waits nor allocates.
    pub(crate) fn write_at(&mut self, at: Instant, samples: impl ExactSizeIterator<Item = f32>) {
        self.write(samples);
        let arrival = Arrival {
            samples: self.written,
            at,
        };
        // One that finds no room is one observation less.
        let _ = self.arrivals.try_push(arrival);
    }

    /// Samples that wait to be read.
    pub(crate) fn len(&self) -> usize {
        self.samples.occupied_len()
    }

    /// Samples for which there is room.
    pub(crate) fn room(&self) -> usize {
        self.samples.vacant_len()
    }

    /// Waits until `len` samples at most wait to be read, `timeout` at most.
    pub(crate) fn wait_until_below(&self, len: usize, timeout: Duration) -> bool {
        self.shared.wait(timeout, || self.len() <= len)
    }

    /// What befell the device.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble()
    }

    /// For the device's error callback.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.shared))
    }
}

/// The end that samples come out of.
pub(crate) struct RingReader {
    samples: HeapCons<f32>,
    arrivals: HeapCons<Arrival>,
    shared: Arc<Shared>,
}

impl RingReader {
    /// Fills all of `block`, or nothing; never waits.
    pub(crate) fn read(&mut self, block: &mut [f32]) -> bool {
        let whole = self.len() >= block.len();
        if whole {
            self.take(block);
        }
        whole
    }

    /// Fills as much of `samples` as there is; returns how much. Neither waits nor allocates.
    pub(crate) fn take(&mut self, samples: &mut [f32]) -> usize {
        let taken = self.samples.pop_slice(samples);
        self.shared.wake();
        taken
    }

    /// Throws away `count` samples, or all that there are.
    pub(crate) fn skip(&mut self, count: usize) {
        self.samples.skip(count);
    }

    /// Samples that wait.
    pub(crate) fn len(&self) -> usize {
        self.samples.occupied_len()
    }

    /// Waits until `len` samples are there, `timeout` at most.
    pub(crate) fn wait_for(&self, len: usize, timeout: Duration) -> bool {
        self.shared.wait(timeout, || self.len() >= len)
    }

    /// The next moment at which samples came.
    pub(crate) fn arrival(&mut self) -> Option<Arrival> {
        self.arrivals.try_pop()
    }

    /// Samples that found the ring full.
    pub(crate) fn overflow(&self) -> u64 {
        self.shared.overflow.load(Ordering::Relaxed)
    }

    /// What befell the device.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble()
    }

    /// For the device's error callback.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.shared))
    }
}

/// Tells who waits at a ring that its device is in trouble.
#[derive(Debug, Clone)]
pub(crate) struct Alarm(Arc<Shared>);

impl Alarm {
    /// The first trouble counts. Neither waits nor allocates.
    pub(crate) fn raise(&self, trouble: Trouble) {
        let _ =
            self.0
                .trouble
                .compare_exchange(0, trouble as u8, Ordering::AcqRel, Ordering::Acquire);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn blocks_are_whole_and_in_order() {
        let (mut writer, mut reader) = ring(1_000);
        let mut block = [0.0; 480];
        writer.write((0..479).map(|n| n as f32));
        assert!(!reader.read(&mut block));
        writer.write(std::iter::once(479.0));
        assert!(reader.read(&mut block));
        assert_eq!((block[0], block[479]), (0.0, 479.0));
        assert_eq!((writer.len(), writer.room()), (0, 1_000));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (mut writer, mut reader) = ring(100);
        let at = Instant::now();
        writer.write_at(at, (0..150).map(|n| n as f32));
        writer.write_at(at, (0..10).map(|n| n as f32));
        assert_eq!(reader.overflow(), 60);
        let arrivals: Vec<_> = std::iter::from_fn(|| reader.arrival())
            .map(|arrival| arrival.samples)
            .collect();
        assert_eq!(arrivals, [100, 100]);
        reader.skip(90);
        let mut rest = [0.0; 100];
        assert_eq!(reader.take(&mut rest), 10);
        assert_eq!(rest[0], 90.0);
    }

    #[test]
    fn a_reader_is_woken_by_samples() {
        let (mut writer, reader) = ring(1_000);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || reader.wait_for(480, LONG));
            writer.write((0..480).map(|n| n as f32));
            assert!(waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn a_writer_is_woken_by_room() {
        let (mut writer, mut reader) = ring(1_000);
        writer.write((0..960).map(|n| n as f32));
        thread::scope(|scope| {
            let waiting = scope.spawn(move || writer.wait_until_below(480, LONG));
            let mut block = [0.0; 480];
            assert_eq!(reader.take(&mut block), 480);
            assert!(waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn trouble_ends_all_waiting() {
        let (writer, reader) = ring(10);
        let alarm = writer.alarm();
        thread::scope(|scope| {
            let waiting = scope.spawn(move || (reader.wait_for(5, LONG), reader.trouble()));
            alarm.raise(Trouble::Gone);
            alarm.raise(Trouble::Failed);
            assert_eq!(
                waiting.join().expect("no panic"),
                (false, Some(Trouble::Gone))
            );
        });
    }
}
