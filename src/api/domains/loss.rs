//! Which keys an app loses when it leaves a domain, as far as the inventory of releases says.

use std::time::Duration;

use kms_attest::identity::{AppId, DomainName};
use schemars::JsonSchema;
use serde::Serialize;

use super::DomainService;
use crate::clock::rfc3339;
use crate::error::{Error, Result};
use crate::events::CvmAsk;

/// The keys that each app gets of its domain.
const KEYS: [&str; 4] = ["disk key", "environment key", "app key", "app CA"];
/// How many CVMs are read at once.
const PAGE: usize = 1000;
/// How long the inventory may take to count what is recorded, in steps.
const STEP: Duration = Duration::from_millis(50);
const STEPS: usize = 200;

/// What an app has received in a domain.
#[derive(Debug)]
pub(super) struct Loss {
    domain: DomainName,
    received: Option<Received>,
    /// How many CVMs of the app were last given keys of another domain: the inventory keeps the last domain of each, so nothing
    /// is known of what they were given here before.
    elsewhere: u64,
    /// The time of the oldest record that was counted, milliseconds; `None` without any.
    covers_since: Option<u64>,
    /// Whether the first record of the log was counted, and no CVM was dropped since.
    is_whole: bool,
}

/// Times are in milliseconds since 1970.
#[derive(Debug)]
struct Received {
    cvms: u64,
    first: u64,
    last: u64,
}

/// The keys that an app loses, or has lost, by leaving a domain. Times are RFC 3339.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LostKeys {
    /// The domain whose keys they are. Back in it, the app gets the same ones again.
    domain: String,
    /// Which ones: what was encrypted with them, or trusts them, is lost while the app is elsewhere.
    keys: [&'static str; 4],
    /// How many CVMs of the app have received some, and none of another domain since; 0 if there is no record of any.
    cvms: u64,
    /// How many have received keys of another domain since, so that it is not known whether they have some of these too.
    maybe: u64,
    /// The first release there.
    first_at: Option<String>,
    /// The last one.
    last_at: Option<String>,
    /// The time of the oldest record that was counted: an inventory that was built again lacks what was archived.
    covers_since: Option<String>,
    /// Whether all releases of this KMS are counted: no, where the inventory lacks records, or had to drop CVMs. Those of other
    /// replicas never are.
    complete: bool,
}

impl Loss {
    /// Whether it is known that the app has received no keys from this KMS.
    pub(super) fn is_known_to_be_none(&self) -> bool {
        self.received.is_none() && self.elsewhere == 0 && self.is_whole
    }

    pub(super) fn domain(&self) -> &DomainName {
        &self.domain
    }

    pub(super) fn shown(&self) -> LostKeys {
        let received = self.received.as_ref();
        let at = |milliseconds: u64| rfc3339(milliseconds / 1000);
        LostKeys {
            domain: self.domain.to_string(),
            keys: KEYS,
            cvms: received.map_or(0, |received| received.cvms),
            maybe: self.elsewhere,
            first_at: received.map(|received| at(received.first)),
            last_at: received.map(|received| at(received.last)),
            covers_since: self.covers_since.map(at),
            complete: self.is_whole,
        }
    }

    /// As a sentence without a full stop.
    pub(super) fn sentence(&self) -> String {
        let (keys, last_key) = (KEYS[..3].join(", "), KEYS[3]);
        let lost = format!("it loses the {keys} and {last_key} of the domain {}", self.domain);
        let LostKeys { cvms, first_at, covers_since, .. } = self.shown();
        let covers = covers_since.map(|since| format!(", in records since {since}")).unwrap_or_default();
        let maybe = match self.elsewhere {
            0 => String::new(),
            _ => format!(", and {} more may have, which got keys of another domain since", self.elsewhere),
        };
        match first_at {
            // Signatures of the root name no domain, as the peer's clients know them.
            Some(first) => format!(
                "{lost}, which {cvms} CVMs have received since {first}{maybe}; what they signed, and their certificates, still \
                 prove this app"
            ),
            None if self.elsewhere > 0 => format!(
                "{lost}, which {} CVMs may have received before they got keys of another domain; what they signed, and their \
                 certificates, still prove this app",
                self.elsewhere
            ),
            None => format!("{lost}, of which no CVM has received any{covers}"),
        }
    }
}

impl DomainService {
    /// What an app would lose by leaving the domain that it is in.
    pub(super) async fn loss(&self, app: &AppId) -> Result<Loss> {
        let domain = self.foundation.domains.of(app).name.clone();
        self.loss_of(app, &domain).await
    }

    /// What an app has received in a domain.
    ///
    /// # Errors
    /// No index, or one that does not catch up with the log.
    pub(super) async fn loss_of(&self, app: &AppId, domain: &DomainName) -> Result<Loss> {
        let newest = self.events.acknowledged();
        let app = hex::encode(app);
        for _ in 0..STEPS {
            let through = self.events.ask_index(|index| Ok(index.inventory()?.coverage()?.through)).await?;
            if through >= newest {
                return self.received(app, domain.clone()).await;
            }
            tokio::time::sleep(STEP).await;
        }
        Err(Error::unavailable(
            "index_behind",
            "the inventory has not counted the newest records yet, so it is not known which keys the app has: try again later",
        ))
    }

    async fn received(&self, app: String, domain: DomainName) -> Result<Loss> {
        self.events
            .ask_index(move |index| {
                let inventory = index.inventory()?;
                let mut ask = CvmAsk { app_id: Some(app), limit: PAGE, ..CvmAsk::default() };
                let mut received: Option<Received> = None;
                let mut elsewhere = 0;
                loop {
                    let page = inventory.cvms(&ask)?;
                    for (_, cvm) in page.cvms {
                        if cvm.subject.domain_name().as_ref() != Some(&domain) {
                            elsewhere += 1;
                            continue;
                        }
                        let (first, last) = (cvm.releases.first, cvm.releases.last);
                        let all = received.get_or_insert(Received { cvms: 0, first, last });
                        all.cvms += 1;
                        all.first = all.first.min(first);
                        all.last = all.last.max(last);
                    }
                    match page.next {
                        Some(next) => ask.before = Some(next),
                        None => break,
                    }
                }
                let coverage = inventory.coverage()?;
                let is_whole = coverage.is_whole();
                Ok(Loss { domain, received, elsewhere, covers_since: coverage.since, is_whole })
            })
            .await
    }
}
