//! The identity of an officer, which opens the officer's share: an age identity file, an ssh private key, or a plugin.

use std::io::{self, Write as _};
use std::path::Path;

use kms_recovery::{Callbacks, Identities, MAX_SHARE_FILE, SecretString, Share, decrypt};
use rustix::termios::{self, LocalModes, OptionalActions};
use zeroize::Zeroizing;

use crate::exit::{Failure, Outcome};
use crate::files;
use crate::output::printable;
use crate::person::Person;

/// The largest identity file: ssh keys of RSA have a few thousand bytes.
const MAX_IDENTITY: usize = 64 << 10;
/// The longest reply to a question of a plugin, and the longest passphrase.
const MAX_REPLY: usize = 1024;

/// Decrypts an officer's file with the identities in another one.
pub(super) fn open(share: &Path, identity: &Path) -> Outcome<Share> {
    let sealed = files::read(share, MAX_SHARE_FILE)?;
    let private = files::read(identity, MAX_IDENTITY)?;
    let about = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{}: {}", path.display(), printable(&error.to_string())))
    };
    let identities = Identities::parse(&private, Asker).map_err(|error| about(identity, &error))?;
    decrypt(&sealed, &identities).map_err(|error| about(share, &error))
}

/// Asks the person at the terminal for what an identity needs: a passphrase, or a touch of a hardware key.
#[derive(Clone, Copy)]
struct Asker;

impl Callbacks for Asker {
    fn display_message(&self, message: &str) {
        let _ = writeln!(io::stderr(), "{}", printable(message));
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let no = no.map(|no| format!("/{}", printable(no))).unwrap_or_default();
        let reply = ask(&format!("{} ({}{no})", printable(message), printable(yes)), Echo::On)?;
        let reply = reply.trim();
        Some(reply.eq_ignore_ascii_case(yes) || reply.eq_ignore_ascii_case("yes"))
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        ask(&printable(description), Echo::On).map(|reply| reply.trim().to_owned())
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        ask(&printable(description), Echo::Off).map(|reply| SecretString::from(reply.as_str()))
    }
}

/// Whether the terminal shows what is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    On,
    Off,
}

/// One line from the terminal; `None` where there is none.
fn ask(question: &str, echo: Echo) -> Option<Zeroizing<String>> {
    let _person = Person::present()?;
    let stdin = io::stdin();
    let before = termios::tcgetattr(&stdin).ok()?;
    let _ = write!(io::stderr(), "{question}: ");
    if echo == Echo::Off {
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(&stdin, OptionalActions::Flush, &hidden).ok()?;
    }
    let reply = line(&stdin);
    if echo == Echo::Off {
        let _ = termios::tcsetattr(&stdin, OptionalActions::Flush, &before);
        let _ = writeln!(io::stderr());
    }
    reply
}

/// Reads without the buffer of the standard library, which would keep a copy.
fn line(stdin: &io::Stdin) -> Option<Zeroizing<String>> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_REPLY));
    let mut byte = [0];
    while text.len() < MAX_REPLY {
        match rustix::io::read(stdin, &mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => text.push(byte[0]),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    std::str::from_utf8(&text).ok().map(|text| Zeroizing::new(text.trim_end_matches('\r').to_owned()))
}
