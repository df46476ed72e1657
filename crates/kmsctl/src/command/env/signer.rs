//! Whether the signer of an app's public key is trusted: pinned, known, or confirmed once, as with ssh.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use kms_client::KmsUrl;
use kms_client::environment::KnownSigners;
use kms_client::environment::known_signers::{self, Entry, KmsName, MAX_BYTES, Standing};
use kms_client::statement::Signer;

use crate::exit::{Failure, Outcome};
use crate::files;
use crate::output::Terminal;
use crate::person::Person;

/// The trusted signers.
#[derive(Args, Debug)]
pub(crate) struct Signers {
    /// Accept this signer only (k256 root key of the KMS, 66 hexadecimal digits); may be given more than once
    #[arg(long = "signer", value_name = "HEX")]
    pinned: Vec<Signer>,
    /// File of known signers [default: kmsctl/known-signers in the user's configuration directory]
    #[arg(long, value_name = "FILE", env = "KMS_KNOWN_SIGNERS", hide_env_values = true)]
    known_signers: Option<PathBuf>,
    /// Add an unknown signer without asking, if none is known for this KMS: for scripts
    #[arg(long, conflicts_with = "pinned")]
    accept_new: bool,
}

impl Signers {
    /// Continues only if the signer is trusted. `asked` are all KMSs that might have responded instead of
    /// `url`: an attacker who blocks the known ones must not get an unknown signer accepted.
    pub(crate) fn require(
        &self,
        terminal: &Terminal,
        url: &KmsUrl,
        asked: &[KmsUrl],
        signer: Signer,
    ) -> Outcome<()> {
        if !self.pinned.is_empty() {
            return if self.pinned.contains(&signer) { Ok(()) } else { Err(self.not_pinned(signer)) };
        }
        let path = self.path()?;
        let known = read(&path)?;
        let kms = KmsName::from(url);
        match known.standing(&kms, signer) {
            Standing::Known => Ok(()),
            Standing::Changed(entries) => {
                let known: Vec<String> = entries
                    .iter()
                    .map(|entry| {
                        format!("  known   {} (line {} of {})", entry.signer, entry.line, path.display())
                    })
                    .collect();
                Err(Failure::unproven(format_args!(
                    "the signer of {kms} HAS CHANGED: another KMS answers, or somebody in between\n{}\n  shown   \
                     {signer}\nnothing was encrypted. If the change is meant, replace the line by\n  {}",
                    known.join("\n"),
                    known_signers::line(&kms, signer).trim_end(),
                )))
            }
            Standing::New => {
                let others = asked.iter().map(KmsName::from);
                let known: Vec<Entry> =
                    others.flat_map(|kms| known.of(&kms).cloned().collect::<Vec<_>>()).collect();
                if known.is_empty() {
                    return self.learn(terminal, &path, &kms, signer);
                }
                if known.iter().any(|entry| entry.signer == signer) {
                    return Ok(());
                }
                let known: Vec<String> = known
                    .iter()
                    .map(|entry| format!("  known   {} of {}", entry.signer, entry.kms))
                    .collect();
                Err(Failure::unproven(format_args!(
                    "{kms} answers, whose signer is not known, and it is not the signer known of the others that were \
                     asked\n{}\n  shown   {signer}\nnothing was encrypted. If {kms} belongs to another cluster, ask it alone",
                    known.join("\n"),
                )))
            }
        }
    }

    /// Whether the signer is pinned, or known for this KMS; asks nobody.
    pub(crate) fn know(&self, url: &KmsUrl, signer: Signer) -> Outcome<bool> {
        if !self.pinned.is_empty() {
            return Ok(self.pinned.contains(&signer));
        }
        let known = read(&self.path()?)?;
        Ok(matches!(known.standing(&KmsName::from(url), signer), Standing::Known))
    }

    fn not_pinned(&self, signer: Signer) -> Failure {
        let pinned: Vec<String> = self.pinned.iter().map(ToString::to_string).collect();
        Failure::unproven(format_args!(
            "the key is signed by another signer than --signer\n  pinned  {}\n  shown   {signer}\nnothing was encrypted",
            pinned.join("\n  pinned  ")
        ))
    }

    fn learn(&self, terminal: &Terminal, path: &Path, kms: &KmsName, signer: Signer) -> Outcome<()> {
        if self.accept_new {
            append(path, kms, signer)?;
            terminal.warn(format_args!("{kms} is now known by its signer {signer}"));
            return Ok(());
        }
        let Some(person) = Person::present() else {
            return Err(Failure::unproven(format_args!(
                "the signer of {kms} is not known and nobody can be asked\n  shown   {signer}\ncompare it with the k256 \
                 key of the KMS, then pin it with --signer, or accept it unverified with --accept-new"
            )));
        };
        terminal.note(format_args!(
            "The signer of {kms} is not known.\nIts k256 key is {signer}\nCompare it with what the operator of the KMS \
             published, or with `kmsctl verify`."
        ));
        if !person.confirms("Encrypt to the key that it signed, and remember it")? {
            return Err(Failure::unproven("the signer was not accepted; nothing was encrypted"));
        }
        append(path, kms, signer)?;
        terminal.note(format_args!("{kms} is now known ({})", path.display()));
        Ok(())
    }

    fn path(&self) -> Outcome<PathBuf> {
        if let Some(path) = &self.known_signers {
            return Ok(path.clone());
        }
        let directory = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        directory("XDG_CONFIG_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".config")))
            .map(|directory| directory.join("kmsctl/known-signers"))
            .ok_or_else(|| Failure::usage("there is no home directory; name a file with --known-signers"))
    }
}

fn read(path: &Path) -> Outcome<KnownSigners> {
    if !path.exists() {
        return Ok(KnownSigners::default());
    }
    let text = files::read_text(path, MAX_BYTES)?;
    KnownSigners::parse(&text).map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))
}

/// Appends in a single write, so that two programs do not lose each other's line.
fn append(path: &Path, kms: &KmsName, signer: Signer) -> Outcome<()> {
    let failed = |error: io::Error| Failure::file("cannot write", path, &error);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    // A last line without a line break would be joined with ours.
    let mut last = [b'\n'];
    if let Some(before) = file.metadata().map_err(failed)?.len().checked_sub(1) {
        file.read_exact_at(&mut last, before).map_err(failed)?;
    }
    let start = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{start}{}", known_signers::line(kms, signer)).as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}
