//! A TDX machine: its keys, certificates and quoting enclave.

use std::sync::Arc;

use dcap_qvl::QuoteCollateralV3;
use sha2::{Digest, Sha256};

use crate::collateral::{self, CollateralSpec};
use crate::key::SimulatedKey;
use crate::pki::{Pki, pem_chain};
use crate::quote::{self, QuoteFormat, TdReport};
use crate::sgx_extension::PlatformFacts;

pub(crate) const CPU_SVN: [u8; 16] = [2, 2, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const PCE_SVN: u16 = 11;
const PCE_ID: [u8; 2] = [0, 0];

/// The CA that issued a platform's PCK certificate, which decides the CRL to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PckCa {
    /// Servers with several packages, as TDX machines are.
    Platform,
    /// Single-package machines.
    Processor,
}

/// How a quote refers to its PCK certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certification {
    /// The whole chain (type 5).
    Chain,
    /// An encrypted PPID (type 2, RSA-2048 size), by which the chain is fetched from the PCCS.
    EncryptedPpid2048,
    /// An encrypted PPID (type 3, RSA-3072 size), by which the chain is fetched from the PCCS.
    EncryptedPpid3072,
}

/// The parameters of a platform.
#[derive(Clone, Debug)]
pub struct PlatformSpec {
    /// The seed of all keys. Platforms of the same seed share the root and all other keys.
    pub seed: Vec<u8>,
    /// The platform's model.
    pub fmspc: [u8; 6],
    /// The platform's identity; `device_id` is its SHA-256.
    pub ppid: [u8; 16],
    /// The issuer of the PCK certificate.
    pub pck_ca: PckCa,
    /// How quotes refer to the PCK certificate.
    pub certification: Certification,
    /// The CRL distribution point in every certificate. Clients use it if the PCCS has no root CRL.
    pub root_crl_url: Option<String>,
}

impl PlatformSpec {
    /// FMSPC `53494D000000`, Platform CA, chain in the quote, a PPID derived from the seed.
    pub fn from_seed(seed: &[u8]) -> Self {
        Self {
            seed: seed.to_vec(),
            fmspc: *b"SIM\0\0\0",
            ppid: expand("simulated ppid", seed),
            pck_ca: PckCa::Platform,
            certification: Certification::Chain,
            root_crl_url: None,
        }
    }
}

/// A simulated TDX machine under a simulated Intel. Creating it costs about ten signatures, a quote costs
/// one.
pub struct Platform {
    pki: Pki,
    fmspc: [u8; 6],
    ppid: [u8; 16],
    pck_ca: PckCa,
    qe_id: [u8; 16],
    attestation_key: SimulatedKey,
    pck_chain: String,
    encrypted_ppid: Vec<u8>,
    /// The part of every quote that follows its signature.
    certification: Vec<u8>,
}

impl Platform {
    /// A platform of [`PlatformSpec::from_seed`].
    pub fn from_seed(seed: &[u8]) -> Arc<Self> {
        Self::new(&PlatformSpec::from_seed(seed))
    }

