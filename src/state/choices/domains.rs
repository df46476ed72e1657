//! Domains as one KMS tells them to another: what was made at run time, and of every domain what decides its apps' keys.

use std::collections::BTreeMap;
use std::fmt;

use kms_attest::identity::{AppId, DomainName};
use serde::{Deserialize, Serialize};

use super::ChoicesError;
use crate::config::{DefaultEpoch, DomainRules, MAX_DOMAIN_NAME};
use crate::state::domains::unrepeated;
use crate::state::{ArchivedRecord, DomainRecord, DomainRecords, MemberRecord};

/// The most domains that are made at run time.
pub const MAX_MADE: usize = 256;
/// The most apps that are put into a domain at run time.
pub const MAX_PLACED: usize = 20_000;
/// The longest JSON of what was made at run time: the most apps, and rules.
pub const MAX_DOMAINS_BYTES: usize = 1280 << 10;
/// More than the domains of any configuration and those that are made at run time.
const MAX_STATED: usize = 512;

/// The domains of a KMS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandedDomains {
    /// What decides the keys of the apps in each domain, also of those of the configuration.
    pub stated: BTreeMap<DomainName, StatedDomain>,
    /// What was made at run time, without when and by whom.
    pub records: DomainRecords,
}

/// What decides the keys of the apps in a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatedDomain {
    /// How many apps are in it.
    pub apps: usize,
    /// SHA-256 of their ids, in order.
    pub apps_sha256: [u8; 32],
    /// Whether each instance has keys of its own.
    pub instance_scoped: bool,
    /// The epoch of the root keys.
    pub default_epoch: Option<DefaultEpoch>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    stated: Vec<WrittenDomain>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    made: Vec<Made>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    archived: Vec<DomainName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    placed: Vec<Placed>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDomain {
    name: DomainName,
    apps: usize,
    #[serde(with = "hex::serde")]
    apps_sha256: [u8; 32],
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    instance_scoped: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_epoch: Option<DefaultEpoch>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    name: DomainName,
    rules: DomainRules,
}

/// The apps that were put into a domain at run time.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Placed {
    domain: DomainName,
    apps: Vec<App>,
}

#[derive(Debug, Serialize, Deserialize)]
struct App(#[serde(with = "hex::serde")] [u8; 20]);

impl HandedDomains {
    pub(super) fn written(&self) -> Written {
        let stated = self.stated.iter().map(|(name, domain)| {
            let StatedDomain { apps, apps_sha256, instance_scoped, default_epoch } = *domain;
            WrittenDomain { name: name.clone(), apps, apps_sha256, instance_scoped, default_epoch }
        });
        let DomainRecords { domains, archived, apps } = &self.records;
        let made = domains.iter().map(|it| Made { name: it.name.clone(), rules: it.rules.clone() });
        let mut placed = BTreeMap::<&DomainName, Vec<App>>::new();
        for record in apps {
            placed.entry(&record.domain).or_default().push(App(record.app_id));
        }
        let placed = placed.into_iter().map(|(domain, mut apps)| {
            apps.sort_unstable_by_key(|app| app.0);
            Placed { domain: domain.clone(), apps }
        });
        Written {
            stated: stated.collect(),
            made: made.collect(),
            archived: archived.iter().map(|record| record.name.clone()).collect(),
            placed: placed.collect(),
        }
    }

    /// The length of what was made at run time, as it is told.
    pub fn length(records: &DomainRecords) -> usize {
        let domains = Self { stated: BTreeMap::new(), records: records.clone() };
        serde_json::to_vec(&domains.written()).map_or(usize::MAX, |text| text.len())
    }

    /// The highest epoch of the root keys that a domain has by number.
    pub fn highest_epoch(&self) -> Option<u32> {
        let rules = self.records.domains.iter().filter_map(|record| record.rules.default_epoch);
        let epochs = rules.filter_map(|DefaultEpoch(root)| match root {
            kms_policy::RootChoice::Fixed(epoch) => Some(epoch),
            kms_policy::RootChoice::Current => None,
        });
        epochs.max()
    }

    /// In what the domains here differ from these, as a list for operators; empty if they give apps the same keys.
    pub fn differences(&self, here: &BTreeMap<DomainName, StatedDomain>) -> Vec<String> {
        let mut found = Vec::new();
        for (name, there) in &self.stated {
            match here.get(name) {
                None => found.push(format!("the domain {name} is only there")),
                Some(here) => found.extend(there.differences(name, here)),
            }
        }
        let only_here = here.keys().filter(|name| !self.stated.contains_key(*name));
        found.extend(only_here.map(|name| format!("the domain {name} is only here")));
        found
    }
}

impl StatedDomain {
    fn differences(&self, name: &DomainName, here: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.apps_sha256 != here.apps_sha256 {
            found.push(format!("{name} has other apps: {} here, {} there", here.apps, self.apps));
        }
        if self.instance_scoped != here.instance_scoped {
            let (ours, theirs) = (here.instance_scoped, self.instance_scoped);
            found.push(format!("{name} has instance_scoped {ours} here, {theirs} there"));
        }
        if self.default_epoch != here.default_epoch {
            let said =
                |epoch: Option<DefaultEpoch>| epoch.map_or("none".to_owned(), |it| Said(it).to_string());
            let (ours, theirs) = (said(here.default_epoch), said(self.default_epoch));
            found.push(format!("{name} has default_epoch {ours} here, {theirs} there"));
        }
        found
    }
}

struct Said(DefaultEpoch);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DefaultEpoch(root) = self.0;
        write!(f, "{root}")
    }
}

