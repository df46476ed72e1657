//! The person who runs a command, and can be asked.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use crate::exit::{Failure, Outcome};

/// The longest reply to a question.
const MAX_ANSWER_BYTES: u64 = 64;

/// A person at the terminal of this command.
pub(crate) struct Person(());

impl Person {
    /// `None` if questions would not be seen, or not be answered.
    pub(crate) fn present() -> Option<Self> {
        (io::stdin().is_terminal() && io::stderr().is_terminal()).then_some(Self(()))
    }

    /// For a command that needs one, with the reason.
    pub(crate) fn needed(why: &str) -> Outcome<Self> {
        Self::present().ok_or_else(|| Failure::usage(why))
    }

    /// Asks for confirmation; only `yes` counts, as with ssh.
    pub(crate) fn confirms(&self, question: &str) -> Outcome<bool> {
        let failed = |error: io::Error| Failure::failed(format_args!("terminal: {error}"));
        eprint!("{question} (yes/no)? ");
        io::stderr().flush().map_err(failed)?;
        let mut answer = String::new();
        io::stdin().lock().take(MAX_ANSWER_BYTES).read_line(&mut answer).map_err(failed)?;
        Ok(answer.trim().eq_ignore_ascii_case("yes"))
    }

    /// The same, where the command ends without a confirmation; `outcome` says what was not done then.
    pub(crate) fn must_confirm(&self, question: &str, outcome: &str) -> Outcome<()> {
        match self.confirms(question)? {
            true => Ok(()),
            false => Err(Failure::usage(outcome)),
        }
    }
}
