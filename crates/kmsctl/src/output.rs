//! Output: results on standard output for people or programs, progress and warnings on standard error.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde_json::json;

use crate::exit::{Failure, Outcome};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    People,
    /// `--json`: one JSON value on standard output, also for failures.
    Machines,
}

/// Whether standard output is still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Open,
    /// The reader has closed the pipe.
    Closed,
}

/// The three streams, and whether each is a terminal.
pub(crate) struct Terminal {
    audience: Audience,
    colours: Colours,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    None,
    Ansi,
}

/// The meaning of a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Doubtful,
    Quiet,
}

impl Terminal {
    /// Colours only on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn new(audience: Audience) -> Self {
        let objected = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = if !objected && io::stdout().is_terminal() { Colours::Ansi } else { Colours::None };
        Self { audience, colours }
    }

    /// Prints a result: as JSON for programs, or with `page` for people.
    pub(crate) fn show(&self, result: &impl Serialize, page: impl FnOnce(&mut Page)) -> Outcome<()> {
        let text = match self.audience {
            Audience::Machines => {
                let mut text = serde_json::to_string_pretty(result)
                    .map_err(|error| Failure::failed(format_args!("the report has no JSON form: {error}")))?;
                text.push('\n');
                text
            }
            Audience::People => self.page(page),
        };
        self.write(text.as_bytes())
    }

    /// Writes bytes to standard output unchanged: secrets and documents that were requested there.
    pub(crate) fn write(&self, bytes: &[u8]) -> Outcome<()> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::failed(format_args!("standard output: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Writes a part of a result that is printed as it arrives; returns whether standard output is still read.
    pub(crate) fn append(&self, piece: &str) -> Outcome<Output> {
        self.append_bytes(piece.as_bytes())
    }

    /// As [`Terminal::append`], for bytes.
    pub(crate) fn append_bytes(&self, piece: &[u8]) -> Outcome<Output> {
        let mut out = io::stdout().lock();
        match out.write_all(piece).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Output::Closed),
            Err(error) => Err(Failure::failed(format_args!("standard output: {error}"))),
            Ok(()) => Ok(Output::Open),
        }
    }

    /// Whether standard output is still read. Only a pipe can tell that its reader is gone.
    pub(crate) fn output(&self) -> Output {
        let out = io::stdout();
        let mut polled = [PollFd::new(&out, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_closed = rustix::event::poll(&mut polled, Some(&at_once)).is_ok()
            && polled[0].revents().contains(PollFlags::ERR);
        if is_closed { Output::Closed } else { Output::Open }
    }

    /// A result as people read it.
    pub(crate) fn page(&self, write: impl FnOnce(&mut Page)) -> String {
        let mut page = Page { colours: self.colours, text: String::new() };
        write(&mut page);
        page.text
    }

    /// Prints what a person must look at on standard error.
    pub(crate) fn alarm(&self, text: impl fmt::Display) {
        self.tell(Tone::Bad, "ALARM", &text.to_string());
    }

    /// Prints a warning on standard error; the command continues.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        self.tell(Tone::Doubtful, "warning", &text.to_string());
    }

    /// Prints a note on standard error.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Prints why the command failed: on standard error, for programs also on standard output.
    pub(crate) fn fail(&self, failure: &Failure) {
        self.tell(Tone::Bad, "error", &failure.message);
        if self.audience == Audience::Machines {
            let mut report = json!({ "error": failure.message, "exit": failure.exit as u8 });
            if let Some((name, details)) = &failure.details {
                report[*name] = details.clone();
            }
            // Standard error has the reason in any case.
            let _ = self.show(&report, |_| ());
        }
    }

    /// Shows a spinner on standard error, if that is a terminal.
    pub(crate) fn progress(&self, doing: &'static str) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(doing);
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(Some(bar))
    }

    pub(crate) fn audience(&self) -> Audience {
        self.audience
    }

    /// A line on standard error. Its text may be that of a KMS which is not verified.
    fn tell(&self, tone: Tone, word: &str, text: &str) {
        let _ =
            writeln!(std::io::stderr(), "{}: {}", self.toned_for_error(tone, word), printable_lines(text));
    }

    fn toned_for_error(&self, tone: Tone, text: &str) -> String {
        let colours = if io::stderr().is_terminal() { self.colours } else { Colours::None };
        toned(colours, tone, text)
    }
}

/// A running spinner, removed when dropped.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Changes the text.
    pub(crate) fn now(&self, doing: &'static str) {
        if let Some(bar) = &self.0 {
            bar.set_message(doing);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A result in text form.
pub(crate) struct Page {
    colours: Colours,
    text: String,
}

impl Page {
    pub(crate) fn line(&mut self, text: impl fmt::Display) {
        self.text.push_str(&format!("{text}\n"));
    }

    /// A name and its value; omitted if the value is empty.
    pub(crate) fn field(&mut self, name: &str, value: impl fmt::Display) {
        let value = value.to_string();
        if !value.is_empty() {
            let name = toned(self.colours, Tone::Quiet, &format!("{name:<20}"));
            self.line(format_args!("{name}  {value}"));
        }
    }

    /// A text in a colour.
    pub(crate) fn toned(&self, tone: Tone, text: &str) -> String {
        toned(self.colours, tone, text)
    }
}

fn toned(colours: Colours, tone: Tone, text: &str) -> String {
    if colours == Colours::None {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Bad => "31",
        Tone::Doubtful => "33",
        Tone::Quiet => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Text of a KMS or a file, safe to print: no control characters, and none that change the direction of
/// text.
pub(crate) fn printable(foreign: &str) -> String {
    foreign.chars().map(|c| if is_control(c) { ' ' } else { c }).collect()
}

/// The same for a message of several lines, such as one with what to do.
fn printable_lines(message: &str) -> String {
    message.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn is_control(c: char) -> bool {
    let is_of_direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_of_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{9b}c\u{202e}d\u{2066}é"), "a [31m b c d é");
        assert_eq!(printable_lines("a\u{1b}\r\n  b\u{202e}"), "a  \n  b ");
    }
}
