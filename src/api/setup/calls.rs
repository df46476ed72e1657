//! The checks: each makes the real call, up to the point where it would have an effect.

use std::sync::Arc;

use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::collateral::{Collateral, CollateralError};
use kms_attest::evidence::{Evidence, Platform};
use kms_attest::identity::BootInfo;
use kms_attest::verify::{Binding, Verified, Verifier};
use kms_client::source::{AttestedSource, SourceError};
use kms_client::url::{KmsUrl, UrlError};
use kms_policy::{Denial, DenialCode, Policy, Subject};

use super::SetupService;
use super::check::Listener;
use super::finding::{self, Failure};
use super::reasons::{date, is_not_current, unattested, unreached, unverified};
use crate::admission::{Foundation, ImageCheck, Settled, TcbTolerance, own_identity};
use crate::domain::Domain;

/// A time before this version existed (1 January 2026), so an earlier clock is wrong.
const WRITTEN: u64 = 1_767_225_600;

/// What was found, or why the real call would fail.
type Passed = Result<String, Failure>;

/// What the checks of this machine call.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Gives evidence of this machine.
    pub attester: &'a Attester,
    /// Verifies it.
    pub verifier: &'a Verifier,
    /// What policy is told of it.
    pub tolerance: &'a TcbTolerance,
    /// Judges it.
    pub policy: &'a Policy,
    /// Compares it with its OS image, if the policy depends on that.
    pub image: &'a ImageCheck,
}

impl SetupService {
    fn foundation(&self) -> &Foundation {
        &self.onboard.foundation
    }

    pub(super) fn machine(&self) -> Machine<'_> {
        let Foundation { attester, verifier, tolerance, policy, image, .. } = self.foundation();
        Machine { attester, verifier, tolerance, policy, image }
    }

    pub(super) async fn key_directory(&self) -> Passed {
        let onboarding = Arc::clone(&self.onboard.onboarding);
        let broken = |cause: String| {
            let advice =
                "Make core.cert_dir a directory with free space that the user of this process may write.";
            Failure::new(cause, advice)
        };
        tokio::task::spawn_blocking(move || onboarding.probe())
            .await
            .map_err(|error| broken("internal error".to_owned()).caused_by(error.to_string()))?
            .map_err(|error| broken(error.to_string()))?;
        Ok("A file was written, synced to the disk and removed.".to_owned())
    }

    pub(super) async fn source(&self, url: &str, listener: Listener) -> Result<finding::Passed, Failure> {
        let url: KmsUrl = url.parse().map_err(|error: UrlError| {
            Failure::new(format!("{error}."), "Give the URL under which CVMs reach the running KMS.")
        })?;
        // `Onboard` needs this first.
        self.foundation().attester.vm_config().await.map_err(unattested)?;
        let source = AttestedSource::open(&url, &self.foundation().verifier).await.map_err(unreached)?;
        let allowed = self.onboard.authorize_source(source.verified()).await;
        allowed.map_err(|reason| unreached(SourceError::NotAllowed(reason)))?;
        let described = match listener {
            Listener::Main => {
                source.temp_ca_cert().await.map_err(unreached)?;
                source.described().await
            }
            Listener::Admin => None,
        };
        let k256 = described.map(|meta| hex::encode(meta.k256_pubkey)).filter(|key| !key.is_empty());
        let measured = own_identity(source.verified()).map(|identity| hex::encode(identity.mr_aggregated));
        let detail = format!(
            "It is an attested KMS (TCB status {}, mrAggregated {}), and our policy allows it. Whether its \
             policy allows this one shows when it is asked for the keys.",
            status_of(source.verified()),
            measured.unwrap_or_default()
        );
        Ok(finding::Passed::from(detail).showing(k256))
    }
}

