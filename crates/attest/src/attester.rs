//! Where this node gets evidence about itself: the guest agent, the kernel, or nowhere.

mod agent;
mod configfs;

use std::io;

use crate::binding::ReportData;
use crate::evidence::{Evidence, EvidenceError};

pub use agent::GuestAgent;
pub use configfs::ConfigfsTsm;

/// The source of own evidence.
#[derive(Debug, Clone)]
pub enum Attester {
    /// The guest agent of a dstack guest.
    GuestAgent(GuestAgent),
    /// The kernel's TSM reports, for guests without an agent.
    ConfigfsTsm(ConfigfsTsm),
    /// None: every request for evidence is an error.
    None,
}

impl Attester {
    /// The attester at `address`: `unix:<path>` or `http://<host>[:<port>][/<prefix>]` for a guest agent,
    /// `configfs-tsm:<path of the runtime event log>` for the kernel, `none` for none.
    pub fn at(address: &str) -> Result<Self, AttesterError> {
        let address = address.trim();
        if address == "none" {
            return Ok(Self::None);
        }
        match address.strip_prefix("configfs-tsm:") {
            Some("") => Err(AttesterError::Address),
            Some(event_log) => Ok(Self::ConfigfsTsm(ConfigfsTsm::new(event_log.into(), String::new()))),
            None => GuestAgent::at(address).map(Self::GuestAgent),
        }
    }

    /// Fresh evidence that vouches for `report_data`.
    pub async fn attest(&self, report_data: ReportData) -> Result<Evidence, AttesterError> {
        match self {
            Attester::GuestAgent(agent) => agent.attest(report_data).await,
            Attester::ConfigfsTsm(kernel) => kernel.attest(report_data).await,
            Attester::None => Err(AttesterError::NotConfigured),
        }
    }

    /// The configuration of this VM as its host gave it, JSON; may be empty.
    pub async fn vm_config(&self) -> Result<String, AttesterError> {
        match self {
            Attester::GuestAgent(agent) => agent.vm_config().await,
            Attester::ConfigfsTsm(kernel) => Ok(kernel.vm_config().to_owned()),
            Attester::None => Err(AttesterError::NotConfigured),
        }
    }
}

/// Why there is no own evidence.
#[derive(Debug, thiserror::Error)]
pub enum AttesterError {
    /// There is no source of evidence.
    #[error("no attester is configured: this node cannot prove what it runs")]
    NotConfigured,
    /// Not an address of a known form.
    #[error("attester address must be unix:<path>, http://<host>:<port>, configfs-tsm:<event log> or none")]
    Address,
    /// An address of a form that is known and not supported.
    #[error("{0} addresses of a guest agent are not supported, use unix: or http:")]
    UnsupportedScheme(&'static str),
    /// No connection to the agent.
    #[error("guest agent is not reachable: {0}")]
    Unreachable(io::ErrorKind),
    /// The connection broke.
    #[error("connection to the guest agent broke")]
    Broken,
    /// No complete answer in time.
    #[error("guest agent did not answer in time")]
    Timeout,
    /// An answer other than 200.
    #[error("guest agent answered {0}")]
    Status(u16),
    /// More than we read.
    #[error("answer of the guest agent has more than {limit} bytes")]
    TooLarge {
        /// Bytes we read.
        limit: usize,
    },
    /// An answer without what was asked for.
    #[error("answer of the guest agent has no usable {0}")]
    Malformed(&'static str),
    /// The answer's evidence does not decode.
    #[error("own evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// The evidence vouches for something else than was asked for.
    #[error("own evidence is for other report data")]
    OtherReportData,
    /// The kernel's report interface failed.
    #[error("configfs-tsm: {step}: {kind}")]
    Tsm {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        kind: io::ErrorKind,
    },
    /// The kernel's reports are of another platform.
    #[error("configfs-tsm: provider is not tdx_guest")]
    Provider,
    /// Another process used the report entry each time.
    #[error("configfs-tsm: report entry is in use")]
    Conflict,
    /// The runtime event log is not readable or not of its form.
    #[error("runtime event log: {0}")]
    EventLog(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_the_attester() {
        assert!(matches!(Attester::at("unix:/run/agent.sock"), Ok(Attester::GuestAgent(_))));
        assert!(matches!(Attester::at(" http://127.0.0.1:8090 "), Ok(Attester::GuestAgent(_))));
        assert!(matches!(Attester::at("configfs-tsm:/run/events.log"), Ok(Attester::ConfigfsTsm(_))));
        assert!(matches!(Attester::at("none"), Ok(Attester::None)));
        for bad in ["", "unix:", "/run/agent.sock", "configfs-tsm:", "ftp://host", "http://", "http://:80"] {
            assert!(matches!(Attester::at(bad), Err(AttesterError::Address)), "{bad}");
        }
    }

    #[test]
    fn vsock_and_https_are_refused_by_name() {
        for (address, scheme) in [("vsock://2:8090", "vsock"), ("https://host", "https")] {
            let error = Attester::at(address).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{scheme} addresses of a guest agent are not supported, use unix: or http:")
            );
        }
    }

    #[tokio::test]
    async fn without_an_attester_the_error_says_so() {
        let attested = Attester::None.attest(ReportData::ZERO).await;
        assert!(matches!(attested, Err(AttesterError::NotConfigured)));
        assert!(matches!(Attester::None.vm_config().await, Err(AttesterError::NotConfigured)));
    }
}
