//! `kmsctl completions`: completions of commands and options for a shell.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::exit::{Exit, Outcome};
use crate::output::Terminal;

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, terminal: &Terminal, mut program: clap::Command) -> Outcome {
        let mut script = Vec::new();
        generate(self.shell, &mut program, "kmsctl", &mut script);
        terminal.write(&script)?;
        Ok(Exit::Done)
    }
}
