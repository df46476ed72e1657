//! The body of a TDX quote, and our own checks of it.

use dcap_qvl::quote::{Report, TDReport10};

use super::{Quoted, TdxError};

/// The TDATTRIBUTES bits that a TD may have: SEPT_VE_DISABLE (28), PKS (30) and KL (31). All others are
/// refused: the debug byte, reserved bits, migration, and PERFMON (63), which the library accepts and the
/// peer refuses.
pub(super) const PERMITTED_ATTRIBUTES: u64 = SEPT_VE_DISABLE | 1 << 30 | 1 << 31;
pub(super) const SEPT_VE_DISABLE: u64 = 1 << 28;
pub(super) const DEBUG_BYTE: u64 = 0xff;

/// The body of a TDX quote, version 1.0 or 1.5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// TEE_TCB_SVN: security versions of the TDX module.
    pub tee_tcb_svn: [u8; 16],
    /// MRSEAM: measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// MRSIGNERSEAM: signer of the TDX module, zero for Intel's.
    pub mr_signer_seam: [u8; 48],
    /// SEAMATTRIBUTES.
    pub seam_attributes: [u8; 8],
    /// TDATTRIBUTES, little-endian in the quote.
    pub td_attributes: u64,
    /// XFAM: the extended features that the TD may use.
    pub xfam: [u8; 8],
    /// The fields that identify the guest, and its report data.
    pub quoted: Quoted,
    /// TEE_TCB_SVN2: current security versions of the TDX module. In TD 1.5 bodies only.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// MRSERVICETD, in TD 1.5 bodies only.
    pub mr_service_td: Option<[u8; 48]>,
}

impl TdReport {
    pub(super) fn from_report(report: &Report) -> Result<Self, TdxError> {
        match report {
            Report::SgxEnclave(_) => Err(TdxError::NotATd),
            Report::TD10(body) => Ok(Self::from_body(body)),
            Report::TD15(body) => Ok(Self {
                tee_tcb_svn2: Some(body.tee_tcb_svn2),
                mr_service_td: Some(body.mr_service_td),
                ..Self::from_body(&body.base)
            }),
            Report::TD15Ex(_) => Err(TdxError::UnsupportedBody),
        }
    }

    fn from_body(body: &TDReport10) -> Self {
        Self {
            tee_tcb_svn: body.tee_tcb_svn,
            mr_seam: body.mr_seam,
            mr_signer_seam: body.mr_signer_seam,
            seam_attributes: body.seam_attributes,
            td_attributes: u64::from_le_bytes(body.td_attributes),
            xfam: body.xfam,
            quoted: body.into(),
            tee_tcb_svn2: None,
            mr_service_td: None,
        }
    }

    /// Our own checks beside the library's: no other party may read or change the TD's memory.
    ///
    /// # Errors
    /// [`TdxError::Debug`], [`TdxError::Attributes`], [`TdxError::SeptVeEnabled`], [`TdxError::ForeignModule`],
    /// [`TdxError::ServiceTd`].
    pub fn check_isolation(&self) -> Result<(), TdxError> {
        if self.td_attributes & DEBUG_BYTE != 0 {
            return Err(TdxError::Debug);
        }
        if self.td_attributes & !PERMITTED_ATTRIBUTES != 0 {
            return Err(TdxError::Attributes(self.td_attributes & !PERMITTED_ATTRIBUTES));
        }
        if self.td_attributes & SEPT_VE_DISABLE == 0 {
            return Err(TdxError::SeptVeEnabled);
        }
        if self.mr_signer_seam != [0; 48] {
            return Err(TdxError::ForeignModule);
        }
        if self.mr_service_td.is_some_and(|register| register != [0; 48]) {
            return Err(TdxError::ServiceTd);
        }
        Ok(())
    }
}
