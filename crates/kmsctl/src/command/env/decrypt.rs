//! `kmsctl env decrypt`: decrypts an environment like a guest.

use std::path::PathBuf;

use clap::Args;
use kms_client::environment::{Environment, envelope};
use zeroize::Zeroizing;

use crate::command::app_key::{field_of, read_keys};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::input;
use crate::output::{Audience, Terminal};

/// Hexadecimal doubles the length.
const MAX_FILE_BYTES: usize = 2 * envelope::MAX_BYTES + 2;
const MAX_KEY_BYTES: usize = 1024;

#[derive(Args, Debug)]
pub(crate) struct Decrypt {
    /// The encrypted environment, hexadecimal or binary; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: Key,
    /// File for the result, readable by its owner only; default: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// The app's secret.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Key {
    /// Keys of the app as app-key wrote them
    #[arg(long, value_name = "FILE")]
    app_keys: Option<PathBuf>,
    /// File with env_crypt_key, hexadecimal or 32 raw bytes
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl Decrypt {
    pub(crate) fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        let secret = self.key.secret()?;
        let name = self.file.display();
        let sealed = sealed(&files::read(&self.file, MAX_FILE_BYTES)?)
            .map_err(|problem| Failure::usage(format_args!("{name}: {problem}")))?;
        let plaintext = envelope::open(&secret, &sealed)
            .map_err(|error| Failure::unproven(format_args!("{name}: {error}")))?;
        let text = match terminal.audience() {
            Audience::Machines => plaintext,
            Audience::People => self.dotenv(&plaintext)?,
        };
        match &self.out {
            Some(path) => files::write(path, &text, Readers::Owner, existing)?,
            None => terminal.write(&text)?,
        }
        Ok(Exit::Done)
    }

    fn dotenv(&self, plaintext: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let name = self.file.display();
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
}

impl Key {
    fn secret(&self) -> Outcome<Zeroizing<[u8; 32]>> {
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

/// The raw envelope. Hexadecimal text is never a raw envelope, because that starts with a random key.
fn sealed(file: &[u8]) -> Result<Vec<u8>, String> {
    match std::str::from_utf8(file) {
        Ok(text) if text.trim().bytes().all(|byte| byte.is_ascii_alphanumeric()) => input::decode(text),
        _ => Ok(file.to_vec()),
    }
}
