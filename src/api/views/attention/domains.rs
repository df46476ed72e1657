//! What needs an operator of the domains.

use kms_attest::identity::DomainName;
use kms_policy::Policy;
use kms_policy::bundle::{Bundled, Expiry};

use super::{Attention, Link, Severity};
use crate::api::readiness::policy_problem;
use crate::api::views::Views;
use crate::clock::rfc3339;
use crate::config::Profile;
use crate::control::Domain;

/// What is known of one domain.
struct State<'a> {
    domain: &'a Domain,
    /// How many apps it names.
    apps: usize,
    policy: PolicyState,
    profile: Profile,
    /// Whether the OS images of guests are verified, so that it is known which are for development.
    knows_images: bool,
}

/// What is known of the policy of a domain, if it has one of its own.
#[derive(Default)]
struct PolicyState {
    /// Why it cannot decide.
    problem: Option<String>,
    /// The end of its bundle, if it is near or over.
    ends: Option<(u64, Expiry)>,
    /// Whether its signers have signed two bundles that contradict each other.
    is_forked: bool,
    /// Why the source of its bundles gives none that can be used.
    source_problem: Option<String>,
}

impl PolicyState {
    fn of(policy: &Policy, now: u64) -> Self {
        let bundled = policy.bundled();
        let ends = bundled.and_then(|bundled| {
            let expiry = bundled.expiry(now).filter(|expiry| *expiry != Expiry::Far)?;
            Some((bundled.bundle()?.bundle.header().expires(), expiry))
        });
        Self {
            problem: policy_problem(policy),
            ends,
            is_forked: bundled.is_some_and(Bundled::is_forked),
            source_problem: bundled.and_then(Bundled::source_problem),
        }
    }

    /// The state of `core.auth_api`, about which readiness says the rest.
    fn of_kms(policy: &Policy) -> Self {
        Self { source_problem: policy.bundled().and_then(Bundled::source_problem), ..Self::default() }
    }
}

impl Views {
    /// What needs attention in all domains, or in one.
    pub(super) fn of_domains(&self, only: Option<&DomainName>, now: u64) -> Vec<Attention> {
        let foundation = self.foundation();
        let domains = foundation.domains.list();
        let knows_images = self.sources.meta.relaxed().verifies_os_images();
        let shown = domains.iter().filter(|domain| only.is_none_or(|only| domain.name == *only));
        let of_each = shown.flat_map(|domain| {
            let own = foundation.domain_policies.get(&domain.name);
            let of_kms = || match domain.name.is_default() {
                true => PolicyState::of_kms(&foundation.policy),
                false => PolicyState::default(),
            };
            let state = State {
                domain,
                apps: foundation.domains.members(&domain.name).len(),
                policy: own.map_or_else(of_kms, |policy| PolicyState::of(policy, now)),
                profile: self.sources.profile,
                knows_images,
            };
            state.list()
        });
        of_each.collect()
    }

    /// Credentials that are limited to a domain of which they see nothing any more.
    pub(super) fn of_useless_credentials(&self) -> Vec<Attention> {
        let Some(credentials) = &self.sources.credentials else { return Vec::new() };
        let directory = credentials.directory();
        let useless = directory.values().filter_map(|credential| {
            let domain = credential.domain.as_ref()?;
            let known = self.foundation().domains.named(domain);
            of_credential(credential.name.as_str(), domain, known.as_deref())
        });
        useless.collect()
    }
}

/// What needs attention about a credential of a domain that is gone or archived.
fn of_credential(name: &str, limit: &DomainName, known: Option<&Domain>) -> Option<Attention> {
    let (code, severity, what) = match known {
        None => (
            "credential_domain_gone",
            Severity::Warning,
            "which this KMS does not have: it is always refused",
        ),
        Some(Domain { archived: Some(_), .. }) => {
            ("credential_domain_archived", Severity::Info, "which is archived")
        }
        Some(Domain { archived: None, .. }) => return None,
    };
    Some(Attention {
        detail: "revoke it, or bring the domain back".to_owned(),
        link: Link { view: "credentials", id: Some(name.to_owned()) },
        ..Attention::new(
            code,
            severity,
            format!("The credential {name} is limited to the domain {limit}, {what}."),
            "credentials",
        )
    })
}

