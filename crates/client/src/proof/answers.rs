//! Everything that a proof needs, in one JSON document: it can be verified again later, elsewhere, without
//! the KMS.

use std::collections::BTreeMap;

use kms_attest::certificate;
use kms_attest::collateral::{Collateral, CollateralError};
use kms_attest::identity::AppId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::proto::{GetMetaResponse, PublicKeyResponse};

/// The format of the document.
pub const FORMAT: &str = "kms-proof-1";
/// The largest document that is read.
pub const MAX_BYTES: usize = 8 << 20;

/// The responses of a KMS, and the vendor's collateral for its quotes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    format: String,
    /// The KMS.
    pub url: String,
    /// When they were collected, Unix seconds.
    pub taken_at: u64,
    /// The certificate of its TLS server, PEM. The program that made the document has verified that the
    /// server holds its key.
    pub server_certificate: Option<String>,
    /// `ca_cert` of `GetTempCaCert`, PEM.
    pub ca_cert: Option<String>,
    /// `GetMeta`.
    pub meta: Option<GetMetaResponse>,
    /// `GetAppEnvEncryptPubKey`.
    pub env_key: Option<EnvKeyAnswer>,
    collateral: Option<Value>,
    bootstrap_collateral: Option<Value>,
    /// Why a part is missing, by the name of its field.
    #[serde(default)]
    pub missing: BTreeMap<String, String>,
}

/// A response about an app, with the app.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvKeyAnswer {
    /// 40 hexadecimal digits.
    app_id: String,
    /// The response.
    pub answer: PublicKeyResponse,
}

/// Which of the two quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// The one in the server's certificate.
    Server,
    /// The one over the new root keys.
    Bootstrap,
}

/// Why bytes are not such a document.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Longer than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not JSON of this format.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Another format.
    #[error("format is {0:?}, expected {FORMAT:?}")]
    Format(String),
}

impl Answers {
    /// A document without responses.
    pub(super) fn none(url: String, taken_at: u64) -> Self {
        Self {
            format: FORMAT.to_owned(),
            url,
            taken_at,
            server_certificate: None,
            ca_cert: None,
            meta: None,
            env_key: None,
            collateral: None,
            bootstrap_collateral: None,
            missing: BTreeMap::new(),
        }
    }

    /// Parses a document.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > MAX_BYTES {
            return Err(BundleError::TooLong);
        }
        let answers: Self = kms_attest::json::from_utf8(json)?;
        if answers.format != FORMAT {
            return Err(BundleError::Format(crate::text::printable(&answers.format)));
        }
        Ok(answers)
    }

    /// Writes the document.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// The collateral of a quote, if present.
    pub fn collateral(&self, quote: Quote) -> Option<Result<Collateral, CollateralError>> {
        let json = match quote {
            Quote::Server => self.collateral.as_ref(),
            Quote::Bootstrap => self.bootstrap_collateral.as_ref(),
        };
        json.map(|json| Collateral::from_json(json.to_string().as_bytes()))
    }

    pub(super) fn keep_collateral(&mut self, quote: Quote, collateral: &Collateral) {
        // Strings and bytes always have a JSON form.
        let json = serde_json::to_value(collateral.parts()).ok();
        match quote {
            Quote::Server => self.collateral = json,
            Quote::Bootstrap => self.bootstrap_collateral = json,
        }
    }

    pub(super) fn keep_certificate(&mut self, der: &[u8]) {
        self.server_certificate = Some(certificate::pem(der));
    }

    pub(super) fn is_missing(&mut self, part: &str, reason: impl std::fmt::Display) {
        self.missing.insert(part.to_owned(), reason.to_string());
    }

    /// Why a part is missing.
    pub(super) fn why(&self, part: &str) -> String {
        match self.missing.get(part) {
            Some(reason) => crate::text::printable(reason),
            None => format!("there is no {part}"),
        }
    }
}

impl EnvKeyAnswer {
    pub(super) fn new(app_id: AppId, answer: PublicKeyResponse) -> Self {
        Self { app_id: app_id.to_string(), answer }
    }

    /// The id of the app.
    pub fn app_id(&self) -> Option<AppId> {
        AppId::try_from(hex::decode(&self.app_id).ok()?.as_slice()).ok()
    }
}
