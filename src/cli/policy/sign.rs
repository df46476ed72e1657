//! `kms policy keygen` and `sign`: keys of signers, and bundles.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use kms_attest::identity::DomainName;
use kms_attest::small_file::small_file;
use kms_policy::bundle::{Header, SecretKey, UnverifiedBundle, add_signature, sign, sign_text, unsigned};
use kms_policy::review::Review;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::{bundle, read};
use crate::clock::unix_now;
use crate::config::EmptyDevices;

/// The largest file of a key.
const MAX_KEY: u64 = 4096;

/// A new key.
#[derive(Debug, Args)]
#[command(after_help = "Prints the verifier key, which a KMS pins in core.auth_api.bundle.keys.")]
pub(crate) struct Keygen {
    /// Its name, such as example.com/ann: no spaces, no plus sign
    #[arg(long)]
    name: String,
    /// The file of the private key, which must not exist; only its owner can read it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What is signed, and how.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kms policy sign auth-config.json --key ann.key --name prod --expires 90d --out prod-1.bundle\n  \
                  kms policy sign prod-1.bundle --key bob.key --out prod-1.bundle\n  \
                  kms policy sign auth-config.json --key ann.key --previous prod-1.bundle --expires 90d --out prod-2.bundle"
)]
pub(crate) struct Sign {
    /// An auth-config.json; or a bundle, which gets a further signature
    file: PathBuf,
    /// The file of the private key, of kms policy keygen
    #[arg(long, value_name = "FILE", required_unless_present = "unsigned")]
    key: Option<PathBuf>,
    /// Write the text of the bundle without a signature, for minisign -S
    #[arg(long, conflicts_with = "key")]
    unsigned: bool,
    /// The name of the bundle; default: that of the one before
    #[arg(long)]
    name: Option<String>,
    /// The domain whose requests it decides; default: that of the one before, or "default"
    #[arg(long)]
    domain: Option<String>,
    /// The bundle before, whose serial is one lower; without it, the bundle is the first and has serial 1
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// From when on it decides, RFC 3339; default: now
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// When it expires: RFC 3339, or a duration from now on such as 90d
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Where the bundle goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Keygen {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.name.parse().with_context(|| format!("--name {:?}", self.name))?;
        let key = SecretKey::generate(name)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.out)
            .with_context(|| format!("{} cannot be made", self.out.display()))?;
        file.write_all(key.expose().as_bytes())?;
        file.sync_all()?;
        say!("{}", key.verifying_key());
        Ok(ExitCode::SUCCESS)
    }
}

impl Sign {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let key = self.key.as_deref().map(secret_key).transpose()?;
        let content = read(&self.file)?;
        let Some(key) = key else { return self.text(&content) };
        let signed = match bundle::is_bundle(&content) {
            true => self.add(content, &key)?,
            false => {
                reviewed(&content, self.domain.as_deref())?;
                sign(&self.header()?, &content, &key)?
            }
        };
        std::fs::write(&self.out, &signed)
            .with_context(|| format!("{} cannot be written", self.out.display()))?;
        let bundle = UnverifiedBundle::parse(&signed)?;
        say!(
            "{} with serial {} is signed by {}; digest {}",
            bundle.header().name(),
            bundle.header().serial(),
            bundle.claimed_signers().collect::<Vec<_>>().join(", "),
            bundle.digest()
        );
        Ok(ExitCode::SUCCESS)
    }

    /// Writes the text alone, which minisign signs as it is.
    fn text(&self, content: &[u8]) -> anyhow::Result<ExitCode> {
        if bundle::is_bundle(content) {
            bail!(
                "{} is a bundle already: minisign -S signs one that was made with --unsigned",
                self.file.display()
            );
        }
        reviewed(content, self.domain.as_deref())?;
        let header = self.header()?;
        let text = unsigned(&header, content)?;
        std::fs::write(&self.out, &text)
            .with_context(|| format!("{} cannot be written", self.out.display()))?;
        say!(
            "{} with serial {} has no signature yet: minisign -S -m FILE puts one beside it",
            header.name(),
            header.serial()
        );
        Ok(ExitCode::SUCCESS)
    }

    fn add(&self, content: Vec<u8>, key: &SecretKey) -> anyhow::Result<Vec<u8>> {
        let Self { name, domain, previous, not_before, expires, .. } = self;
        let texts = [name, domain, not_before, expires];
        if previous.is_some() || texts.into_iter().any(Option::is_some) {
            bail!("a signature changes nothing else of a bundle: leave the other options out");
        }
        match bundle::with_beside(&self.file, content.clone()) {
            Ok(signed) => Ok(add_signature(&UnverifiedBundle::parse(&signed)?, key)?),
            // The text alone: this is its first signature.
            Err(_) => {
                let text = String::from_utf8(content).context("the bundle must be UTF-8")?;
                Ok(sign_text(&text, key)?)
            }
        }
    }

    fn header(&self) -> anyhow::Result<Header> {
        let read = |path| bundle::with_beside(path, read(path)?);
        let previous = self.previous.as_deref().map(read).transpose()?;
        let previous = previous.map(|content| UnverifiedBundle::parse(&content)).transpose()?;
        let before = previous.as_ref().map(UnverifiedBundle::header);
        let name = self.name.as_deref().or(before.map(Header::name));
        let name = name.ok_or_else(|| anyhow!("--name: the first bundle needs a name"))?;
        let domain =
            self.domain.as_deref().or(before.map(Header::domain)).unwrap_or(DomainName::DEFAULT.as_str());
        let serial = before.map_or(1, |before| before.serial() + 1);
        let now = unix_now();
        let not_before =
            self.not_before.as_deref().map_or(Ok(now), |text| time("--not-before", text, now))?;
        let expires = self.expires.as_deref().ok_or_else(|| anyhow!("--expires: a bundle needs an end"))?;
        let expires = time("--expires", expires, now)?;
        let digest = previous.as_ref().map(UnverifiedBundle::digest);
        Header::new(name, domain, serial, (not_before, expires), digest)
            .map_err(|error| anyhow!("the header of the bundle {error}"))
    }
}

