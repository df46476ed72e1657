//! `kmsctl env rekey`: a guest encrypts its environment again, from the keys of an older epoch to those of a newer one.

use std::path::PathBuf;

use clap::Args;
use kms_client::environment::{SealedEnv, envelope};
use serde_json::json;
use zeroize::Zeroizing;

use super::decrypt;
use crate::app_keys_file::AppKeysFile;
use crate::command::app_key::{field_of, read_keys};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Terminal, Tone};

#[derive(Args, Debug)]
pub(crate) struct Rekey {
    /// The encrypted or sealed environment; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Keys with which it is encrypted, as app-key --epoch wrote them
    #[arg(long, value_name = "FILE")]
    app_keys: PathBuf,
    /// Keys with which it will be encrypted, as app-key wrote them
    #[arg(long, value_name = "FILE")]
    new_app_keys: PathBuf,
    /// File for the result, in the same format
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// The formats of an environment.
enum Encrypted {
    Envelope(Vec<u8>),
    Sealed(SealedEnv),
}

impl Encrypted {
    fn parse(file: &[u8]) -> Result<Self, String> {
        match SealedEnv::parse(file) {
            Ok(sealed) => Ok(Self::Sealed(sealed)),
            Err(_) => decrypt::sealed(file).map(Self::Envelope),
        }
    }

    fn open(&self, secret: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::Envelope(envelope) => envelope::open(secret, envelope).map_err(|error| error.to_string()),
            Self::Sealed(sealed) => sealed.open(secret).map_err(|error| error.to_string()),
        }
    }

    /// The plaintext in the same format, for other keys.
    fn again(&self, keys: &AppKeysFile, plaintext: &[u8]) -> Result<String, String> {
        let secret = keys.env_crypt_key()?;
        let public_key = envelope::public_key(&secret).map_err(|error| error.to_string())?;
        match self {
            Self::Envelope(_) => {
                envelope::seal(&public_key, plaintext).map(hex::encode).map_err(|error| error.to_string())
            }
            Self::Sealed(_) => SealedEnv::seal(&public_key, keys.epochs(), plaintext)
                .map(|sealed| format!("{}\n", sealed.to_json()))
                .map_err(|error| error.to_string()),
        }
    }
}

impl Rekey {
    pub(crate) fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        files::check_writable(&self.out, existing)?;
        let (old, new) = (read_keys(&self.app_keys)?, read_keys(&self.new_app_keys)?);
        if old.app_id != new.app_id {
            return Err(Failure::usage(format_args!(
                "{} has keys of app {}, and {} of app {}: an environment stays with its app",
                self.app_keys.display(),
                old.app_id,
                self.new_app_keys.display(),
                new.app_id
            )));
        }
        let name = self.file.display();
        let file = files::read(&self.file, decrypt::MAX_FILE_BYTES)?;
        let encrypted =
            Encrypted::parse(&file).map_err(|problem| Failure::usage(format_args!("{name}: {problem}")))?;
        let old_secret = old.env_crypt_key().map_err(field_of(&self.app_keys))?;
        let new_secret = new.env_crypt_key().map_err(field_of(&self.new_app_keys))?;
        // A repeated call changes nothing that matters.
        let (plaintext, is_done) = match (encrypted.open(&old_secret), encrypted.open(&new_secret)) {
            (Ok(plaintext), _) => (plaintext, false),
            (Err(_), Ok(plaintext)) => (plaintext, true),
            (Err(error), Err(_)) => {
                return Err(Failure::unproven(format_args!("{name}: neither of the keys opens it: {error}")));
            }
        };
        let text = encrypted.again(&new, &plaintext).map_err(field_of(&self.new_app_keys))?;
        files::write(&self.out, text.as_bytes(), Readers::Everyone, existing)?;
        let report = json!({
            "app_id": new.app_id,
            "from": old.epochs().dotted(),
            "to": new.epochs().dotted(),
            "was_done": is_done,
            "file": self.out.display().to_string(),
        });
        terminal.show(&report, |page| {
            let done = page.toned(Tone::Good, "encrypted again");
            page.line(format_args!("{done}, from {} to {}", old.epochs(), new.epochs()));
            if is_done {
                page.line("It was encrypted to the newer keys already.");
            }
            page.field("file", self.out.display());
        })?;
        Ok(Exit::Done)
    }
}
