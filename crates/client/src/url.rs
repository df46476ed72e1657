//! The URL of a KMS: `https`, with or without `/prpc`, with or without trailing slashes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use rustls_pki_types::ServerName;

/// The longest URL: longer than any real one, short enough to print.
const MAX_LENGTH: usize = 1024;
const DEFAULT_PORT: u16 = 443;
const SUFFIX: &str = "/prpc";

/// The URL of a KMS. The path always ends in `/prpc`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KmsUrl {
    authority: Authority,
    base: String,
    host: ServerName<'static>,
    port: u16,
}

/// Why a text is not the URL of a KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all, or one without host.
    #[error("not a URL: expected https://host[:port][/path]")]
    Malformed,
    /// Another scheme: keys are never sent over plain HTTP.
    #[error("the URL of a KMS starts with https://")]
    NotHttps,
    /// User name or password in the URL.
    #[error("the URL of a KMS has no user name or password")]
    Credentials,
    /// Something after the path.
    #[error("the URL of a KMS has no query and no fragment")]
    Query,
    /// The host is neither a DNS name nor an IP address.
    #[error("the host is neither a DNS name nor an IP address")]
    Host,
    /// Too long.
    #[error("the URL is longer than {MAX_LENGTH} bytes")]
    TooLong,
}

impl KmsUrl {
    /// The host as TLS sees it: a DNS name (sent as SNI) or an IP address.
    pub fn server_name(&self) -> &ServerName<'static> {
        &self.host
    }

    /// The host as text, IPv6 addresses without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            ServerName::IpAddress(address) => IpAddr::from(*address).to_string(),
            name => name.to_str().into_owned(),
        }
    }

    /// The port; 443 unless the URL names one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same URL with another port.
    pub(crate) fn at_port(&self, port: u16) -> Result<Self, UrlError> {
        format!("https://{}:{port}{}", self.authority.host(), self.base).parse()
    }

    /// `/…` outside the methods.
    pub(crate) fn path(&self, path: &str) -> Option<PathAndQuery> {
        format!("{}{path}", self.base.strip_suffix(SUFFIX).unwrap_or_default()).parse().ok()
    }

    /// The port, or another default if none is given.
    pub(crate) fn port_or(&self, default: u16) -> u16 {
        if self.authority.port().is_some() { self.port } else { default }
    }

    /// `/…/prpc`
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// `<base>/<method>?json`, the JSON form of a call.
    pub(crate) fn method_path(&self, method: &str) -> Option<PathAndQuery> {
        let named = !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        named.then(|| format!("{}/{method}?json", self.base).parse().ok()).flatten()
    }
}

impl FromStr for KmsUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_LENGTH {
            return Err(UrlError::TooLong);
        }
        // `Uri` silently drops fragments.
        if text.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {}
            Some(_) => return Err(UrlError::NotHttps),
            None => return Err(UrlError::Malformed),
        }
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::Credentials);
        }
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = ServerName::try_from(bare.to_owned()).map_err(|_| UrlError::Host)?;
        let after_host = &authority.as_str()[authority.host().len()..];
        let port = match after_host.strip_prefix(':') {
            None => DEFAULT_PORT,
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Malformed)?,
        };

        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix(SUFFIX).unwrap_or(path).trim_end_matches('/');
        Ok(Self { authority: authority.clone(), base: format!("{path}{SUFFIX}"), host, port })
    }
}

/// `https://host[:port]/…/prpc`.
impl fmt::Display for KmsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority, self.base)
    }
}

impl fmt::Debug for KmsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_names_the_same_base() {
        for text in [
            "https://kms.example:8000",
            "https://kms.example:8000/",
            "https://kms.example:8000//",
            "https://kms.example:8000/prpc",
            "https://kms.example:8000/prpc/",
            "https://kms.example:8000//prpc//",
            "HTTPS://kms.example:8000",
        ] {
            let url: KmsUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), "https://kms.example:8000/prpc", "{text}");
            assert_eq!((url.host().as_str(), url.port()), ("kms.example", 8000), "{text}");
            assert_eq!(url.method_path("GetMeta").expect("path"), "/prpc/GetMeta?json");
        }
    }

    #[test]
    fn a_path_before_prpc_is_kept() {
        let url: KmsUrl = "https://h/kms/a/".parse().expect("url");
        assert_eq!(url.method_path("GetMeta").expect("path"), "/kms/a/prpc/GetMeta?json");
    }

    #[test]
    fn the_default_port_is_443_and_addresses_are_hosts() {
        for (text, host, port) in [
            ("https://10.0.2.2", "10.0.2.2", 443),
            ("https://10.0.2.2:12001/prpc", "10.0.2.2", 12001),
            ("https://[::1]:8000", "::1", 8000),
            ("https://[fd00::1]", "fd00::1", 443),
        ] {
            let url: KmsUrl = text.parse().expect(text);
            assert_eq!((url.host().as_str(), url.port()), (host, port));
            assert!(matches!(url.server_name(), ServerName::IpAddress(_)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let long = format!("https://h/{}", "a".repeat(MAX_LENGTH));
        for (text, expected) in [
            ("http://kms.example:8000", UrlError::NotHttps),
            ("ftp://kms.example", UrlError::NotHttps),
            ("kms.example:8000", UrlError::Malformed),
            ("/prpc", UrlError::Malformed),
            ("", UrlError::Malformed),
            ("https://", UrlError::Malformed),
            ("https://host:0", UrlError::Malformed),
            ("https://host:65536", UrlError::Malformed),
            ("https://ho st", UrlError::Malformed),
            ("https://user:secret@host", UrlError::Credentials),
            ("https://user@host", UrlError::Credentials),
            ("https://host/prpc?json", UrlError::Query),
            ("https://host/#part", UrlError::Query),
            ("https://-host-", UrlError::Host),
            (&long, UrlError::TooLong),
        ] {
            assert_eq!(text.parse::<KmsUrl>().expect_err(text), expected, "{text}");
        }
    }

    #[test]
    fn a_method_name_cannot_leave_its_segment() {
        let url: KmsUrl = "https://h".parse().expect("url");
        for method in ["", "../Finish", "GetMeta/..", "GetMeta?x", "a b", "Ä"] {
            assert!(url.method_path(method).is_none(), "{method}");
        }
        assert!(url.method_path("Onboard.Bootstrap").is_some());
    }
}
