//! What a TDX quote vouches for, read without checking that it does.

use dcap_qvl::quote::{Quote, TDReport10};

/// The registers and report data in a TDX quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The initial contents of the TD.
    pub mr_td: [u8; 48],
    /// Firmware and its configuration.
    pub rt_mr0: [u8; 48],
    /// Kernel.
    pub rt_mr1: [u8; 48],
    /// Kernel's command line and initial file system.
    pub rt_mr2: [u8; 48],
    /// Runtime events.
    pub rt_mr3: [u8; 48],
    /// What the host said at launch: see [`crate::identity::mr_config`].
    pub mr_config_id: [u8; 48],
    /// The TD's owner, as the host said at launch.
    pub mr_owner: [u8; 48],
    /// The owner's configuration, as the host said at launch.
    pub mr_owner_config: [u8; 48],
    /// What the guest asked to be vouched for.
    pub report_data: [u8; 64],
}

/// Why bytes are not a TDX quote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotedError {
    /// Not a quote.
    #[error("the TDX quote does not parse: {0}")]
    Malformed(String),
    /// A quote of an SGX enclave.
    #[error("the quote is an SGX quote, not a TDX quote")]
    NotTdx,
}

impl Quoted {
    /// Reads a quote, version 4 or 5. Bytes behind it are ignored, as by the verifier.
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
