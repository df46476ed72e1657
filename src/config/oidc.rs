//! `[core.admin.oidc]`: operators who sign in with OpenID Connect.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_wire::role::Role;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use url::Url;

use super::file::{FileError, ca_file};
use super::reader::Section;
use super::{Endpoint, values};
use crate::operator::oidc::Rules;

/// The most groups that have a role.
const MAX_ROLES: usize = 100;
/// The longest issuer, audience or name in bytes.
const MAX_TEXT: usize = 512;
/// The largest tolerance for clocks.
const MAX_SKEW: Duration = Duration::from_secs(300);
const CA_FILE: &str = "core.admin.oidc.ca_file";

/// `[core.admin.oidc]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oidc {
    /// Where the issuer describes itself.
    pub issuer: Endpoint,
    /// Which tokens are accepted.
    pub rules: Rules,
    /// Whether the issuer's documents may come over plain HTTP from other machines.
    pub insecure_plain_http: bool,
    ca_file: Option<PathBuf>,
}

impl Oidc {
    /// The certificates that are trusted for the issuer besides the public roots. May read a file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        ca_file(CA_FILE, self.ca_file.as_deref())
    }

    /// Where the issuer's document about itself is (OpenID Connect Discovery).
    pub fn discovery(&self) -> Url {
        let mut url = self.issuer.url().clone();
        url.set_path(&format!("{}/.well-known/openid-configuration", url.path().trim_end_matches('/')));
        url
    }

    /// Whether some of its users are owners.
    pub fn has_owners(&self) -> bool {
        self.rules.roles.values().any(|role| *role == Role::Owner)
    }
}

/// `None` without an issuer.
pub(super) fn read(section: &mut Section<'_>) -> Option<Arc<Oidc>> {
    let insecure_plain_http = section.flag("insecure_plain_http");
    let issuer = section.required("issuer", None, |value| {
        let text = values::string(value)?;
        if text.is_empty() {
            return Ok(None);
        }
        let endpoint = Endpoint::parse(&text)?;
        let url = endpoint.url();
        if text.len() > MAX_TEXT || url.query().is_some() || url.fragment().is_some() {
            return Err(
                "must be a URL without query and fragment, as the issuer writes it in its tokens".to_owned()
            );
        }
        match endpoint.is_exposed() && !insecure_plain_http {
            true => Err("must be an https URL, unless insecure_plain_http is true".to_owned()),
            false => Ok(Some((text, endpoint))),
        }
    });
    let audience = section.required("audience", String::new(), text);
    let claim = section.required("claim", String::new(), text);
    let name_claim = section.required("name_claim", String::new(), text);
    let roles = section.required("roles", BTreeMap::new(), roles);
    let clock_skew = section.required("clock_skew", Duration::ZERO, |value| {
        let skew = values::duration(&values::string(value)?)?;
        skew.filter(|skew| *skew <= MAX_SKEW).ok_or_else(|| "must be from 0s to 5m".to_owned())
    });
    let ca_file = section.path("ca_file");
    let (text, issuer) = issuer?;
    for (key, is_missing) in [
        ("audience", audience.is_empty()),
        ("claim", claim.is_empty()),
        ("name_claim", name_claim.is_empty()),
        ("roles", roles.is_empty()),
    ] {
        if is_missing {
            section.find(key, "is missing: with an issuer it must be set");
        }
    }
    if ca_file.is_some() && issuer.url().scheme() == "http" {
        section.find("ca_file", "needs an https URL: over plain http nobody shows a certificate");
    }
    let rules = Rules { issuer: text, audience, claim, name_claim, roles, clock_skew };
    Some(Arc::new(Oidc { issuer, rules, insecure_plain_http, ca_file }))
}

fn text(value: Value) -> Result<String, String> {
    let text = values::string(value)?;
    if text.len() > MAX_TEXT { Err(format!("must have at most {MAX_TEXT} bytes")) } else { Ok(text) }
}

fn roles(value: Value) -> Result<BTreeMap<String, Role>, String> {
    let wrong = || {
        "must be a table of groups with the role of each, such as { \"kms-owners\" = \"owner\" }".to_owned()
    };
    let Value::Object(table) = value else { return Err(wrong()) };
    if table.len() > MAX_ROLES {
        return Err(format!("must have at most {MAX_ROLES} groups"));
    }
    let role = |(group, role): (String, Value)| {
        let role: Role =
            role.as_str().ok_or_else(wrong)?.parse().map_err(|error| format!("{group}: {error}"))?;
        Ok((group, role))
    };
    table.into_iter().map(role).collect()
}
