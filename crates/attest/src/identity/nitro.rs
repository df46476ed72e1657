//! Registers in the documents of AWS Nitro: enclaves and NitroTPM. The documents' signatures are not checked here.

use std::collections::BTreeMap;

use super::cbor::{CborError, Reader};
use super::sha256;

type Pcr = [u8; 48];

/// Why a Nitro document has no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NitroError {
    /// Not a document.
    #[error("the Nitro attestation document does not parse: {0}")]
    Malformed(CborError),
    /// No such PCR, or one of another length than 48.
    #[error("the Nitro attestation document has no 48-byte PCR {0}")]
    NoPcr(u64),
}

impl From<CborError> for NitroError {
    fn from(error: CborError) -> Self {
        Self::Malformed(error)
    }
}

/// `SHA-256(PCR0 ‖ PCR1 ‖ PCR2)`: the image that an enclave runs.
pub(super) fn enclave_image(document: &[u8]) -> Result<[u8; 32], NitroError> {
    let pcrs = pcrs(document, "pcrs")?;
    Ok(sha256(&[pcr(&pcrs, 0)?, pcr(&pcrs, 1)?, pcr(&pcrs, 2)?]))
}

/// `PCR4 ‖ PCR7 ‖ PCR12`: what an instance with a NitroTPM has booted.
pub(super) fn tpm_boot_registers(document: &[u8]) -> Result<Vec<u8>, NitroError> {
    let pcrs = pcrs(document, "nitrotpm_pcrs")?;
    Ok([pcr(&pcrs, 4)?, pcr(&pcrs, 7)?, pcr(&pcrs, 12)?].concat())
}

fn pcr(pcrs: &BTreeMap<u64, Pcr>, index: u64) -> Result<&[u8], NitroError> {
    pcrs.get(&index).map(|pcr| pcr.as_slice()).ok_or(NitroError::NoPcr(index))
}

/// The PCRs under `name` in the payload of a COSE_Sign1 document.
fn pcrs(document: &[u8], name: &str) -> Result<BTreeMap<u64, Pcr>, CborError> {
    let mut document = Reader::new(document);
    document.cose_sign1()?;
    document.bytes()?;
    document.skip()?;
    let mut pcrs = BTreeMap::new();
    Reader::new(document.bytes()?).map(|payload| {
        if payload.text()? != name {
            return payload.skip();
        }
        payload.map(|entry| {
            let index = entry.unsigned()?;
            if let Ok(value) = entry.bytes()?.try_into() {
                pcrs.insert(index, value);
            }
            Ok(())
        })
    })?;
    document.bytes()?;
    Ok(pcrs)
}
