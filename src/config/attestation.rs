//! Our attester and the verifier of evidence, as `[core.attester]`, `[core.attestation]` and `[core.tcb]` have them.

use kms_attest::attester::{self, AttesterError, ConfigfsTsm, GuestAgent};
use kms_attest::collateral::{
    CacheOptions, Clock, CollateralCache, CollateralStore, EndpointError, Floors, FloorsFileError,
};
use kms_attest::trust::{TrustAnchors, TrustError};
use kms_attest::verify::Verifier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::{FileError, ca_file, read_file};
use super::{Attestation, Attester, COLLATERAL, Core, Endpoint};
use crate::clock::Floor;

/// Why evidence cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// A file that `[core.attestation]` names is unusable.
    #[error(transparent)]
    File(#[from] FileError),
    /// The trust anchor is unusable.
    #[error("core.attestation.root_ca.tdx: {0}")]
    Trust(#[from] TrustError),
    /// It is not known which collateral is too old.
    #[error(transparent)]
    Floors(#[from] FloorsFileError),
    /// The client for collateral cannot be set up.
    #[error(transparent)]
    Collateral(#[from] EndpointError),
}

/// Who must bring fresh evidence, made for the session of the request: `core.attestation.require_fresh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequireFresh {
    /// Nobody. A caller that brings some is judged by it.
    Off,
    /// Apps, for keys and certificates.
    Apps,
    /// Apps and replicas.
    All,
}

impl RequireFresh {
    /// Parses a name.
    ///
    /// # Errors
    /// The names that there are.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "off" => Ok(Self::Off),
            "apps" => Ok(Self::Apps),
            "all" => Ok(Self::All),
            _ => Err("must be \"off\", \"apps\" or \"all\""),
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Apps => "apps",
            Self::All => "all",
        }
    }
}

impl Attester {
    /// What gives evidence of this machine.
    ///
    /// # Errors
    /// The address of the guest agent is invalid.
    pub fn build(&self) -> Result<attester::Attester, AttesterError> {
        Ok(match self {
            Self::GuestAgent { address: Some(address) } => attester::Attester::at(address)?,
            // The configuration has looked at the environment already.
            Self::GuestAgent { address: None } => attester::Attester::GuestAgent(GuestAgent::usual()),
            Self::ConfigfsTsm { event_log } => {
                attester::Attester::ConfigfsTsm(ConfigfsTsm::new(event_log.clone(), String::new()))
            }
            Self::None => attester::Attester::None,
        })
    }
}

impl Attestation {
    fn trust_anchors(&self) -> Result<TrustAnchors, VerifierError> {
        match &self.tdx_root {
            None => Ok(TrustAnchors::intel()),
            Some(path) => Ok(TrustAnchors::with_tdx_root(&read_file("core.attestation.root_ca.tdx", path)?)?),
        }
    }
}

impl Core {
    /// What verifies evidence, by a clock that is never behind `floor`.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn verifier(&self, floor: Floor) -> Result<Verifier, VerifierError> {
        let tcb = &self.tcb;
        let anchors = self.attestation.trust_anchors()?;
        let floors = Floors::open(tcb.floors_file.clone(), anchors.tdx_root(), tcb.min_evaluation_number)?;
        let store = CollateralStore::new(self.cert_dir.join(COLLATERAL));
        self.verifier_with(floor, anchors, floors, Some(store))
    }

    /// The same for a check, which writes no file. It uses nothing that is kept, unless nothing else may be used, so that it
    /// shows whether a service responds.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn verifier_of_a_check(&self) -> Result<Verifier, VerifierError> {
        match self.attestation.is_offline {
            true => self.verifier_of_kept(),
            false => {
                let anchors = self.attestation.trust_anchors()?;
                let floors = Floors::in_memory(self.tcb.min_evaluation_number);
                self.verifier_with(Floor::default(), anchors, floors, None)
            }
        }
    }

    /// The same with what is kept of collateral. It writes no file.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn verifier_of_kept(&self) -> Result<Verifier, VerifierError> {
        let tcb = &self.tcb;
        let anchors = self.attestation.trust_anchors()?;
        let floors = Floors::read(tcb.floors_file.clone(), anchors.tdx_root(), tcb.min_evaluation_number)?;
        let store = CollateralStore::for_reading(self.cert_dir.join(COLLATERAL));
        let verifier = self.verifier_with(Floor::default(), anchors, floors, Some(store))?;
        verifier.cache().load_stored_now();
        Ok(verifier)
    }

    fn verifier_with(
        &self,
        floor: Floor,
        anchors: TrustAnchors,
        floors: Floors,
        store: Option<CollateralStore>,
    ) -> Result<Verifier, VerifierError> {
        let attestation = &self.attestation;
        let endpoints: Vec<&str> = attestation.pccs.iter().map(Endpoint::as_str).collect();
        let options = CacheOptions {
            clock: Clock::system().above(floor),
            extra_tls_roots: ca_file("core.attestation.ca_file", attestation.ca_file.as_deref())?,
            floors,
            store,
            is_offline: attestation.is_offline,
            ..CacheOptions::default()
        };
        let cache = CollateralCache::new(&endpoints, &anchors, options)?;
        Ok(Verifier::new(anchors, cache))
    }
}
