//! What a certificate request may ask for: an app's certificate can never pass as the KMS's.

use std::net::IpAddr;
use std::time::SystemTime;

use kms_attest::certificate::{CertificateSpec, LAST_SECOND, LONG_AGO, Role, Validity};
use kms_attest::csr::Csr;
use kms_attest::identity::AppInfo;

use super::{APP_CA_NAME, APP_LEAF, ROOT_CA_NAME, TEMP_CA_NAME};
use crate::domain::{Domain, ReservedName, ends_in_a_number};

const MAX_NAMES: usize = 32;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The names under which this KMS and others of its cluster are known. No certificate of an app may carry one.
#[derive(Debug, Clone)]
pub struct OwnNames {
    own: Vec<String>,
    reserved: Vec<ReservedName>,
}

impl OwnNames {
    /// The domain of the RPC certificate and any further names and addresses of this KMS.
    pub fn new(domain: &Domain, further: impl IntoIterator<Item = String>) -> Self {
        let own = [domain.as_str().to_owned()].into_iter().chain(further).collect();
        OwnNames { own, reserved: Vec::new() }
    }

    /// With names of the cluster that are not this node's own (`core.reserved_domains`).
    #[must_use]
    pub fn reserving(self, names: impl IntoIterator<Item = ReservedName>) -> Self {
        OwnNames { reserved: self.reserved.into_iter().chain(names).collect(), ..self }
    }

    /// Refuses a name that would make a client accept the certificate for one of these.
    fn refuse(&self, name: &str) -> Result<(), RestrictionError> {
        let plain = name.trim();
        if self.own.iter().any(|own| claims(plain, own)) {
            Err(RestrictionError::OwnName(name.to_owned()))
        } else if self.reserved.iter().any(|reserved| claims(plain, reserved.as_str())) {
            Err(RestrictionError::ReservedName(name.to_owned()))
        } else {
            Ok(())
        }
    }
}

/// A certificate request within its limits: the only thing [`app_chain`](super::app_chain) issues a certificate for.
///
/// It does not contain app id, app info, usage or CA flag, because a request must not choose them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restricted {
    spki: Vec<u8>,
    organization: Option<String>,
    common_name: String,
    names: Vec<String>,
    validity: Validity,
    role: Role,
    shows_app_info: bool,
    evidence: Option<Vec<u8>>,
}

