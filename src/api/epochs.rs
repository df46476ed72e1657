//! Epochs of keys, for operators: shown, made, put in force, retired, destroyed, and received from another KMS.

mod apps;
mod change;
mod fetch;
mod lost;
mod replicas;
mod shown;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use kms_client::url::KmsUrl;
use tokio::sync::Mutex;

pub use self::apps::{AppDifference, AppEpochsBody, AppEpochsList, AppEpochsReceived, AppEpochsShown};
pub use self::change::{AcceptBody, ActivateEpochBody, EpochBody};
pub use self::fetch::FetchBody;
pub use self::lost::LostEpochs;
pub(in crate::api) use self::lost::{newest_accepted, newest_records};
pub use self::shown::{EpochPreview, EpochShown, EpochSummary, Epochs};
use super::approval_gate::ApprovalGate;
use super::events::EventService;
use super::onboard::HandoverTerms;
use crate::admission::Foundation;
use crate::config::Core;
use crate::control::Adopted;
use crate::error::{Code, Error, Result};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochError, EpochInfo};
use crate::lifecycle::Ready;

/// Shows and changes epochs.
#[derive(Debug)]
pub struct EpochService {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    gate: ApprovalGate,
    events: Arc<EventService>,
    terms: HandoverTerms,
    lost: Arc<LostEpochs>,
    /// One change at a time, from its check to its end.
    turn: Mutex<()>,
    /// What became of the choices of epochs for apps that this process received last, and when, Unix seconds.
    received: ArcSwapOption<(Adopted, u64)>,
}

impl EpochService {
    /// The service of a KMS with keys.
    pub fn new(
        core: &Core,
        foundation: Arc<Foundation>,
        ready: Arc<Ready>,
        gate: ApprovalGate,
        events: Arc<EventService>,
        lost: Arc<LostEpochs>,
    ) -> Self {
        let terms = HandoverTerms::of(core);
        let received = ArcSwapOption::empty();
        let turn = Mutex::default();
        let service = Self { foundation, ready, gate, events, terms, lost, turn, received };
        service.count();
        service
    }

    /// An epoch that exists.
    fn info(&self, epoch: u32) -> Result<EpochInfo> {
        let known = self.ready.epochs().into_iter().find(|info| info.epoch == RootEpoch(epoch));
        known.ok_or_else(|| refused(EpochError::Unknown(RootEpoch(epoch))))
    }

    /// Updates the metrics; called periodically, because epochs come into force by themselves.
    pub fn count(&self) {
        let (epochs, now) = (self.ready.epochs(), crate::clock::unix_now());
        let current = self.ready.current_epoch(now).0;
        self.foundation.metrics.set_epochs(epochs.iter().map(|info| info.state.name()), current);
    }
}

/// The number in a path.
fn number(text: &str) -> Result<u32> {
    let number = text.parse().ok().filter(|number: &u32| number.to_string() == text);
    number.ok_or_else(|| Error::invalid("an epoch is a number, such as 1"))
}

/// Why a change is refused: it is about what there is now, so it is a conflict.
fn refused(error: EpochError) -> Error {
    let code = match error {
        EpochError::Unknown(_) => Code::InvalidRequest,
        EpochError::TooMany
        | EpochError::NotNext { .. }
        | EpochError::NoneActive
        | EpochError::KeyMismatch(_)
        | EpochError::PublicKey(_)
        | EpochError::Contradiction(_)
        | EpochError::OtherKeys(_)
        | EpochError::IsActive(_)
        | EpochError::IsRetired(_)
        | EpochError::IsDestroyed(_)
        | EpochError::OutOfOrder { .. }
        | EpochError::IsCurrent(_)
        | EpochError::NotRetired(_)
        | EpochError::IsIdentity(_) => Code::Conflict,
    };
    Error::new(code, format!("{error}; nothing was changed")).because("epoch_refused").caused_by(error)
}

/// Parses the address of a source.
fn source(text: &str) -> Result<KmsUrl> {
    text.parse().map_err(|error: kms_client::url::UrlError| Error::invalid(format!("source_url: {error}")))
}
