//! The replica's side of a handover: verifies the source, asks our policy about it, and requests its root
//! keys.

use std::fmt;
use std::time::Duration;

use kms_attest::identity::{Registers, WidthError};
use kms_attest::verify::{UnidentifiedError, Verified};
use kms_client::CallError;
use kms_client::operator::OperatorToken;
use kms_client::source::{self, Asked, Invited, Joined, RootKeyParts, SourceError};
use kms_client::url::KmsUrl;
use kms_policy::{PolicyError, Subject};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{OnboardService, Tee};
use crate::admission::{Foundation, OwnEvidenceError, Settled, Tolerated, own_evidence, own_identity};
use crate::audit::Event;
use crate::config::Core;
use crate::error::{Code, Error, Result};
use crate::lifecycle::Prepared;

/// What to do about an invitation that is used up, expired, cancelled or unknown.
const NEW_INVITATION: &str =
    "nothing was stored: ask an owner of the source for a new invitation (kmsctl replica invite)";

/// Why our policy does not accept a source.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum Unacceptable {
    /// Denied, for this reason.
    Denied(String),
    /// The source's evidence verifies, but contains no identity to ask about.
    NoIdentity(#[source] UnidentifiedError),
    /// The source names no OS image, and our own is unknown.
    NoOwnIdentity(#[source] OwnEvidenceError),
    /// The policy does not respond, so the source is not allowed.
    PolicyUnavailable(#[source] PolicyError),
    /// The policy depends on the OS image of the source, which cannot be compared now.
    ImageUnavailable(#[source] kms_policy::Unsettled),
}

impl fmt::Display for Unacceptable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(reason) => write!(f, "boot denied: {reason}"),
            Self::NoIdentity(UnidentifiedError::Width(
                width @ (WidthError::ComposeHash(_)
                | WidthError::InstanceId(_)
                | WidthError::OsImageHash(_)
                | WidthError::DeviceId(_)),
            )) => write!(f, "{width}"),
            Self::NoIdentity(
                error @ (UnidentifiedError::Decode(_) | UnidentifiedError::Width(WidthError::AppId(_))),
            ) => write!(f, "failed to decode app info: {error}"),
            Self::NoOwnIdentity(_) => {
                f.write_str("it names no OS image, and the attester of this machine does not tell ours")
            }
            Self::ImageUnavailable(unsettled) => write!(f, "{unsettled}"),
            Self::PolicyUnavailable(_) => {
                f.write_str("failed to call KMS auth check: the authorization backend does not answer")
            }
        }
    }
}

impl Unacceptable {
    fn code(&self) -> Code {
        match self {
            Self::Denied(_) => Code::Denied,
            Self::NoIdentity(_) => Code::InvalidRequest,
            Self::NoOwnIdentity(_) | Self::PolicyUnavailable(_) | Self::ImageUnavailable(_) => {
                Code::Unavailable
            }
        }
    }
}

/// What a handover depends on.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct HandoverTerms {
    /// The time limit of the whole of it.
    timeout: Duration,
    tee: Tee,
}

impl HandoverTerms {
    pub(in crate::api) fn of(core: &Core) -> Self {
        // Shorter than the request's own limit, so that the error can say what took too long.
        Self { timeout: core.limits.request_timeout * 9 / 10, tee: Tee::of(core) }
    }
}

