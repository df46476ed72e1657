//! The TLS certificate: issued at each start, issued again before it ages.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kms_attest::{
    attester::Attester,
    certificate::{self, CertificateSpec, Role},
    evidence::Evidence,
    p256::P256Key,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::{AppError, shared::Shared};
use crate::{
    ca::{self, CaError},
    lifecycle::Ready,
    transport::tls::Leaf,
};

/// How often the age of the certificate is looked at.
const CHECK: Duration = Duration::from_secs(3600);

/// Issues the TLS certificate again before it ages; open connections keep theirs.
pub(super) struct Renewal {
    pub(super) ready: Arc<Ready>,
    pub(super) leaf: Arc<Leaf>,
    pub(super) attester: Option<Arc<Attester>>,
}

impl Renewal {
    pub(super) async fn keep_young(self, mut reload: watch::Receiver<u64>) {
        let mut issued = SystemTime::now();
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(CHECK) => false,
                Ok(()) = reload.changed() => true,
            };
            let now = SystemTime::now();
            if !is_asked && !self.ready.rpc_leaf_is_due(issued, now) {
                continue;
            }
            match self.renew(now).await {
                Ok(()) => issued = now,
                Err(error) => {
                    tracing::error!(%error, "the TLS certificate could not be renewed; the old one serves on")
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
        Ok(self.leaf.swap(vec![certificate], &self.ready.rpc_key_der())?)
    }
}

pub(super) async fn issue(shared: &Shared, ready: &Arc<Ready>) -> Result<CertificateDer<'static>, AppError> {
    let evidence = match shared.config.core.attest_rpc_cert {
        true => Some(shared.attester.attest(ready.rpc_report_data()).await.map_err(AppError::Unattested)?),
        false => None,
    };
    issued(ready, evidence, SystemTime::now()).await
}

/// Issues the TLS certificate and keeps it, off the workers: the disk may be slow.
async fn issued(
    ready: &Arc<Ready>,
    evidence: Option<Evidence>,
    now: SystemTime,
) -> Result<CertificateDer<'static>, AppError> {
    let ready = Arc::clone(ready);
    let issue = tokio::task::spawn_blocking(move || ready.issue_rpc_leaf(evidence.as_ref(), now));
    Ok(issue.await.map_err(AppError::Panicked)??)
}
/// A self-signed certificate that lives as long as the onboarding phase.
pub(super) fn ephemeral(address: IpAddr) -> Result<Arc<Leaf>, AppError> {
    let key = P256Key::generate();
    let name = if address.is_unspecified() { "localhost".to_owned() } else { address.to_string() };
    let spec = CertificateSpec {
        organization: None,
        common_name: "cvm-kms onboarding",
        names: &[name],
        validity: ca::RPC_LEAF.from(SystemTime::now()),
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    };
    let certificate = certificate::self_signed(&spec, &key).map_err(CaError::from)?;
    Ok(Leaf::new(vec![CertificateDer::from(certificate)], &*key.pkcs8_der())?)
}
