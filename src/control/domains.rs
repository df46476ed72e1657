//! The domains of this KMS, and which apps are in them: by the configuration, and as operators chose at run time.
//!
//! An app that is named nowhere is in the default domain, so the domain of an app follows from its measured id alone.

mod change;
mod fleet;
mod received;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kms_attest::identity::{AppId, DomainName};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use self::change::Kept;
pub use self::change::{DomainChange, DomainError};
pub use self::fleet::SharedDomains;
pub use self::received::{DomainAdoption, DomainsDiffer};
use super::Store;

use crate::config::{DomainRules, DomainSettings};
use crate::operator::scope::Others;
use crate::state::{DomainFile, DomainFileError, DomainRecords};

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name, which is part of the derivation of its apps' keys.
    pub name: DomainName,
    /// What holds in it.
    pub rules: DomainRules,
    /// What it comes from.
    pub origin: DomainOrigin,
    /// Since when it is archived, and by whom; its apps get nothing then.
    pub archived: Option<ByOperator>,
}

/// What a domain, or the place of an app in one, comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainOrigin {
    /// The configuration; only an edit of it changes that.
    Configuration,
    /// An operator, at run time.
    RunTime(ByOperator),
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByOperator {
    /// Unix seconds.
    pub since: u64,
    /// The operator.
    pub by: String,
}

/// The place of an app in a domain that names it.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The domain.
    pub domain: Arc<Domain>,
    /// What put it there.
    pub origin: DomainOrigin,
}

/// The domains of this KMS.
#[derive(Debug)]
pub struct Domains {
    configured: Arc<Configured>,
    current: ArcSwap<Map>,
    /// One change at a time.
    turn: Mutex<()>,
    kept: Arc<Mutex<Kept>>,
    store: Store,
}

/// What the configuration says: the apps of each domain, and what holds in it.
#[derive(Debug)]
struct Configured(BTreeMap<DomainName, (BTreeSet<AppId>, DomainRules)>);

/// All domains and members at one time.
#[derive(Debug)]
struct Map {
    default: Arc<Domain>,
    domains: BTreeMap<DomainName, Arc<Domain>>,
    members: HashMap<AppId, Membership>,
    /// Of what decides which domain's keys an app gets.
    digest: Option<[u8; 32]>,
    /// Of what another KMS is told.
    handed: Option<[u8; 32]>,
    /// What operators changed.
    records: Arc<DomainRecords>,
}

impl Domains {
    /// The domains of the configuration, with what operators changed; a missing file means nothing.
    ///
    /// # Errors
    /// [`DomainFileError`]: an app could get keys of another domain, so nothing may be served.
    pub fn open(
        configured: &BTreeMap<DomainName, DomainSettings>,
        path: PathBuf,
    ) -> Result<Self, DomainFileError> {
        let file = DomainFile::new(path);
        let records = file.read()?;
        let configured = Configured::of(configured);
        let map = Map::new(&configured, &records).map_err(DomainFileError::Contradiction)?;
        let (configured, kept) = (Arc::new(configured), Arc::new(Mutex::new(Kept { file })));
        let current = ArcSwap::from_pointee(map);
        Ok(Self { configured, current, turn: Mutex::default(), kept, store: Store::File })
    }

