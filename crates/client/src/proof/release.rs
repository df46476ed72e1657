//! A release of `kms`, as `build/describe.sh` describes it, and whether a KMS runs it.
//!
//! A KMS states the digest of its program in `/attestation.json`, and its quote covers that statement. But the program itself
//! says it. What the hardware measures is the CVM's compose file, which names a container image by its digest. So the
//! statement counts once that file is known and names an image of the release.

use std::collections::BTreeSet;

use kms_attest::identity::ComposeHash;
use kms_attest::json::{duplicate_keys, from_utf8};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::attestation::Hex;

/// The longest description, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// The longest compose file, in bytes.
pub const MAX_COMPOSE_BYTES: usize = 1024 * 1024;
/// The most images of a release.
const MAX_IMAGES: usize = 64;

/// What a release says of the program in it. Fields that are added later are skipped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Release {
    /// The program, such as `kms`.
    pub program: String,
    /// Its version.
    pub program_version: String,
    /// The commit that it was built from.
    pub revision: String,
    /// SHA-256 of the program.
    pub sha256: Hex<32>,
    /// Container images with the program.
    #[serde(default)]
    pub images: Vec<Image>,
}

/// A container image by its digest: `NAME@sha256:DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Image {
    text: String,
    digest: String,
}

/// A text that cannot be read as a release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Longer than [`MAX_BYTES`].
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not JSON of this form.
    #[error("not a description of a release: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The same key twice in one object.
    #[error("the key {0} is there twice")]
    Duplicate(String),
    /// Of another form.
    #[error("version {0} of the description is unknown; this program reads version 1")]
    Version(u64),
    /// Of another program.
    #[error("a release of {0}, not of kms")]
    Program(String),
    /// More than can be compared.
    #[error("more than {MAX_IMAGES} images")]
    Images,
}

/// A finding about a release. The KMS may run it by the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The KMS states another program.
    OtherProgram,
    /// The KMS does not state which program it runs.
    NotStated,
    /// The KMS measures another compose file than the one given.
    OtherCompose,
    /// The measured compose file names no image of the release.
    NoImage,
    /// The KMS states the program of the release; what measures it was not compared.
    Stated,
    /// It states the program, and the compose file that is measured names an image of the release.
    Measured,
}

impl TryFrom<String> for Image {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digest = text.split_once("@sha256:").filter(|(name, digest)| {
            let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'@');
            !name.is_empty()
                && name.bytes().all(is_plain)
                && digest.len() == 64
                && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        match digest.map(|(_, digest)| digest.to_owned()) {
            Some(digest) => Ok(Self { text, digest }),
            None => Err(format!("expected an image as NAME@sha256:DIGEST, got {text:?}")),
        }
    }
}

impl Image {
    /// The image as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Release {
    /// Reads a description, at most [`MAX_BYTES`] long.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        if bytes.len() > MAX_BYTES {
            return Err(ReleaseError::TooLarge);
        }
        let Versioned { version } = from_utf8(bytes)?;
        if let Some(key) = duplicate_keys(bytes).first() {
            return Err(ReleaseError::Duplicate(key.clone()));
        }
        if version != 1 {
            return Err(ReleaseError::Version(version));
        }
        let release: Self = from_utf8(bytes)?;
        if release.program != "kms" {
            return Err(ReleaseError::Program(release.program));
        }
        if release.images.len() > MAX_IMAGES {
            return Err(ReleaseError::Images);
        }
        Ok(release)
    }

    /// Whether a KMS that states `stated` and measures `measured` runs this release. `compose` is the CVM's compose file
    /// (`app-compose.json`), if the caller has it.
    pub fn find(&self, stated: Option<[u8; 32]>, measured: ComposeHash, compose: Option<&str>) -> Finding {
        match stated {
            None => return Finding::NotStated,
            Some(stated) if stated != self.sha256.0 => return Finding::OtherProgram,
            Some(_) => {}
        }
        let Some(compose) = compose else { return Finding::Stated };
        if <[u8; 32]>::from(Sha256::digest(compose)) != measured.0 {
            return Finding::OtherCompose;
        }
        let named = digests(compose);
        match self.images.iter().any(|image| named.contains(image.digest.as_str())) {
            true => Finding::Measured,
            false => Finding::NoImage,
        }
    }
}

