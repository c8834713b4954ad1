//! Buffers of one chunk each, used again and again: a bounded number, so that a side's memory is bounded
//! and whoever fills them waits for whoever empties them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunk::CHUNK_BYTES;

/// A bounded set of buffers of [`CHUNK_BYTES`].
pub(super) struct Pool {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn new(buffers: usize) -> Self {
        Self {
            free: Arc::default(),
            permits: Arc::new(Semaphore::new(buffers)),
        }
    }

    /// A buffer, when one is free; `None` once the pool is closed. Its old content is still in it.
    pub(super) async fn take(&self) -> Option<Buffer> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let bytes = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let bytes = bytes.unwrap_or_else(|| vec![0; CHUNK_BYTES].into_boxed_slice());
        Some(Buffer {
            bytes,
            len: 0,
            free: Arc::clone(&self.free),
            _permit: permit,
        })
    }

    /// Lets everybody who waits, now or later, go without.
    pub(super) fn close(&self) {
        self.permits.close();
    }
}

/// A buffer of a [`Pool`], which goes back there when dropped.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    /// The first `len` bytes, to be filled; that many count from now on.
    pub(super) fn fill(&mut self, len: usize) -> &mut [u8] {
        self.len = len.min(CHUNK_BYTES);
        &mut self.bytes[..self.len]
    }

    /// Bytes that count.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for `more` bytes behind those that count, and returns it.
    pub(super) fn extend(&mut self, more: usize) -> &mut [u8] {
        let start = self.len;
        self.len = (start + more).min(CHUNK_BYTES);
        &mut self.bytes[start..self.len]
    }

    /// Forgets what was added beyond `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn buffers_come_back_when_the_last_view_is_gone() {
        let pool = Pool::new(1);
        let mut buffer = pool.take().await.expect("open");
        buffer.fill(3).copy_from_slice(b"abc");
        buffer.extend(2).copy_from_slice(b"de");
        buffer.truncate(4);
        let view = Bytes::from_owner(buffer);
        assert_eq!(&view[..], b"abcd");
        let other = view.slice(1..2);
        drop(view);
        assert!(pool.take().now_or_never().is_none(), "still in use");
        drop(other);
        assert!(pool.take().now_or_never().expect("free again").is_some());
        pool.close();
        assert!(pool.take().await.is_none());
    }
}
