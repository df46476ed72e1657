//! What operators read of this KMS as JSON: the overview, releases, denials, CVMs and the like.
//!
//! What is about the past comes from the audit log, by way of the index of events; what is about the present
//! comes from the part that knows it. No request reads the whole log.

pub mod attention;
pub mod collateral;
pub mod cvms;
pub mod denials;
pub mod freezes;
pub mod history;
pub mod latency;
pub mod ledger;
pub mod overview;
pub mod platforms;
pub mod query;
pub mod releases;
pub mod replicas;
pub mod resolve;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_attest::identity::DomainName;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Mutex, watch};

pub use self::collateral::{BundleQuery, CollateralPage, KeptCollateral};
pub use self::cvms::{CvmList, CvmQuery, CvmShown};
pub use self::denials::{DenialList, DenialQuery, ExplainedDenial};
pub use self::freezes::{FreezeBody, FreezeList, FreezeShown, LiftBody, Preview, PreviewBody};
pub use self::history::{History, HistoryQuery};
pub use self::latency::LatencyLog;
pub use self::ledger::Ledger;
pub use self::overview::{Overview, OverviewShown};
pub use self::platforms::Platforms;
pub use self::query::{Nothing, read_query};
pub use self::releases::{ReleaseDetail, ReleaseList, ReleaseQuery};
pub use self::replicas::Replicas;
pub use self::resolve::{ResolveQuery, Resolved};
use super::admin::AdminService;
use super::credentials::CredentialService;
use super::events::EventService;
use super::kms::KmsService;
use super::meta::Meta;
use super::readiness::Readiness;
use super::settings::SettingsService;
use crate::admission::{Foundation, TcbWarning};
use crate::clock::rfc3339;
use crate::config::Profile;
use crate::error::{Code, Error, Result};
use crate::events::{IndexError, Inventory, Reported, Told};
use crate::lifecycle::Ready;
use crate::state::shared::ListKind;

/// How long the counts of the overview are shown again, so that many open consoles cost no more than one.
const SHOWN_AGAIN: Duration = Duration::from_secs(2);

/// A certificate that this KMS serves.
pub trait ServedCertificate: std::fmt::Debug + Send + Sync {
    /// When it expires, Unix seconds; `None` if that cannot be read.
    fn expires_at(&self) -> Option<u64>;
}

/// The parts that the views read.
#[derive(Debug)]
pub struct Sources {
    /// The event log.
    pub events: Arc<EventService>,
    /// Explains denials and changes freezes.
    pub admin: Arc<AdminService>,
    /// Keeps the denials since the start.
    pub kms: Arc<KmsService>,
    /// The keys, of which only public ones are shown.
    pub ready: Arc<Ready>,
    /// Whether keys are released.
    pub readiness: Arc<Readiness>,
    /// Whether settings wait for a restart.
    pub settings: Arc<SettingsService>,
    /// What is relaxed.
    pub meta: Arc<Meta>,
    /// The named credentials, where there are any.
    pub credentials: Option<Arc<CredentialService>>,
    /// The latencies of releases.
    pub latency: Arc<LatencyLog>,
    /// The served certificates, by listener.
    pub certificates: Vec<(&'static str, Arc<dyn ServedCertificate>)>,
    /// What Intel's early TCB sets say.
    pub forecast: watch::Receiver<Vec<TcbWarning>>,
    /// The file of the audit log.
    pub log: PathBuf,
    /// How many witnesses a release needs.
    pub required_witnesses: usize,
    /// Which settings it starts with.
    pub profile: Profile,
    /// Of this start of the process.
    pub boot_id: String,
    /// When it started, Unix seconds.
    pub started: u64,
}

/// What operators read of this KMS.
#[derive(Debug)]
pub struct Views {
    sources: Sources,
    /// Of the KMS, and of each domain that was asked for.
    counts: Mutex<HashMap<Option<DomainName>, (Instant, overview::Counted)>>,
}

impl Views {
    /// The views of these parts.
    pub fn new(sources: Sources) -> Self {
        Self { sources, counts: Mutex::default() }
    }

    fn foundation(&self) -> &Foundation {
        &self.sources.kms.foundation
    }

    /// What this node is called in its fleet; `None` without one.
    fn node_name(&self) -> Option<String> {
        let nodes = self.foundation().freezes.view()?.nodes();
        nodes.iter().find(|node| node.is_self).map(|node| node.name.clone())
    }

    /// What the other nodes of the fleet have told of a list, each entry with the name of its node.
    fn told_by_others<T: Told>(&self, kind: ListKind) -> Vec<(String, T)> {
        let Some(view) = self.foundation().freezes.view() else { return Vec::new() };
        let nodes = view.nodes();
        let name = |id| nodes.iter().find(|node| node.id == id).map(|node| node.name.clone());
        let lists = view.lists().of_others(kind).into_iter();
        let lists = lists.filter_map(|(id, body)| Some((name(id)?, Reported::read(&body)?)));
        lists
            .flat_map(|(name, list)| list.entries.into_iter().map(move |entry| (name.clone(), entry)))
            .collect()
    }

    /// Asks the inventory, on a thread that may block.
    async fn inventory<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Inventory) -> std::result::Result<T, IndexError> + Send + 'static,
    ) -> Result<T> {
        self.sources.events.ask_index(move |index| question(&index.inventory()?)).await
    }
}

/// How far the inventory is behind the audit log; it is derived from it, and built again when it is lost.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Building {
    /// Every record up to this number is counted.
    through: u64,
    /// The number of the newest record.
    of: u64,
}

impl Building {
    /// More records than this are to be counted while the inventory is being built; fewer are on their way.
    const BEHIND: u64 = 1000;

    fn of(inventory: &Inventory, newest: u64) -> std::result::Result<Option<Self>, IndexError> {
        let through = inventory.coverage()?.through;
        Ok((through + Self::BEHIND < newest).then_some(Self { through, of: newest }))
    }
}

/// A time in milliseconds since 1970, as RFC 3339.
fn at(milliseconds: u64) -> String {
    rfc3339(milliseconds / 1000)
}

/// An empty text is nothing.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn not_found(what: &str) -> Error {
    Error::new(Code::UnknownMethod, format!("{what}: not found")).because("not_found")
}
