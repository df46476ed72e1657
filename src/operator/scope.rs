//! What an operator may see and change: the whole KMS, or one domain of it.

use kms_attest::identity::DomainName;

/// What an operator may see and change. Authentication makes one for each request, and each function that lists records or
/// changes something of an app demands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainScope {
    /// `None` for the whole KMS.
    limit: Option<Limit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    domain: DomainName,
    /// Whether this KMS has no other domain, so that what is about the whole KMS may be read too.
    others: Others,
}

/// Whether a KMS has further domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// It has one domain.
    None,
    /// It has more.
    Some,
}

impl DomainScope {
    /// The whole KMS.
    pub const WHOLE_KMS: Self = Self { limit: None };

    /// The scope of a credential that is limited to one domain.
    pub fn limited(domain: DomainName, others: Others) -> Self {
        Self { limit: Some(Limit { domain, others }) }
    }

    /// The domain to which it is limited.
    pub fn limit(&self) -> Option<&DomainName> {
        self.limit.as_ref().map(|limit| &limit.domain)
    }

    /// The domain, if nothing but what is in it may be read.
    pub fn only(&self) -> Option<&DomainName> {
        self.limit().filter(|_| !self.reads_whole_kms())
    }

    /// Whether what belongs to a domain is in it.
    pub fn has(&self, domain: &DomainName) -> bool {
        self.limit().is_none_or(|own| own == domain)
    }

    /// Whether what is about the whole KMS may be read.
    pub fn reads_whole_kms(&self) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.others == Others::None)
    }

    /// Whether it is still right where there are these other domains: one that reads the whole KMS because there was one domain
    /// is not, once there are more.
    pub fn is_current(&self, others: Others) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.others == others)
    }

    /// Whether a record may be read that belongs to this domain, or to none because it is about the whole KMS.
    pub fn reads(&self, domain: Option<&DomainName>) -> bool {
        match domain {
            Some(domain) => self.has(domain),
            None => self.reads_whole_kms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_what_belongs_to_the_domain_and_alone_also_what_belongs_to_none() {
        let sandbox: DomainName = "sandbox".parse().expect("a name");
        let default = DomainName::DEFAULT;
        for (scope, of_default, of_sandbox, of_none) in [
            (DomainScope::WHOLE_KMS, true, true, true),
            (DomainScope::limited(default.clone(), Others::None), true, false, true),
            (DomainScope::limited(default.clone(), Others::Some), true, false, false),
            (DomainScope::limited(sandbox.clone(), Others::Some), false, true, false),
        ] {
            let found = (scope.reads(Some(&default)), scope.reads(Some(&sandbox)), scope.reads(None));
            assert_eq!(found, (of_default, of_sandbox, of_none), "{scope:?}");
            assert_eq!(scope.is_current(Others::Some), scope.limit().is_none() || !of_none, "{scope:?}");
        }
    }
}
