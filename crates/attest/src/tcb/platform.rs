//! The security versions of a platform.

use dcap_qvl::QuoteClaims;

use crate::collateral::{CaKind, PlatformKey};

/// The security versions that TCB info and QE identity are compared with. Platforms with the same versions
/// get the same verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformTcb {
    /// FMSPC and PCK CA.
    pub model: PlatformKey,
    /// CPUSVN of the PCK certificate, by component.
    pub cpu_svn: [u8; 16],
    /// PCESVN of the PCK certificate.
    pub pce_svn: u16,
    /// TEE_TCB_SVN of the quote: the TDX module's versions at launch of the TD.
    pub tee_tcb_svn: [u8; 16],
    /// TEE_TCB_SVN2 of the quote: the current versions. TD 1.5 only.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// ISVSVN of the quoting enclave.
    pub qe_isv_svn: u16,
}

impl PlatformTcb {
    /// The versions in the claims of a verified quote; `ca` is the PCK CA whose CRL was checked.
    pub(crate) fn of(claims: &QuoteClaims, ca: CaKind) -> Option<Self> {
        let pck = &claims.platform.pck;
        Some(Self {
            model: PlatformKey { fmspc: pck.fmspc, ca },
            cpu_svn: pck.cpu_svn,
            pce_svn: pck.pce_svn,
            tee_tcb_svn: claims.report.as_td10()?.tee_tcb_svn,
            tee_tcb_svn2: claims.report.as_td15().map(|td| td.tee_tcb_svn2),
            qe_isv_svn: claims.qe.report.isv_svn,
        })
    }
}
