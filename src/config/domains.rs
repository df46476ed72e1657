//! `[domains.NAME]`: parts of this KMS whose apps have keys, rules and operators of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kms_attest::identity::{AppId, DomainName};
use kms_policy::RootChoice;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::reader::{Report, Section};
use super::{AuthApi, Config, RequireFresh, consistency, layers, sections, values};

/// The longest name of a domain that apps can be in, in bytes: records of releases name it, and receipts have little space.
pub const MAX_DOMAIN_NAME: usize = 24;
/// The most domains of the configuration.
const MAX_DOMAINS: usize = 64;
/// The most apps that the configuration puts into one domain.
const MAX_APPS: usize = 10_000;

/// The domains of the configuration, by name.
pub type Domains = BTreeMap<DomainName, DomainSettings>;

/// One domain of the configuration.
#[derive(Default)]
pub struct DomainSettings {
    /// The apps that are in it.
    pub apps: BTreeSet<AppId>,
    /// Its own policy; `None` for that of the KMS.
    pub auth_api: Option<AuthApi>,
    /// What else holds in it.
    pub rules: DomainRules,
}

/// What holds in a domain, of the configuration or made at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainRules {
    /// Whether only guests that nobody can log in to are admitted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Only these TCB statuses, as Intel gives them, are admitted beyond what the policy says; all of them if it is empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tcb_statuses: BTreeSet<TcbStatusName>,
    /// Only these machines, 64 hex digits each; all of them if it is empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub devices: BTreeSet<Listed>,
    /// Only these OS images, 64 hex digits each; all of them if it is empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub os_images: BTreeSet<Listed>,
    /// Whether images for development are admitted. Absent: in the default domain only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_dev_images: Option<bool>,
    /// Whether each instance has an app key and an app CA of its own. All instances share the environment key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub instance_scoped: bool,
    /// The epoch of the root keys of its apps, unless the policy or an operator says it for the app: `current`, or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_epoch: Option<DefaultEpoch>,
    /// Which of its apps must bring fresh evidence; absent: those of `core.attestation.require_fresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_fresh: Option<RequireFresh>,
}

impl DomainRules {
    /// Whether images for development are refused in the domain of this name with these rules.
    pub fn refuses_dev_images(&self, name: &DomainName) -> bool {
        self.sealed || !self.allow_dev_images.unwrap_or(name.is_default())
    }

    /// What the rules contradict themselves in.
    pub fn contradiction(&self) -> Option<&'static str> {
        (self.sealed && self.allow_dev_images == Some(true)).then_some(
            "allow_dev_images must not be true where sealed is: who makes such an image can log in",
        )
    }
}

/// SHA-256 in hex: a device id, or the hash of an OS image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Listed(
    #[serde(with = "hex::serde")]
    #[schemars(with = "String", regex(pattern = "^[0-9a-fA-F]{64}$"))]
    [u8; 32],
);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A TCB status by Intel's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcbStatusName(&'static str);

/// The statuses that evidence with a valid quote can have.
const TCB_STATUSES: [&str; 8] = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
];

impl TcbStatusName {
    fn parse(text: &str) -> Option<Self> {
        TCB_STATUSES.into_iter().find(|name| *name == text).map(Self)
    }
}

impl fmt::Display for TcbStatusName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for TcbStatusName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for TcbStatusName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("a TCB status must be one of {}", TCB_STATUSES.join(", ")))
        })
    }
}

impl JsonSchema for TcbStatusName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TcbStatusName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": TCB_STATUSES })
    }
}

/// The epoch of the root keys of a domain's apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultEpoch(pub RootChoice);

impl DefaultEpoch {
    fn parse(value: &Value) -> Result<Self, String> {
        let number = || value.as_u64().and_then(|number| u32::try_from(number).ok());
        match value.as_str() {
            Some("current") => Ok(Self(RootChoice::Current)),
            _ => number()
                .map(|number| Self(RootChoice::Fixed(number)))
                .ok_or_else(|| "must be \"current\" or the number of a root epoch".to_owned()),
        }
    }
}

