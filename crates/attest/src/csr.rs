//! Certificate signing requests of `SignCert`: two SCALE formats, each signed over its own bytes.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::codec::scale::{Reader, Writer};
use crate::evidence::{Evidence, EvidenceError, FieldError, LegacyError};
use crate::p256::P256Key;

/// The required first field: no other signed text can pass as a request.
const CONFIRM: &str = "please sign cert:";

/// Maximum number of subject alternative names that are decoded. Policy allows fewer.
const MAX_NAMES: usize = 1024;

/// The format of a request: its `api_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// With a TDX quote and its event log.
    V1,
    /// With versioned evidence, dates and app info.
    V2,
}

/// The format does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported api version: {0}")]
pub struct UnsupportedApiVersion(pub u32);

impl TryFrom<u32> for ApiVersion {
    type Error = UnsupportedApiVersion;

    fn try_from(number: u32) -> Result<Self, UnsupportedApiVersion> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(UnsupportedApiVersion(other)),
        }
    }
}

/// A request whose signature by its own key is verified. Its evidence is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    /// SubjectPublicKeyInfo DER of the key to certify, as sent: P-256, any point form.
    pub spki: Vec<u8>,
    /// Organization (`O`), optional.
    pub org_name: Option<String>,
    /// Common name (`CN`).
    pub subject: String,
    /// Domain names and IP addresses.
    pub subject_alt_names: Vec<String>,
    /// Whether the certificate is for TLS servers.
    pub usage_server_auth: bool,
    /// Whether the certificate is for TLS clients.
    pub usage_client_auth: bool,
    /// Whether the certificate shall contain the evidence.
    pub ext_quote: bool,
    /// Whether the certificate shall contain the app info. Always false in version 1.
    pub ext_app_info: bool,
    /// First second of validity, Unix time. Always `None` in version 1.
    pub not_before: Option<u64>,
    /// Last second of validity, Unix time. Always `None` in version 1.
    pub not_after: Option<u64>,
    /// The requester's evidence.
    pub evidence: Evidence,
}

