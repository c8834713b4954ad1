//! A slot for one thing between two threads: the newest wins.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::CaptureError;

/// Room for one `T`. A new one takes the place of one that nobody fetched.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    newest: Option<T>,
    failed: Option<CaptureError>,
    /// Nobody will put anything any more.
    closed: bool,
    dropped: u64,
}

impl<T> Slot<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                newest: None,
                failed: None,
                closed: false,
                dropped: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        // What panicked elsewhere left no half-made state: each change is one assignment.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Puts `thing` in the place of what is there.
    pub(crate) fn put(&self, thing: T) {
        self.change(|state| {
            if state.newest.replace(thing).is_some() {
                state.dropped += 1;
            }
        });
    }

    /// Says that no more will come, and why.
    pub(crate) fn fail(&self, error: CaptureError) {
        self.change(|state| {
            state.failed = Some(error);
            state.closed = true;
        });
    }

    /// Says that no more will come, since nobody wants it.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Whether nothing more will come, or is wanted.
    pub(crate) fn is_closed(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed
    }

    /// Waits for something, `timeout` at most.
    ///
    /// # Errors
    /// What [`Slot::fail`] was given, once.
    pub(crate) fn take(&self, timeout: Duration) -> Result<Option<T>, CaptureError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, timeout, |state| {
                state.newest.is_none() && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thing) = state.newest.take() {
            return Ok(Some(thing));
        }
        state.failed.take().map_or(Ok(None), Err)
    }

    /// How many were replaced before anybody fetched them.
    pub(crate) fn dropped(&self) -> u64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_wins() {
        let slot = Slot::new();
        slot.put(1);
        slot.put(2);
        assert_eq!(slot.dropped(), 1);
        assert!(matches!(slot.take(Duration::ZERO), Ok(Some(2))));
        assert!(matches!(slot.take(Duration::ZERO), Ok(None)));
    }

    #[test]
    fn a_failure_comes_after_the_last_thing() {
        let slot = Slot::new();
        slot.put(1);
        slot.fail(CaptureError::Gone {
            name: "camera".to_owned(),
        });
        let forever = Duration::from_secs(60);
        assert!(matches!(slot.take(forever), Ok(Some(1))));
        assert!(matches!(slot.take(forever), Err(CaptureError::Gone { .. })));
        assert!(slot.is_closed());
        assert!(matches!(slot.take(forever), Ok(None)));
    }

    #[test]
    fn a_waiter_is_woken() {
        let slot = Slot::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slot.take(Duration::from_secs(60)));
            slot.put(7);
            assert!(matches!(waiting.join().expect("no panic"), Ok(Some(7))));
        });
    }
}
