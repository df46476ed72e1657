//! A permit whose release has been written to the audit log: what `Ready` asks for before it hands anything out.

use std::net::IpAddr;

use crate::{
    admission::{App, Certificate, Kms, Permit, Standing},
    audit::{Audit, AuditError, Event, Receipt, Subject},
};

/// A permit in the role `R`, recorded: no line, no key.
#[derive(Debug)]
pub struct Released<R> {
    permit: Permit<R>,
    _receipt: Receipt,
}

impl<R> Released<R> {
    /// The recorded permit.
    pub fn permit(&self) -> &Permit<R> {
        &self.permit
    }

    async fn after(event: Event, audit: &Audit, permit: Permit<R>) -> Result<Self, AuditError> {
        Ok(Self { permit, _receipt: audit.record(event).await? })
    }
}

impl Released<App> {
    /// Records that the keys of an app go out, while this KMS has its own `standing`.
    ///
    /// # Errors
    /// When the line is not safely on the disk.
    pub async fn app(
        audit: &Audit,
        permit: Permit<App>,
        _: &Standing,
        to: IpAddr,
    ) -> Result<Self, AuditError> {
        let event = Event::AppKeyReleased { subject: Subject::new(permit.identity(), to) };
        Self::after(event, audit, permit).await
    }
}

impl Released<Kms> {
    /// Records that the root keys go to a replica, while this KMS has its own `standing`.
    ///
    /// # Errors
    /// When the line is not safely on the disk.
    pub async fn kms(
        audit: &Audit,
        permit: Permit<Kms>,
        _: &Standing,
        to: IpAddr,
    ) -> Result<Self, AuditError> {
        let event = Event::KmsKeyReleased { subject: Subject::new(permit.identity(), to) };
        Self::after(event, audit, permit).await
    }
}

impl Released<Certificate> {
    /// Records that a certificate is issued, while this KMS has its own `standing`.
    ///
    /// # Errors
    /// When the line is not safely on the disk.
    pub async fn certificate(
        audit: &Audit,
        permit: Permit<Certificate>,
        _: &Standing,
        to: IpAddr,
        common_name: &str,
        names: &[String],
    ) -> Result<Self, AuditError> {
        let event = Event::CertificateIssued {
            subject: Subject::new(permit.identity(), to),
            common_name: common_name.to_owned(),
            names: names.to_vec(),
        };
        Self::after(event, audit, permit).await
    }
}