/// Why a certificate request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestrictionError {
    /// Too many subject alternative names.
    #[error("at most {MAX_NAMES} subject alternative names are allowed, got {0}")]
    TooManyNames(usize),
    /// A subject alternative name that is neither a DNS name nor an IP address.
    #[error("subject alternative name {} is neither a DNS name of at most {MAX_NAME} bytes nor an IP address", .0 + 1)]
    BadName(usize),
    /// Subject or organization is too long or has control characters.
    #[error("{0} must be text of at most {MAX_NAME} bytes without control characters")]
    BadText(&'static str),
    /// A name of this KMS or of its authorities.
    #[error("{0} is a name of this KMS, no app may have it")]
    OwnName(String),
    /// A name that the operator keeps for the cluster.
    #[error("{0} is reserved for a KMS of this cluster, no app may have it")]
    ReservedName(String),
    /// A date that X.509 cannot express.
    #[error("{0} is after 9999-12-31T23:59:59Z")]
    Date(&'static str),
    /// The certificate would never be valid.
    #[error("not_after must be later than not_before, and not_before earlier than {latest}")]
    DateOrder {
        /// Unix time of the last second that a certificate issued now may have.
        latest: u64,
    },
}

impl Restricted {
    /// Applies the limits to a request. The caller must have verified its evidence: here it is only copied.
    pub fn parse(csr: &Csr, own: &OwnNames, now: SystemTime) -> Result<Self, RestrictionError> {
        let organization =
            csr.org_name.as_deref().map(|text| plain_text("organization", text)).transpose()?;
        let common_name = plain_text("subject", &csr.subject)?;
        if [ROOT_CA_NAME, TEMP_CA_NAME, APP_CA_NAME]
            .iter()
            .any(|ca| ca.eq_ignore_ascii_case(common_name.trim()))
        {
            return Err(RestrictionError::OwnName(common_name));
        }
        own.refuse(&common_name)?;
        if csr.subject_alt_names.len() > MAX_NAMES {
            return Err(RestrictionError::TooManyNames(csr.subject_alt_names.len()));
        }
        for (position, name) in csr.subject_alt_names.iter().enumerate() {
            if name.parse::<IpAddr>().is_err() && !is_dns_name(name) {
                return Err(RestrictionError::BadName(position));
            }
            own.refuse(name)?;
        }
        Ok(Restricted {
            spki: csr.spki.clone(),
            organization,
            common_name,
            names: csr.subject_alt_names.clone(),
            validity: dates(csr, now)?,
            role: Role::Leaf { server_auth: csr.usage_server_auth, client_auth: csr.usage_client_auth },
            shows_app_info: csr.ext_app_info,
            evidence: csr.ext_quote.then(|| csr.evidence.stripped().encode()),
        })
    }

    /// Subject CN of the certificate.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Subject alternative names of the certificate.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// First and last second of the certificate.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    pub(super) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The payload of the app info extension, if the request asks for it: what was verified, whatever its
    /// evidence says.
    pub(super) fn app_info(&self, verified: &AppInfo) -> Option<Vec<u8>> {
        self.shows_app_info.then(|| verified.to_msgpack())
    }

    pub(super) fn spec(&self) -> CertificateSpec<'_> {
        CertificateSpec {
            organization: self.organization.as_deref(),
            common_name: &self.common_name,
            names: &self.names,
            validity: self.validity,
            role: self.role,
            app_id: None,
            app_info: None,
            usage: None,
            evidence: self.evidence.as_deref(),
        }
    }
}

/// Keeps the dates within the lifetime of the app CA: a later end is cut to it, an earlier start to 1975.
fn dates(csr: &Csr, now: SystemTime) -> Result<Validity, RestrictionError> {
    let latest = APP_LEAF.end(now);
    let limits = [("not_before", csr.not_before), ("not_after", csr.not_after)];
    if let Some((date, _)) = limits.into_iter().find(|(_, date)| date.is_some_and(|date| date > LAST_SECOND))
    {
        return Err(RestrictionError::Date(date));
    }
    let not_before = csr.not_before.map_or(LONG_AGO, |date| date.max(LONG_AGO));
    let not_after = csr.not_after.map_or(latest, |date| date.min(latest));
    if not_after <= not_before {
        return Err(RestrictionError::DateOrder { latest });
    }
    Ok(Validity { not_before, not_after })
}

fn plain_text(field: &'static str, text: &str) -> Result<String, RestrictionError> {
    if text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(RestrictionError::BadText(field));
    }
    Ok(text.to_owned())
}

/// Letters, digits, hyphens and underscores in labels; `*` only as the whole first label; no number at the end, which
/// clients read as an address.
fn is_dns_name(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_NAME && rest.split('.').all(is_label) && !ends_in_a_number(rest)
}