impl TryFrom<Written> for HandedDomains {
    type Error = ChoicesError;

    fn try_from(written: Written) -> Result<Self, ChoicesError> {
        let Written { stated, made, archived, placed } = written;
        let apps = placed.iter().map(|placed| placed.apps.len()).sum::<usize>();
        if stated.len() > MAX_STATED || made.len() > MAX_MADE || archived.len() > MAX_STATED {
            return Err(ChoicesError::Invalid("there are too many domains"));
        }
        if apps > MAX_PLACED || placed.len() > MAX_STATED {
            return Err(ChoicesError::Invalid("too many apps are in domains"));
        }
        let is_long = |record: &Made| record.name.as_str().len() > MAX_DOMAIN_NAME;
        if made.iter().any(is_long) {
            return Err(ChoicesError::Invalid("the name of a domain is too long"));
        }
        if made.iter().any(|record| record.rules.contradiction().is_some()) {
            return Err(ChoicesError::Invalid("the rules of a domain contradict themselves"));
        }
        let by = String::new;
        let records = DomainRecords {
            domains: made
                .into_iter()
                .map(|Made { name, rules }| DomainRecord { name, rules, since: 0, by: by() })
                .collect(),
            archived: archived.into_iter().map(|name| ArchivedRecord { name, since: 0, by: by() }).collect(),
            apps: placed
                .into_iter()
                .flat_map(|Placed { domain, apps }| {
                    let record = move |App(app_id)| MemberRecord {
                        app_id,
                        domain: domain.clone(),
                        since: 0,
                        by: by(),
                    };
                    apps.into_iter().map(record)
                })
                .collect(),
        };
        // As of the file.
        let mut records =
            unrepeated(records).map_err(|_| ChoicesError::Invalid("a domain or an app is there twice"))?;
        // In the order in which it is told.
        records.domains.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        records.archived.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        records
            .apps
            .sort_unstable_by(|one, other| (&one.domain, one.app_id).cmp(&(&other.domain, other.app_id)));
        let count = stated.len();
        let stated: BTreeMap<_, _> = stated
            .into_iter()
            .map(|WrittenDomain { name, apps, apps_sha256, instance_scoped, default_epoch }| {
                (name, StatedDomain { apps, apps_sha256, instance_scoped, default_epoch })
            })
            .collect();
        match stated.len() == count {
            true => Ok(Self { stated, records }),
            false => Err(ChoicesError::Invalid("a domain is there twice")),
        }
    }
}

