//! `[domains.NAME]`: parts of this KMS whose apps have keys, rules and operators of their own.

use std::collections::{BTreeMap, BTreeSet};

use kms_attest::identity::{AppId, DomainName};
use kms_policy::RootChoice;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::RequireFresh;
use super::reader::Section;
use super::values;

/// The most domains of the configuration.
const MAX_DOMAINS: usize = 64;
/// The most apps that the configuration puts into one domain.
const MAX_APPS: usize = 10_000;

/// The domains of the configuration, by name.
pub type Domains = BTreeMap<DomainName, DomainSettings>;

/// One domain of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainSettings {
    /// The apps that are in it.
    pub apps: BTreeSet<AppId>,
    /// What else holds in it.
    pub rules: DomainRules,
}

/// What holds in a domain, of the configuration or made at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainRules {
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
    DomainSettings {
        apps: section.optional("apps", apps).unwrap_or_default(),
        rules: DomainRules {
            instance_scoped: section.optional("instance_scoped", values::boolean).unwrap_or_default(),
            default_epoch: section.optional("default_epoch", |value| DefaultEpoch::parse(&value)),
            require_fresh: section.optional("require_fresh", |value| {
                RequireFresh::parse(&values::string(value)?).map_err(str::to_owned)
            }),
        },
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
            ("domains = 1".to_owned(), "domains: must be at most 64 tables, [domains.NAME] each".to_owned()),
            ("domains.a = 1".to_owned(), "domains: must be at most 64 tables, [domains.NAME] each".to_owned()),
        ] {
            assert_eq!(findings(&text), [expected], "{text}");
        }
        let many: String = (0..65).map(|number| format!("[domains.d{number}]\n")).collect();
        assert_eq!(findings(&many), ["domains: must be at most 64 tables, [domains.NAME] each"]);
    }
}
