//! `kmsctl verify --release`: whether the KMS that a document proves runs a release.

use std::path::PathBuf;

use clap::Args;
use kms_attest::identity::ComposeHash;
use kms_client::proof::attestation::Proved;
use kms_client::proof::release::{self, Finding, Release};
use serde_json::{Value, json};

use crate::exit::{Failure, Outcome};
use crate::files;

#[derive(Args, Debug)]
pub(super) struct ReleaseArgs {
    /// With --attestation: the KMS must run this release; its kms-build.json
    #[arg(long, value_name = "FILE", requires = "attestation")]
    release: Option<PathBuf>,
    /// With --release: the CVM's compose file (app-compose.json), which must be the one that is measured
    #[arg(long, value_name = "FILE", requires = "release")]
    compose: Option<PathBuf>,
}

/// A release, with what its name is compared with.
pub(super) struct Expected {
    release: Release,
    compose: Option<String>,
    from: String,
}

/// A KMS that may run the release, by all that was compared.
pub(super) struct Agreed {
    expected: Expected,
    finding: Finding,
}

impl ReleaseArgs {
    /// The files, read; `None` if no release is named.
    pub(super) fn read(&self) -> Outcome<Option<Expected>> {
        let Some(path) = &self.release else { return Ok(None) };
        let bytes = files::read(path, release::MAX_BYTES)?;
        let release = Release::parse(&bytes).map_err(|error| Failure::usage(error).about(path.display()))?;
        let compose = self.compose.as_ref().map(|path| files::read_text(path, release::MAX_COMPOSE_BYTES));
        let compose = compose.transpose()?.map(|text| text.to_string());
        Ok(Some(Expected { release, compose, from: path.display().to_string() }))
    }
}

impl Expected {
    /// Compares the KMS with the release.
    ///
    /// # Errors
    /// Exit code 4, with the finding.
    pub(super) fn agree(self, proved: &Proved) -> Outcome<Agreed> {
        let measured: Result<[u8; 32], _> = proved.app_info().compose_hash.as_slice().try_into();
        let measured = measured.map_err(|_| Failure::unproven("no compose file is measured"))?;
        let stated = proved.statement().program_sha256.map(|program| program.0);
        let finding = self.release.find(stated, ComposeHash(measured), self.compose.as_deref());
        let reason = match finding {
            Finding::Stated | Finding::Measured => return Ok(Agreed { expected: self, finding }),
            Finding::OtherProgram => format!(
                "it states that it runs another program, with SHA-256 {}",
                hex::encode(stated.unwrap_or_default())
            ),
            Finding::NotStated => "it does not state which program it runs".to_owned(),
            Finding::OtherCompose => format!(
                "it measures another compose file than that of --compose, with SHA-256 {}",
                hex::encode(measured)
            ),
            Finding::NoImage => "the compose file that it measures names no image of the release".to_owned(),
        };
        let details = json!({ "finding": finding, "revision": self.release.revision });
        Err(Failure::unproven(format_args!("not of the release {}: {reason}", self.from))
            .with("release", details))
    }
}

impl Agreed {
    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Release { program_version, revision, sha256, .. } = &self.expected.release;
        json!({
            "version": program_version,
            "revision": revision,
            "sha256": sha256,
            "finding": self.finding,
        })
    }

    /// For people: name and value of a line.
    pub(super) fn line(&self) -> String {
        let Release { program_version, revision, .. } = &self.expected.release;
        format!("{program_version}, revision {revision}")
    }

    /// What is not proved of it, in words.
    pub(super) fn gap(&self) -> &'static str {
        match self.finding {
            // A file can name an image in a comment, or for a service beside another that answers as the KMS.
            Finding::Measured => {
                "that the KMS runs in the image of the release: read in its compose file that this image alone serves"
            }
            Finding::Stated
            | Finding::OtherProgram
            | Finding::NotStated
            | Finding::OtherCompose
            | Finding::NoImage => {
                "that the measured container holds the program of the release: give its compose file with --compose"
            }
        }
    }
}
