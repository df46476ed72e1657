//! `kmsctl`: the command-line client for deployers, CVMs, relying parties and operators.

mod app_keys_file;
mod attested;
mod cli;
mod command;
mod event_log;
mod exit;
mod files;
mod input;
mod output;
mod person;
mod pin;
mod target;
mod trust;
mod when;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