/// Shows the warnings about an allowlist.
///
/// # Errors
/// It could not be used; or it is the list of a release of another system, from which no rule follows.
fn reviewed(content: &[u8], domain: Option<&str>) -> anyhow::Result<()> {
    let value: Value = kms_attest::json::from_utf8(content).unwrap_or_default();
    if is_of_agents(&value) {
        bail!(
            "this is an agent-attestation-allowlist.json, from which no rule of an auth-config.json follows: its \
             quote_measurements are RTMR0 to RTMR3 of one boot of one VM without its MRTD, so other firmware can bring the same \
             values; its measurements are what the agent says of itself; and it names neither a compose hash nor an app. Name \
             the image in osImages, and the app by its compose hash"
        );
    }
    let review = Review::of(content, EmptyDevices::NoDevice);
    super::print(&review, domain);
    if review.is_usable() { Ok(()) } else { bail!("the file could not be used: it would deny everything") }
}

/// Whether this is the list that EasyEnclave's `generate_allowlist.py` makes of one running agent: `version`, `release_tag`,
/// `created_at`, `measurements`, `report_data` and, later, `quote_measurements` with `rtmr0` to `rtmr3`.
fn is_of_agents(value: &Value) -> bool {
    let has = |name| value.get(name).is_some();
    has("release_tag") && (has("quote_measurements") || (has("measurements") && has("report_data")))
}

fn secret_key(path: &Path) -> anyhow::Result<SecretKey> {
    let bytes = small_file(path, MAX_KEY).with_context(|| format!("{} cannot be read", path.display()))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| anyhow!("{} is not a text", path.display()))?;
    SecretKey::parse(text).with_context(|| path.display().to_string())
}

/// A time as RFC 3339, or a duration after `now`.
fn time(option: &str, text: &str, now: u64) -> anyhow::Result<u64> {
    if let Some(duration) = kms_client::text::duration(text) {
        return Ok(now.saturating_add(duration.as_secs()));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    let seconds = time.and_then(|time| u64::try_from(time.unix_timestamp()).ok());
    seconds.ok_or_else(|| {
        anyhow!("{option}: must be RFC 3339 such as 2026-12-31T00:00:00Z, or a duration such as 90d")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_lists_of_agents_of_another_system_are_told_apart_from_allowlists() {
        let register = "00".repeat(48);
        let newer = json!({
            "version": "1.0",
            "release_tag": "v0.1.3",
            "created_at": "2026-01-20T00:00:00+00:00",
            "measurements": { "vm_image_id": "tag=v0.1.3 sha256=00", "sealed": true },
            "report_data": "00".repeat(64),
            "quote_measurements": { "rtmr0": register, "rtmr1": register, "rtmr2": register, "rtmr3": register },
        });
        let mut older = newer.clone();
        older.as_object_mut().expect("an object").remove("quote_measurements");
        for list in [newer, older] {
            let refused =
                reviewed(list.to_string().as_bytes(), None).expect_err("no rule follows from it").to_string();
            for part in
                ["without its MRTD", "says of itself", "neither a compose hash nor an app", "osImages"]
            {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        }
        let allowlist = json!({ "osImages": ["00".repeat(32)], "kms": {}, "apps": {}, "release_tag": "v1" });
        let outcome = reviewed(allowlist.to_string().as_bytes(), None).map_err(|error| error.to_string());
        assert!(!outcome.is_err_and(|error| error.contains("agent-attestation")));
    }
}