/// What a replica brings to its source.
pub(in crate::api) enum Brought<'a> {
    /// Nothing but evidence.
    Nothing,
    /// The token of an operator, for the admin listener.
    Operator(&'a OperatorToken),
    /// An invitation.
    Invitation(Invited<'a>),
}

/// The root keys of the KMS at `url`, from its admin listener if a token of an operator is given; saves nothing.
pub(super) async fn receive(
    service: &OnboardService,
    url: &KmsUrl,
    brought: Brought<'_>,
    root: Option<[u8; 32]>,
) -> Result<(Prepared, Option<Joined>)> {
    let (handover, joined) = from_source(&service.foundation, service.terms, url, brought, root).await?;
    let received = service.onboarding.receive(handover);
    let prepared = received.map_err(|error| Error::invalid(error.to_string()).caused_by(error))?;
    // The admin listener shows no root before its keys.
    if root.is_some_and(|root| <[u8; 32]>::from(Sha256::digest(prepared.ca_public_key())) != root) {
        let text = "the root keys that were received are not those of source_root_sha256; nothing was stored";
        return Err(Error::invalid(text).because("source_root_differs"));
    }
    Ok((prepared, joined))
}

/// The root keys of the KMS at `url`, parsed and nothing more.
pub(in crate::api) async fn root_keys(
    foundation: &Foundation,
    terms: HandoverTerms,
    url: &KmsUrl,
    token: Option<&OperatorToken>,
) -> Result<RootKeyParts> {
    let brought = token.map_or(Brought::Nothing, Brought::Operator);
    from_source(foundation, terms, url, brought, None).await.map(|(keys, _)| keys)
}

async fn from_source(
    foundation: &Foundation,
    terms: HandoverTerms,
    url: &KmsUrl,
    brought: Brought<'_>,
    root: Option<[u8; 32]>,
) -> Result<(RootKeyParts, Option<Joined>)> {
    let HandoverTerms { timeout: limit, tee } = terms;
    if tee == Tee::InsecureAbsent {
        return Err(Error::invalid(
            "this KMS runs without a TEE (core.insecure_no_tee) and cannot prove itself to a source; use Bootstrap",
        ));
    }
    timeout(limit, handed_over(foundation, url, brought, root)).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs_f32();
        Err(Error::new(
            Code::Unavailable,
            format!(
                "the source KMS did not hand over its keys within {seconds} s; nothing was stored, try again"
            ),
        )
        .because("source_unavailable"))
    })
}

async fn handed_over(
    foundation: &Foundation,
    url: &KmsUrl,
    brought: Brought<'_>,
    root: Option<[u8; 32]>,
) -> Result<(RootKeyParts, Option<Joined>)> {
    let vm_config = foundation.attester.vm_config().await.map_err(|error| {
        Error::unavailable("Failed to get VM info", error).because("attester_unavailable")
    })?;
    let authorize = async |source: &Verified| authorize(foundation, source).await;
    let (attester, verifier) = (&*foundation.attester, &*foundation.verifier);
    let invitation = match brought {
        Brought::Operator(token) => {
            let keys =
                source::receive_root_keys_as_operator(url, token, attester, verifier, &vm_config, authorize);
            return keys.await.map(|keys| (keys, None)).map_err(unreceived);
        }
        Brought::Nothing => None,
        Brought::Invitation(invitation) => Some(invitation),
    };
    let asked = Asked { root, invitation };
    source::receive(url, asked, attester, verifier, &vm_config, authorize).await.map_err(unreceived)
}

/// Asks our policy about the source. An older source that names no OS image is assumed to run ours.
pub(in crate::api) async fn authorize(
    foundation: &Foundation,
    source: &Verified,
) -> std::result::Result<(), Unacceptable> {
    let mut identity = source.identity(Registers::RunTime, "").map_err(Unacceptable::NoIdentity)?;
    if identity.os_image_hash.is_none() {
        let own =
            own_evidence(&foundation.attester, &foundation.verifier).await.and_then(|own| own_identity(&own));
        identity.os_image_hash = own.map_err(Unacceptable::NoOwnIdentity)?.os_image_hash;
    }
    let Tolerated { told, relaxations } = foundation.tolerance.apply(source.verdict(), &identity);
    let decision = foundation.policy.decide(Subject::Kms(&told)).await;
    // A source that names no OS image has none that its registers could be compared with.
    let decision = foundation.image.settled(decision.map_err(Unacceptable::PolicyUnavailable)?, source).await;
    match decision.map_err(Unacceptable::ImageUnavailable)? {
        Settled::Allowed => {
            foundation.tolerance.needed(&relaxations, &identity, "the source of the root keys");
            if !relaxations.is_empty() {
                foundation.audit.note(Event::SourceRelaxed {
                    mr_aggregated: hex::encode(identity.mr_aggregated),
                    tcb_status: identity.tcb_status.to_string(),
                    advisory_ids: identity.advisory_ids.clone(),
                    relaxations: relaxations.labels().to_vec(),
                });
            }
            Ok(())
        }
        Settled::Denied(denial) => Err(Unacceptable::Denied(denial.reason)),
    }
}