impl Serialize for DefaultEpoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            RootChoice::Current => serializer.serialize_str("current"),
            RootChoice::Fixed(number) => serializer.serialize_u32(number),
        }
    }
}

impl<'de> Deserialize<'de> for DefaultEpoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for DefaultEpoch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DefaultEpoch".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "oneOf": [{ "const": "current" }, { "type": "integer", "minimum": 0, "maximum": u32::MAX }] })
    }
}

pub(super) fn read(root: &mut Section<'_>) -> Domains {
    let mut domains = Domains::new();
    let mut members = BTreeMap::<AppId, DomainName>::new();
    root.tables("domains", MAX_DOMAINS, |section, name| {
        let settings = domain(section);
        match name.parse::<DomainName>() {
            Ok(_) if name.len() > MAX_DOMAIN_NAME => {
                section.find_here(&format!("a name has at most {MAX_DOMAIN_NAME} characters"))
            }
            Ok(name) => {
                for app in &settings.apps {
                    if let Some(other) = members.insert(*app, name.clone()) {
                        let message =
                            format!("has the app {app}, which is in {other} too: an app is in one domain");
                        section.find("apps", &message);
                    }
                }
                domains.insert(name, settings);
            }
            Err(error) => section.find_here(&error.to_string()),
        }
    });
    domains
}

fn domain(section: &mut Section<'_>) -> DomainSettings {
    let has_policy = section.underlay("auth_api", layers::defaults_of_auth_api());
    // No variable of the environment is for a domain: one of the KMS could send its token to a service of another team.
    let auth_api =
        has_policy.then(|| section.section("auth_api", |section| sections::auth_api(section, &|_| None)));
    let rules = DomainRules {
        sealed: section.optional("sealed", values::boolean).unwrap_or_default(),
        tcb_statuses: section.optional("tcb_statuses", parsed).unwrap_or_default(),
        devices: section.optional("devices", hashes).unwrap_or_default(),
        os_images: section.optional("os_images", hashes).unwrap_or_default(),
        allow_dev_images: section.optional("allow_dev_images", values::boolean),
        instance_scoped: section.optional("instance_scoped", values::boolean).unwrap_or_default(),
        default_epoch: section.optional("default_epoch", |value| DefaultEpoch::parse(&value)),
        require_fresh: section.optional("require_fresh", |value| {
            RequireFresh::parse(&values::string(value)?).map_err(str::to_owned)
        }),
    };
    if let Some(contradiction) = rules.contradiction() {
        section.find_here(contradiction);
    }
    DomainSettings { apps: section.optional("apps", apps).unwrap_or_default(), auth_api, rules }
}

/// The most machines or images of one domain.
const MAX_LISTED: usize = 1000;

fn hashes(value: Value) -> Result<BTreeSet<Listed>, String> {
    let wrong = || format!("must be a list of at most {MAX_LISTED} SHA-256 values, 64 hex digits each");
    match value.as_array() {
        Some(list) if list.len() <= MAX_LISTED => {}
        _ => return Err(wrong()),
    }
    serde_json::from_value(value).map_err(|_| wrong())
}

fn parsed(value: Value) -> Result<BTreeSet<TcbStatusName>, String> {
    serde_json::from_value(value).map_err(|_| format!("must be a list of {}", TCB_STATUSES.join(", ")))
}

/// Checks what several keys together say of each domain.
pub(super) fn check(config: &Config, report: &mut Report) {
    for (name, settings) in &config.domains {
        let at = format!("domains.{name}");
        if let Some(policy) = &settings.auth_api {
            let key = format!("{at}.auth_api");
            if name.is_default() {
                report.find(&key, "must not be set: core.auth_api is the policy of the default domain");
            }
            consistency::policy(policy, &key, config.core.admin.approvals, report);
        }
        if settings.rules.refuses_dev_images(name) && !config.core.image.verify {
            report.notice(
                &at,
                "every app in it is refused: core.image.verify is false, so it is not known which images are for \
                 development; allow_dev_images = true would admit them",
            );
        }
    }
}

