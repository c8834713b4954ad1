//! Ctrl-C, and the system's wish that the program ends. Listened to from the start, so that none is missed
//! while the program looks elsewhere.

use std::sync::OnceLock;
#[cfg(unix)]
use std::task::Poll;

use tokio::sync::watch;

static INTERRUPTS: OnceLock<watch::Receiver<u32>> = OnceLock::new();

/// Starts to listen; from then on the signals no longer end the process by themselves. Must be called
/// within a tokio runtime.
pub(crate) fn listen() {
    INTERRUPTS.get_or_init(|| {
        let (count, interrupts) = watch::channel(0u32);
        let mut signals = Signals::new();
        tokio::spawn(async move {
            loop {
                signals.next().await;
                count.send_modify(|count| *count = count.saturating_add(1));
            }
        });
        interrupts
    });
}

/// Waits until the program has been interrupted, be it long ago. Cancel safe.
pub(crate) async fn interrupted() {
    interrupted_more_than(0).await;
}

/// How often the program has been interrupted.
pub(crate) fn count() -> u32 {
    INTERRUPTS
        .get()
        .map_or(0, |interrupts| *interrupts.borrow())
}

/// Waits until the program has been interrupted more than `times` times. Cancel safe.
pub(crate) async fn interrupted_more_than(times: u32) {
    if let Some(interrupts) = INTERRUPTS.get()
        && interrupts
            .clone()
            .wait_for(|count| *count > times)
            .await
            .is_ok()
    {
        return;
    }
    // Nobody listens: the signal ends the process.
    std::future::pending().await
}

/// What interrupts a program; kept while it runs, so that no signal comes between two looks.
struct Signals {
    #[cfg(unix)]
    signals: Vec<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};

        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        Self {
            signals: kinds
                .into_iter()
                .filter_map(|kind| signal(kind).ok())
                .collect(),
        }
    }

    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let mut came = false;
            for signal in &mut self.signals {
                // All are asked, so that each wakes this task.
                came |= signal.poll_recv(context).is_ready();
            }
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self {}
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
