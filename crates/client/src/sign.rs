//! Certificates for an app: an attested certificate request, and the call that has it signed.

use kms_attest::attester::{Attester, AttesterError};
use kms_attest::binding::ReportData;
use kms_attest::csr::Csr;
use kms_attest::p256::P256Key;

use crate::connection::Connection;
use crate::proto::{SignCertRequest, SignCertResponse};
use crate::rpc::CallError;

/// The only version that can carry every attestation.
const API_VERSION: u32 = 2;

/// The requested content of the certificate. The KMS adds the app id and decides what it grants.
#[derive(Clone, Debug, Default)]
pub struct LeafRequest {
    /// Organization (O).
    pub organization: Option<String>,
    /// Common name (CN).
    pub subject: String,
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    /// For TLS servers.
    pub server_auth: bool,
    /// For TLS clients.
    pub client_auth: bool,
    /// Include the attestation in the certificate.
    pub with_attestation: bool,
    /// Include the identity of the app in the certificate.
    pub with_app_info: bool,
    /// Unix seconds.
    pub not_before: Option<u64>,
    /// Unix seconds.
    pub not_after: Option<u64>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// This machine could not attest the key.
    #[error("no attestation for the certificate request: {0}")]
    Attester(#[from] AttesterError),
    /// The call failed; this includes refusals by the KMS.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl LeafRequest {
    /// The signed request for a certificate over `key`, with a fresh attestation of that key.
    pub async fn attested(
        &self,
        key: &P256Key,
        attester: &Attester,
        vm_config: &str,
    ) -> Result<SignCertRequest, SignError> {
        let spki = key.spki_der();
        let csr = Csr {
            spki: spki.to_vec(),
            org_name: self.organization.clone(),
            subject: self.subject.clone(),
            subject_alt_names: self.names.clone(),
            usage_server_auth: self.server_auth,
            usage_client_auth: self.client_auth,
            ext_quote: self.with_attestation,
            ext_app_info: self.with_app_info,
            not_before: self.not_before,
            not_after: self.not_after,
            evidence: attester.attest(ReportData::ra_tls(&spki)).await?,
        };
        Ok(sign_cert_request(&csr, key, vm_config))
    }
}

/// The call's message for a request, signed with the key in it.
pub fn sign_cert_request(csr: &Csr, key: &P256Key, vm_config: &str) -> SignCertRequest {
    let csr = csr.encode_v2();
    SignCertRequest {
        api_version: API_VERSION,
        signature: Csr::sign(&csr, key),
        csr,
        vm_config: vm_config.to_owned(),
        ..Default::default()
    }
}

impl Connection {
    /// Has a certificate issued for `key`. Returns the chain in PEM: leaf, app CA, root CA.
    pub async fn sign_cert(
        &self,
        leaf: &LeafRequest,
        key: &P256Key,
        attester: &Attester,
        vm_config: &str,
    ) -> Result<Vec<String>, SignError> {
        let request = leaf.attested(key, attester, vm_config).await?;
        let fresh = self.fresh_evidence("KMS.SignCert", &key.spki_der(), attester).await?;
        let request =
            SignCertRequest { challenge: fresh.challenge, fresh_evidence: fresh.evidence, ..request };
        let response: SignCertResponse = self.call("SignCert", &request).await?;
        Ok(response.certificate_chain)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kms_attest::csr::ApiVersion;
    use kms_attest::verify::Binding;
    use serde_json::json;

    use super::*;
    use crate::testing::{Authority, Leaf, Reply, TestServer, World};

    fn wish() -> LeafRequest {
        LeafRequest {
            organization: Some("Example".into()),
            subject: "app.example".into(),
            names: vec!["app.example".into(), "10.0.0.7".into()],
            server_auth: true,
            with_app_info: true,
            not_after: Some(4_102_444_800),
            ..LeafRequest::default()
        }
    }

    #[tokio::test]
    async fn a_request_is_signed_by_the_key_that_its_evidence_vouches_for() {
        let world = World::start().await;
        let key = P256Key::generate();
        let request = wish().attested(&key, &world.attester, "{}").await.expect("request");
        assert_eq!((request.api_version, request.vm_config.as_str()), (2, "{}"));
        let csr = Csr::parse(ApiVersion::V2, &request.csr, &request.signature).expect("signed");
        assert_eq!(csr.spki, key.spki_der());
        assert_eq!((csr.org_name.as_deref(), csr.subject.as_str()), (Some("Example"), "app.example"));
        assert_eq!(csr.subject_alt_names, ["app.example", "10.0.0.7"]);
        assert_eq!(
            [csr.usage_server_auth, csr.usage_client_auth, csr.ext_quote, csr.ext_app_info],
            [true, false, false, true]
        );
        assert_eq!((csr.not_before, csr.not_after), (None, Some(4_102_444_800)));
        world.verifier.verify(&csr.evidence, Binding::PublicKey(&csr.spki)).await.expect("bound");
    }

    #[tokio::test]
    async fn the_chain_comes_back_in_order() {
        let world = World::start().await;
        let reply = |_: &Authority, _| Reply::Json(json!({"certificate_chain": ["leaf", "app", "root"]}));
        let server = TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], &["h2"], reply).await;
        let key = P256Key::generate();
        let connection = server.connect().await;
        let chain = connection.sign_cert(&wish(), &key, &world.attester, "").await.expect("chain");
        assert_eq!(chain, ["leaf", "app", "root"]);
    }

    #[tokio::test]
    async fn without_an_attester_nothing_is_sent() {
        let error =
            wish().attested(&P256Key::generate(), &Attester::None, "").await.expect_err("no evidence");
        assert!(error.to_string().starts_with("no attestation for the certificate request: "), "{error}");
    }
}
