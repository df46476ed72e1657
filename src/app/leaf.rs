//! The TLS certificate: issued at each start, and again before it expires.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Role};
use kms_attest::evidence::Evidence;
use kms_attest::p256::P256Key;
use kms_client::server::ONBOARDING_USAGE;
use rustls_pki_types::CertificateDer;

use super::AppError;
use super::admin_tls::{self, AdminCertificate};
use super::process::Process;
use super::serving::Serving;
use crate::api::actions::Reissue;
use crate::ca::{self, CaError};
use crate::lifecycle::Ready;
use crate::net::tls::Leaf;

/// Pause between attempts to attest the certificate of the onboarding phase.
const ATTEST_RETRY: Duration = Duration::from_secs(5);

/// How often the age of the certificate is checked.
const CHECK: Duration = Duration::from_secs(3600);

/// Renews the TLS certificate before it expires; open connections keep the old one.
#[derive(Clone)]
pub(super) struct Renewal {
    ready: Arc<Ready>,
    leaf: Arc<Leaf>,
    /// The certificate of the admin listener, if we issue it.
    admin: Option<AdminRenewal>,
    attester: Option<Arc<Attester>>,
}

/// Renews the certificate of the admin listener.
#[derive(Clone)]
pub(super) struct AdminRenewal {
    pub(super) own: admin_tls::Own,
    pub(super) leaf: Arc<Leaf>,
}

impl Renewal {
    pub(super) fn of(process: &Process, serving: &Serving) -> Self {
        Self {
            ready: Arc::clone(&serving.ready),
            leaf: Arc::clone(&serving.leaf),
            admin: serving.admin_certificate.as_ref().and_then(AdminCertificate::renewal),
            attester: process.certificate_attester(),
        }
    }

    pub(super) async fn renew_loop(self) {
        let mut issued = SystemTime::now();
        loop {
            tokio::time::sleep(CHECK).await;
            let now = SystemTime::now();
            if !self.ready.rpc_leaf_is_due(issued, now) {
                continue;
            }
            match self.renew(now).await {
                Ok(()) => issued = now,
                Err(error) => {
                    tracing::error!(%error, "the TLS certificate could not be renewed; the old one stays in use")
                }
            }
        }
    }

    async fn renew(&self, now: SystemTime) -> Result<(), AppError> {
        let evidence = match &self.attester {
            Some(attester) => Some(attester.attest(self.ready.rpc_report_data()).await?),
            None => None,
        };
        let certificate = issued(&self.ready, evidence, now).await?;
        self.leaf.swap(vec![certificate], &self.ready.rpc_key_der())?;
        if let Some(AdminRenewal { own, leaf }) = &self.admin {
            let certificate = own.issue(&self.ready, self.attester.as_deref()).await?;
            leaf.swap(vec![certificate], &own.key_der())?;
        }
        Ok(())
    }
}

impl Reissue for Renewal {
    fn reissue(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            self.renew(SystemTime::now()).await.map_err(|error| {
                tracing::error!(%error, "the TLS certificate could not be issued again; the old one stays in use");
                "the certificate could not be issued; the log says why, and the old one stays in use".to_owned()
            })
        })
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").finish_non_exhaustive()
    }
}

/// Issues the TLS certificate, with evidence if there is an attester.
pub(super) async fn issue(
    attester: Option<&Attester>,
    ready: &Arc<Ready>,
) -> Result<CertificateDer<'static>, AppError> {
    let evidence = match attester {
        Some(attester) => Some(attester.attest(ready.rpc_report_data()).await.map_err(AppError::Unattested)?),
        None => None,
    };
    issued(ready, evidence, SystemTime::now()).await
}

/// Issues and saves the TLS certificate on a blocking thread, because the disk may be slow.
async fn issued(
    ready: &Arc<Ready>,
    evidence: Option<Evidence>,
    now: SystemTime,
) -> Result<CertificateDer<'static>, AppError> {
    let ready = Arc::clone(ready);
    let issue = tokio::task::spawn_blocking(move || ready.issue_rpc_leaf(evidence.as_ref(), now));
    Ok(issue.await.map_err(AppError::Panicked)??)
}

/// The certificate of the onboarding phase: self-signed, and attested as soon as there is evidence, so that
/// an operator can verify the receiver of a secret.
pub(super) struct Ephemeral {
    key: P256Key,
    name: String,
    leaf: Arc<Leaf>,
}

impl Ephemeral {
    /// Without evidence.
    pub(super) fn new(address: IpAddr) -> Result<Self, AppError> {
        let key = P256Key::generate();
        let name = if address.is_unspecified() { "localhost".to_owned() } else { address.to_string() };
        let certificate = ephemeral(&key, &name, None)?;
        Ok(Self { leaf: Leaf::new(vec![certificate], &*key.pkcs8_der())?, key, name })
    }

    pub(super) fn leaf(&self) -> Arc<Leaf> {
        Arc::clone(&self.leaf)
    }

    /// Adds evidence; retries until there is some.
    pub(super) async fn attest(&self, attester: &Attester) {
        while let Err(error) = self.attested(attester).await {
            tracing::debug!(%error, "the certificate of the onboarding phase has no attestation yet");
            tokio::time::sleep(ATTEST_RETRY).await;
        }
    }

    async fn attested(&self, attester: &Attester) -> Result<(), AppError> {
        let evidence = attester.attest(ReportData::ra_tls(&self.key.spki_der())).await?;
        let certificate = ephemeral(&self.key, &self.name, Some(&evidence))?;
        Ok(self.leaf.swap(vec![certificate], &*self.key.pkcs8_der())?)
    }
}

/// A self-signed certificate for the duration of the onboarding phase.
fn ephemeral(
    key: &P256Key,
    name: &str,
    evidence: Option<&Evidence>,
) -> Result<CertificateDer<'static>, AppError> {
    let evidence = evidence.map(|evidence| evidence.stripped().encode());
    let names = [name.to_owned()];
    let spec = CertificateSpec {
        organization: None,
        common_name: "cvm-kms onboarding",
        names: &names,
        validity: ca::RPC_LEAF.from(SystemTime::now()),
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: Some(ONBOARDING_USAGE),
        evidence: evidence.as_deref(),
    };
    let certificate = certificate::self_signed(&spec, key).map_err(CaError::from)?;
    Ok(CertificateDer::from(certificate))
}
