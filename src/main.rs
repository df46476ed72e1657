//! The `kms` binary: parse arguments, run the subcommand, give an exit status.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cvm_kms::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
