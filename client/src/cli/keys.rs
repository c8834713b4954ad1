//! What a person types during a call: keys of a terminal, one at a time and without Enter, or the first letters
//! of lines where standard input is none. The terminal is brought back to its mode when it is over, however
//! that comes.

use std::io::{self, IsTerminal};

use media::capture::Devices;
use tokio::sync::mpsc;

use super::terminal::lines;

/// What waits to be taken.
const MAX_TYPED: usize = 16;

/// What is done at the keyboard, or comes because of it.
#[derive(Debug)]
pub(super) enum Typed {
    /// A key, as a small letter; Escape is `'\x1b'`, Enter `'\n'`.
    Key(char),
    /// The devices that [`Keys::ask_devices`] asked for.
    Devices(Box<Devices>),
}

/// See the module.
pub(super) struct Keys {
    tell: mpsc::Sender<Typed>,
    told: mpsc::Receiver<Typed>,
    #[cfg(unix)]
    _terminal: Option<unix::Terminal>,
}

impl Keys {
    /// Listens, if there is anybody.
    pub(super) fn listen() -> Self {
        let (tell, told) = mpsc::channel(MAX_TYPED);
        let is_terminal = io::stdin().is_terminal();
        if !is_terminal {
            listen_to_lines(tell.clone());
        }
        #[cfg(not(unix))]
        if is_terminal {
            listen_to_terminal(tell.clone());
        }
        Self {
            #[cfg(unix)]
            _terminal: is_terminal
                .then(|| unix::Terminal::listen(tell.clone()))
                .flatten(),
            tell,
            told,
        }
    }

    /// The next one; never, once the input has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Typed {
        match self.told.recv().await {
            Some(Typed::Key(key)) => Typed::Key(key.to_ascii_lowercase()),
            Some(typed) => typed,
            None => std::future::pending().await,
        }
    }

    /// Asks what devices there are, which may take a second; they come as [`Typed::Devices`].
    pub(super) fn ask_devices(&self) {
        let tell = self.tell.clone();
        tokio::task::spawn_blocking(move || {
            let devices = Box::new(media::capture::list());
            // Nobody waits for them any more: the call is over.
            let _ = tell.blocking_send(Typed::Devices(devices));
        });
    }
}

/// Where nobody types keys, lines begin with them.
fn listen_to_lines(tell: mpsc::Sender<Typed>) {
    let mut lines = lines();
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            let key = line.chars().next().unwrap_or('\n');
            if tell.send(Typed::Key(key)).await.is_err() {
                return;
            }
        }
    });
}

#[cfg(not(unix))]
fn listen_to_terminal(tell: mpsc::Sender<Typed>) {
    let reader = std::thread::Builder::new()
        .name("landline-keys".to_owned())
        .spawn(move || {
            let terminal = console::Term::stdout();
            while let Ok(key) = terminal.read_char() {
                if tell.blocking_send(Typed::Key(key)).is_err() {
                    return;
                }
            }
        });
    drop(reader);
}

/// The key in what came from a terminal at once. Arrow keys and their like, which come as several bytes, are
/// none of ours.
#[cfg(any(unix, test))]
fn key_of(bytes: &[u8]) -> Option<char> {
    match bytes {
        [0x1b, _, ..] => None,
        [b'\r', ..] => Some('\n'),
        _ => std::str::from_utf8(bytes).ok()?.chars().next(),
    }
}

#[cfg(unix)]
mod unix {
    //! A terminal that gives keys as they are typed and does not echo them. Its signals stay, but those that
    //! stop a program without its being asked: a call cannot rest in the shell.

    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::termios::{
        LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
    };
    use tokio::sync::mpsc;

    use super::{Typed, key_of};

    /// How long the reader waits for a key before it looks whether it is wanted still.
    const PATIENCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    /// Bytes that come at once at most.
    const MAX_BYTES: usize = 64;

    pub(super) struct Terminal {
        before: Termios,
        over: Arc<AtomicBool>,
    }

    impl Terminal {
        /// Changes the mode of the terminal and begins to read; `None` if it cannot be changed.
        pub(super) fn listen(tell: mpsc::Sender<Typed>) -> Option<Self> {
            let stdin = io::stdin();
            let before = tcgetattr(&stdin).ok()?;
            let mut mode = before.clone();
            mode.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO);
            for (code, value) in [
                (SpecialCodeIndex::VMIN, 1),
                (SpecialCodeIndex::VTIME, 0),
                (SpecialCodeIndex::VSUSP, 0),
                (SpecialCodeIndex::VQUIT, 0),
            ] {
                mode.special_codes[code] = value;
            }
            tcsetattr(&stdin, OptionalActions::Now, &mode).ok()?;
            let over = Arc::new(AtomicBool::new(false));
            let terminal = Self {
                before,
                over: Arc::clone(&over),
            };
            std::thread::Builder::new()
                .name("landline-keys".to_owned())
                .spawn(move || read(&tell, &over))
                .ok()?;
            Some(terminal)
        }
    }

    impl Drop for Terminal {
        fn drop(&mut self) {
            self.over.store(true, Ordering::Relaxed);
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        }
    }

    fn read(tell: &mpsc::Sender<Typed>, over: &AtomicBool) {
        let stdin = io::stdin();
        while !over.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut ready, Some(&PATIENCE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            let mut bytes = [0; MAX_BYTES];
            let count = match rustix::io::read(&stdin, &mut bytes) {
                Ok(0) => return,
                Ok(count) => count,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                Err(_) => return,
            };
            let key = bytes.get(..count).and_then(key_of);
            if key.is_some_and(|key| tell.blocking_send(Typed::Key(key)).is_err()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_those_of_several_bytes_are_left() {
        for (bytes, key) in [
            (&b"m"[..], Some('m')),
            (b"\r", Some('\n')),
            (b"\x1b", Some('\x1b')),
            (b"\x1b[A", None),
            (b"\x1bOP", None),
            ("ä".as_bytes(), Some('ä')),
            (b"\xff", None),
            (b"", None),
        ] {
            assert_eq!(key_of(bytes), key, "{bytes:?}");
        }
    }
}
