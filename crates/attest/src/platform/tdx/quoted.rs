//! The fields of a TDX quote that identify the guest.

use dcap_qvl::quote::{Quote, TDReport10};

/// The registers and report data of a TDX quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// MRTD: the TD's initial contents.
    pub mr_td: [u8; 48],
    /// RTMR0: firmware and virtual hardware.
    pub rt_mr0: [u8; 48],
    /// RTMR1: kernel.
    pub rt_mr1: [u8; 48],
    /// RTMR2: kernel command line and initrd.
    pub rt_mr2: [u8; 48],
    /// RTMR3: runtime events.
    pub rt_mr3: [u8; 48],
    /// MRCONFIGID, set by the host at launch: see [`crate::identity::mr_config`].
    pub mr_config_id: [u8; 48],
    /// MROWNER, set by the host at launch.
    pub mr_owner: [u8; 48],
    /// MROWNERCONFIG, set by the host at launch.
    pub mr_owner_config: [u8; 48],
    /// REPORTDATA, chosen by the guest.
    pub report_data: [u8; 64],
}

/// Why bytes are not a TDX quote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotedError {
    /// Not a quote.
    #[error("the TDX quote does not parse: {0}")]
    Malformed(String),
    /// The quote is of an SGX enclave.
    #[error("the quote is an SGX quote, not a TDX quote")]
    NotTdx,
}

impl Quoted {
    /// Parses a quote, version 4 or 5. Trailing bytes are ignored, as by the quote verifier.
    pub fn parse(quote: &[u8]) -> Result<Self, QuotedError> {
        let quote = Quote::parse(quote).map_err(|error| QuotedError::Malformed(error.to_string()))?;
        quote.report.as_td10().map(Self::from).ok_or(QuotedError::NotTdx)
    }
}

impl From<&TDReport10> for Quoted {
    fn from(report: &TDReport10) -> Self {
        Self {
            mr_td: report.mr_td,
            rt_mr0: report.rt_mr0,
            rt_mr1: report.rt_mr1,
            rt_mr2: report.rt_mr2,
            rt_mr3: report.rt_mr3,
            mr_config_id: report.mr_config_id,
            mr_owner: report.mr_owner,
            mr_owner_config: report.mr_owner_config,
            report_data: report.report_data,
        }
    }
}
