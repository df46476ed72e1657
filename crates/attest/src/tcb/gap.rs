//! How far a platform is behind: which parts, since when, and which advisories an update would settle.
//!
//! Intel's verdict is one status for three parts, which can hide one of them: a platform that is
//! `SWHardeningNeeded` with a quoting enclave that is `OutOfDate` is just `OutOfDate`. So each part is
//! evaluated on its own.
//!
//! TCB info does not say when a status changed. It has a `tcbDate` for each level, until which the level was
//! known to have no published weakness. So a level fell behind at the `tcbDate` of the next later level,
//! which is about the day on which Intel disclosed the weakness that it repairs; the standard set follows
//! about six weeks later. If there is no later level, or if the status is about software or configuration and
//! not about missing updates, the date is unknown. The level's own `tcbDate` is used then, which is never too
//! late.

use std::cmp::Reverse;

use dcap_qvl::{QeIdentity, TcbInfo, TcbStatus};

use super::PlatformTcb;
use crate::collateral::unix_seconds;

/// A part of a platform with a status of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcbPart {
    /// Microcode, firmware and the other components in the levels of TCB info.
    Platform,
    /// The TDX module.
    Module,
    /// The quoting enclave.
    QuotingEnclave,
}

/// A part that is not `UpToDate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartGap {
    part: TcbPart,
    status: TcbStatus,
    since: u64,
    /// Advisories that an update of the part settles.
    settled: Vec<String>,
}

impl PartGap {
    /// The part.
    pub fn part(&self) -> TcbPart {
        self.part
    }

    /// The part's own status. A part that was out of date at launch of the TD and no longer is has
    /// `TDRelaunchAdvised` or `TDRelaunchAdvisedConfigurationNeeded`.
    pub fn status(&self) -> TcbStatus {
        self.status
    }

    /// When the status began, Unix seconds. It may be too early, never too late.
    pub fn since(&self) -> u64 {
        self.since
    }
}

/// How far a platform is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbGap {
    /// Never empty.
    parts: Vec<PartGap>,
    /// Advisories of any part that no update settles.
    open: Vec<String>,
}

impl TcbGap {
    /// Evaluates both documents for a platform whose verdict is `status`. `None` if no part is behind, if the
    /// platform reaches no level, or if a document does not parse.
    pub fn read(
        platform: &PlatformTcb,
        status: TcbStatus,
        tcb_info: &str,
        qe_identity: &str,
    ) -> Option<Self> {
        let mut tcb_info: TcbInfo = serde_json::from_str(tcb_info).ok()?;
        // Sorted as the quote verifier does: otherwise "the first level reached" would differ from the
        // verifier's.
        tcb_info.tcb_levels.sort_by(|a, b| {
            let key =
                |tcb: &dcap_qvl::Tcb| (tcb.sgx_components.clone(), tcb.pce_svn, tcb.tdx_components.clone());
            Reverse(key(&a.tcb)).cmp(&Reverse(key(&b.tcb)))
        });
        let qe_identity: QeIdentity = serde_json::from_str(qe_identity).ok()?;

        let mut parts = tdx_parts(platform, &platform.tee_tcb_svn, &tcb_info)?;
        if matches!(status, TcbStatus::TDRelaunchAdvised | TcbStatus::TDRelaunchAdvisedConfigurationNeeded) {
            parts.iter_mut().for_each(|part| part.gap.status = until_relaunch(part.gap.status));
        }
        if let Some(current) = &platform.tee_tcb_svn2 {
            parts.extend(tdx_parts(platform, current, &tcb_info)?);
        }
        parts.push(Part::of(TcbPart::QuotingEnclave, &qe_levels(platform, &qe_identity)?)?);

        let (mut behind, mut open) = (Vec::new(), Vec::new());
        for part in parts {
            open.extend(part.open);
            if part.gap.status != TcbStatus::UpToDate && !behind.contains(&part.gap) {
                behind.push(part.gap);
            }
        }
        (!behind.is_empty()).then_some(Self { parts: behind, open })
    }

    /// The parts that are not `UpToDate`, at least one. A part occurs twice if its status at launch of the TD
    /// differs from the current one.
    pub fn parts(&self) -> &[PartGap] {
        &self.parts
    }

