//! Questions to the person at the terminal, asked on standard error.

use std::io::{self, BufRead, IsTerminal, Write};

use tokio::sync::oneshot;

use crate::interrupt::interrupted;

/// Whether there is somebody to ask.
pub(crate) fn has_person() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question whose answer is yes or no. Ctrl-C means no, and so does that nobody is there.
pub(crate) async fn ask(question: &str) -> bool {
    if !has_person() {
        return false;
    }
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let (tell, told) = oneshot::channel();
    // A thread of its own: a line that never comes must not hold up the rest, or the program's end.
    let reader = std::thread::Builder::new().name("landline-question".to_owned());
    let started = reader.spawn(move || {
        let mut line = String::new();
        let _ = io::stdin().lock().read_line(&mut line);
        let _ = tell.send(is_yes(&line));
    });
    if started.is_err() {
        return false;
    }
    tokio::select! {
        answer = told => answer.unwrap_or(false),
        () = interrupted() => {
            let _ = writeln!(io::stderr());
            false
        }
    }
}

/// Only a clear yes is one.
pub(crate) fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(is_yes("y\n") && is_yes(" YES "));
        assert!(!is_yes("") && !is_yes("yeah") && !is_yes("n"));
    }
}
