//! Verification of evidence: from bytes that anyone can send to a [`Verified`] that says what runs where.

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

/// What the evidence must be bound to, so that nobody but its owner can present it.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// A public key: the `SubjectPublicKeyInfo` DER of the certificate or certificate request.
    PublicKey(&'a [u8]),
    /// These report data.
    ReportData(&'a ReportData),
    /// The report data that the evidence itself states, for callers that compare them afterwards.
    SelfReported,
}

/// Evidence that passed [`verify`], which is the only way to make one.
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

    /// SHA-256 of the encoded evidence; computed once.
    pub fn evidence_digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| self.evidence.digest())
    }

    /// The guest's stage when the evidence was taken.
    pub fn stage(&self) -> Stage {
        Stage::of(&self.evidence.stack.runtime_events)
    }

    /// The worst TCB status of platform, TDX module and quoting enclave, by Intel's name; never `Revoked`.
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

    /// The model of the platform.
    pub fn fmspc(&self) -> [u8; 6] {
        self.quote.verdict().fmspc
    }

    /// Intel's verdict on the platform: its status, its advisories, and how far it is behind.
    pub fn verdict(&self) -> &TcbVerdict {
        self.quote.verdict()
    }

    /// The report data in the quote.
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

    /// The [`CollateralCache::generation`] of this verification. The verdict of a later generation may
    /// differ.
    pub fn collateral_generation(&self) -> u64 {
        self.collateral_generation
    }

    /// What the evidence states about the guest, with `vm_config` as the request gave it (empty: the
    /// configuration in the evidence). This is what a certificate states; its fields have any width.
    ///
    /// # Errors
    /// [`UnidentifiedError::Decode`].
    pub fn app_info(&self, registers: Registers, vm_config: &str) -> Result<AppInfo, UnidentifiedError> {
        let stack = &self.evidence.stack;
        let config = VmConfig::effective(vm_config, &stack.config).map_err(IdentityError::from)?;
        let quoted = &self.td().quoted;
        let app_info = tdx_identity(quoted, &stack.runtime_events, registers, &config, self.ppid());
        Ok(app_info.map_err(IdentityError::from)?)
    }

    /// Who the guest is, with `vm_config` as in [`Verified::app_info`]. The hash of the OS image is a claim
    /// of the configuration.
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
/// In this order: the binding; a pod's payload; RTMR3 against the runtime events; the report data of the
/// quote against those of the stack; the preimages of V2 events, which the peer refuses if they were stripped
/// for a certificate; the quote with its collateral, TCB level and isolation. A TCB status other than
/// `Revoked` is not a failure.
///
/// # Errors
/// [`VerifyError`].
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
    Ok(consistent.verified_by(quote, collateral))
}

/// Evidence with consistent parts and the demanded binding. Its quote is not verified yet, so a failure here
/// costs no signature check and no request.
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
        let quoted = &quote.report().quoted;
        let replayed = replay_rtmr3(events, Until::End);
        if quoted.rt_mr3 != replayed {
            let quoted = hex::encode(quoted.rt_mr3);
            return Err(VerifyError::Rtmr3 { quoted, replayed: hex::encode(replayed) });
        }
        if !is_equal(&quoted.report_data, &report_data.0) {
            return Err(VerifyError::QuotedReportData);
        }
        validate_v2_events(&tdx.event_log, events)?;
        Ok(Self { evidence, quote, report_data })
    }

    /// The result of verification. The quote that was checked for consistency is the verified one, because
    /// [`TdQuote`] holds the bytes that it was parsed from.
    fn verified_by(self, quote: VerifiedQuote, collateral: &Collateral) -> Verified {
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

/// Refuses names with a colon. A V1 digest covers `name:payload`, so a sender could move the border between
/// the two and hide an event from lookup. No system event has a colon, and the events of apps after
/// `system-ready` are not looked up.
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
        other @ (Platform::GcpTdx { .. }
        | Platform::NitroEnclave { .. }
        | Platform::SevSnp { .. }
        | Platform::AwsNitroTpm { .. }) => Err(VerifyError::UnsupportedPlatform(other.kind())),
    }
}

