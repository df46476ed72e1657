//! Evidence about this node itself: from the guest agent, from the kernel, or none.

mod agent;
mod configfs;
mod error;

use crate::binding::ReportData;
use crate::evidence::Evidence;

pub use agent::GuestAgent;
pub use configfs::ConfigfsTsm;
pub use error::AttesterError;

/// A source of evidence about this node.
#[derive(Debug, Clone)]
pub enum Attester {
    /// The guest agent of a dstack guest.
    GuestAgent(GuestAgent),
    /// The kernel's TSM reports, for guests without an agent.
    ConfigfsTsm(ConfigfsTsm),
    /// No source: every request for evidence fails.
    None,
}

impl Attester {
    /// Parses an attester address: `unix:<path>` or `http://<host>[:<port>][/<prefix>]` for a guest agent,
    /// `configfs-tsm:<path of the runtime event log>` for the kernel, or `none`.
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

    /// Requests new evidence whose report data is `report_data`.
    pub async fn attest(&self, report_data: ReportData) -> Result<Evidence, AttesterError> {
        match self {
            Attester::GuestAgent(agent) => agent.attest(report_data).await,
            Attester::ConfigfsTsm(kernel) => kernel.attest(report_data).await,
            Attester::None => Err(AttesterError::NotConfigured),
        }
    }

    /// The configuration of this VM from its host, JSON; may be empty.
    pub async fn vm_config(&self) -> Result<String, AttesterError> {
        match self {
            Attester::GuestAgent(agent) => agent.vm_config().await,
            Attester::ConfigfsTsm(kernel) => Ok(kernel.vm_config().to_owned()),
            Attester::None => Err(AttesterError::NotConfigured),
        }
    }
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