impl State<'_> {
    fn list(self) -> Vec<Attention> {
        let Self { domain: Domain { name, rules, archived, .. }, apps, policy, profile, knows_images } = self;
        // Nothing is released there, so nothing is urgent.
        if archived.is_some() {
            return Vec::new();
        }
        let item = |code, severity, message, view| Attention {
            link: Link { view, id: Some(name.to_string()) },
            ..Attention::new(code, severity, message, view)
        };
        let mut list = Vec::new();
        if let Some(problem) = policy.problem {
            let message =
                format!("The policy of the domain {name} cannot decide, so nothing is released in it.");
            let unavailable = item("domain_policy_unavailable", Severity::Critical, message, "policy");
            list.push(Attention { detail: problem, ..unavailable });
        }
        if policy.is_forked {
            let message = format!("The signers of the domain {name} have signed two policies.");
            let forked = item("domain_policy_fork", Severity::Critical, message, "policy");
            list.push(Attention { detail: "see kmsctl policy history".to_owned(), ..forked });
        }
        if let Some((end, expiry)) = policy.ends {
            let (code, word) = match expiry {
                Expiry::Expired => ("domain_policy_expired", "has expired"),
                Expiry::Soon | Expiry::Far => ("domain_policy_expires", "expires"),
            };
            let message = format!("The policy bundle of the domain {name} {word}.");
            let ends = item(code, Severity::Warning, message, "policy");
            let detail = "push a newer one with kmsctl policy push".to_owned();
            list.push(Attention { by: Some(rfc3339(end)), detail, ..ends });
        }
        if let Some(problem) = policy.source_problem {
            let message =
                format!("The source of policy bundles of the domain {name} gives none that can be used.");
            let failing = item("bundle_source_failing", Severity::Warning, message, "policy");
            list.push(Attention { detail: problem, ..failing });
        }
        if rules.refuses_dev_images(name) && !knows_images && (apps > 0 || name.is_default()) {
            let message = format!(
                "Every app of the domain {name} is refused: it is not known which OS images are for development."
            );
            let unknown = item("domain_images_unknown", Severity::Warning, message, "domains");
            let detail = "core.image.verify is false: set it to true, or make a domain with allow_dev_images"
                .to_owned();
            list.push(Attention { detail, ..unknown });
        }
        if profile == Profile::Production && rules.allow_dev_images == Some(true) {
            let message =
                format!("The domain {name} admits images for development, and the profile is production.");
            let open = item("domain_dev_images", Severity::Warning, message, "domains");
            let detail = format!("remove domains.{name}.allow_dev_images, or make the domain sealed");
            list.push(Attention { detail, ..open });
        }
        if apps == 0 && !name.is_default() {
            let message = format!("No app is in the domain {name}.");
            let empty = item("domain_empty", Severity::Info, message, "domains");
            let detail =
                "an owner of the whole KMS puts one into it with kmsctl domain assign, or archives it"
                    .to_owned();
            list.push(Attention { detail, ..empty });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DomainRules;
    use crate::control::{ByOperator, DomainOrigin};

    fn domain(name: &str, rules: DomainRules) -> Domain {
        let name = name.parse().expect("a name");
        Domain { name, rules, origin: DomainOrigin::Configuration, archived: None }
    }

    fn archived(domain: Domain) -> Domain {
        Domain { archived: Some(ByOperator { since: 1, by: "token".to_owned() }), ..domain }
    }

    fn codes(domain: &Domain, apps: usize, policy: PolicyState, profile: Profile) -> Vec<String> {
        let items = State { domain, apps, policy, profile, knows_images: true }.list();
        items.into_iter().map(|item| item.code).collect()
    }

    #[test]
    fn a_domain_without_apps_with_dev_images_or_without_a_usable_policy_needs_an_operator() {
        let plain = || domain("team", DomainRules::default());
        let dev =
            |name: &str| domain(name, DomainRules { allow_dev_images: Some(true), ..Default::default() });
        let none = PolicyState::default;
        let bad = || PolicyState {
            problem: Some("unreadable".to_owned()),
            ends: Some((5, Expiry::Expired)),
            is_forked: true,
            source_problem: Some("404".to_owned()),
        };
        let soon = || PolicyState { ends: Some((5, Expiry::Soon)), ..PolicyState::default() };
        let all_of_policy = [
            "domain_policy_unavailable",
            "domain_policy_fork",
            "domain_policy_expired",
            "bundle_source_failing",
        ];
        for (domain, apps, policy, profile, expected) in [
            (plain(), 1, none(), Profile::Production, vec![]),
            (plain(), 0, none(), Profile::Standard, vec!["domain_empty"]),
            (domain("default", DomainRules::default()), 0, none(), Profile::Production, vec![]),
            (dev("team"), 1, none(), Profile::Standard, vec![]),
            (dev("team"), 1, none(), Profile::Production, vec!["domain_dev_images"]),
            (dev("default"), 0, none(), Profile::Production, vec!["domain_dev_images"]),
            (plain(), 1, bad(), Profile::Standard, all_of_policy.to_vec()),
            (plain(), 1, soon(), Profile::Standard, vec!["domain_policy_expires"]),
            (archived(dev("team")), 0, bad(), Profile::Production, vec![]),
        ] {
            assert_eq!(codes(&domain, apps, policy, profile), expected, "{domain:?} {profile:?}");
        }
    }

    #[test]
    fn a_domain_that_refuses_images_that_nobody_verifies_is_told() {
        let code = |domain: &Domain| {
            let state = State {
                domain,
                apps: 1,
                policy: PolicyState::default(),
                profile: Profile::Standard,
                knows_images: false,
            };
            state.list().into_iter().map(|item| item.code).collect::<Vec<_>>()
        };
        let sealed = DomainRules { sealed: true, ..DomainRules::default() };
        let open = DomainRules { allow_dev_images: Some(true), ..DomainRules::default() };
        for (name, rules, expected) in [
            ("team", DomainRules::default(), vec!["domain_images_unknown"]),
            ("default", sealed, vec!["domain_images_unknown"]),
            ("team", open, vec![]),
            ("default", DomainRules::default(), vec![]),
        ] {
            assert_eq!(code(&domain(name, rules.clone())), expected, "{name} {rules:?}");
        }
    }

    #[test]
    fn a_credential_of_a_domain_that_is_gone_or_archived_is_told() {
        let team = domain("team", DomainRules::default());
        let code = |known: Option<&Domain>| of_credential("bob", &team.name, known).map(|item| item.code);
        assert_eq!(code(None).as_deref(), Some("credential_domain_gone"));
        assert_eq!(code(Some(&archived(team.clone()))).as_deref(), Some("credential_domain_archived"));
        assert_eq!(code(Some(&team)), None);
    }
}