/// The digests of images that a text names: 64 digits after `@sha256:`, and no more.
fn digests(text: &str) -> BTreeSet<&str> {
    let is_digit = |character: char| matches!(character, '0'..='9' | 'a'..='f');
    text.split("@sha256:")
        .skip(1)
        .filter_map(|rest| {
            let end = rest.find(|character| !is_digit(character)).unwrap_or(rest.len());
            (end == 64 && !rest[end..].starts_with(char::is_alphanumeric)).then(|| &rest[..end])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: [u8; 32] = [0xab; 32];

    fn image(digit: char) -> String {
        format!("ghcr.io/cvm-kms/kms@sha256:{}", digit.to_string().repeat(64))
    }

    fn described(images: &str) -> String {
        format!(
            r#"{{"version": 1, "program": "kms", "program_version": "0.1.0", "revision": "00ff", "target": "x",
                "sha256": "{}", "images": [{images}], "later": {{}}}}"#,
            hex::encode(PROGRAM)
        )
    }

    fn compose(text: &str) -> (String, ComposeHash) {
        let text = format!(r#"{{"docker_compose_file": "services:\n  kms:\n    image: {text}\n"}}"#);
        let hash = ComposeHash(Sha256::digest(&text).into());
        (text, hash)
    }

    #[test]
    fn a_kms_runs_a_release_if_it_says_so_and_its_measured_compose_file_names_the_image() {
        let release = Release::parse(described(&format!("\"{}\"", image('1'))).as_bytes()).unwrap();
        let (text, hash) = compose(&image('1'));
        assert_eq!(release.find(Some(PROGRAM), hash, Some(&text)), Finding::Measured);
        assert_eq!(release.find(Some(PROGRAM), hash, None), Finding::Stated);
        assert_eq!(release.find(None, hash, Some(&text)), Finding::NotStated);
        assert_eq!(release.find(Some([0; 32]), hash, Some(&text)), Finding::OtherProgram);
        assert_eq!(release.find(Some(PROGRAM), ComposeHash([0; 32]), Some(&text)), Finding::OtherCompose);
        let longer = format!("{}1", image('1'));
        let other_case = image('1').replace("sha256", "SHA256");
        for other in [image('2'), "kms:latest".to_owned(), longer, other_case, image('1')[..90].to_owned()] {
            let (text, hash) = compose(&other);
            assert_eq!(release.find(Some(PROGRAM), hash, Some(&text)), Finding::NoImage, "{other}");
        }
        let without = Release::parse(described("").as_bytes()).unwrap();
        assert_eq!(without.find(Some(PROGRAM), hash, Some(&text)), Finding::NoImage);
    }

    #[test]
    fn what_is_no_release_of_kms_is_refused_with_the_reason() {
        let good = described("");
        assert!(Release::parse(good.as_bytes()).is_ok());
        for (text, reason) in [
            (good.replace("\"version\": 1", "\"version\": 2"), "version 2"),
            (good.replace("\"version\": 1,", ""), "version"),
            (good.replace("\"program\": \"kms\"", "\"program\": \"kmsctl\""), "a release of kmsctl"),
            (good.replace("\"program\": \"kms\"", "\"program\": \"kms\", \"program\": \"kms\""), "twice"),
            (good.replace("abab", "ABAB"), "64 lower-case hexadecimal digits"),
            (described("\"kms:latest\""), "NAME@sha256:DIGEST"),
            (described("\"@sha256:00\""), "NAME@sha256:DIGEST"),
            (described(&vec![format!("\"{}\"", image('1')); 65].join(",")), "more than 64 images"),
            (" ".repeat(MAX_BYTES + 1), "more than 65536 bytes"),
            ("[]".to_owned(), "not a description"),
        ] {
            let error = Release::parse(text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
