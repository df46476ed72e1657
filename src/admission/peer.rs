//! The other end of a TLS connection: its certificate, and the evidence in it, verified at most once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use kms_attest::identity::AppId;
use kms_attest::ra_tls::ParsedCertificate;
use kms_attest::verify::{Binding, Verified, Verifier};
use tokio::sync::Mutex;

use super::{Carrier, EvidenceRefusal, Refusal, Session};
use crate::clock::unix_now;
use crate::metrics::{Metrics, RequestStage};

/// How long verified evidence is believed without looking again: newer collateral may judge a platform otherwise.
const MEMORY: Duration = Duration::from_secs(3600);

/// The other end of one connection.
#[derive(Debug, Default)]
pub struct Peer {
    certificate: Option<ParsedCertificate>,
    session: Option<Session>,
    /// What the evidence turned out to be; unset until it was looked at. An outage is not kept.
    outcome: ArcSwapOption<Outcome>,
    /// Held by the verifier.
    verifying: Mutex<()>,
    admitted: OnceLock<AppId>,
    /// The app that the evidence names, read when first asked for.
    claimed: OnceLock<Option<AppId>>,
}

/// What this connection's evidence turned out to be.
#[derive(Debug)]
enum Outcome {
    Verified(Arc<Verified>, Instant),
    Refused(EvidenceRefusal),
}

impl Peer {
    /// A peer whose certificate passed the TLS layer (validity, possession of the key), or that sent none.
    pub fn new(certificate: Option<ParsedCertificate>) -> Self {
        Self { certificate, ..Self::default() }
    }

    /// The same peer, on a connection with this session.
    #[must_use]
    pub fn in_session(self, session: Session) -> Self {
        Self { session: Some(session), ..self }
    }

    /// The session that fresh evidence can be bound to; `None` without TLS 1.3.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Whether policy has given a permit on this connection: such a caller is not limited per address. Evidence alone
    /// is not enough, for anyone with the hardware has some.
    pub fn is_admitted(&self) -> bool {
        self.admitted.get().is_some()
    }

    /// The app as which policy has given a permit on this connection first.
    pub fn admitted_as(&self) -> Option<AppId> {
        self.admitted.get().copied()
    }

    /// The client certificate.
    pub fn certificate(&self) -> Option<&ParsedCertificate> {
        self.certificate.as_ref()
    }

    /// The SubjectPublicKeyInfo of the client certificate, if it can be read.
    pub fn spki(&self) -> Option<&[u8]> {
        self.certificate.as_ref()?.spki().ok()
    }

    /// The app that the evidence in the client certificate names, which is not verified: a hint for sharing work, and nothing
    /// else. `None` without evidence, and if it is so large that it would have to be decoded again.
    pub fn claimed_app(&self) -> Option<AppId> {
        *self.claimed.get_or_init(|| self.certificate.as_ref()?.claimed_app())
    }

    /// Whether the evidence in the client certificate verified when this connection's was looked at last.
    pub fn is_verified(&self) -> bool {
        matches!(self.outcome.load().as_deref(), Some(Outcome::Verified(..)))
    }

    /// Whether the evidence in the client certificate was found invalid.
    pub fn is_refused(&self) -> bool {
        matches!(self.outcome.load().as_deref(), Some(Outcome::Refused(_)))
    }

    pub(super) fn admit(&self, app: AppId) {
        // One certificate is one app; the first permit says which.
        let _ = self.admitted.set(app);
    }

    fn keep(&self, outcome: Outcome) {
        self.outcome.store(Some(Arc::new(outcome)));
    }

    /// The evidence in the client certificate, verified when first asked for and remembered for the connection: for an
    /// hour at most, no longer than the collateral that vouched for it lasts, and until an operator has all of it fetched
    /// again.
    ///
    /// # Errors
    /// [`Refusal::NoAttestation`], [`Refusal::BadEvidence`], [`Refusal::CollateralUnavailable`], [`Refusal::ClockBehind`].
    pub async fn evidence(&self, verifier: &Verifier, metrics: &Metrics) -> Result<Arc<Verified>, Refusal> {
        let Some(certificate) = &self.certificate else { return Err(Refusal::NoAttestation) };
        // Also of what is remembered: a clock that was set back would keep it valid.
        verifier.cache().clock().check().map_err(Refusal::ClockBehind)?;
        let _verifying = self.verifying.lock().await;
        match self.outcome.load().as_deref() {
            Some(Outcome::Verified(verified, at))
                if is_current(verified.collateral_expires(), *at)
                    && verified.collateral_generation() == verifier.cache().generation() =>
            {
                return Ok(Arc::clone(verified));
            }
            Some(Outcome::Refused(bad)) => return Err(Refusal::BadEvidence(bad.clone())),
            Some(Outcome::Verified(..)) | None => {}
        }
        // On the heap: it is done once for a connection.
        let outcome = {
            let _measured = metrics.stage(RequestStage::Verification);
            Box::pin(verify(certificate, verifier)).await
        };
        metrics.verification(super::verification_result(&outcome));
        match outcome {
            Ok(verified) => {
                let verified = Arc::new(verified);
                self.keep(Outcome::Verified(Arc::clone(&verified), Instant::now()));
                Ok(verified)
            }
            Err(refusal) => {
                if let Refusal::BadEvidence(bad) = &refusal {
                    self.keep(Outcome::Refused(bad.clone()));
                }
                Err(refusal)
            }
        }
    }
}

#[cfg(test)]
impl Peer {
    /// A peer whose evidence names `app`.
    pub(crate) fn claiming(app: AppId) -> Self {
        Self { claimed: Some(app).into(), ..Self::default() }
    }

    /// Policy gives it a permit.
    pub(crate) fn permitted(&self, app: AppId) {
        self.admit(app);
    }
}

async fn verify(certificate: &ParsedCertificate, verifier: &Verifier) -> Result<Verified, Refusal> {
    let evidence = certificate
        .evidence()
        .map_err(|error| Refusal::BadEvidence((&error).into()))?
        .ok_or(Refusal::NoAttestation)?;
    let key = certificate.spki().map_err(|error| Refusal::BadEvidence(error.into()))?;
    let outcome = verifier.verify_shared(&evidence, Binding::PublicKey(key)).await;
    outcome.map_err(|error| Refusal::unverified(Carrier::ClientCertificate, error))
}

/// Whether evidence that was verified `at` some time, with collateral that `expires` (Unix seconds), is still believed.
pub(super) fn is_current(expires: u64, at: Instant) -> bool {
    unix_now() < expires && at.elapsed() < MEMORY
}
