//! Makes a document: a statement, a quote over it, the collateral for the quote, and the signature of the root.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::collateral::CollateralError;
use kms_attest::verify::{Binding, Verified, VerifyError};
use kms_attest::vm_config::{Layout, layout};
use tokio::sync::OnceCell;

use super::statement::{self, Statement};
use super::{Document, Made, RootSignature};
use crate::admission::{Foundation, OwnSeal};
use crate::api::meta::Meta;
use crate::clock::unix_now;
use crate::error::{Code, Error};
use crate::lifecycle::Ready;

/// The program that runs.
const PROGRAM: &str = "/proc/self/exe";
const VERSION: u64 = 1;
/// How often a document is made until its own quote shows what its statement says.
const ATTEMPTS: usize = 3;

/// What documents are made of.
pub struct Maker {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    meta: Arc<Meta>,
    port: u16,
    program: OnceCell<Option<[u8; 32]>>,
    seal: OwnSeal,
    /// Whether the last quote showed a sealed machine.
    sealed: ArcSwap<Option<bool>>,
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker").finish_non_exhaustive()
    }
}

/// Why there is no document. The cause is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// There is no TEE.
    NoAttester,
    /// The guest agent or the kernel gives no quote.
    NoEvidence,
    /// There is no collateral, or the clock is wrong.
    NoCollateral,
    /// Our own quote does not verify.
    Refused,
    /// It takes too long.
    Late,
}

impl Unproven {
    /// A stable code.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAttester => "no_attester",
            Self::NoEvidence => "own_evidence_unavailable",
            Self::NoCollateral => "collateral_unavailable",
            Self::Refused => "own_evidence_refused",
            Self::Late => "attestation_late",
        }
    }

    /// The error for who asked.
    pub fn told(self) -> Error {
        let text = match self {
            Self::NoAttester => "this KMS has no attester, so it cannot prove what it runs",
            Self::NoEvidence => "this KMS gets no quote about itself now; try again later",
            Self::NoCollateral => {
                "this KMS has no collateral now, without which its quote cannot be verified; try again later"
            }
            Self::Refused => "this KMS cannot verify its own quote, so it does not give it to others",
            Self::Late => "this KMS did not get a quote about itself in time; try again later",
        };
        Error::new(Code::Unavailable, text).because(self.name())
    }
}

impl Maker {
    /// Documents about the KMS with the keys of `ready`, which is reached at `port`; `seal` knows whether it is sealed.
    pub fn new(
        foundation: Arc<Foundation>,
        ready: Arc<Ready>,
        meta: Arc<Meta>,
        port: u16,
        seal: OwnSeal,
    ) -> Self {
        Self { foundation, ready, meta, port, program: OnceCell::new(), seal, sealed: ArcSwap::default() }
    }

    /// A new document, with `nonce` in its statement.
    pub(super) async fn make(&self, nonce: Option<[u8; 32]>) -> Result<Made, Unproven> {
        let made = Instant::now();
        // Whether the machine is sealed is found in a quote, and stated under one. Both must be the same quote, or an event that
        // opened the machine in between would not count.
        for _ in 0..ATTEMPTS {
            let stated = **self.sealed.load();
            let statement = self.statement(nonce, stated).await;
            let report_data = ReportData::kms_attestation(statement.as_bytes());
            let evidence = self.foundation.attester.attest(report_data).await.map_err(|error| {
                tracing::warn!(%error, "there is no quote about this KMS for outsiders");
                match *self.foundation.attester {
                    Attester::None => Unproven::NoAttester,
                    Attester::GuestAgent(_) | Attester::ConfigfsTsm(_) => Unproven::NoEvidence,
                }
            })?;
            let evidence = Arc::new(evidence);
            let binding = Binding::ReportData(&report_data);
            let verified =
                self.foundation.verifier.verify_shared(&evidence, binding).await.map_err(refused)?;
            let found = self.seal.of(&verified).await;
            if found == stated {
                let document = self.document(statement, &verified).await?;
                let json = serde_json::to_vec(&document).expect("an object of texts");
                return Ok(Made { json: json.into(), made });
            }
            self.sealed.store(Arc::new(found));
        }
        tracing::warn!(
            "it changes with each quote whether this KMS is sealed, so there is no document for outsiders"
        );
        Err(Unproven::NoEvidence)
    }

    async fn document(&self, statement: String, verified: &Verified) -> Result<Document, Unproven> {
        let evidence = verified.evidence();
        let tdx = evidence.tdx().ok_or(Unproven::Refused)?;
        let collateral = self.foundation.verifier.cache().get(&tdx.quote).await;
        let collateral = collateral.map_err(|error: CollateralError| refused(error.into()))?;
        let signature = self.ready.sign_attestation(&tdx.quote, statement.as_bytes());
        Ok(Document {
            version: VERSION,
            quote: hex::encode(&tdx.quote),
            event_log: serde_json::to_string(&tdx.event_log).expect("numbers and texts"),
            vm_config: vm_config(&evidence.stack.config),
            collateral: serde_json::to_value(collateral.parts()).expect("texts"),
            root: RootSignature {
                ca_spki: hex::encode(self.ready.ca_public_key()),
                signature: hex::encode(signature),
            },
            statement,
        })
    }

    async fn statement(&self, nonce: Option<[u8; 32]>, sealed: Option<bool>) -> String {
        let program = *self.program.get_or_init(program).await;
        let audit = &self.foundation.audit;
        let statement = Statement {
            version: VERSION,
            time: unix_now(),
            nonce: nonce.map(hex::encode),
            kms_version: env!("CVM_KMS_VERSION"),
            program_sha256: program.map(hex::encode),
            name: self.ready.domain().as_str(),
            endpoints: statement::endpoints(self.ready.domain().as_str(), self.port),
            rpc_spki_sha256: statement::sha256(&self.ready.rpc_public_key()),
            root: statement::root(&self.ready),
            epochs: statement::epochs(&self.ready),
            log: audit.head().and_then(|head| statement::log(&head)),
            policies: statement::policies(&self.foundation),
            relaxed: self.meta.relaxed().codes().map(str::to_owned).collect(),
            sealed,
        };
        serde_json::to_string(&statement).expect("numbers and texts")
    }
}

fn refused(error: VerifyError) -> Unproven {
    tracing::warn!(%error, "the quote about this KMS for outsiders does not verify");
    if error.is_unavailable() { Unproven::NoCollateral } else { Unproven::Refused }
}

/// The configuration of the VM alone, without the guest's system configuration around it.
fn vm_config(config: &str) -> String {
    match layout(config) {
        Ok(Layout::Nested(nested)) => nested,
        Ok(Layout::Plain) | Err(_) => config.to_owned(),
    }
}

/// SHA-256 of the program that runs.
async fn program() -> Option<[u8; 32]> {
    let read = tokio::task::spawn_blocking(|| {
        let mut file = File::open(PROGRAM)?;
        let mut context = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => context.update(&buffer[..length]),
            }
        }
        context.finish().as_ref().try_into().map_err(io::Error::other)
    });
    let read = read.await.map_err(io::Error::other).and_then(|read| read);
    read.inspect_err(|error| tracing::warn!(%error, "the program of this process cannot be read")).ok()
}