/// The report data of the stack, if they match `binding` and the payload of a pod.
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
    /// A verifier that trusts `anchors`, which should be those of `cache`.
    pub fn new(anchors: TrustAnchors, cache: CollateralCache) -> Self {
        Self { anchors: Arc::new(anchors), cache, seen: None }
    }

    /// The same verifier, which notes verified platforms in `seen` for [`Verifier::tcb_forecasts`].
    #[must_use]
    pub fn remembering(self, seen: SeenPlatforms) -> Self {
        Self { seen: Some(Arc::new(seen)), ..self }
    }

    /// [`verify`] at the current time, with collateral for the platform of the evidence.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify(&self, evidence: &Evidence, binding: Binding<'_>) -> Result<Verified, VerifyError> {
        self.verify_shared(&Arc::new(evidence.clone()), binding).await
    }

    /// [`Verifier::verify`] of shared evidence, without a copy.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify_shared(
        &self,
        evidence: &Arc<Evidence>,
        binding: Binding<'_>,
    ) -> Result<Verified, VerifyError> {
        // Before any request, because evidence without the binding is refused whatever its quote says.
        let consistent = Consistent::check(evidence, binding)?;
        // Read before the collateral, which may be refreshed in between.
        let collateral_generation = self.cache.generation();
        let (quote, collateral) = self.quote(&consistent.quote).await?;
        Ok(Verified { collateral_generation, ..consistent.verified_by(quote, &collateral) })
    }

    /// Verifies a quote and notes its platform.
    async fn quote(&self, quote: &TdQuote<'_>) -> Result<(VerifiedQuote, Arc<Collateral>), VerifyError> {
        let clock = self.cache.clock();
        clock.check()?;
        let found = self.cache.get_parsed(quote.parsed()).await;
        // Fetched collateral may prove that the clock is behind.
        clock.check()?;
        let (collateral, chain) = found?;
        let now = clock.now();
        let verified = quote.verify_by(&chain, &collateral, &self.anchors, now)?;
        if !quote.has_chain() {
            self.cache.keep_chain(quote.parsed(), &chain).await;
        }
        if let Some(seen) = &self.seen {
            let fetched = (!quote.has_chain()).then(|| chain.pem());
            seen.note(*verified.platform(), quote.bytes(), fetched.as_deref(), now);
        }
        Ok((verified, collateral))
    }

    /// The trusted roots.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// The cache that collateral comes from.
    pub fn cache(&self) -> &CollateralCache {
        &self.cache
    }
}

/// Why evidence is refused or cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The evidence is not TDX evidence.
    #[error("verification of {0} evidence is not supported")]
    UnsupportedPlatform(&'static str),
    /// The report data of the stack have a wrong length.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The evidence is bound to another key or to other report data.
    #[error("report data mismatch")]
    ReportData,
    /// The name of an event before `system-ready` contains a colon, which makes its digest ambiguous.
    #[error("the name of a runtime event must not contain a colon")]
    EventName,
    /// The report data are not those of the pod's payload.
    #[error("report_data does not match report_data_payload")]
    PodPayload,
    /// The clock is wrong, so validity cannot be judged.
    #[error(transparent)]
    Clock(#[from] ClockBehind),
    /// No collateral for the quote.
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    /// The quote is refused.
    #[error(transparent)]
    Quote(#[from] TdxError),
    /// The runtime events do not replay to RTMR3.
    #[error("RTMR3 mismatch, quoted: {quoted}, replayed: {replayed}")]
    Rtmr3 {
        /// The register in the quote, in hex.
        quoted: String,
        /// The replay of the runtime events, in hex.
        replayed: String,
    },
    /// The report data of the quote differ from those of the stack.
    #[error("tdx report_data mismatch")]
    QuotedReportData,
    /// The preimage of a V2 event does not match its digest.
    #[error("failed to validate TDX V2 event digest preimages: {0}")]
    Preimages(#[from] PreimageError),
}

impl VerifyError {
    /// Whether the failure says nothing about the evidence, so that a retry may succeed.
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
