//! The state at one moment: each cause with its details.

use std::collections::BTreeMap;

use kms_attest::identity::DomainName;

use super::cause::{Cause, Effect};
use crate::operator::DomainScope;
use crate::proto::ReadinessReason;

/// One cause with its details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The cause.
    pub cause: Cause,
    /// Details for operators only: may name hosts and files, and quote a backend. Empty if the cause says
    /// everything, and if only domains are concerned.
    pub detail: String,
    /// The domains with a policy of their own that are concerned, each with its details.
    pub domains: BTreeMap<DomainName, String>,
}

impl Reason {
    pub(super) fn new(cause: Cause, detail: String) -> Self {
        Self { cause, detail, domains: BTreeMap::new() }
    }

    /// Whether it is about domains with a policy of their own, and not about the KMS.
    pub fn is_of_domains_only(&self) -> bool {
        self.detail.is_empty() && !self.domains.is_empty()
    }

    /// The details that an operator may read: of domains only those in `scope`.
    pub fn detail_for(&self, scope: &DomainScope) -> String {
        let own = Some(self.detail.clone()).filter(|detail| !detail.is_empty());
        let domains = self.domains.iter().filter(|(name, _)| scope.has(name));
        let of_domains = domains.map(|(name, detail)| format!("domain {name}: {detail}"));
        own.into_iter().chain(of_domains).collect::<Vec<_>>().join("; ")
    }

    /// The cause with the names of the domains, for notifications and the log.
    pub fn sentence(&self) -> String {
        let text = self.cause.text();
        let names: Vec<_> = self.domains.keys().map(DomainName::as_str).collect();
        match (names.is_empty(), self.is_of_domains_only()) {
            (true, _) => text.to_owned(),
            (false, true) => format!("{text} (domain {})", names.join(", ")),
            (false, false) => format!("{text} (also in the domain {})", names.join(", ")),
        }
    }
}

/// The state at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub(super) reasons: Vec<Reason>,
}

impl Report {
    pub(super) fn new(mut reasons: Vec<Reason>) -> Self {
        let place = |cause: Cause| Cause::ALL.iter().position(|other| *other == cause);
        reasons.sort_by_key(|reason| place(reason.cause));
        reasons.dedup_by(|next, first| {
            let is_same = next.cause == first.cause;
            if is_same {
                if first.detail.is_empty() {
                    first.detail = std::mem::take(&mut next.detail);
                }
                first.domains.append(&mut next.domains);
            }
            is_same
        });
        Self { reasons }
    }

    /// Whether requests should come here: keys are released, and no operator drains this KMS.
    pub fn is_ready(&self) -> bool {
        self.releases() && self.with(Effect::Drains).next().is_none()
    }

    /// Whether keys can be released.
    pub fn releases(&self) -> bool {
        self.with(Effect::Stops).next().is_none()
    }

    /// All reasons, in the order of [`Cause::ALL`].
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// The reasons with this effect.
    pub fn with(&self, effect: Effect) -> impl Iterator<Item = &Reason> {
        self.reasons.iter().filter(move |reason| reason.cause.effect() == effect)
    }

    /// Why [`Report::is_ready`] says no.
    pub fn not_ready(&self) -> impl Iterator<Item = &Reason> {
        self.with(Effect::Stops).chain(self.with(Effect::Drains))
    }

    /// Reasons in the public form that `GetMeta` shows.
    pub fn shown<'a>(reasons: impl Iterator<Item = &'a Reason>) -> Vec<ReadinessReason> {
        let shown = |reason: &Reason| ReadinessReason {
            code: reason.cause.name().to_owned(),
            text: reason.cause.text().to_owned(),
        };
        reasons.map(shown).collect()
    }

    /// Whether both have the same causes in the same domains, with whatever details.
    pub(super) fn has_causes_of(&self, other: &Self) -> bool {
        let causes = |report: &Self| report.reasons.iter().map(Reason::sentence).collect::<Vec<_>>();
        causes(self) == causes(other)
    }
}