impl Machine<'_> {
    pub(super) async fn clock(&self) -> Passed {
        let clock = self.verifier.cache().clock();
        let now = clock.now();
        if now < WRITTEN {
            return Err(Failure::new(
                format!("It is set to {}, before this program was written.", date(now)),
                "Set the clock of this machine: the validity of certificates and collateral is judged by it.",
            ));
        }
        // Only signed dates can show that the clock is wrong: an unauthenticated server may be wrong itself.
        let unsigned = |why| {
            let now = date(now);
            Ok(format!("{now}: after this program was written. {why}: nothing signed to compare it with."))
        };
        let Ok((evidence, _)) = self.evidence().await else {
            return unsigned("This machine gives no evidence");
        };
        match self.collateral_for(&evidence).await {
            Ok(collateral) => Ok(format!(
                "{}: within the validity of Intel's signed collateral, {} to {}.",
                date(now),
                date(collateral.issued()),
                date(collateral.expires())
            )),
            Err(error) if is_not_current(&error) => Err(Failure::new(
                format!(
                    "It is set to {}; the collateral that was fetched is not valid at that time.",
                    date(now)
                ),
                "Compare the clock of this machine with another one. If it is right, the collateral service is stale: \
                 list another one in core.attestation.urls.pccs.",
            )),
            Err(_) => unsigned("Intel's collateral is not available"),
        }
    }

    pub(super) async fn attester(&self) -> Passed {
        let (evidence, bound) = self.evidence().await?;
        match self.verifier.verify(&evidence, Binding::ReportData(&bound)).await {
            Ok(verified) => Ok(format!(
                "Evidence over fresh random data was made and verified: {}, TCB status {}.",
                evidence.platform.tee_variant(),
                status_of(&verified)
            )),
            Err(error) => Err(unverified(error).within("Evidence was made. ")),
        }
    }

    pub(super) async fn collateral(&self) -> Passed {
        let (evidence, bound) = self.evidence().await.map_err(|failure| {
            failure
                .within("Only evidence of this machine tells which collateral is needed, and there is none: ")
        })?;
        let verifier = self.verifier;
        let before = verifier.cache().stats().fetches;
        let verified = verifier.verify(&evidence, Binding::ReportData(&bound)).await.map_err(unverified)?;
        let origin = if verifier.cache().stats().fetches > before { "Fetched now" } else { "Fetched before" };
        Ok(format!(
            "{origin} and verified, for platforms of kind {}; valid until {}.",
            hex::encode(verified.fmspc()),
            date(verified.collateral_expires())
        ))
    }

    pub(super) async fn authorization(&self) -> Passed {
        let (evidence, bound) = self.evidence().await.map_err(|failure| {
            failure.within("The policy judges the evidence of this machine, and there is none: ")
        })?;
        let verified =
            self.verifier.verify(&evidence, Binding::ReportData(&bound)).await.map_err(unverified)?;
        let identity = own_identity(&verified).map_err(|error| {
            Failure::new(
                format!("The evidence of this machine names no KMS: {error}"),
                "Start it in a measured CVM.",
            )
        })?;
        // As for the self-authorization, with what core.tcb tolerates.
        let tolerated = self.tolerance.apply(verified.verdict(), &identity);
        let decision = match self.policy.decide(Subject::Kms(&tolerated.told)).await {
            Ok(decision) => Ok(self.image.settled(decision, &verified).await.map_err(|unsettled| {
                Failure::new(
                    "The policy depends on the OS image of this machine, which cannot be compared now.",
                    "Make sure that the server of core.image.download_url has the image and can be reached from here.",
                )
                .caused_by(unsettled.to_string())
            })?),
            Err(error) => Err(error),
        };
        match decision {
            Err(error) => Err(Failure::new(
                "The authorization backend does not answer.",
                "Make sure that the backend of core.auth_api runs and can be reached from here; the log has the cause.",
            )
            .caused_by(error.detail())),
            Ok(Settled::Denied(denial)) => Err(self.denied(denial, &tolerated.told)),
            Ok(Settled::Allowed) => {
                Ok(format!("The policy ({}) allows this KMS{}.", self.policy.kind(), self.about_policy().await))
            }
        }
    }

    /// Why the policy denies this KMS, with the entry that would allow it on VMs of every shape, where such entries hold.
    fn denied(&self, denial: Denial, told: &BootInfo) -> Failure {
        let remedy = match self.image {
            ImageCheck::Required(_) if denial.code == DenialCode::KmsMeasurement => {
                self.policy.remedy_by_image(denial.code, Subject::Kms(told))
            }
            ImageCheck::Required(_) | ImageCheck::Waived => None,
        };
        let failure = denied(denial);
        match remedy {
            Some(remedy) => failure.mended_by(&format!("To allow it, {}.", remedy.sentence)),
            None => failure,
        }
    }

    /// The backend's description; keys can be made without it.
    async fn about_policy(&self) -> String {
        let Ok(info) = self.policy.info().await else {
            return "; it does not describe itself now".to_owned();
        };
        let is_one = |address: &String| address.bytes().any(|digit| !matches!(digit, b'0' | b'x'));
        let contract = info.kms_contract_address.filter(is_one);
        match (contract, info.chain_id) {
            (Some(contract), Some(chain)) => format!(", by contract {contract} on chain {chain}"),
            (Some(contract), None) => format!(", by contract {contract}"),
            _ => String::new(),
        }
    }

    /// Evidence over fresh random data, with that data.
    async fn evidence(&self) -> Result<(Evidence, ReportData), Failure> {
        let mut random = [0; 64];
        aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
        let bound = ReportData(random);
        let evidence = self.attester.attest(bound).await.map_err(unattested)?;
        Ok((evidence, bound))
    }

    async fn collateral_for(&self, evidence: &Evidence) -> Result<Arc<Collateral>, CollateralError> {
        match &evidence.platform {
            Platform::Tdx(tdx) => self.verifier.cache().get(&tdx.quote).await,
            other @ (Platform::GcpTdx { .. }
            | Platform::NitroEnclave { .. }
            | Platform::SevSnp { .. }
            | Platform::AwsNitroTpm { .. }) => Err(CollateralError::Quote(other.kind().to_owned())),
        }
    }
}

