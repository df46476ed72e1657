//! `kmsctl env open`: opens a sealed environment like a guest.

use std::path::PathBuf;

use clap::Args;
use kms_client::environment::sealed::{self, SealedEnv};

use super::opened::{Destination, Key};
use crate::exit::{Failure, Outcome};
use crate::files;
use crate::output::Terminal;

#[derive(Args, Debug)]
pub(crate) struct Open {
    /// The sealed environment, JSON; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    destination: Destination,
}

impl Open {
    pub(crate) fn run(self, terminal: &Terminal) -> Outcome {
        let secret = self.key.secret()?;
        let name = self.file.display();
        let file = files::read(&self.file, sealed::MAX_BYTES)?;
        let sealed = SealedEnv::parse(&file).map_err(|error| {
            let failure = Failure::usage(format_args!("{name}: {error}"));
            match file.trim_ascii_start().first() {
                Some(b'{') => failure,
                _ => failure.hint("`kmsctl env decrypt` reads what `env encrypt` made"),
            }
        })?;
        let plaintext =
            sealed.open(&secret).map_err(|error| Failure::unproven(format_args!("{name}: {error}")))?;
        self.destination.write(&self.file, plaintext, terminal)
    }
}
