//! `kmsctl env decrypt`: decrypts an environment like a guest.

use std::path::PathBuf;

use clap::Args;
use kms_client::environment::{SealedEnv, envelope};

use super::opened::{Destination, Key};
use crate::exit::{Failure, Outcome};
use crate::output::Terminal;
use crate::{files, input};

/// Hexadecimal doubles the length.
pub(super) const MAX_FILE_BYTES: usize = 2 * envelope::MAX_BYTES + 2;

#[derive(Args, Debug)]
pub(crate) struct Decrypt {
    /// The encrypted environment, hexadecimal or binary; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    destination: Destination,
}

impl Decrypt {
    pub(crate) fn run(self, terminal: &Terminal) -> Outcome {
        let secret = self.key.secret()?;
        let name = self.file.display();
        let file = files::read(&self.file, MAX_FILE_BYTES)?;
        if let Ok(sealed) = SealedEnv::parse(&file) {
            let epochs = sealed.epochs();
            return Err(Failure::usage(format_args!(
                "{name}: a sealed environment for {epochs}; `kmsctl env open` opens it"
            )));
        }
        let sealed = sealed(&file).map_err(|problem| Failure::usage(format_args!("{name}: {problem}")))?;
        let plaintext = envelope::open(&secret, &sealed)
            .map_err(|error| Failure::unproven(format_args!("{name}: {error}")))?;
        self.destination.write(&self.file, plaintext, terminal)
    }
}

/// The raw envelope. Hexadecimal text is never a raw envelope, because that starts with a random key.
pub(super) fn sealed(file: &[u8]) -> Result<Vec<u8>, String> {
    match std::str::from_utf8(file) {
        Ok(text) if text.trim().bytes().all(|byte| byte.is_ascii_alphanumeric()) => input::decode(text),
        _ => Ok(file.to_vec()),
    }
}
