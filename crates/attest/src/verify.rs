//! Verification of evidence: from bytes that anybody can send to a [`Verified`] that says what runs where.

mod forecast;

use std::fmt;
use std::sync::{Arc, OnceLock};

use subtle::ConstantTimeEq;

use crate::binding::ReportData;
use crate::clock_floor::ClockBehind;
use crate::collateral::{Collateral, CollateralCache, CollateralError};
use crate::evidence::{Evidence, EvidenceError, Platform, Tdx};
use crate::identity::{AppInfo, Identity, Registers, WidthError};
use crate::measurement::{
    EventVersion, PreimageError, RuntimeEvent, SYSTEM_READY, Stage, Until, replay_rtmr3, validate_v2_events,
};
use crate::platform::IdentityError;
use crate::platform::tdx::{TdQuote, TdReport, TdxError, VerifiedQuote, tdx_identity};
use crate::tcb::{SeenPlatforms, TcbVerdict};
use crate::trust::TrustAnchors;
use crate::vm_config::VmConfig;

/// What the evidence must vouch for, so that it cannot be shown by somebody else.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// A public key, as the `SubjectPublicKeyInfo` DER stands in the certificate or CSR.
    PublicKey(&'a [u8]),
    /// These report data.
    ReportData(&'a ReportData),
    /// Whatever report data the evidence itself names: for own evidence, and where the caller compares afterwards.
    SelfReported,
}

/// Evidence that passed [`verify`]. There is no other way to make one.
#[derive(Debug, Clone)]
pub struct Verified {
    evidence: Arc<Evidence>,
    report_data: ReportData,
    quote: VerifiedQuote,
    collateral_expires: u64,
    digest: OnceLock<[u8; 32]>,
    collateral_generation: u64,
}

impl Verified {
    /// The evidence.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// SHA-256 of the evidence as it is encoded; computed once.
    pub fn evidence_digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| self.evidence.digest())
    }

    /// How far the guest had come when the evidence was taken.
    pub fn stage(&self) -> Stage {
        Stage::of(&self.evidence.stack.runtime_events)
    }

    /// Worst TCB status of platform, TDX module and quoting enclave, in Intel's words; never `Revoked`.
    pub fn tcb_status(&self) -> &str {
        self.quote.status()
    }

    /// Intel's advisories that apply.
    pub fn advisory_ids(&self) -> &[String] {
        self.quote.advisory_ids()
    }

    /// The platform's provisioning id, 16 bytes.
    pub fn ppid(&self) -> &[u8] {
        self.quote.ppid()
    }

    /// The kind of platform.
    pub fn fmspc(&self) -> [u8; 6] {
        self.quote.verdict().fmspc
    }

    /// What Intel says of the platform: status, advisories, and since when.
    pub fn verdict(&self) -> &TcbVerdict {
        self.quote.verdict()
    }

    /// What the quote vouches for.
    pub fn report_data(&self) -> &ReportData {
        &self.report_data
    }

    /// Registers and attributes of the TD.
    pub fn td(&self) -> &TdReport {
        self.quote.td()
    }

    /// The verified quote.
    pub fn quote(&self) -> &VerifiedQuote {
        &self.quote
    }

    /// Unix seconds until which the collateral of this verification is valid.
    pub fn collateral_expires(&self) -> u64 {
        self.collateral_expires
    }

    /// The [`CollateralCache::generation`] of this verification; another one's verdict may differ.
    pub fn collateral_generation(&self) -> u64 {
        self.collateral_generation
    }

    /// What the evidence states about the guest, with `vm_config` as the request gave it (empty: the configuration in
    /// the evidence). This is what a certificate states; its fields have any width.
    ///
    /// # Errors
    /// [`UnidentifiedError::Decode`].
    pub fn app_info(&self, registers: Registers, vm_config: &str) -> Result<AppInfo, UnidentifiedError> {
        let stack = &self.evidence.stack;
        let config = VmConfig::effective(vm_config, &stack.config).map_err(IdentityError::from)?;
        let quoted = self.td().quoted();
        Ok(tdx_identity(&quoted, &stack.runtime_events, registers, &config, self.ppid())?)
    }

    /// Who the guest is, with `vm_config` as in [`Verified::app_info`]. The hash of the OS image is a claim of the
    /// configuration.
    ///
    /// # Errors
    /// [`UnidentifiedError`].
    pub fn identity(&self, registers: Registers, vm_config: &str) -> Result<Identity, UnidentifiedError> {
        let app_info = self.app_info(registers, vm_config)?;
        let tee_variant = self.evidence.platform.tee_variant();
        let TcbVerdict { status, advisory_ids, .. } = self.verdict();
        Ok(Identity::parse(app_info, tee_variant, *status, advisory_ids.clone())?)
    }
}