pub(super) fn domain(text: &str) -> Passed {
    let domain = Domain::parse(text).map_err(|error| {
        Failure::new(
            format!("{error}."),
            "Give the name or IPv4 address under which CVMs will reach this KMS, without scheme, port and path.",
        )
    })?;
    let kind = match domain.as_str().parse::<std::net::Ipv4Addr>() {
        Ok(_) => "an IPv4 address",
        Err(_) => "a DNS name",
    };
    Ok(format!("The TLS certificate will be for {domain}, {kind}."))
}

/// Why the policy denies this KMS.
fn denied(denial: Denial) -> Failure {
    let advice = match denial.code {
        DenialCode::AllowlistUnusable => {
            return Failure::new(
                "The policy denies everyone: its allowlist is missing or invalid, or no signed bundle can decide.",
                "Correct the file of core.auth_api.allowlist.path: the log and `kms policy check` have the fault. With \
                 core.auth_api.bundle, bring a bundle that is valid now.",
            )
            .caused_by(denial.expected.unwrap_or_default());
        }
        DenialCode::TcbStatus | DenialCode::Advisory => {
            "Update this platform, or allow its TCB status and advisories in the policy."
        }
        DenialCode::OsImage
        | DenialCode::KmsMeasurement
        | DenialCode::Device
        | DenialCode::AppNotRegistered
        | DenialCode::ComposeHash
        | DenialCode::AppNotDeployed
        | DenialCode::InvalidRequest
        | DenialCode::GuestHasBooted
        | DenialCode::EpochTooNew
        | DenialCode::EpochNotReadable
        | DenialCode::EpochNotActive
        | DenialCode::EpochRetired
        | DenialCode::EpochDestroyed
        | DenialCode::EpochUnknown
        | DenialCode::Backend => {
            "Allow the values that GetAttestationInfo shows in the policy: mrAggregated, OS image hash and device."
        }
    };
    Failure::new(format!("The policy denies this KMS: {}.", denial.reason), advice).caused_by(format!(
        "{}: {}, expected {}, found {}",
        denial.reason,
        denial.code.name(),
        denial.expected.as_deref().unwrap_or("unknown"),
        denial.actual.as_deref().unwrap_or("unknown")
    ))
}

/// TCB status and advisories, in Intel's words.
fn status_of(verified: &Verified) -> String {
    match verified.advisory_ids() {
        [] => verified.tcb_status().to_owned(),
        advisories => format!("{} ({})", verified.tcb_status(), advisories.join(", ")),
    }
}
