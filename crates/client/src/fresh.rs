//! Fresh evidence: made for one call on this connection, for servers that ask for a challenge to be answered.

use kms_attest::attester::Attester;
use kms_attest::binding::session::{CHALLENGE_BYTES, Session, spki_sha256};

use crate::connection::Connection;
use crate::operator::OperatorToken;
use crate::proto::GetChallengeResponse;
use crate::rpc::CallError;

/// The method that gives challenges.
const METHOD: &str = "GetChallenge";

/// A challenge, and evidence that answers it, as requests carry them. Both are empty if the server knows no fresh evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// The challenge of this connection.
    pub challenge: Vec<u8>,
    /// The evidence over it, encoded.
    pub evidence: Vec<u8>,
}

impl Connection {
    /// Fresh evidence for one call of `method` (`KMS.GetAppKey`) on this connection, by the holder of the key with this
    /// SubjectPublicKeyInfo (DER): that of the client certificate, or of a certificate request. Nothing, if the connection is
    /// older than TLS 1.3, if the server knows no challenges, or if this machine gives no evidence now: the server then decides
    /// whether it needs some.
    ///
    /// # Errors
    /// The server knows challenges and gives none.
    pub async fn fresh_evidence(
        &self,
        method: &str,
        client_spki: &[u8],
        attester: &Attester,
    ) -> Result<Fresh, CallError> {
        if self.exporter().is_none() {
            return Ok(Fresh::default());
        }
        let response = self.call(METHOD, &()).await;
        self.answered(response, method, client_spki, attester).await
    }

    /// The same from an admin listener, with the token of an operator there.
    ///
    /// # Errors
    /// The server knows challenges and gives none, also because of the token.
    pub(crate) async fn fresh_evidence_as_operator(
        &self,
        token: &OperatorToken,
        method: &str,
        client_spki: &[u8],
        attester: &Attester,
    ) -> Result<Fresh, CallError> {
        if self.exporter().is_none() {
            return Ok(Fresh::default());
        }
        let response = self.call_as_operator(token, METHOD, &()).await;
        self.answered(response, method, client_spki, attester).await
    }

    async fn answered(
        &self,
        response: Result<GetChallengeResponse, CallError>,
        method: &str,
        client_spki: &[u8],
        attester: &Attester,
    ) -> Result<Fresh, CallError> {
        let response = match response {
            // It takes no fresh evidence. Every other refusal and every failure is reported, so that nobody who delays or
            // disturbs a connection has a call made without fresh evidence.
            Err(error) if error.is_unknown_method() => return Ok(Fresh::default()),
            response => response?,
        };
        let (Some(challenge), Some(exporter)) = (challenge(&response)?, self.exporter()) else {
            return Ok(Fresh::default());
        };
        let session = Session {
            challenge: &challenge,
            client_spki_sha256: &spki_sha256(client_spki),
            server_spki_sha256: &spki_sha256(self.server_public_key()),
            exporter,
            method,
        };
        match attester.attest(session.report_data()).await {
            Ok(evidence) => {
                Ok(Fresh { challenge: challenge.to_vec(), evidence: evidence.stripped().encode() })
            }
            Err(error) => {
                tracing::warn!(%error, "no fresh evidence; the KMS may require it");
                Ok(Fresh::default())
            }
        }
    }
}

/// The challenge in a response; `None` if the server says that no evidence can be bound to this connection.
fn challenge(response: &GetChallengeResponse) -> Result<Option<[u8; CHALLENGE_BYTES]>, CallError> {
    if response.nonce.is_empty() {
        return Ok(None);
    }
    response.nonce.as_slice().try_into().map(Some).map_err(|_| CallError::Incomplete {
        method: METHOD.to_owned(),
        field: "nonce of 32 bytes".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_has_32_bytes_or_none() {
        for length in [0, 1, 31, 32, 33, 64] {
            let response = GetChallengeResponse { nonce: vec![7; length], expires_in: 30 };
            match challenge(&response) {
                Ok(None) => assert_eq!(length, 0),
                Ok(Some(challenge)) => assert_eq!((challenge, length), ([7; 32], 32)),
                Err(error) => {
                    assert!(![0, 32].contains(&length), "{length}");
                    assert_eq!(error.to_string(), "GetChallenge: the answer lacks nonce of 32 bytes");
                }
            }
        }
    }
}