/// Whose fault it is: a temporary failure, a denial by either policy, or an invalid request.
fn unreceived(error: SourceError<Unacceptable>) -> Error {
    if error.dead_invitation().is_some() {
        let text = format!("{error}; {NEW_INVITATION}");
        return Error::new(Code::Denied, text).because("source_invitation_over").caused_by(error);
    }
    let code = match &error {
        SourceError::NotAllowed(unacceptable) => unacceptable.code(),
        SourceError::Call(CallError::Refused { status, .. }) if matches!(status.as_u16(), 401 | 403) => {
            Code::Denied
        }
        SourceError::Connect { .. }
        | SourceError::NoCertificate
        | SourceError::StolenCertificate { .. }
        | SourceError::Certificate(_)
        | SourceError::NotAKms(_)
        | SourceError::NoKeys
        | SourceError::NoAttestation
        | SourceError::Attestation(_)
        | SourceError::RootCa
        | SourceError::UnexpectedRoot { .. }
        | SourceError::OtherRoot(_)
        | SourceError::Call(_)
        | SourceError::Broken { .. }
        | SourceError::Identity(_)
        | SourceError::OtherServer
        | SourceError::CertificateRefused(_)
        | SourceError::InvalidKeys
        | SourceError::CaKey
        | SourceError::TempCaKey
        | SourceError::K256Key
        | SourceError::Epoch { .. }
        | SourceError::OtherKey { .. } => match error.is_temporary() {
            true => Code::Unavailable,
            false => Code::InvalidRequest,
        },
    };
    Error::new(code, error.to_string()).because(reason(&error)).caused_by(error)
}

/// The code of the cause, for causes that an operator can act on.
fn reason(error: &SourceError<Unacceptable>) -> &'static str {
    match error {
        SourceError::Connect { .. } => "source_unreachable",
        SourceError::NoKeys => "source_has_no_keys",
        SourceError::NoCertificate
        | SourceError::Certificate(_)
        | SourceError::NotAKms(_)
        | SourceError::NoAttestation => "source_not_attested",
        SourceError::Attestation(cause) if cause.is_unavailable() => "source_not_verified",
        SourceError::StolenCertificate { .. } | SourceError::Attestation(_) => "source_not_genuine",
        SourceError::NotAllowed(Unacceptable::PolicyUnavailable(_)) => "policy_unavailable",
        SourceError::NotAllowed(Unacceptable::ImageUnavailable(_)) => "source_not_verified",
        SourceError::NotAllowed(Unacceptable::NoOwnIdentity(_)) | SourceError::Identity(_) => {
            "attester_unavailable"
        }
        SourceError::NotAllowed(Unacceptable::Denied(_) | Unacceptable::NoIdentity(_)) => {
            "source_not_allowed"
        }
        SourceError::Call(CallError::Refused { method, status, .. }) => {
            match (status.as_u16(), method.as_str()) {
                (401, "GetTempCaCert") => "source_token_needed",
                (401, _) => "source_token_refused",
                (400 | 403, "GetKmsKey") => "source_denies",
                _ => "source_unavailable",
            }
        }
        SourceError::Call(_) | SourceError::Broken { .. } => "source_unavailable",
        SourceError::OtherRoot(_) | SourceError::OtherServer | SourceError::CertificateRefused(_) => {
            "source_ambiguous"
        }
        SourceError::UnexpectedRoot { .. } => "source_root_differs",
        SourceError::RootCa
        | SourceError::InvalidKeys
        | SourceError::CaKey
        | SourceError::TempCaKey
        | SourceError::K256Key
        | SourceError::Epoch { .. }
        | SourceError::OtherKey { .. } => "source_keys_unusable",
    }
}
