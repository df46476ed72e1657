//! Collateral that this KMS keeps: until when it is valid, and as a file for another KMS.

use kms_attest::collateral::{CollateralBundle, EntryStats};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Views;
use super::query::Page;
use crate::clock::{rfc3339, unix_now};
use crate::error::{Error, Result};

/// The collateral that this KMS keeps.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeptCollateral {
    /// Whether no collateral service is asked (`core.attestation.offline`).
    offline: bool,
    /// By platform model.
    models: Vec<KeptModel>,
    /// Files that are kept and not used, with the reason.
    refused: Vec<String>,
}

/// The collateral of one platform model. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeptModel {
    /// Hexadecimal.
    fmspc: String,
    /// The PCK CA: `platform` or `processor`.
    ca: &'static str,
    fetched_at: String,
    issued_at: String,
    /// Until when it is valid.
    next_update: String,
    tcb_evaluation_number: u32,
    qe_evaluation_number: u32,
    root_crl_number: u64,
    pck_crl_number: u64,
}

/// The parameters of `GET /api/v1/collateral/bundle`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleQuery {
    /// Which file, from 1: one has at most 64 models.
    page: Option<Page>,
}

/// A file for `POST /api/v1/file-upload/collateral-bundle`, with the collateral that is kept and valid. An empty list comes after
/// the last file.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CollateralPage(
    /// Sets in the JSON form of dcap-qvl.
    Vec<Value>,
);

impl Views {
    /// What is kept of Intel's collateral.
    pub fn collateral(&self) -> KeptCollateral {
        let cache = self.foundation().verifier.cache();
        let stats = cache.stats();
        KeptCollateral {
            offline: cache.is_offline(),
            models: stats.entries.iter().map(model).collect(),
            refused: stats.stored.refused.iter().map(ToString::to_string).collect(),
        }
    }

    /// One file of it.
    ///
    /// # Errors
    /// Of this program only.
    pub fn collateral_page(&self, query: &BundleQuery) -> Result<CollateralPage> {
        let before = query.page.as_ref().map_or(0, |Page(page)| page - 1);
        let before =
            usize::try_from(before).unwrap_or(usize::MAX).saturating_mul(CollateralBundle::MAX_MODELS);
        let held = self.foundation().verifier.cache().held();
        let sets = held.iter().skip(before).take(CollateralBundle::MAX_MODELS);
        let sets: std::result::Result<_, _> = sets.map(|set| serde_json::to_value(set.parts())).collect();
        sets.map(CollateralPage).map_err(|error| Error::internal("collateral is not JSON", error))
    }
}

fn model(entry: &EntryStats) -> KeptModel {
    KeptModel {
        fmspc: hex::encode(entry.platform.fmspc),
        ca: entry.platform.ca.as_str(),
        fetched_at: rfc3339(unix_now().saturating_sub(entry.age)),
        issued_at: rfc3339(entry.issued),
        next_update: rfc3339(entry.expires),
        tcb_evaluation_number: entry.numbers.tcb_info,
        qe_evaluation_number: entry.numbers.qe_identity,
        root_crl_number: entry.numbers.root_crl,
        pck_crl_number: entry.numbers.pck_crl,
    }
}