/// Whether `name` in a certificate matches a server called `own`: the same address, the same name in any case and with
/// or without a final dot, or a wildcard over it.
fn claims(name: &str, own: &str) -> bool {
    if let (Ok(name), Ok(own)) = (name.parse::<IpAddr>(), own.parse::<IpAddr>()) {
        return name.to_canonical() == own.to_canonical();
    }
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let (name, own) = (plain(name), plain(own));
    match name.split_once('.') {
        // A wildcard covers one label, but some clients let it stand for several.
        Some((label, parent)) if label.contains('*') => {
            own.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
        }
        _ => name == own || name == "*",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, request, vectors};
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn csr() -> Csr {
        let mut csr = request(&vectors(), "v2-config3-attestation-v0");
        csr.subject = "app".to_owned();
        csr
    }

    fn parse(csr: &Csr) -> Result<Restricted, RestrictionError> {
        let domain = Domain::parse("kms.example.com").unwrap();
        let own = OwnNames::new(&domain, ["10.0.2.2".to_owned(), "Backup.KMS.example".to_owned()]);
        Restricted::parse(csr, &own, at(NOW))
    }

    fn with_name(name: &str) -> Result<Restricted, RestrictionError> {
        parse(&Csr { subject_alt_names: vec!["first.example".to_owned(), name.to_owned()], ..csr() })
    }

    #[test]
    fn names_of_apps_are_taken_as_they_are() {
        let longest = format!("{}.{}", [&*"a".repeat(63); 3].join("."), "b".repeat(61));
        let names = [
            "app.example.com",
            "example.com",
            "notkms.example.com",
            "sub.kms.example.com",
            "*.apps.example.com",
            "*.kms.example.com",
            "localhost",
            "a_b",
            "10.0.2.3",
            "::1",
            &longest,
        ];
        for name in names {
            assert_eq!(with_name(name).unwrap().names()[1], name);
        }
    }

    #[test]
    fn names_of_this_kms_are_refused_in_every_spelling() {
        let names = [
            "kms.example.com",
            "KMS.Example.COM",
            "*.example.com",
            "*.com",
            "*.EXAMPLE.com",
            "10.0.2.2",
            "::ffff:10.0.2.2",
            "::ffff:a00:202",
            "backup.kms.example",
        ];
        for name in names {
            let error = with_name(name).unwrap_err();
            assert_eq!(error, RestrictionError::OwnName(name.to_owned()));
            assert_eq!(error.to_string(), format!("{name} is a name of this KMS, no app may have it"));
        }
        let further = [
            "kms.example.com.",
            " kms.example.com ",
            "k*.example.com",
            "*",
            "Dstack KMS CA",
            "dstack app ca",
        ];
        for subject in names.into_iter().chain(further).chain(["Dstack Client Temp CA"]) {
            let error = parse(&Csr { subject: subject.to_owned(), ..csr() }).unwrap_err();
            assert_eq!(error, RestrictionError::OwnName(subject.to_owned()));
        }
    }

    #[test]
    fn names_of_the_cluster_are_refused_in_every_spelling() {
        let domain = Domain::parse("kms1.example.com").unwrap();
        let reserved = ["KMS2.cluster.example", "10.0.2.9", "fd00::9", "balancer"];
        let own =
            OwnNames::new(&domain, []).reserving(reserved.map(|name| ReservedName::parse(name).unwrap()));
        let refused = |name: &str| {
            let by_name =
                Restricted::parse(&Csr { subject_alt_names: vec![name.to_owned()], ..csr() }, &own, at(NOW));
            let by_subject = Restricted::parse(&Csr { subject: name.to_owned(), ..csr() }, &own, at(NOW));
            assert_eq!(by_name.is_err(), by_subject.is_err(), "{name}");
            by_name.err()
        };
        for name in [
            "kms2.cluster.example",
            "Kms2.Cluster.Example",
            "*.cluster.example",
            "*.example",
            "10.0.2.9",
            "::ffff:10.0.2.9",
            "FD00:0:0::9",
            "BALANCER",
        ] {
            let error = refused(name).unwrap();
            assert_eq!(error, RestrictionError::ReservedName(name.to_owned()));
            assert_eq!(
                error.to_string(),
                format!("{name} is reserved for a KMS of this cluster, no app may have it")
            );
        }
        assert_eq!(
            refused("kms1.example.com"),
            Some(RestrictionError::OwnName("kms1.example.com".to_owned()))
        );
        for name in ["kms3.cluster.example", "cluster.example", "10.0.2.8", "fd00::8", "balancer.example"] {
            assert_eq!(refused(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_neither_a_dns_name_nor_an_address_is_refused_by_position() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long = format!("{}.{}", [&*"a".repeat(63); 3].join("."), "b".repeat(62));
        let names = [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "-a",
            "a-",
            "*",
            "*.",
            "a*.b",
            "a.*.b",
            "**.b",
            "a:1",
            "[::1]",
            "1.2.3",
            "10.0.0.256",
            "127.0.0.0x1",
            "a/b",
            "a@b",
            "bücher.example",
            "a\0b",
            &long_label,
            &long,
        ];
        for name in names {
            let error = with_name(name).unwrap_err();
            assert_eq!(error, RestrictionError::BadName(1), "{name:?}");
            assert!(error.to_string().starts_with("subject alternative name 2 is neither"), "{error}");
        }
    }

    #[test]
    fn at_most_32_names_are_taken() {
        let names = |count: usize| (0..count).map(|number| format!("n{number}.example")).collect();
        assert!(parse(&Csr { subject_alt_names: names(32), ..csr() }).is_ok());
        let error = parse(&Csr { subject_alt_names: names(33), ..csr() }).unwrap_err();
        assert_eq!(error.to_string(), "at most 32 subject alternative names are allowed, got 33");
    }

    #[test]
    fn subjects_are_short_plain_text() {
        for text in ["", "app", "Ünïcode & Co.", &"x".repeat(253)] {
            let request =
                parse(&Csr { subject: text.to_owned(), org_name: Some(text.to_owned()), ..csr() }).unwrap();
            assert_eq!(request.common_name(), text);
        }
        for text in ["a\0b", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(254)] {
            let error = parse(&Csr { subject: text.to_owned(), ..csr() }).unwrap_err();
            assert_eq!(error, RestrictionError::BadText("subject"), "{text:?}");
            let error = parse(&Csr { org_name: Some(text.to_owned()), ..csr() }).unwrap_err();
            assert_eq!(error, RestrictionError::BadText("organization"), "{text:?}");
        }
    }

    #[test]
    fn dates_are_cut_to_the_life_of_the_app_ca_and_in_order() {
        let latest = NOW + 3650 * 24 * 60 * 60;
        let dates =
            |not_before, not_after| parse(&Csr { not_before, not_after, ..csr() }).map(|csr| csr.validity());
        let taken = [
            (None, None, LONG_AGO, latest),
            (Some(0), Some(LAST_SECOND), LONG_AGO, latest),
            (Some(NOW), Some(NOW + 1), NOW, NOW + 1),
            (Some(latest - 1), None, latest - 1, latest),
        ];
        for (not_before, not_after, first, last) in taken {
            assert_eq!(dates(not_before, not_after), Ok(Validity { not_before: first, not_after: last }));
        }
        let order = RestrictionError::DateOrder { latest };
        let refused = [
            (Some(LAST_SECOND + 1), None, RestrictionError::Date("not_before")),
            (Some(u64::MAX), Some(0), RestrictionError::Date("not_before")),
            (None, Some(LAST_SECOND + 1), RestrictionError::Date("not_after")),
            (None, Some(u64::MAX), RestrictionError::Date("not_after")),
            (Some(NOW), Some(NOW), order.clone()),
            (Some(NOW + 1), Some(NOW), order.clone()),
            (Some(latest), None, order.clone()),
            (None, Some(0), order),
        ];
        for (not_before, not_after, error) in refused {
            assert_eq!(dates(not_before, not_after), Err(error), "{not_before:?} {not_after:?}");
        }
    }

    #[test]
    fn no_request_sets_usage_app_id_or_ca_flag() {
        let csr = Csr { usage_server_auth: true, usage_client_auth: true, ..csr() };
        let request = parse(&csr).unwrap();
        let spec = request.spec();
        assert_eq!((spec.usage, spec.app_id, spec.app_info), (None, None, None));
        assert_eq!(spec.role, Role::Leaf { server_auth: true, client_auth: true });
    }
}