/// Why verified evidence identifies no guest.
#[derive(Debug, thiserror::Error)]
pub enum UnidentifiedError {
    /// Events or configuration do not decode.
    #[error("decode app info: {0}")]
    Decode(#[from] IdentityError),
    /// A field has another width than that of an identity, such as a missing `app-id` event.
    #[error(transparent)]
    Width(#[from] WidthError),
}

/// Verifies `evidence` at `now` (Unix seconds).
///
/// In this order: the binding; a pod's payload; RTMR3 against the runtime events; the quote's report data against the
/// stack's; the preimages of V2 events, where the peer refuses what was stripped for a certificate; the quote with its collateral, TCB and
/// isolation. A TCB status other than `Revoked` is no failure.
pub fn verify(
    evidence: &Evidence,
    binding: Binding<'_>,
    collateral: &Collateral,
    anchors: &TrustAnchors,
    now: u64,
) -> Result<Verified, VerifyError> {
    let evidence = Arc::new(evidence.clone());
    let consistent = Consistent::check(&evidence, binding)?;
    let quote = consistent.quote.verify(collateral, anchors, now)?;
    Ok(consistent.vouched_by(quote, collateral))
}

/// Evidence whose parts say the same and that is bound as demanded. Nothing vouches for its quote yet; but what fails
/// here costs no signature check and no request.
struct Consistent<'a> {
    evidence: &'a Arc<Evidence>,
    quote: TdQuote<'a>,
    report_data: ReportData,
}

impl<'a> Consistent<'a> {
    fn check(evidence: &'a Arc<Evidence>, binding: Binding<'_>) -> Result<Self, VerifyError> {
        let tdx = tdx_of(evidence)?;
        let report_data = bound_report_data(evidence, binding)?;
        let events = &evidence.stack.runtime_events;
        check_names(events)?;
        let quote = TdQuote::parse(&tdx.quote)?;
        let quoted = quote.report();
        let replayed = replay_rtmr3(events, Until::End);
        if quoted.rt_mr[3] != replayed {
            let quoted = hex::encode(quoted.rt_mr[3]);
            return Err(VerifyError::Rtmr3 { quoted, replayed: hex::encode(replayed) });
        }
        if !is_equal(&quoted.report_data, &report_data.0) {
            return Err(VerifyError::QuotedReportData);
        }
        validate_v2_events(&tdx.event_log, events)?;
        Ok(Self { evidence, quote, report_data })
    }

    /// The quote that was checked for consistency is the quote that was verified: [`TdQuote`] holds the bytes that it
    /// was parsed from.
    fn vouched_by(self, quote: VerifiedQuote, collateral: &Collateral) -> Verified {
        Verified {
            evidence: Arc::clone(self.evidence),
            report_data: self.report_data,
            quote,
            collateral_expires: collateral.expires(),
            digest: OnceLock::new(),
            collateral_generation: 0,
        }
    }
}

/// A V1 digest covers `name:payload`, so a colon in a name would let a sender move the border between the two and hide
/// an event from lookup. No system event has one; what apps add after `system-ready` is not looked up.
fn check_names(events: &[RuntimeEvent]) -> Result<(), VerifyError> {
    let system = events.iter().take_while(|event| event.event != SYSTEM_READY);
    match system.into_iter().find(|event| event.version == EventVersion::V1 && event.event.contains(':')) {
        Some(_) => Err(VerifyError::EventName),
        None => Ok(()),
    }
}

fn tdx_of(evidence: &Evidence) -> Result<&Tdx, VerifyError> {
    match &evidence.platform {
        Platform::Tdx(tdx) => Ok(tdx),
        other => Err(VerifyError::UnsupportedPlatform(other.kind())),
    }
}

/// The stack's report data, once they are what `binding` demands and what a pod's payload makes.
fn bound_report_data(evidence: &Evidence, binding: Binding<'_>) -> Result<ReportData, VerifyError> {
    let report_data = evidence.report_data()?;
    let expected = match binding {
        Binding::PublicKey(spki) => Some(ReportData::ra_tls(spki)),
        Binding::ReportData(expected) => Some(*expected),
        Binding::SelfReported => None,
    };
    if expected.is_some_and(|expected| !is_equal(&expected.0, &report_data.0)) {
        return Err(VerifyError::ReportData);
    }
    if let Some(payload) = &evidence.stack.report_data_payload
        && !is_equal(&ReportData::app_data(payload.as_bytes()).0, &report_data.0)
    {
        return Err(VerifyError::PodPayload);
    }
    Ok(report_data)
}

fn is_equal(left: &[u8; 64], right: &[u8; 64]) -> bool {
    left.ct_eq(right).into()
}

/// Verifies evidence with collateral from a cache, at the cache's time. Clones share the cache.
#[derive(Clone)]
pub struct Verifier {
    anchors: Arc<TrustAnchors>,
    cache: CollateralCache,
    seen: Option<Arc<SeenPlatforms>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier that trusts `anchors`; they should be the ones that `cache` was made with.
    pub fn new(anchors: TrustAnchors, cache: CollateralCache) -> Self {
        Self { anchors: Arc::new(anchors), cache, seen: None }
    }

