//! A permit whose release has been written to the audit log: what `Ready` asks for before it hands anything out.

use std::{net::IpAddr, sync::Arc};

use crate::{
    admission::{App, Certificate, Freeze, Freezes, Kms, NotFrozen, Permit, Standing},
    audit::{Audit, AuditError, Event, Receipt, Subject},
};

/// A permit in the role `R`, recorded, of somebody who is not frozen: no line, no key.
#[derive(Debug)]
pub struct Released<R> {
    permit: Permit<R>,
    _receipt: Receipt,
    _not_frozen: NotFrozen,
}

/// Why a permit releases nothing.
#[derive(Debug)]
pub enum NotReleased {
    /// The line is not safely on the disk.
    Unrecorded(AuditError),
    /// An operator has frozen the caller, or everything, since the permit was made.
    Frozen(Arc<Freeze>),
}

impl From<AuditError> for NotReleased {
    fn from(error: AuditError) -> Self {
        Self::Unrecorded(error)
    }
}

/// Where releases are recorded and what stops them.
#[derive(Debug, Clone, Copy)]
pub struct Door<'a> {
    /// Where they are recorded.
    pub audit: &'a Audit,
    /// What operators have stopped.
    pub freezes: &'a Freezes,
}

impl<R> Released<R> {
    /// The recorded permit.
    pub fn permit(&self) -> &Permit<R> {
        &self.permit
    }

    /// Writing the line takes its time: what was frozen meanwhile is not released, and the log says so.
    async fn after(
        event: impl FnOnce(Subject) -> Event,
        door: Door<'_>,
        permit: Permit<R>,
        to: IpAddr,
    ) -> Result<Self, (NotReleased, Permit<R>)> {
        let Door { audit, freezes } = door;
        let identity = permit.identity();
        if let Err(freeze) = freezes.check(identity) {
            return Err((NotReleased::Frozen(freeze), permit));
        }
        let subject = Subject::new(identity, to).relaxed(permit.relaxations());
        let receipt = match audit.record(event(subject.clone())).await {
            Ok(receipt) => receipt,
            Err(error) => return Err((NotReleased::Unrecorded(error), permit)),
        };
        match freezes.check(permit.identity()) {
            Ok(not_frozen) => Ok(Self { permit, _receipt: receipt, _not_frozen: not_frozen }),
            Err(freeze) => {
                let withheld = Event::Withheld { subject, released: receipt.seq() };
                if let Err(error) = audit.record(withheld).await {
                    tracing::error!(%error, "the audit log does not say that a release was withheld");
                }
                Err((NotReleased::Frozen(freeze), permit))
            }
        }
    }
}

impl Released<App> {
    /// Records that the keys of an app go out, while this KMS has its own `standing`.
    ///
    /// # Errors
    /// [`NotReleased`], with the permit, which opens nothing.
    pub async fn app(
        door: Door<'_>,
        permit: Permit<App>,
        _: &Standing,
        to: IpAddr,
    ) -> Result<Self, (NotReleased, Permit<App>)> {
        Self::after(|subject| Event::AppKeyReleased { subject }, door, permit, to).await
    }
}

impl Released<Kms> {
    /// Records that the root keys go to a replica, while this KMS has its own `standing`.
    ///
    /// # Errors
    /// [`NotReleased`], with the permit, which opens nothing.
    pub async fn kms(
        door: Door<'_>,
        permit: Permit<Kms>,
        _: &Standing,
        to: IpAddr,
    ) -> Result<Self, (NotReleased, Permit<Kms>)> {
        Self::after(|subject| Event::KmsKeyReleased { subject }, door, permit, to).await
    }
}

impl Released<Certificate> {
    /// Records that a certificate is issued, while this KMS has its own `standing`.
    ///
    /// # Errors
    /// [`NotReleased`], with the permit, which opens nothing.
    pub async fn certificate(
        door: Door<'_>,
        permit: Permit<Certificate>,
        _: &Standing,
        to: IpAddr,
        common_name: &str,
        names: &[String],
    ) -> Result<Self, (NotReleased, Permit<Certificate>)> {
        let event = |subject| Event::CertificateIssued {
            subject,
            common_name: common_name.to_owned(),
            names: names.to_vec(),
        };
        Self::after(event, door, permit, to).await
    }
}