    /// SHA-256 of what decides which domain's keys an app gets, the same at all KMSs that give it the same keys; `None` if all are in
    /// the default domain, as without domains.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.current.load().digest
    }

    /// The domain that an app is in.
    pub fn of(&self, app: &AppId) -> Arc<Domain> {
        let map = self.current.load();
        map.members.get(app).map_or_else(|| Arc::clone(&map.default), |member| Arc::clone(&member.domain))
    }

    /// The domain of an app as records name it; `None` where there is only the default one, as before there were others.
    pub fn recorded(&self, app: &AppId) -> Option<String> {
        (self.others() == Others::Some).then(|| self.of(app).name.to_string())
    }

    /// The default domain, which is that of every KMS too.
    pub fn default_domain(&self) -> Arc<Domain> {
        Arc::clone(&self.current.load().default)
    }

    /// The domain of this name.
    pub fn named(&self, name: &DomainName) -> Option<Arc<Domain>> {
        self.current.load().domains.get(name).cloned()
    }

    /// Whether there are others beside the default one.
    pub fn are_several(&self) -> bool {
        self.current.load().domains.len() > 1
    }

    /// Every domain, by name, the default one first.
    pub fn list(&self) -> Vec<Arc<Domain>> {
        self.current.load().domains.values().cloned().collect()
    }

    /// Whether there are more than the default one.
    pub fn others(&self) -> Others {
        if self.current.load().domains.len() > 1 { Others::Some } else { Others::None }
    }

    /// The apps that a domain names, by id. Those of the default domain are only the ones that the configuration names.
    pub fn members(&self, name: &DomainName) -> Vec<(AppId, DomainOrigin)> {
        let map = self.current.load();
        let members = map.members.iter().filter(|(_, member)| member.domain.name == *name);
        let mut members: Vec<_> = members.map(|(app, member)| (*app, member.origin.clone())).collect();
        members.sort_unstable_by_key(|(app, _)| *app);
        members
    }
}

#[cfg(test)]
impl Domains {
    /// Only the default one.
    pub(crate) fn default_only() -> Arc<Self> {
        Arc::new(Self::open(&BTreeMap::new(), PathBuf::from("no-domains.json")).unwrap())
    }
}

impl Configured {
    fn of(domains: &BTreeMap<DomainName, DomainSettings>) -> Self {
        let parts = |settings: &DomainSettings| (settings.apps.clone(), settings.rules.clone());
        Self(domains.iter().map(|(name, settings)| (name.clone(), parts(settings))).collect())
    }
}

impl Map {
    fn digest_now(&self) -> Option<[u8; 32]> {
        let mut lines = Vec::new();
        for Domain { name, rules, .. } in self.domains.values().map(|domain| &**domain) {
            let DomainRules { instance_scoped, default_epoch, .. } = rules;
            if !name.is_default() || *instance_scoped || default_epoch.is_some() {
                lines.push(format!("domain {name} {instance_scoped} {default_epoch:?}\n"));
            }
        }
        let members = self.members.iter().filter(|(_, member)| !member.domain.name.is_default());
        lines.extend(members.map(|(app, member)| format!("app {app} {}\n", member.domain.name)));
        lines.sort_unstable();
        (!lines.is_empty()).then(|| Sha256::digest(lines.concat()).into())
    }

