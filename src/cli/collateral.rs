//! `kms collateral`: what a node keeps of Intel's collateral, and files of it for sites that reach no service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;
use kms_attest::collateral::{
    CaKind, CacheStats, Collateral as Set, CollateralBundle, CollateralCache, CollateralError, EntryStats,
    PlatformKey,
};
use kms_attest::small_file::small_input;
use serde_json::json;

use super::findings::Findings;
use crate::api::uploads::MAX_UPLOAD;
use crate::clock::{Floor, rfc3339, unix_now};
use crate::config::Config;
use crate::store;

/// The most models in one file.
const MAX_SETS: usize = CollateralBundle::MAX_MODELS;
/// Operators without a way to the network need time to bring a file.
const SOON: u64 = 7 * 24 * 60 * 60;

/// Collateral of platform models, as a KMS keeps it in its key directory
#[derive(Debug, Subcommand)]
pub(super) enum Collateral {
    /// Show the models whose collateral is kept and until when it is valid; exit status 1 if a file is not used
    Show {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write what is kept and valid to a file for `import` or `kmsctl upload collateral-bundle`
    Export {
        /// The file; FILE-2 and so on follow if there are more than 64 models
        file: PathBuf,
        /// Instead of what is kept, fetch this model from the configured services: an FMSPC of 12 hex digits, for both CAs or
        /// as FMSPC/platform or FMSPC/processor
        #[arg(long, value_name = "MODEL")]
        fetch: Vec<Models>,
    },
    /// Check files as if a service had sent them, and keep what is in them for the next start of this node, which must be
    /// stopped
    Import {
        /// Files of `export`, or in the JSON form of dcap-qvl
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// The models of a word of the command line.
#[derive(Debug, Clone)]
pub(super) struct Models(Vec<PlatformKey>);

impl FromStr for Models {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (fmspc, ca) = word.split_once('/').map_or((word, None), |(fmspc, ca)| (fmspc, Some(ca)));
        let mut bytes = [0; 6];
        hex::decode_to_slice(fmspc, &mut bytes).map_err(|_| "an FMSPC is 12 hex digits".to_owned())?;
        let all = [CaKind::Platform, CaKind::Processor];
        let kinds: Vec<CaKind> =
            all.into_iter().filter(|kind| ca.is_none_or(|name| kind.as_str() == name)).collect();
        match kinds.is_empty() {
            true => Err("the CA is platform or processor".to_owned()),
            false => Ok(Self(kinds.into_iter().map(|ca| PlatformKey { fmspc: bytes, ca }).collect())),
        }
    }
}

impl Collateral {
    pub(super) fn run(self, explicit: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (config, _) = Config::load(explicit)?;
        match self {
            Self::Show { json } => show(&config, json),
            Self::Export { file, fetch } => export(&config, &file, fetch),
            Self::Import { files } => import(&config, &files),
        }
    }
}

fn show(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let verifier = config.core.verifier_of_kept()?;
    let stats = verifier.cache().stats();
    if as_json {
        let models: Vec<_> = stats.entries.iter().map(shown).collect();
        let refused: Vec<_> = stats.stored.refused.iter().map(ToString::to_string).collect();
        let report = json!({
            "offline": config.core.attestation.is_offline,
            "models": models,
            "refused": refused,
        });
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for entry in &stats.entries {
            say!("{}", line(entry));
        }
        for file in &stats.stored.refused {
            say!("not used: {file}");
        }
        say!("{}", summary(&stats));
    }
    Ok(if stats.stored.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shown(entry: &EntryStats) -> serde_json::Value {
    json!({
        "fmspc": hex::encode(entry.platform.fmspc),
        "ca": entry.platform.ca.as_str(),
        "fetched_at": rfc3339(unix_now().saturating_sub(entry.age)),
        "issued_at": rfc3339(entry.issued),
        "next_update": rfc3339(entry.expires),
        "tcb_evaluation_number": entry.numbers.tcb_info,
        "qe_evaluation_number": entry.numbers.qe_identity,
        "root_crl_number": entry.numbers.root_crl,
        "pck_crl_number": entry.numbers.pck_crl,
    })
}

fn line(entry: &EntryStats) -> String {
    let numbers = entry.numbers;
    format!(
        "{} ({} CA): valid until {}; TCB evaluation number {}, of the QE identity {}; CRL numbers {} (root), {} (CA)",
        hex::encode(entry.platform.fmspc),
        entry.platform.ca.as_str(),
        rfc3339(entry.expires),
        numbers.tcb_info,
        numbers.qe_identity,
        numbers.root_crl,
        numbers.pck_crl,
    )
}

/// How many models are kept, and until when.
fn summary(stats: &CacheStats) -> String {
    let ends = || stats.entries.iter().map(|entry| entry.expires);
    match (ends().min(), ends().max()) {
        (Some(first), Some(last)) => format!(
            "kept for {} models: the first is valid until {}, the last until {}",
            stats.entries.len(),
            rfc3339(first),
            rfc3339(last)
        ),
        _ => "no valid collateral is kept".to_owned(),
    }
}

fn export(config: &Config, file: &Path, fetch: Vec<Models>) -> anyhow::Result<ExitCode> {
    let verifier = match fetch.is_empty() {
        true => config.core.verifier_of_kept()?,
        false => config.core.verifier_of_a_check()?,
    };
    let cache = verifier.cache();
    let sets = match fetch.is_empty() {
        true => cache.held(),
        false => fetched(cache, fetch.into_iter().flat_map(|models| models.0))?,
    };
    if sets.is_empty() {
        anyhow::bail!("no valid collateral is kept here; --fetch gets it from a service");
    }
    for (number, some) in sets.chunks(MAX_SETS).enumerate() {
        let mut path = file.as_os_str().to_owned();
        if number > 0 {
            path.push(format!("-{}", number + 1));
        }
        let parts: Vec<_> = some.iter().map(|set| set.parts()).collect();
        fs::write(&path, serde_json::to_vec(&parts)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        say!("{}: {} models", path.display(), some.len());
    }
    say!("{}", summary_of(&sets));
    Ok(ExitCode::SUCCESS)
}

fn summary_of(sets: &[Arc<Set>]) -> String {
    let first = sets.iter().map(|set| set.expires()).min().unwrap_or(0);
    format!("import it before {}: the first model expires then", rfc3339(first))
}

fn fetched(
    cache: &CollateralCache,
    models: impl Iterator<Item = PlatformKey>,
) -> anyhow::Result<Vec<Arc<Set>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    models
        .map(|model| {
            let fetched = runtime.block_on(cache.of_model(model));
            fetched.map_err(|error| {
                let mut causes: Vec<String> =
                    cache.service_failures().iter().map(ToString::to_string).collect();
                if let (CollateralError::Unavailable { failures }, true) = (&error, causes.is_empty()) {
                    causes = failures.iter().map(ToString::to_string).collect();
                }
                let model = format!("{} ({} CA)", hex::encode(model.fmspc), model.ca.as_str());
                anyhow::anyhow!("no collateral of {model}: {}", causes.join("; "))
            })
        })
        .collect()
}

fn import(config: &Config, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let core = &config.core;
    if store::is_occupied(&core.cert_dir) {
        anyhow::bail!("a KMS is running on this key directory; use kmsctl upload collateral-bundle FILE");
    }
    let verifier = core.verifier(Floor::default())?;
    let cache = verifier.cache();
    cache.load_stored_now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // All are checked before one is kept.
    let mut examined = Vec::new();
    for path in files {
        let content = small_input(path, MAX_UPLOAD as u64)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let sets = CollateralBundle::parse(&content).and_then(|bundle| cache.examine(bundle));
        examined.push(sets.map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?);
    }
    let mut is_all_taken = true;
    for (path, sets) in files.iter().zip(examined) {
        let count = sets.len();
        let import = runtime.block_on(cache.import(sets));
        let used = import.used;
        is_all_taken &= import.refused.is_empty();
        for error in import.refused {
            say!("{} {error}", path.display());
        }
        say!(
            "{}: {used} of {count} models are kept; for the others later collateral is kept already",
            path.display()
        );
    }
    let stats = cache.stats();
    if let Some(failure) = stats.stored.write_failure {
        anyhow::bail!("the disk does not keep it: {failure}");
    }
    say!("{}", summary(&stats));
    Ok(if is_all_taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `check` and `doctor` say of what is kept.
pub(super) fn findings(stats: &CacheStats, is_offline: bool, found: &mut Findings) {
    if !stats.entries.is_empty() {
        found.fact("collateral", summary(stats));
    }
    for file in &stats.stored.refused {
        found.warn(format!("kept collateral is not used: {file}"));
    }
    if !is_offline {
        return;
    }
    let first = stats.entries.iter().map(|entry| entry.expires).min();
    match first.map(|first| first.saturating_sub(unix_now())) {
        None => found.useless(
            "core.attestation.offline: no valid collateral is kept, so nobody would get keys; bring some with \
             kms collateral import",
        ),
        Some(left) if left < SOON => found.warn(format!(
            "core.attestation.offline: collateral expires in {} hours; bring newer with kms collateral import",
            left / 3600
        )),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_an_fmspc_with_or_without_its_ca() {
        for (word, expected) in [
            ("B0C06F000000", Ok(2)),
            ("b0c06f000000/platform", Ok(1)),
            ("b0c06f000000/processor", Ok(1)),
            ("b0c06f000000/", Err("the CA is platform or processor")),
            ("b0c06f000000/Platform", Err("the CA is platform or processor")),
            ("b0c06f0000", Err("an FMSPC is 12 hex digits")),
            ("", Err("an FMSPC is 12 hex digits")),
        ] {
            let read = Models::from_str(word).map(|models| models.0.len());
            assert_eq!(read, expected.map_err(str::to_owned), "{word}");
        }
    }
}