/// What [`StatedDomain`] says of these apps.
pub fn stated_apps(apps: &mut [AppId]) -> (usize, [u8; 32]) {
    use sha2::{Digest as _, Sha256};
    apps.sort_unstable();
    let mut digest = Sha256::new();
    for app in &*apps {
        digest.update(app.0);
    }
    (apps.len(), digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::super::{Choices, MAX_CHOICES_BYTES};
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    fn handed() -> HandedDomains {
        let by = String::new;
        let rules = DomainRules { instance_scoped: true, ..DomainRules::default() };
        HandedDomains {
            stated: [
                (name("prod"), StatedDomain::default()),
                (
                    name("team"),
                    StatedDomain {
                        apps: 1,
                        apps_sha256: [7; 32],
                        instance_scoped: true,
                        default_epoch: None,
                    },
                ),
            ]
            .into(),
            records: DomainRecords {
                domains: vec![DomainRecord { name: name("team"), rules, since: 0, by: by() }],
                archived: vec![ArchivedRecord { name: name("prod"), since: 0, by: by() }],
                apps: vec![MemberRecord { app_id: [1; 20], domain: name("team"), since: 0, by: by() }],
            },
        }
    }

    #[test]
    fn what_is_told_is_read_and_what_is_too_much_or_twice_is_refused() {
        let choices = Choices { domains: Some(handed()), ..Choices::default() };
        let text = choices.to_json();
        assert_eq!(Choices::parse(text.as_bytes()), Ok(choices.clone()));
        // In another order it is the same, and told in one order.
        let unsorted = text.replacen(
            r#""placed":["#,
            &format!(
                r#""placed":[{{"domain":"team","apps":["{}"]}},{{"domain":"prod","apps":["{}"]}},"#,
                "03".repeat(20),
                "02".repeat(20)
            ),
            1,
        );
        let read = Choices::parse(unsorted.as_bytes()).unwrap();
        assert_eq!(Choices::parse(read.to_json().as_bytes()), Ok(read));
        let (app, zeros) = ("01".repeat(20), "00".repeat(32));
        for (from, to, problem) in [
            (r#""made":["#, r#""made":[{"name":"team","rules":{}},"#, "there twice"),
            (r#""archived":["prod""#, r#""archived":["prod","prod""#, "there twice"),
            (r#""archived":["prod""#, r#""archived":["default""#, "there twice"),
            (&*format!(r#"["{app}"]"#), &*format!(r#"["{app}","{app}"]"#), "there twice"),
            (
                r#""stated":["#,
                &format!(r#""stated":[{{"name":"prod","apps":0,"apps_sha256":"{zeros}"}},"#),
                "there twice",
            ),
            (&app, "01", "not those that this version knows"),
            (r#""name":"team","rules""#, r#""name":"Team","rules""#, "not those that this version knows"),
            (
                r#""name":"team","rules""#,
                r#""name":"a-name-of-twenty-five-cha","rules""#,
                "the name of a domain is too long",
            ),
            (
                r#"{"instance_scoped":true}}"#,
                r#"{"sealed":true,"allow_dev_images":true}}"#,
                "contradict themselves",
            ),
            (r#""made""#, r#""more":1,"made""#, "unknown field"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let error = Choices::parse(changed.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(problem), "{changed}: {error}");
        }
    }

    #[test]
    fn differences_name_the_domain_and_what_differs_in_it() {
        let there = handed();
        assert_eq!(there.differences(&there.stated), Vec::<String>::new());
        let mut here = there.stated.clone();
        here.insert(
            name("team"),
            StatedDomain {
                apps: 3,
                default_epoch: Some(DefaultEpoch(kms_policy::RootChoice::Fixed(2))),
                ..StatedDomain::default()
            },
        );
        here.remove(&name("prod"));
        here.insert(name("own"), StatedDomain::default());
        assert_eq!(
            there.differences(&here),
            [
                "the domain prod is only there",
                "team has other apps: 3 here, 1 there",
                "team has instance_scoped false here, true there",
                "team has default_epoch 2 here, none there",
                "the domain own is only here",
            ]
        );
    }

    #[test]
    fn the_most_apps_fit() {
        let record = |number: u32| {
            let mut app_id = [0xff; 20];
            app_id[..4].copy_from_slice(&number.to_be_bytes());
            MemberRecord { app_id, domain: name("a-name-of-twenty-four-ch"), since: 0, by: String::new() }
        };
        let apps = (0..u32::try_from(MAX_PLACED).unwrap()).map(record).collect();
        let records = DomainRecords { apps, ..DomainRecords::default() };
        let length = HandedDomains::length(&records);
        assert!(length + (256 << 10) < MAX_DOMAINS_BYTES, "{length}");
        let mut choices =
            Choices { domains: Some(HandedDomains { records, ..handed() }), ..Choices::default() };
        assert_eq!(Choices::parse(choices.to_json().as_bytes()), Ok(choices.clone()));
        const { assert!(MAX_DOMAINS_BYTES + (768 << 10) <= MAX_CHOICES_BYTES) };
        let more = choices.domains.as_mut().unwrap();
        more.records.apps.push(record(u32::MAX));
        assert_eq!(
            Choices::parse(choices.to_json().as_bytes()),
            Err(ChoicesError::Invalid("too many apps are in domains"))
        );
    }
}
