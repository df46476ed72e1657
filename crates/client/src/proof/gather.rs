//! Collects everything that a proof needs from a KMS and its hardware vendor.

use kms_attest::collateral::{CollateralCache, CollateralError, ServiceFailure};
use kms_attest::evidence::{Evidence, Platform};
use kms_attest::identity::AppId;
use kms_attest::ra_tls;

use super::answers::{Answers, EnvKeyAnswer, Quote};
use crate::proto::GetMetaResponse;
use crate::{Connection, KmsUrl, Trust, text};

/// Collects the responses. A missing one is recorded with its reason. `app_id` is the app whose public key is
/// requested. All calls use the one connection whose certificate is kept.
pub async fn gather(url: &KmsUrl, collateral: &CollateralCache, app_id: AppId) -> Answers {
    let mut answers = Answers::none(url.to_string(), collateral.clock().now());
    let connection = match Connection::open(url, Trust::DangerousAnyServer, None).await {
        Ok(connection) => connection,
        Err(error) => {
            answers.is_missing("server_certificate", text::causes(&error));
            return answers;
        }
    };
    answers.keep_certificate(connection.server_certificate());
    match connection.temp_ca_cert().await {
        Ok(temp_ca) => answers.ca_cert = Some(temp_ca.ca_cert.clone()),
        Err(error) => answers.is_missing("ca_cert", text::causes(&error)),
    }
    match connection.meta().await {
        Ok(meta) => answers.meta = Some(meta),
        Err(error) => answers.is_missing("meta", text::causes(&error)),
    }
    let epoch = answers.meta.as_ref().and_then(identity_epoch);
    match connection.app_env_encrypt_pub_key_of(app_id.as_ref(), epoch).await {
        Ok(answer) => answers.env_key = Some(EnvKeyAnswer::new(app_id, answer)),
        Err(error) => answers.is_missing("env_key", text::causes(&error)),
    }
    answers.taken_at = collateral.clock().now();

    if let Ok(Some(evidence)) = ra_tls::evidence_in(connection.server_certificate()) {
        fetch(&mut answers, collateral, Quote::Server, &evidence).await;
    }
    let attestation = answers.meta.as_ref().and_then(|meta| meta.bootstrap_info.as_ref());
    if let Some(Ok(evidence)) = attestation.map(|info| Evidence::decode(&info.attestation)) {
        fetch(&mut answers, collateral, Quote::Bootstrap, &evidence).await;
    }
    answers
}

/// The epoch of the root key of the KMS, if it is not the first: then keys of epoch 0 may not be readable any more.
fn identity_epoch(meta: &GetMetaResponse) -> Option<u32> {
    let epoch = meta.epochs.iter().find(|epoch| epoch.k256_pubkey == meta.k256_pubkey)?;
    Some(epoch.number).filter(|number| *number > 0)
}

async fn fetch(answers: &mut Answers, collateral: &CollateralCache, quote: Quote, evidence: &Evidence) {
    let Platform::Tdx(tdx) = &evidence.platform else { return };
    let part = match quote {
        Quote::Server => "collateral",
        Quote::Bootstrap => "bootstrap_collateral",
    };
    match collateral.get(&tdx.quote).await {
        Ok(found) => answers.keep_collateral(quote, &found),
        Err(error @ CollateralError::Unavailable { .. }) => {
            answers.is_missing(part, unavailable(error, &collateral.service_failures()));
        }
        Err(error) => answers.is_missing(part, error),
    }
}

/// Which services failed, and why.
fn unavailable(error: CollateralError, services: &[ServiceFailure]) -> String {
    match services {
        [] => error.to_string(),
        services => {
            let told: Vec<String> = services.iter().map(ServiceFailure::to_string).collect();
            format!("no collateral: {}", told.join("; "))
        }
    }
}
