//! The `kms` binary: parses arguments, runs the subcommand, returns an exit status.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cvm_kms::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // Stderr may be closed.
            let _ = writeln!(io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
