//! How far a platform is behind: since when, and which advisories an update would settle.
//!
//! TCB info has no date of a change of status. It has a `tcbDate` for each level: up to this date, the level was known
//! to have no published weakness. So a level fell behind at the `tcbDate` of the next later level, which is about the
//! day on which Intel disclosed what that one repairs; the standard set follows some six weeks after. Where there is no
//! later level, or where the status is about software or settings and not about missing updates, nothing tells when it
//! came about: the level's own `tcbDate` stands in, which is never too late.

use std::cmp::Reverse;

use dcap_qvl::{QeIdentity, TcbInfo, TcbStatus};

use super::PlatformTcb;
use crate::collateral::unix_seconds;

/// How far a platform is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    since: u64,
    settled_by_update: Vec<String>,
}

impl Lag {
    /// Reads it out of both documents for a platform. `None` if nothing about it is behind, if it reaches no level, or
    /// if a document does not parse.
    pub fn read(platform: &PlatformTcb, tcb_info: &str, qe_identity: &str) -> Option<Self> {
        let mut tcb_info: TcbInfo = serde_json::from_str(tcb_info).ok()?;
        // The verifier's order; without it, "first level reached" would mean something else here than there.
        tcb_info.tcb_levels.sort_by(|a, b| {
            let key =
                |tcb: &dcap_qvl::Tcb| (tcb.sgx_components.clone(), tcb.pce_svn, tcb.tdx_components.clone());
            Reverse(key(&a.tcb)).cmp(&Reverse(key(&b.tcb)))
        });
        let qe_identity: QeIdentity = serde_json::from_str(qe_identity).ok()?;
        let mut parts = vec![
            Part::of(&platform_levels(platform, &tcb_info)?)?,
            Part::of(&qe_levels(platform, &qe_identity)?)?,
        ];
        if let Some(module) = tcb_info.tdx_module_identity(&platform.tee_tcb_svn).ok()? {
            let levels = module.tcb_levels.iter().map(|level| {
                let is_reached = level.shortfall(&platform.tee_tcb_svn).is_none();
                Level::new(is_reached, level.tcb_status, &level.tcb_date, &level.advisory_ids)
            });
            parts.push(Part::of(&levels.collect::<Option<Vec<_>>>()?)?);
        }
        let since = parts.iter().filter_map(|part| part.since).min()?;
        let mut settled_by_update: Vec<String> = Vec::new();
        for advisory in parts.iter().flat_map(|part| &part.settled) {
            let is_open = parts.iter().any(|part| part.open.contains(advisory));
            if !is_open && !settled_by_update.contains(advisory) {
                settled_by_update.push((*advisory).clone());
            }
        }
        Some(Self { since, settled_by_update })
    }

    /// Unix seconds since when the platform is behind; never later than in truth.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Advisories that apply only because updates are missing: the best level that the platform does not reach no
    /// longer has them.
    pub fn settled_by_update(&self) -> &[String] {
        &self.settled_by_update
    }
}

/// A level of platform, module or quoting enclave, best first.
struct Level<'a> {
    is_reached: bool,
    status: TcbStatus,
    date: u64,
    advisories: &'a [String],
}

impl<'a> Level<'a> {
    fn new(is_reached: bool, status: TcbStatus, date: &str, advisories: &'a [String]) -> Option<Self> {
        Some(Self { is_reached, status, date: unix_seconds(date)?, advisories })
    }
}

fn platform_levels<'a>(platform: &PlatformTcb, tcb_info: &'a TcbInfo) -> Option<Vec<Level<'a>>> {
    let level = |level: &'a dcap_qvl::TcbLevel| {
        let shortfalls = level.shortfalls(&platform.cpu_svn, platform.pce_svn, Some(&platform.tee_tcb_svn));
        Level::new(shortfalls.ok()?.is_empty(), level.tcb_status, &level.tcb_date, &level.advisory_ids)
    };
    tcb_info.tcb_levels.iter().map(level).collect()
}

fn qe_levels<'a>(platform: &PlatformTcb, identity: &'a QeIdentity) -> Option<Vec<Level<'a>>> {
    let level = |level: &'a dcap_qvl::QeTcbLevel| {
        let is_reached = platform.qe_isv_svn >= level.tcb.isvsvn;
        Level::new(is_reached, level.tcb_status, &level.tcb_date, &level.advisory_ids)
    };
    identity.tcb_levels.iter().map(level).collect()
}

/// How one of platform, module and quoting enclave stands.
struct Part<'a> {
    /// `None` if it is up to date.
    since: Option<u64>,
    settled: Vec<&'a String>,
    /// Advisories that no update settles.
    open: Vec<&'a String>,
}

impl<'a> Part<'a> {
    /// `None` if no level is reached.
    fn of(levels: &[Level<'a>]) -> Option<Self> {
        let at = levels.iter().position(|level| level.is_reached)?;
        let (better, own) = (&levels[..at], &levels[at]);
        let is_missing_updates =
            matches!(own.status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded);
        let repaired = better.first().filter(|_| is_missing_updates);
        let is_settled =
            |advisory: &&String| repaired.is_some_and(|best| !best.advisories.contains(advisory));
        let (settled, open) = own.advisories.iter().partition(is_settled);
        let later = better.iter().map(|level| level.date).filter(|date| *date > own.date).min();
        let since = match own.status {
            TcbStatus::UpToDate => None,
            _ if is_missing_updates => Some(later.unwrap_or(own.date)),
            _ => Some(own.date),
        };
        Some(Self { since, settled, open })
    }
}

#[cfg(test)]
mod tests;
