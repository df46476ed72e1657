//! The output of the sandbox: chapters, facts, and a spinner on a terminal.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};

const NAME_WIDTH: usize = 16;

pub(crate) struct Output {
    chapter: usize,
    is_styled: bool,
    is_live: bool,
    waiting: Option<ProgressBar>,
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Red => "31",
        }
    }
}

impl Output {
    /// Colours and spinners on a terminal only; no colours if `NO_COLOR` is set.
    pub(crate) fn new() -> Self {
        let is_live = stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let is_styled = is_live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { chapter: 0, is_styled, is_live, waiting: None }
    }

    pub(crate) fn opening(&mut self, text: &str) {
        self.line(&self.styled(Style::Bold, text));
    }

    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        self.line("");
        self.line(&self.styled(Style::Bold, &format!("{}. {title}", self.chapter)));
    }

    pub(crate) fn note(&mut self, text: impl Display) {
        self.line(&format!("   {text}"));
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl Display) {
        let name = self.styled(Style::Dim, &format!("{name:NAME_WIDTH$}"));
        self.line(&format!("   {name} {value}"));
    }

    pub(crate) fn good(&mut self, name: &str, text: impl Display) {
        let name = self.styled(Style::Green, &format!("{name:NAME_WIDTH$}"));
        self.line(&format!("   {name} {text}"));
    }

    pub(crate) fn refused(&mut self, text: impl Display) {
        let name = self.styled(Style::Yellow, &format!("{:NAME_WIDTH$}", "refused"));
        self.line(&format!("   {name} {text}"));
    }

    /// A line to copy, without anything around it.
    pub(crate) fn command(&mut self, text: impl Display) {
        self.line(&text.to_string());
    }

    /// Shows a spinner with the text, if it can be erased afterwards.
    pub(crate) fn waiting(&mut self, text: &str) {
        self.quiet();
        if self.is_live {
            let spinner = ProgressBar::new_spinner().with_message(text.to_owned());
            if let Ok(style) = ProgressStyle::with_template("   {spinner} {msg}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(100));
            self.waiting = Some(spinner);
        }
    }

    /// The message while everything is stopped.
    pub(crate) fn stopping(&mut self) {
        self.quiet();
        if self.is_live {
            self.line(&format!("\r{}", self.styled(Style::Dim, "stopping")));
        }
    }

    /// Why the demo failed, on standard error.
    pub(crate) fn failure(&mut self, error: &anyhow::Error) {
        self.quiet();
        let title = match stderr().is_terminal() {
            true => self.styled(Style::Red, "error:"),
            false => "error:".to_owned(),
        };
        eprintln!("{title} {error:#}");
    }

    fn line(&mut self, text: &str) {
        self.quiet();
        // A reader that closed the pipe, as `head` does, must not stop the demo.
        let _ = writeln!(stdout(), "{text}");
    }

    fn quiet(&mut self) {
        if let Some(spinner) = self.waiting.take() {
            spinner.finish_and_clear();
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        match self.is_styled {
            true => format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()),
            false => text.to_owned(),
        }
    }
}

/// The only part of a secret that is ever shown: the first 8 hexadecimal digits of its SHA-256.
pub(crate) fn fingerprint(secret: &[u8]) -> String {
    hex::encode(&Sha256::digest(secret)[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_eight_digits_of_the_hash() {
        assert_eq!(fingerprint(b""), "e3b0c442");
        assert_eq!(fingerprint(&[7; 32]).len(), 8);
    }
}