    /// # Errors
    /// What the records and the configuration contradict each other in.
    fn new(Configured(configured): &Configured, records: &DomainRecords) -> Result<Self, String> {
        let domain = |name: &DomainName, rules: &DomainRules, origin| {
            let archived = records.archived.iter().find(|record| record.name == *name);
            let archived = archived.map(|record| ByOperator { since: record.since, by: record.by.clone() });
            Arc::new(Domain { name: name.clone(), rules: rules.clone(), origin, archived })
        };
        let rules = configured.get(&DomainName::DEFAULT).map(|(_, rules)| rules.clone());
        let default = domain(&DomainName::DEFAULT, &rules.unwrap_or_default(), DomainOrigin::Configuration);
        let mut domains = BTreeMap::from([(DomainName::DEFAULT, Arc::clone(&default))]);
        for (name, (_, rules)) in configured.iter().filter(|(name, _)| !name.is_default()) {
            domains.insert(name.clone(), domain(name, rules, DomainOrigin::Configuration));
        }
        for record in &records.domains {
            let by = ByOperator { since: record.since, by: record.by.clone() };
            match domains.get(&record.name) {
                None => {
                    let made = domain(&record.name, &record.rules, DomainOrigin::RunTime(by));
                    domains.insert(record.name.clone(), made);
                }
                // The configuration has taken it over.
                Some(configured) if configured.rules.instance_scoped == record.rules.instance_scoped => {}
                Some(_) => {
                    return Err(format!(
                        "the domain {} was made at run time with another instance_scoped than it has in the configuration, \
                         which would give its apps other keys",
                        record.name
                    ));
                }
            }
        }
        if let Some(record) = records.archived.iter().find(|record| !domains.contains_key(&record.name)) {
            return Err(format!("the archived domain {} is not in the configuration any more", record.name));
        }
        let mut members = HashMap::new();
        for (name, (apps, _)) in configured {
            let domain = &domains[name];
            members.extend(apps.iter().map(|app| {
                (*app, Membership { domain: Arc::clone(domain), origin: DomainOrigin::Configuration })
            }));
        }
        for record in &records.apps {
            let app = AppId(record.app_id);
            let Some(domain) = domains.get(&record.domain) else {
                return Err(format!(
                    "the app {app} was put into the domain {}, which is not in the configuration any more",
                    record.domain
                ));
            };
            match members.get(&app) {
                Some(Membership { domain: other, .. }) if other.name != record.domain => {
                    return Err(format!(
                        "the app {app} is in the domain {} by the configuration, and was put into {} at run time",
                        other.name, record.domain
                    ));
                }
                Some(_) => {}
                None => {
                    let by = ByOperator { since: record.since, by: record.by.clone() };
                    let (domain, origin) = (Arc::clone(domain), DomainOrigin::RunTime(by));
                    members.insert(app, Membership { domain, origin });
                }
            }
        }
        let records = Arc::new(records.clone());
        let mut map = Self { default, domains, members, digest: None, handed: None, records };
        map.digest = map.digest_now();
        map.handed = map.handed_digest_now();
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use kms_attest::state_file::{Replaced, StateFile};

    use super::*;
    use crate::audit::Audit;
    use crate::control::Author;
    use crate::state::{ArchivedRecord, DomainRecord, MemberRecord};

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    fn configured(domains: &[(&str, &[u8])]) -> BTreeMap<DomainName, DomainSettings> {
        let settings = |apps: &[u8]| DomainSettings {
            apps: apps.iter().map(|app| AppId([*app; 20])).collect(),
            ..DomainSettings::default()
        };
        domains.iter().map(|(text, apps)| (name(text), settings(apps))).collect()
    }

    fn records(domains: &[&str], archived: &[&str], apps: &[(u8, &str)]) -> DomainRecords {
        let (since, by) = (5, "token".to_owned());
        let rules = DomainRules::default();
        DomainRecords {
            domains: domains
                .iter()
                .map(|text| DomainRecord { name: name(text), rules: rules.clone(), since, by: by.clone() })
                .collect(),
            archived: archived
                .iter()
                .map(|text| ArchivedRecord { name: name(text), since, by: by.clone() })
                .collect(),
            apps: apps
                .iter()
                .map(|(app, text)| MemberRecord {
                    app_id: [*app; 20],
                    domain: name(text),
                    since,
                    by: by.clone(),
                })
                .collect(),
        }
    }

    fn opened(
        configured: &BTreeMap<DomainName, DomainSettings>,
        records: DomainRecords,
    ) -> Result<Domains, String> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("domains.json");
        let file = DomainFile::new(path.clone());
        file.replace(&records.text().unwrap()).and_then(Replaced::safely).unwrap();
        Domains::open(configured, path).map_err(|error| error.to_string())
    }

    #[test]
    fn an_app_is_where_it_is_named_and_otherwise_in_the_default_domain() {
        let domains = opened(
            &configured(&[("default", &[9]), ("prod", &[1, 2]), ("sandbox", &[])]),
            records(&["team"], &["sandbox"], &[(2, "prod"), (3, "team"), (4, "sandbox")]),
        )
        .unwrap();
        let of = |app: u8| domains.of(&AppId([app; 20]));
        for (app, expected) in
            [(1, "prod"), (2, "prod"), (3, "team"), (4, "sandbox"), (5, "default"), (9, "default")]
        {
            assert_eq!(of(app).name, name(expected), "{app}");
            assert_eq!(of(app).archived.is_some(), expected == "sandbox", "{app}");
        }
        let names: Vec<_> = domains.list().iter().map(|domain| domain.name.to_string()).collect();
        assert_eq!(names, ["default", "prod", "sandbox", "team"]);
        let apps =
            |text| domains.members(&name(text)).into_iter().map(|(app, _)| app.0[0]).collect::<Vec<_>>();
        assert_eq!((apps("prod"), apps("team"), apps("default")), (vec![1, 2], vec![3], vec![9]));
        assert!(domains.named(&name("other")).is_none());
        assert_eq!(domains.default_domain().name, DomainName::DEFAULT);
    }

