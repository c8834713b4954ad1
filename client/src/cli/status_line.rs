//! One line at the bottom of the terminal that changes in place, below lines that stay. It is as wide as the
//! terminal at most; where standard error is no terminal there is none, and only lines that stay are written.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};

use console::{Term, measure_text_width, truncate_str};

/// What is taken for the width of a terminal that does not say, columns.
const USUAL_WIDTH: usize = 80;

/// See the module.
pub(super) struct StatusLine {
    painter: Option<RefCell<Painter>>,
}

impl StatusLine {
    /// One on standard error; `wanted` only if people read that.
    pub(super) fn new(wanted: bool) -> Self {
        let wanted = wanted && io::stderr().is_terminal();
        Self {
            painter: wanted.then(RefCell::default),
        }
    }

    /// Whether there is a terminal to draw on.
    pub(super) const fn is_drawn(&self) -> bool {
        self.painter.is_some()
    }

    /// Columns that a text may take.
    pub(super) fn width() -> usize {
        // The last column stays free: some terminals wrap as soon as it is filled.
        columns().saturating_sub(1)
    }

    /// Shows this instead of what stood there.
    pub(super) fn show(&self, text: &str) {
        if let Some(painter) = &self.painter {
            write(&painter.borrow_mut().show(columns(), text));
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.show("");
    }

    /// Writes lines that stay, above; `print` may use either standard stream.
    pub(super) fn above(&self, print: impl FnOnce()) {
        let Some(painter) = &self.painter else {
            return print();
        };
        let mut painter = painter.borrow_mut();
        write(&painter.hide(columns()));
        print();
        write(&painter.again(columns()));
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

fn columns() -> usize {
    Term::stderr()
        .size_checked()
        .map_or(USUAL_WIDTH, |(_, columns)| usize::from(columns))
        .max(1)
}

fn write(text: &str) {
    if !text.is_empty() {
        let mut stderr = io::stderr().lock();
        let _ = stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush());
    }
}

/// What has to be written to a terminal so that it shows a line, and no more of the one before.
#[derive(Default)]
struct Painter {
    text: String,
    /// Columns of what stands there now; 0: nothing.
    drawn: usize,
}

impl Painter {
    fn show(&mut self, columns: usize, text: &str) -> String {
        let mut bytes = self.hide(columns);
        text.clone_into(&mut self.text);
        bytes.push_str(&self.again(columns));
        bytes
    }

    /// Takes away what stands there. A terminal that became narrower has wrapped it.
    fn hide(&mut self, columns: usize) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        match drawn {
            0 => String::new(),
            _ => match (drawn - 1) / columns.max(1) {
                0 => "\r\x1b[J".to_owned(),
                rows => format!("\r\x1b[{rows}A\x1b[J"),
            },
        }
    }

    fn again(&mut self, columns: usize) -> String {
        let text = match columns {
            // Not even the mark of what is missing.
            0 | 1 => String::new(),
            _ => truncate_str(&self.text, columns - 1, "…").into_owned(),
        };
        self.drawn = measure_text_width(&text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_replaces_the_one_before() {
        let mut painter = Painter::default();
        assert_eq!(painter.show(80, "one"), "one");
        assert_eq!(painter.show(80, "two"), "\r\x1b[Jtwo");
        assert_eq!(painter.hide(80), "\r\x1b[J");
        assert_eq!(painter.hide(80), "", "nothing stands there any more");
        assert_eq!(painter.again(80), "two");
        assert_eq!(painter.show(80, ""), "\r\x1b[J");
    }

    #[test]
    fn a_narrow_terminal_is_never_filled_and_a_narrowed_one_is_cleaned() {
        let mut painter = Painter::default();
        assert_eq!(painter.show(10, "0123456789abc"), "01234567…");
        assert_eq!(painter.show(1, "abc"), "\r\x1b[8A\x1b[J");
        let long = "x".repeat(79);
        assert_eq!(painter.show(80, &long), long);
        // 79 columns became two rows of 40, and the cursor stands in the second.
        assert_eq!(painter.show(40, "y"), "\r\x1b[1A\x1b[Jy");
        // What is colored is as wide as it looks.
        painter.show(80, "\x1b[1mbold\x1b[0m");
        assert_eq!(painter.drawn, 4);
    }
}