    /// The same spec gives the same platform, bit for bit.
    pub fn new(spec: &PlatformSpec) -> Arc<Self> {
        let facts = PlatformFacts {
            ppid: spec.ppid,
            cpu_svn: CPU_SVN,
            pce_svn: PCE_SVN,
            pce_id: PCE_ID,
            fmspc: spec.fmspc,
            scalable: match spec.pck_ca {
                PckCa::Platform => Some(expand("simulated platform instance", &spec.ppid)),
                PckCa::Processor => None,
            },
        };
        let pki = Pki::new(&spec.seed, spec.pck_ca, facts, spec.root_crl_url.as_deref());
        let pck_chain = pem_chain(&[&pki.pck, pki.ca(spec.pck_ca), &pki.root]);
        let encrypted_ppid = match spec.certification {
            Certification::Chain => Vec::new(),
            Certification::EncryptedPpid2048 => {
                expand::<256>("simulated encrypted ppid", &spec.ppid).to_vec()
            }
            Certification::EncryptedPpid3072 => {
                expand::<384>("simulated encrypted ppid", &spec.ppid).to_vec()
            }
        };
        let by_ppid = [&encrypted_ppid[..], &CPU_SVN, &PCE_SVN.to_le_bytes(), &PCE_ID].concat();
        let (inner_type, inner_data) = match spec.certification {
            Certification::Chain => (5, pck_chain.as_bytes()),
            Certification::EncryptedPpid2048 => (2, &by_ppid[..]),
            Certification::EncryptedPpid3072 => (3, &by_ppid[..]),
        };

        let attestation_key = SimulatedKey::derive(&spec.seed, "tdx-attestation");
        let attestation_point = &attestation_key.public_point()[1..];
        let qe_auth_data: [u8; 32] = core::array::from_fn(|index| index as u8);
        let key_hash = Sha256::new().chain_update(attestation_point).chain_update(qe_auth_data).finalize();
        let qe_report = quote::qe_report(&CPU_SVN, &key_hash.into());
        let certification = quote::certification(
            attestation_point,
            &qe_report,
            &pki.pck.key.sign_raw(&qe_report),
            &qe_auth_data,
            inner_type,
            inner_data,
        );
        Arc::new(Self {
            pki,
            fmspc: spec.fmspc,
            ppid: spec.ppid,
            pck_ca: spec.pck_ca,
            qe_id: expand("simulated qe id", &spec.ppid),
            attestation_key,
            pck_chain,
            encrypted_ppid,
            certification,
        })
    }

    /// The root certificate, DER, for `root_ca.tdx`.
    pub fn root_der(&self) -> &[u8] {
        &self.pki.root.der
    }

    /// The root certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.pki.root.pem
    }

    /// The platform's model, as in its PCK certificate and TCB info.
    pub fn fmspc(&self) -> [u8; 6] {
        self.fmspc
    }

    /// The platform's identity, as in its PCK certificate.
    pub fn ppid(&self) -> &[u8; 16] {
        &self.ppid
    }

    /// SHA-256(PPID).
    pub fn device_id(&self) -> [u8; 32] {
        Sha256::digest(self.ppid).into()
    }

    /// PCK certificate, its CA, the root: PEM.
    pub fn pck_chain_pem(&self) -> &str {
        &self.pck_chain
    }

    /// The default collateral: valid 2020 to 2099.
    pub fn collateral(&self) -> QuoteCollateralV3 {
        self.collateral_of(&CollateralSpec::default())
    }

    /// The collateral for `spec`.
    pub fn collateral_of(&self, spec: &CollateralSpec) -> QuoteCollateralV3 {
        collateral::collateral(self, spec)
    }

    /// A quote over `report`, whatever its values.
    pub fn quote(&self, format: QuoteFormat, report: &TdReport) -> Vec<u8> {
        let signed_range = report.signed_range(format, &self.qe_id);
        let signature = self.attestation_key.sign_raw(&signed_range);
        quote::assemble(signed_range, &signature, &self.certification)
    }

    /// The PCK certificate alone, PEM.
    pub(crate) fn pck_pem(&self) -> &str {
        &self.pki.pck.pem
    }

    /// The issuers of the PCK certificate, PEM.
    pub(crate) fn pck_issuer_chain(&self) -> String {
        pem_chain(&[self.pki.ca(self.pck_ca), &self.pki.root])
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    pub(crate) fn pck_ca(&self) -> PckCa {
        self.pck_ca
    }

    pub(crate) fn is_certified_by_ppid(&self) -> bool {
        !self.encrypted_ppid.is_empty()
    }

    /// Empty for platforms whose quotes carry the chain.
    pub(crate) fn encrypted_ppid(&self) -> &[u8] {
        &self.encrypted_ppid
    }
}

/// SHA-256(purpose ‖ input ‖ u32be counter) …, cut to the requested length.
fn expand<const N: usize>(purpose: &str, input: &[u8]) -> [u8; N] {
    let mut out = [0u8; N];
    for (counter, block) in (0u32..).zip(out.chunks_mut(32)) {
        let digest = Sha256::new()
            .chain_update(purpose)
            .chain_update(input)
            .chain_update(counter.to_be_bytes())
            .finalize();
        block.copy_from_slice(&digest[..block.len()]);
    }
    out
}