    /// When the first of the parts fell behind, Unix seconds.
    pub fn since(&self) -> u64 {
        self.parts.iter().map(|part| part.since).min().unwrap_or(0)
    }

    /// Advisories that apply only because the `chosen` parts lack updates: the best level of the part does
    /// not list them, and no other part has them.
    pub fn settled_by_update(&self, chosen: impl Fn(&PartGap) -> bool) -> Vec<&str> {
        let (chosen, others): (Vec<_>, Vec<_>) = self.parts.iter().partition(|part| chosen(part));
        let is_elsewhere = |advisory: &String| {
            self.open.contains(advisory) || others.iter().any(|other| other.settled.contains(advisory))
        };
        let mut settled: Vec<&str> = Vec::new();
        for advisory in chosen.iter().flat_map(|part| &part.settled) {
            if !is_elsewhere(advisory) && !settled.contains(&advisory.as_str()) {
                settled.push(advisory);
            }
        }
        settled
    }
}

/// The status of a part that was behind at launch and, by the verdict, no longer is.
fn until_relaunch(status: TcbStatus) -> TcbStatus {
    match status {
        TcbStatus::OutOfDate => TcbStatus::TDRelaunchAdvised,
        TcbStatus::OutOfDateConfigurationNeeded => TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
        other => other,
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

/// The platform and, if TCB info lists its generation of TDX module, the module at these versions.
fn tdx_parts(platform: &PlatformTcb, tee_tcb_svn: &[u8; 16], tcb_info: &TcbInfo) -> Option<Vec<Part>> {
    let levels = tcb_info.tcb_levels.iter().map(|level| {
        let shortfalls = level.shortfalls(&platform.cpu_svn, platform.pce_svn, Some(tee_tcb_svn));
        Level::new(shortfalls.ok()?.is_empty(), level.tcb_status, &level.tcb_date, &level.advisory_ids)
    });
    let mut parts = vec![Part::of(TcbPart::Platform, &levels.collect::<Option<Vec<_>>>()?)?];
    if let Some(module) = tcb_info.tdx_module_identity(tee_tcb_svn).ok()? {
        let levels = module.tcb_levels.iter().map(|level| {
            let is_reached = level.shortfall(tee_tcb_svn).is_none();
            Level::new(is_reached, level.tcb_status, &level.tcb_date, &level.advisory_ids)
        });
        parts.push(Part::of(TcbPart::Module, &levels.collect::<Option<Vec<_>>>()?)?);
    }
    Some(parts)
}

fn qe_levels<'a>(platform: &PlatformTcb, identity: &'a QeIdentity) -> Option<Vec<Level<'a>>> {
    let level = |level: &'a dcap_qvl::QeTcbLevel| {
        let is_reached = platform.qe_isv_svn >= level.tcb.isvsvn;
        Level::new(is_reached, level.tcb_status, &level.tcb_date, &level.advisory_ids)
    };
    identity.tcb_levels.iter().map(level).collect()
}

/// The status of a platform, module or quoting enclave.
struct Part {
    /// Its status may be `UpToDate`; it is not a gap then.
    gap: PartGap,
    /// Advisories that no update settles.
    open: Vec<String>,
}

impl Part {
    /// `None` if no level is reached.
    fn of(part: TcbPart, levels: &[Level<'_>]) -> Option<Self> {
        let at = levels.iter().position(|level| level.is_reached)?;
        let (better, own) = (&levels[..at], &levels[at]);
        let is_missing_updates =
            matches!(own.status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded);
        let repaired = better.first().filter(|_| is_missing_updates);
        let is_settled = |advisory: &String| repaired.is_some_and(|best| !best.advisories.contains(advisory));
        let (settled, open) = own.advisories.iter().cloned().partition(is_settled);
        let later = better.iter().map(|level| level.date).filter(|date| *date > own.date).min();
        let since = later.filter(|_| is_missing_updates).unwrap_or(own.date);
        Some(Self { gap: PartGap { part, status: own.status, since, settled }, open })
    }
}

#[cfg(test)]
mod tests;
