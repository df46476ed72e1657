//! The URL of a service that requests are sent to.

use std::fmt;

use url::{Host, Url};

/// An `http` or `https` URL with a host, kept as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    url: Url,
}

impl Endpoint {
    /// Parses an URL; the error says what is missing and never repeats the URL, which may hold credentials.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("must be an http or https URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must be an http or https URL".to_owned());
        }
        if url.host().is_none() {
            return Err("must be an URL with a host".to_owned());
        }
        Ok(Self { text: text.to_owned(), url })
    }

    /// The URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parsed URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether it stays on this machine: a loopback address or `localhost`.
    pub fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        }
    }

    /// Whether a redirect to `next` leaves this machine unencrypted although this URL does not.
    pub fn is_weakened_by(&self, next: &Url) -> bool {
        !self.is_exposed() && Self::parse(next.as_str()).is_ok_and(|next| next.is_exposed())
    }

    /// Whether it leaves this machine unencrypted.
    pub fn is_exposed(&self) -> bool {
        self.url.scheme() == "http" && !self.is_loopback()
    }
}

/// Scheme, host and port only: path, query and user may hold credentials.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.url.scheme(), self.url.host_str().unwrap_or_default())?;
        self.url.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_show_neither_path_nor_credentials() {
        let endpoint = Endpoint::parse("https://user:hush@kms.example.com:8443/key?token=hush").unwrap();
        assert_eq!(endpoint.to_string(), "https://kms.example.com:8443");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(https://kms.example.com:8443)");
        assert_eq!(endpoint.as_str(), "https://user:hush@kms.example.com:8443/key?token=hush");
    }

    #[test]
    fn endpoints_know_whether_they_leave_the_machine_unencrypted() {
        for (text, exposed) in [
            ("http://auth-api:8000", Some(true)),
            ("http://10.0.2.2:8001", Some(true)),
            ("https://auth.example.com", Some(false)),
            ("http://localhost:3000", Some(false)),
            ("http://127.0.0.9:3000", Some(false)),
            ("http://[::1]:3000", Some(false)),
            ("http://[::ffff:127.0.0.1]:3000", Some(false)),
            ("http://[::ffff:10.0.2.2]:3000", Some(true)),
            ("HTTP:LocalHost:3000", Some(false)),
            ("HTTP:10.0.2.2", Some(true)),
            ("http://127.1", Some(false)),
            ("http://localhost.:3000", Some(true)),
            ("http://localhost@auth-api", Some(true)),
            ("http://0.0.0.0:3000", Some(true)),
            ("http://localhost.evil.example", Some(true)),
            ("ftp://host", None),
            ("auth-api:8000", None),
            ("http://", None),
            ("", None),
        ] {
            let parsed = Endpoint::parse(text).ok();
            assert_eq!(parsed.map(|endpoint| endpoint.is_exposed()), exposed, "{text:?}");
        }
    }
}