/// Why a request is refused. Messages begin with dstack-kms's words.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// A field that does not decode.
    #[error("Failed to parse csr: {0}")]
    Field(#[from] FieldError),
    /// Evidence that does not decode.
    #[error("Failed to parse csr: {0}")]
    Evidence(#[from] EvidenceError),
    /// Not a P-256 key.
    #[error("Failed to verify csr signature: unsupported algorithm: the public key is not a P-256 key")]
    Algorithm,
    /// The signature does not verify.
    #[error("Failed to verify csr signature: invalid signature")]
    Signature,
    /// The first field is not the confirm word.
    #[error("Failed to verify csr signature: invalid confirm word")]
    ConfirmWord,
    /// Evidence without a TDX quote, which version 1 cannot carry.
    #[error("a request of version 1 needs TDX evidence, got {0}")]
    NotTdx(&'static str),
}

impl From<LegacyError> for CsrError {
    fn from(error: LegacyError) -> Self {
        Self::Evidence(error.into())
    }
}

impl Csr {
    /// A request for a server certificate with nothing but a subject: no organization, names and dates, and no
    /// evidence or app info in the certificate.
    pub fn plain(spki: &[u8], subject: &str, evidence: Evidence) -> Self {
        Self {
            spki: spki.to_vec(),
            org_name: None,
            subject: subject.to_owned(),
            subject_alt_names: Vec::new(),
            usage_server_auth: true,
            usage_client_auth: false,
            ext_quote: false,
            ext_app_info: false,
            not_before: None,
            not_after: None,
            evidence,
        }
    }

    /// Decodes a request and verifies its signature by the key in it. The signature covers the decoded bytes
    /// only; version 1 allows trailing bytes.
    pub fn parse(version: ApiVersion, bytes: &[u8], signature: &[u8]) -> Result<Self, CsrError> {
        let mut reader = Reader::new(bytes);
        let (confirm, csr) = read(version, &mut reader)?;
        let (signed, _) = bytes.split_at(bytes.len() - reader.rest().len());
        verify_signature(&csr.spki, signed, signature)?;
        if confirm != CONFIRM {
            return Err(CsrError::ConfirmWord);
        }
        Ok(csr)
    }

    /// Encodes the request in version 2.
    pub fn encode_v2(&self) -> Vec<u8> {
        let mut writer = self.write_common();
        writer
            .bool(self.ext_app_info)
            .option(self.not_before, Writer::u64)
            .option(self.not_after, Writer::u64)
            .raw(&self.evidence.encode());
        writer.into_bytes()
    }

    /// Encodes the request in version 1, which has no app info, dates or configuration.
    pub fn encode_v1(&self) -> Result<Vec<u8>, CsrError> {
        let tdx = self.evidence.tdx().ok_or(CsrError::NotTdx(self.evidence.platform.kind()))?;
        let event_log = serde_json::to_vec(&tdx.event_log).expect("events have a JSON form");
        let mut writer = self.write_common();
        writer.bytes(&tdx.quote).bytes(&event_log);
        Ok(writer.into_bytes())
    }

    /// Signs an encoded request.
    pub fn sign(encoded: &[u8], key: &P256Key) -> Vec<u8> {
        key.sign_der(encoded)
    }

    fn write_common(&self) -> Writer {
        let mut writer = Writer::default();
        writer
            .text(CONFIRM)
            .bytes(&self.spki)
            .option(self.org_name.as_deref(), Writer::text)
            .text(&self.subject)
            .sequence(&self.subject_alt_names, |writer, name| {
                writer.text(name);
            })
            .bool(self.usage_server_auth)
            .bool(self.usage_client_auth)
            .bool(self.ext_quote);
        writer
    }
}

/// Reads the confirm word and the request.
fn read<'a>(version: ApiVersion, reader: &mut Reader<'a>) -> Result<(&'a str, Csr), CsrError> {
    let confirm = reader.text("confirm")?;
    let spki = reader.bytes("pubkey")?.to_vec();
    let org_name = reader.option("org_name", |reader| reader.text("org_name"))?.map(str::to_owned);
    let subject = reader.text("subject")?.to_owned();
    let subject_alt_names = reader.sequence(MAX_NAMES, "subject_alt_names", |reader| {
        reader.text("subject_alt_names").map(str::to_owned)
    })?;
    let usage_server_auth = reader.bool("usage_server_auth")?;
    let usage_client_auth = reader.bool("usage_client_auth")?;
    let ext_quote = reader.bool("ext_quote")?;
    let (ext_app_info, not_before, not_after, evidence) = match version {
        ApiVersion::V1 => {
            let quote = reader.bytes("quote")?;
            let event_log = reader.bytes("event_log")?;
            (false, None, None, Evidence::from_legacy(quote, event_log)?)
        }
        ApiVersion::V2 => {
            let ext_app_info = reader.bool("ext_app_info")?;
            let not_before = reader.option("not_before", |reader| reader.u64("not_before"))?;
            let not_after = reader.option("not_after", |reader| reader.u64("not_after"))?;
            let evidence = reader.take(reader.rest().len(), "attestation")?;
            (ext_app_info, not_before, not_after, Evidence::decode(evidence)?)
        }
    };
    let csr = Csr {
        spki,
        org_name,
        subject,
        subject_alt_names,
        usage_server_auth,
        usage_client_auth,
        ext_quote,
        ext_app_info,
        not_before,
        not_after,
        evidence,
    };
    Ok((confirm, csr))
}

fn verify_signature(spki: &[u8], message: &[u8], signature: &[u8]) -> Result<(), CsrError> {
    let (_, parsed) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CsrError::Algorithm)?;
    let curve = parsed.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let is_p256 = parsed.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    // The key is certified exactly as sent, so trailing bytes are refused.
    if !is_p256 || parsed.raw != spki {
        return Err(CsrError::Algorithm);
    }
    let point = &parsed.subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(message, signature)
        .map_err(|_| CsrError::Signature)
}

#[cfg(test)]
mod tests;