/// A list of app ids, each once.
fn apps(value: Value) -> Result<BTreeSet<AppId>, String> {
    let wrong = || format!("must be a list of at most {MAX_APPS} app ids, 40 hex digits each");
    let Value::Array(list) = value else { return Err(wrong()) };
    if list.len() > MAX_APPS {
        return Err(wrong());
    }
    let mut apps = BTreeSet::new();
    for value in list {
        let mut id = [0; 20];
        let text = value.as_str().ok_or_else(wrong)?;
        hex::decode_to_slice(text, &mut id).map_err(|_| wrong())?;
        if !apps.insert(AppId(id)) {
            return Err(format!("has the app {} twice", AppId(id)));
        }
    }
    Ok(apps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn domains(text: &str) -> Domains {
        Config::from_toml(text).unwrap_or_else(|error| panic!("{text}: {error}")).0.domains
    }

    fn findings(text: &str) -> Vec<String> {
        let error = Config::from_toml(text).err().unwrap_or_else(|| panic!("no finding in {text}"));
        error.findings.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect()
    }

    #[test]
    fn a_domain_is_read_with_its_defaults() {
        assert!(domains("").is_empty());
        let (one, two) = ("11".repeat(20), "22".repeat(20));
        let text = format!(
            "[domains.sandbox]\napps = ['{one}']\n[domains.'prod.eu']\napps = ['{two}']\ninstance_scoped = true\n\
             default_epoch = 'current'\n[domains.empty]\ndefault_epoch = 3"
        );
        let domains = domains(&text);
        let of = |name: &str| &domains[&name.parse::<DomainName>().unwrap()];
        assert_eq!(of("sandbox").apps, BTreeSet::from([AppId([0x11; 20])]));
        assert_eq!(of("sandbox").rules, DomainRules::default());
        assert!(of("sandbox").auth_api.is_none());
        let rules = &of("prod.eu").rules;
        assert!(rules.instance_scoped);
        assert_eq!(rules.default_epoch, Some(DefaultEpoch(RootChoice::Current)));
        assert_eq!(of("empty").rules.default_epoch, Some(DefaultEpoch(RootChoice::Fixed(3))));
        assert_eq!(domains.len(), 3);
        for settings in domains.values() {
            let json = serde_json::to_string(&settings.rules).unwrap();
            assert_eq!(serde_json::from_str::<DomainRules>(&json).unwrap(), settings.rules, "{json}");
        }
    }

    #[test]
    fn a_domain_has_a_policy_of_its_own_with_the_defaults_of_the_kms() {
        let text = "[domains.a.auth_api]\ntype = 'allowlist'\nallowlist.path = '/a.json'\n[domains.b.auth_api]\ntype = 'webhook'\n\
                    webhook.url = 'https://team.example'";
        let (config, notices) = Config::from_toml(text).unwrap();
        let of = |name: &str| config.domains[&name.parse::<DomainName>().unwrap()].auth_api.as_ref();
        assert!(
            matches!(of("a"), Some(AuthApi::Allowlist { path, .. }) if path == std::path::Path::new("/a.json"))
        );
        assert!(matches!(of("b"), Some(AuthApi::Webhook(webhook)) if webhook.bearer_token.is_none()));
        assert_eq!(notices, [], "images are verified");
        let dev = "core.image.verify = false\n[domains.a]\nauth_api.type = 'dev'";
        let (config, notices) = Config::from_toml(dev).unwrap();
        assert!(config.posture().codes().any(|code| code == "domain_dev_auth"));
        assert!(notices.iter().any(|notice| notice.key == "domains.a"), "{notices:?}");
    }

    #[test]
    fn images_for_development_are_refused_unless_a_domain_admits_them() {
        let rules =
            |sealed, allow_dev_images| DomainRules { sealed, allow_dev_images, ..DomainRules::default() };
        let (default, other) = (DomainName::DEFAULT, "sandbox".parse().unwrap());
        for (rules, of_default, of_other) in [
            (rules(false, None), false, true),
            (rules(false, Some(true)), false, false),
            (rules(false, Some(false)), true, true),
            (rules(true, None), true, true),
        ] {
            assert_eq!(rules.refuses_dev_images(&default), of_default, "{rules:?}");
            assert_eq!(rules.refuses_dev_images(&other), of_other, "{rules:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_key() {
        let app = "11".repeat(20);
        let one_domain = "has the app 1111111111111111111111111111111111111111, which is in a too: an app is in one domain";
        let list = "must be a list of at most 10000 app ids, 40 hex digits each";
        for (text, expected) in [
            (
                "[domains.Sandbox]".to_owned(),
                "domains.Sandbox: a domain's name has 1 to 64 lower-case letters, digits, '-' or '.', and begins with a letter \
                 or a digit"
                    .to_owned(),
            ),
            (format!("[domains.a]\napps = ['{app}']\n[domains.b]\napps = ['{app}']"), format!("domains.b.apps: {one_domain}")),
            (format!("[domains.a]\napps = ['{app}', '{app}']"), format!("domains.a.apps: has the app {app} twice")),
            ("[domains.a]\napps = ['11']".to_owned(), format!("domains.a.apps: {list}")),
            ("[domains.a]\napps = '11'".to_owned(), format!("domains.a.apps: {list}")),
            (
                "[domains.a]\ninstances_scoped = true".to_owned(),
                "domains.a.instances_scoped: unknown key, did you mean `instance_scoped`?".to_owned(),
            ),
            (
                "[domains.a]\ndefault_epoch = -1".to_owned(),
                "domains.a.default_epoch: must be \"current\" or the number of a root epoch".to_owned(),
            ),
            (
                format!("[domains.{}]", "d".repeat(25)),
                format!("domains.{}: a name has at most 24 characters", "d".repeat(25)),
            ),
            (
                "[domains.a]\nsealed = true\nallow_dev_images = true".to_owned(),
                "domains.a: allow_dev_images must not be true where sealed is: who makes such an image can log in".to_owned(),
            ),
            (
                "[domains.default.auth_api]\ntype = 'dev'".to_owned(),
                "domains.default.auth_api: must not be set: core.auth_api is the policy of the default domain".to_owned(),
            ),
            (
                "[domains.a.auth_api]\nallowlist.path = '/x'".to_owned(),
                "domains.a.auth_api.type: is missing".to_owned(),
            ),
            (
                "[domains.a.auth_api]\ntype = 'allowlist'".to_owned(),
                "domains.a.auth_api.allowlist.path: must name a file".to_owned(),
            ),
            (
                "[domains.a]\ndevices = ['00']".to_owned(),
                "domains.a.devices: must be a list of at most 1000 SHA-256 values, 64 hex digits each".to_owned(),
            ),
            (
                "[domains.a]\ntcb_statuses = ['Fine']".to_owned(),
                format!("domains.a.tcb_statuses: must be a list of {}", TCB_STATUSES.join(", ")),
            ),
            ("domains = 1".to_owned(), "domains: must be at most 64 tables, [domains.NAME] each".to_owned()),
            ("domains.a = 1".to_owned(), "domains: must be at most 64 tables, [domains.NAME] each".to_owned()),
        ] {
            assert_eq!(findings(&text), [expected], "{text}");
        }
        let many: String = (0..65).map(|number| format!("[domains.d{number}]\n")).collect();
        assert_eq!(findings(&many), ["domains: must be at most 64 tables, [domains.NAME] each"]);
    }
}