    /// The same, which remembers in `seen` what it verifies, so that [`Verifier::tcb_forecasts`] has something to tell.
    #[must_use]
    pub fn remembering(self, seen: SeenPlatforms) -> Self {
        Self { seen: Some(Arc::new(seen)), ..self }
    }

    /// [`verify`], with collateral for the platform of the evidence, now.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify(&self, evidence: &Evidence, binding: Binding<'_>) -> Result<Verified, VerifyError> {
        self.verify_shared(&Arc::new(evidence.clone()), binding).await
    }

    /// The same of evidence that is kept anyway.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify_shared(
        &self,
        evidence: &Arc<Evidence>,
        binding: Binding<'_>,
    ) -> Result<Verified, VerifyError> {
        // Before any request: evidence that is not bound is refused whatever its quote says.
        let consistent = Consistent::check(evidence, binding)?;
        // Read before the collateral: what is refreshed meanwhile may be newer than it.
        let collateral_generation = self.cache.generation();
        let (quote, collateral) = self.quote(&consistent.quote).await?;
        Ok(Verified { collateral_generation, ..consistent.vouched_by(quote, &collateral) })
    }

    /// Verifies a quote, and remembers its platform.
    async fn quote(&self, quote: &TdQuote<'_>) -> Result<(VerifiedQuote, Arc<Collateral>), VerifyError> {
        let clock = self.cache.clock();
        clock.check()?;
        let found = self.cache.get_parsed(quote.parsed()).await;
        // What was fetched may say that it is later than the clock says.
        clock.check()?;
        let (collateral, chain) = found?;
        let now = clock.now();
        let verified = quote.verify_by(&chain, &collateral, &self.anchors, now)?;
        if let Some(seen) = &self.seen {
            let fetched = (!quote.has_chain()).then(|| chain.pem());
            seen.note(*verified.platform(), quote.bytes(), fetched.as_deref(), now);
        }
        Ok((verified, collateral))
    }

    /// What is trusted.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// Where collateral comes from.
    pub fn cache(&self) -> &CollateralCache {
        &self.cache
    }
}

/// Why evidence is refused, or could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The evidence is not of TDX alone.
    #[error("verification of {0} evidence is not supported")]
    UnsupportedPlatform(&'static str),
    /// The stack's report data have a wrong length.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The evidence vouches for another key or other report data.
    #[error("report data mismatch")]
    ReportData,
    /// A name before `system-ready` leaves open where it ends and its payload begins.
    #[error("the name of a runtime event must not contain a colon")]
    EventName,
    /// A pod's payload does not make its report data.
    #[error("report_data does not match report_data_payload")]
    PodPayload,
    /// Whether anything is valid now cannot be said.
    #[error(transparent)]
    Clock(#[from] ClockBehind),
    /// There is no collateral for the quote.
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    /// The quote is refused.
    #[error(transparent)]
    Quote(#[from] TdxError),
    /// The runtime events are not what RTMR3 was extended with.
    #[error("RTMR3 mismatch, quoted: {quoted}, replayed: {replayed}")]
    Rtmr3 {
        /// Register in the quote, hex.
        quoted: String,
        /// Replay of the runtime events, hex.
        replayed: String,
    },
    /// The quote vouches for other report data than the stack's.
    #[error("tdx report_data mismatch")]
    QuotedReportData,
    /// A V2 event's preimage is not its own.
    #[error("failed to validate TDX V2 event digest preimages: {0}")]
    Preimages(#[from] PreimageError),
}

impl VerifyError {
    /// Whether nothing is wrong with the evidence as far as it was looked at: trying again later can help.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Clock(_) => true,
            Self::Collateral(error) => !error.is_senders_fault(),
            Self::UnsupportedPlatform(_)
            | Self::Evidence(_)
            | Self::ReportData
            | Self::EventName
            | Self::PodPayload
            | Self::Quote(_)
            | Self::Rtmr3 { .. }
            | Self::QuotedReportData
            | Self::Preimages(_) => false,
        }
    }
}

#[cfg(test)]
mod chains;
#[cfg(test)]
mod tests;