    #[test]
    fn a_digest_says_whether_two_kmss_give_apps_the_keys_of_the_same_domains() {
        let digest =
            |domains: &[(&str, &[u8])], records| opened(&configured(domains), records).unwrap().digest();
        let none = || records(&[], &[], &[]);
        assert_eq!(digest(&[], none()), None);
        assert_eq!(digest(&[("default", &[1])], none()), None, "where it is anyway");
        let one = digest(&[("prod", &[1, 2]), ("sandbox", &[3])], none());
        assert!(one.is_some());
        assert_eq!(one, digest(&[("sandbox", &[3]), ("prod", &[2, 1]), ("default", &[9])], none()));
        assert_eq!(
            one,
            digest(&[("prod", &[1]), ("sandbox", &[3])], records(&[], &["prod"], &[(2, "prod")]))
        );
        assert_ne!(one, digest(&[("prod", &[1]), ("sandbox", &[2, 3])], none()));
        assert_ne!(one, digest(&[("prod", &[1, 2]), ("sandbox", &[])], none()));
        let mut scoped = configured(&[("prod", &[1, 2]), ("sandbox", &[3])]);
        scoped.get_mut(&name("prod")).unwrap().rules.instance_scoped = true;
        assert_ne!(one, opened(&scoped, none()).unwrap().digest());
    }

    #[test]
    fn without_a_file_there_are_the_domains_of_the_configuration() {
        let home = tempfile::tempdir().unwrap();
        let domains = Domains::open(&configured(&[]), home.path().join("domains.json")).unwrap();
        assert_eq!(domains.list().len(), 1);
        assert!(domains.of(&AppId([1; 20])).name.is_default());
    }

    #[test]
    fn what_contradicts_the_configuration_stops_the_start() {
        let config = configured(&[("prod", &[1])]);
        for (records, problem) in [
            (
                records(&[], &[], &[(1, "default")]),
                "is in the domain prod by the configuration, and was put into default",
            ),
            (
                records(&["team"], &[], &[(1, "team")]),
                "is in the domain prod by the configuration, and was put into team",
            ),
            (
                records(&[], &[], &[(2, "team")]),
                "was put into the domain team, which is not in the configuration any more",
            ),
            (records(&[], &["team"], &[]), "the archived domain team is not in the configuration any more"),
        ] {
            let error = opened(&config, records).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        let mut other = records(&["prod"], &[], &[]);
        assert!(opened(&config, other.clone()).is_ok(), "the configuration has taken it over");
        other.domains[0].rules.instance_scoped = true;
        assert!(opened(&config, other).unwrap_err().contains("another instance_scoped"));
    }

    #[tokio::test]
    async fn a_change_whose_directory_is_not_synced_is_what_the_next_start_reads() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(&home.path().join("audit.jsonl")).unwrap();
        let path = home.path().join("domains.json");
        let config = configured(&[("prod", &[])]);
        let domains = Domains::open(&config, path.clone()).unwrap();
        let archive = || {
            let author = Author { by: "ann".to_owned(), remote: std::net::Ipv4Addr::LOCALHOST.into() };
            domains.change(DomainChange::Archive(name("prod")), author, &audit)
        };
        let is_archived = |domains: &Domains| domains.named(&name("prod")).unwrap().archived.is_some();
        {
            let unsynced = StateFile::from(path.clone()).synced_by(|_| Err(std::io::Error::other("no sync")));
            domains.kept.lock().await.file = DomainFile::new(unsynced);
        }
        let outcome = archive().await;
        assert!(matches!(outcome, Err(DomainError::Unsynced(_))), "{outcome:?}");
        assert!(is_archived(&Domains::open(&config, path.clone()).unwrap()) && is_archived(&domains));
        let log = std::fs::read_to_string(home.path().join("audit.jsonl")).unwrap();
        assert!(log.contains("domain_archived") && !log.contains("domain_change_failed"), "{log}");
        assert!(!archive().await.unwrap(), "there is nothing to change");
    }
}
