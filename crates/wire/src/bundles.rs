//! Signed bundles of policies, as operators get them from the routes about them.

use serde::{Deserialize, Serialize};

/// The bundles of each domain whose policy has them.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BundleList {
    /// Of each domain, its state.
    pub domains: Vec<BundleState>,
}

/// The bundles of a domain.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BundleState {
    /// The domain.
    pub domain: String,
    /// The bundle that decides.
    pub in_force: Option<ShownBundle>,
    /// The bundle that waits to be put in force.
    pub pending: Option<ShownBundle>,
    /// No bundle with a lower serial is taken.
    pub lowest_serial: u64,
    /// How many of the keys must sign.
    pub threshold: usize,
    /// The names of the keys that may sign.
    pub keys: Vec<String>,
    /// Where new bundles come from: `file`, `server` or `operators`.
    pub source: String,
    /// Why the source gives none that can be used.
    pub source_problem: Option<String>,
    /// What happens to a new bundle of the source: `automatic` or `manual`.
    pub activation: String,
    /// What the bundle that waits would have changed so far, if it is tried before it decides by itself.
    #[serde(default, rename = "rehearsal")]
    pub shadow: Option<ShownShadow>,
    /// What an expired bundle does: `warn` or `deny`.
    pub on_expiry: String,
    /// A bundle that contradicts what was seen before.
    pub fork: Option<ShownFork>,
    /// The bundles that were seen, the highest serial first.
    pub history: Vec<PastBundle>,
}

/// A bundle.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShownBundle {
    /// The name that its authors gave it.
    pub name: String,
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its text, hex: also in the record of each decision.
    pub digest: String,
    /// The digest of the bundle before.
    pub previous: Option<String>,
    /// RFC 3339 in UTC.
    pub not_before: String,
    /// RFC 3339 in UTC.
    pub expires: String,
    /// The pinned keys that have signed it.
    pub signers: Vec<String>,
    /// How much it allows.
    pub rules: String,
    /// When it was put in force, RFC 3339 in UTC.
    pub since: Option<String>,
}

/// A bundle that is tried on live requests, without deciding.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "ShownRehearsal"))]
pub struct ShownShadow {
    /// SHA-256 of its text, hex.
    pub digest: String,
    /// For how many seconds it has judged requests.
    pub ran_seconds: u64,
    /// After so many it decides, unless it is held.
    pub of_seconds: Option<u64>,
    /// Requests that both have judged.
    pub compared: u64,
    /// Requests that only it allows.
    pub would_allow: u64,
    /// Requests that only the bundle in force allows.
    pub would_deny: u64,
    /// Whether it denies this KMS itself.
    pub denies_this_kms: bool,
    /// Whether it waits for an owner, because of what it would deny.
    pub held: bool,
}

/// A bundle that contradicts what was seen before.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShownFork {
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its text, hex.
    pub digest: String,
    /// When it came, RFC 3339 in UTC.
    pub at: String,
}

/// A bundle that was seen.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PastBundle {
    /// The name that its authors gave it.
    pub name: String,
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its text, hex.
    pub digest: String,
    /// The pinned keys that have signed it.
    pub signers: Vec<String>,
    /// `file`, `server`, `operators`, `fleet`; or `audit log`, if only that knows it.
    pub origin: String,
    /// RFC 3339 in UTC.
    pub received_at: Option<String>,
    /// RFC 3339 in UTC.
    pub activated_at: Option<String>,
    /// The operator, or `configuration`.
    pub activated_by: Option<String>,
    /// RFC 3339 in UTC.
    pub expires: Option<String>,
}

/// What became of a bundle.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BundleOutcome {
    /// The domain.
    pub domain: String,
    /// The digest of the bundle.
    pub digest: String,
    /// `in_force` or `pending`.
    pub state: String,
    /// Of a pending one: `automatic` if it decides by itself, `manual` if an owner has to put it in force; null of one in force.
    #[serde(default)]
    pub activation: Option<String>,
    /// Whether something was changed.
    pub changed: bool,
    /// Of one that was put in force where nodes share their state: whether the others have it. The node tries again until they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// What was done, as a sentence.
    pub message: String,
}
