//! What decrypts an environment, and what becomes of its plaintext.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_client::environment::Environment;
use zeroize::Zeroizing;

use crate::command::app_key::{field_of, read_keys};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::input;
use crate::output::{Audience, Terminal};

const MAX_KEY_BYTES: usize = 1024;

/// The app's secret.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Key {
    /// Keys of the app as app-key wrote them
    #[arg(long, value_name = "FILE")]
    app_keys: Option<PathBuf>,
    /// File with env_crypt_key, hexadecimal or 32 raw bytes
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Where the plaintext goes.
#[derive(Args, Debug)]
pub(super) struct Destination {
    /// File for the result, readable by its owner only; default: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

impl Key {
    pub(super) fn secret(&self) -> Outcome<Zeroizing<[u8; 32]>> {
        if let Some(path) = &self.app_keys {
            return read_keys(path)?.env_crypt_key().map_err(field_of(path));
        }
        let path =
            self.key_file.as_ref().ok_or_else(|| Failure::usage("--app-keys or --key-file is needed"))?;
        let bytes = files::read(path, MAX_KEY_BYTES)?;
        if let Ok(raw) = <[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Zeroizing::new(raw));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| "must be hexadecimal or 32 raw bytes".to_owned());
        text.and_then(input::decode_secret).map_err(field_of(path))
    }
}

impl Destination {
    /// Writes the plaintext of the encrypted file `name`: for people as a `.env` file, for machines as it is.
    pub(super) fn write(&self, name: &Path, plaintext: Zeroizing<Vec<u8>>, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        let text = match terminal.audience() {
            Audience::Machines => plaintext,
            Audience::People => dotenv(name, &plaintext)?,
        };
        match &self.out {
            Some(path) => files::write(path, &text, Readers::Owner, existing)?,
            None => terminal.write(&text)?,
        }
        Ok(Exit::Done)
    }
}

fn dotenv(name: &Path, plaintext: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
    let name = name.display();
    let environment = Environment::from_json(plaintext).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::failed(format_args!(
            "{name}: decrypted, but its content is not an environment (line {line}, column {column}); --json prints it \
             as it is"
        ))
    })?;
    let text = environment.to_dotenv().map_err(|variable| {
        Failure::failed(format_args!(
            "{name}: a .env file cannot hold the value of {variable:?}; --json prints all of them"
        ))
    })?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}
