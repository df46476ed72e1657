//! Platforms: the collateral to judge them by, which of them Intel will judge worse, and how many CVMs have which TCB
//! status.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Views, at};
use crate::admission::TcbWarning;
use crate::clock::{rfc3339, unix_now};
use crate::error::Result;

/// The platforms of the CVMs that this KMS knows.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Platforms {
    collateral: Vec<Collateral>,
    /// Null before the first response of a service.
    last_refresh: Option<Refresh>,
    forecast: Vec<Forecast>,
    platforms: Vec<Platform>,
}

/// The collateral of one platform model.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Collateral {
    /// `tcb_info`: with the QE identity and revocation lists that were fetched with it.
    kind: &'static str,
    /// Hexadecimal.
    fmspc: String,
    /// The PCK CA: `platform` or `processor`.
    ca: String,
    tee: &'static str,
    age_s: u64,
    issued_at: String,
    /// When it expires.
    next_update: String,
    expires_in_s: u64,
    /// `service`; its address is not shown.
    source: &'static str,
}

/// The last fetch of collateral.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Refresh {
    /// The last usable response.
    at: String,
    /// Whether a service responds.
    ok: bool,
    message: String,
}

/// A kind of platform that Intel's early TCB set judges worse.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Forecast {
    fmspc: String,
    /// Its status today.
    now: String,
    /// Its status by the early set.
    then: String,
    /// About when the standard set follows; null if the early set has no date.
    at: Option<String>,
    /// The number of machines of the kind is not known: they do not name themselves.
    machines: Option<u64>,
    message: String,
}

/// CVMs of the inventory by TCB status.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Platform {
    /// Null: records of releases do not have it.
    fmspc: Option<String>,
    tcb_status: String,
    /// Those of the CVM with the newest release.
    advisories: Vec<String>,
    cvms: u64,
    last_at: String,
}

impl Views {
    /// Collateral, forecast and platforms.
    ///
    /// # Errors
    /// No index.
    pub async fn platforms(&self) -> Result<Platforms> {
        let now = unix_now();
        let stats = self.foundation().verifier.cache().stats();
        let collateral = stats.entries.iter().map(|entry| Collateral {
            kind: "tcb_info",
            fmspc: hex::encode(entry.platform.fmspc),
            ca: entry.platform.ca.as_str().to_owned(),
            tee: "tdx",
            age_s: entry.age,
            issued_at: rfc3339(entry.issued),
            next_update: rfc3339(entry.expires),
            expires_in_s: entry.expires.saturating_sub(now),
            source: "service",
        });
        let ok = stats.endpoints.iter().any(|endpoint| !endpoint.paused);
        let last = stats.endpoints.iter().filter_map(|endpoint| endpoint.last_success).max();
        let last_refresh = last.map(|last| Refresh {
            at: rfc3339(last),
            ok,
            message: match ok {
                true => format!("{} of {} fetches failed since the start", stats.failures, stats.fetches),
                false => "no service has usable collateral at the moment".to_owned(),
            },
        });
        let platforms = self
            .inventory(|inventory| {
                let known = inventory.by_tcb_status()?;
                Ok(known.into_iter().map(|(newest, cvms)| Platform {
                    fmspc: None,
                    cvms,
                    last_at: at(newest.releases.last),
                    tcb_status: newest.subject.tcb_status,
                    advisories: newest.subject.advisory_ids,
                }))
            })
            .await?;
        let forecast = self.sources.forecast.borrow().iter().map(Forecast::of).collect();
        Ok(Platforms {
            collateral: collateral.collect(),
            last_refresh,
            forecast,
            platforms: platforms.collect(),
        })
    }
}

impl Forecast {
    fn of(warning: &TcbWarning) -> Self {
        let TcbWarning { fmspc, today, ahead, follows, advisories } = warning;
        let advisories = match advisories.is_empty() {
            true => String::new(),
            false => format!("; new advisories: {}", advisories.join(", ")),
        };
        Self {
            fmspc: hex::encode(fmspc),
            now: today.clone(),
            then: ahead.clone(),
            at: follows.map(rfc3339),
            machines: None,
            message: format!(
                "Intel's early TCB set judges this kind of platform {ahead}, today it is {today}{advisories}."
            ),
        }
    }
}
