//! Which keys an app loses when it leaves a domain, as far as the inventories of releases say: that of this node, and what the other
//! nodes of a fleet have told of theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use kms_attest::identity::{AppId, DomainName};
use kms_client::text::count;
use schemars::JsonSchema;
use serde::Serialize;

use super::DomainService;
use crate::clock::rfc3339;
use crate::error::{Error, Result};
use crate::events::{Cvm, CvmAsk, CvmId, Reported};
use crate::state::shared::{ListKind, Standing};

/// The keys that each app gets of its domain.
const KEYS: [&str; 4] = ["disk key", "environment key", "app key", "app CA"];
/// How many CVMs are read at once.
const PAGE: usize = 1000;
/// How long the inventory may take to count what is recorded.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// What is known of the other nodes of the fleet.
    others: Others,
}

/// What is known of the CVMs that other nodes gave keys to. They tell it every ten seconds, or less often where they are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Others {
    /// There are no other nodes.
    #[default]
    None,
    /// Each answers and has told of all.
    Told,
    /// One does not answer, or has not told of all.
    Silent,
}

/// What the other nodes of a fleet have told of an app.
#[derive(Debug, Default)]
struct Told {
    cvms: BTreeMap<CvmId, Vec<Cvm>>,
    others: Others,
}

/// The CVMs of an app, by the domain whose keys they were given last.
#[derive(Debug, Default)]
struct Tally {
    received: Option<Received>,
    elsewhere: u64,
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
    /// Whether all releases of this KMS are counted: no, where the inventory lacks records, or had to drop CVMs, or where another node
    /// of the fleet does not answer or has not told of all. Those of replicas outside the fleet never are.
    complete: bool,
}

impl Loss {
    /// Whether it is known that the app has received no keys from this KMS.
    pub(super) fn is_known_to_be_none(&self) -> bool {
        self.received.is_none() && self.elsewhere == 0 && self.is_whole && self.others != Others::Silent
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
            complete: self.is_whole && self.others != Others::Silent,
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
        let (more, told) = match self.others {
            Others::None => ("", ""),
            Others::Told => ("", ", as all nodes told seconds ago"),
            Others::Silent => (", and other nodes may have given more", ""),
        };
        match first_at {
            // Signatures of the root name no domain, as the peer's clients know them.
            Some(first) => format!(
                "{lost}, which {} received since {first}{maybe}{more}; what they signed, and their certificates, still \
                 prove this app",
                have(cvms)
            ),
            None if self.elsewhere > 0 => format!(
                "{lost}, which {} may have received before they got keys of another domain; what they signed, and their \
                 certificates, still prove this app",
                count(self.elsewhere, "CVM")
            ),
            None if self.others == Others::Silent => format!(
                "{lost}, of which no CVM is known to have received any{covers}, but not all nodes have told which CVMs they gave \
                 keys to"
            ),
            None => format!("{lost}, of which no CVM has received any{covers}{told}"),
        }
    }
}

/// "1 CVM has", "3 CVMs have".
fn have(cvms: u64) -> String {
    format!("{} {}", count(cvms, "CVM"), if cvms == 1 { "has" } else { "have" })
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
        if self.events.inventory_reaches_now(PATIENCE).await? {
            return self.received(hex::encode(app), domain.clone()).await;
        }
        Err(Error::unavailable(
            "index_behind",
            "the inventory has not counted the newest records yet, so it is not known which keys the app has: try again later",
        ))
    }

    /// What the other nodes have told of an app.
    fn told(&self, app: &str) -> Told {
        let Some(view) = self.foundation.freezes.view() else { return Told::default() };
        let mut told = Told::default();
        if !matches!(view.standing(), Standing::Fresh(_)) {
            told.others = Others::Silent;
        }
        let lists: BTreeMap<_, _> = view.lists().of_others(ListKind::Inventory).into_iter().collect();
        for node in view.nodes().iter().filter(|node| !node.is_self) {
            let list = lists.get(&node.id).and_then(|body| Reported::<Cvm>::read(body));
            told.others = match view.answers(node) && list.as_ref().is_some_and(|list| list.whole) {
                true if told.others != Others::Silent => Others::Told,
                _ => Others::Silent,
            };
            let of_app = list.into_iter().flat_map(|list| list.entries);
            for cvm in of_app.filter(|cvm| cvm.subject.app_id == app) {
                told.cvms.entry(cvm.id()).or_default().push(cvm);
            }
        }
        told
    }

    async fn received(&self, app: String, domain: DomainName) -> Result<Loss> {
        let Told { cvms: mut told, others } = self.told(&app);
        self.events
            .ask_index(move |index| {
                let inventory = index.inventory()?;
                let mut ask = CvmAsk { app_id: Some(app), limit: PAGE, ..CvmAsk::default() };
                let mut tally = Tally::default();
                loop {
                    let page = inventory.cvms(&ask)?;
                    for (id, cvm) in page.cvms {
                        let known = told.remove(&id).unwrap_or_default();
                        tally.count(&domain, known.iter().chain([&cvm]));
                    }
                    match page.next {
                        Some(next) => ask.before = Some(next),
                        None => break,
                    }
                }
                for known in told.values() {
                    tally.count(&domain, known);
                }
                let Tally { received, elsewhere } = tally;
                let coverage = inventory.coverage()?;
                let (covers_since, is_whole) = (coverage.since, coverage.is_whole());
                Ok(Loss { domain, received, elsewhere, covers_since, is_whole, others })
            })
            .await
    }
}

impl Tally {
    /// Counts one CVM, as each node knows it that gave it keys.
    fn count<'a>(&mut self, domain: &DomainName, known: impl IntoIterator<Item = &'a Cvm>) {
        let here = known.into_iter().filter(|cvm| cvm.subject.domain_name().as_ref() == Some(domain));
        let spans: Vec<_> = here.map(|cvm| (cvm.releases.first, cvm.releases.last)).collect();
        let (Some(first), Some(last)) =
            (spans.iter().map(|span| span.0).min(), spans.iter().map(|span| span.1).max())
        else {
            self.elsewhere += 1;
            return;
        };
        let all = self.received.get_or_insert(Received { cvms: 0, first, last });
        all.cvms += 1;
        all.first = all.first.min(first);
        all.last = all.last.max(last);
    }
}
