//! Cross-site request checks: pages of other sites may not use what an operator's browser can reach.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Method as Verb, Uri, header};

/// Whether a browser sent this for a page that is not ours. Such a page could otherwise call whatever the
/// operator's browser can reach, with the credentials that the browser stores. Browsers state the origin in
/// headers that a page cannot change; other programs send none of them.
pub(super) fn is_of_another_site(verb: &Verb, uri: &Uri, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        // `none` is a typed address, or a link in another program; `is_by_browser` keeps these from changing
        // state.
        return site != "same-origin" && site != "none";
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        // HTTP/2 has the host in the URI.
        let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(header::HOST));
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        return match (origin, host) {
            (Some(origin), Some(host)) => !origin.eq_ignore_ascii_case(host),
            _ => true,
        };
    }
    // Without TLS, browsers omit both headers on a GET, which an image or a link on any page can cause.
    let is_browser = text(header::USER_AGENT).is_some_and(|agent| agent.contains("Mozilla/"))
        && headers.contains_key(header::ACCEPT_LANGUAGE);
    is_browser && matches!(*verb, Verb::GET | Verb::HEAD)
}

/// Whether a browser sent the request, from whatever page: a link in an e-mail counts as a typed address.
pub(super) fn is_by_browser(headers: &HeaderMap) -> bool {
    headers.contains_key("sec-fetch-site")
}

/// The names by which a listener may be called, beside IP addresses and `localhost`. With any other name a page of
/// that name, which its owner lets resolve to this listener (DNS rebinding), counts as a page of this site.
#[derive(Debug, Default)]
pub struct OwnNames(Vec<String>);

impl OwnNames {
    /// Keeps `names`, which are compared without regard to case.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(str::to_ascii_lowercase).collect())
    }

    /// Whether a request is for one of them. One that names no host was not sent by a browser.
    pub(super) fn include(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let hosts = headers.get_all(header::HOST).into_iter().map(|host| host.to_str().unwrap_or_default());
        let authority = uri.authority().map(|authority| authority.as_str());
        hosts.chain(authority).all(|host| self.includes(host))
    }

    fn includes(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        address.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.0.contains(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_own_names_are_hosts_of_this_listener() {
        let names = OwnNames::new(["KMS.example.com"]);
        let is_own = |host: &str| names.include(&Uri::from_static("/"), &map(&[("host", host)]));
        for host in [
            "127.0.0.1",
            "127.0.0.1:8001",
            "10.0.0.5:8001",
            "[::1]:8001",
            "[fd00::1]",
            "localhost:8001",
            "LOCALHOST",
            "a.localhost",
            "localhost.",
            "kms.example.com",
            "kms.EXAMPLE.com:8001",
        ] {
            assert!(is_own(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8001",
            "kms.example.com.evil.example",
            "xkms.example.com",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "localhost.evil.example",
            "1.evil.example:8001",
            "[::1",
            "kms",
            "a b",
        ] {
            assert!(!is_own(host), "{host}");
        }
        assert!(names.include(&Uri::from_static("/"), &map(&[])), "no browser");
        let (fine, evil) =
            (Uri::from_static("http://127.0.0.1/x"), Uri::from_static("http://evil.example/x"));
        assert!(names.include(&fine, &map(&[])) && !names.include(&evil, &map(&[])));
        assert!(!names.include(&fine, &map(&[("host", "evil.example")])), "both count");
        assert!(!names.include(&evil, &map(&[("host", "127.0.0.1")])), "both count");
    }

    const BROWSER: [(&str, &str); 2] =
        [("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("accept-language", "en-US")];

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn is_foreign(verb: Verb, headers: &[(&'static str, &str)]) -> bool {
        is_of_another_site(&verb, &Uri::from_static("/"), &map(headers))
    }

    #[test]
    fn programs_that_are_no_browsers_are_nobodys_page() {
        for headers in [
            &[][..],
            &[("user-agent", "curl/8.5.0"), ("host", "10.0.0.5:8000")],
            &[("user-agent", "Mozilla/5.0 (Windows NT) WindowsPowerShell/5.1")],
            &[("user-agent", "node"), ("accept-language", "*"), ("sec-fetch-mode", "cors")],
        ] {
            assert!(!is_foreign(Verb::GET, headers), "{headers:?}");
            assert!(!is_foreign(Verb::POST, headers), "{headers:?}");
        }
    }

    #[test]
    fn a_browser_says_where_a_request_comes_from() {
        for (site, foreign) in
            [("same-origin", false), ("none", false), ("cross-site", true), ("same-site", true), ("", true)]
        {
            for verb in [Verb::GET, Verb::POST] {
                assert_eq!(is_foreign(verb, &[("sec-fetch-site", site)]), foreign, "{site}");
            }
        }
        for (origin, foreign) in [
            ("http://kms:8000", false),
            ("https://kms:8000", false),
            ("https://KMS:8000", false),
            ("http://kms:9000", true),
            ("http://kms", true),
            ("kms:8000", true),
            ("http://evil.example", true),
            ("null", true),
        ] {
            let headers = [("host", "kms:8000"), ("origin", origin)];
            assert_eq!(is_foreign(Verb::POST, &headers), foreign, "{origin}");
            let (uri, headers) = (Uri::from_static("http://kms:8000/x"), map(&[("origin", origin)]));
            assert_eq!(is_of_another_site(&Verb::POST, &uri, &headers), foreign, "HTTP/2: {origin}");
        }
        assert!(is_foreign(Verb::POST, &[("origin", "http://kms:8000")]), "of no host");
    }

    #[test]
    fn where_a_browser_says_nothing_it_may_not_change_anything() {
        assert!(is_foreign(Verb::GET, &BROWSER));
        assert!(is_foreign(Verb::HEAD, &BROWSER));
        assert!(!is_foreign(Verb::POST, &BROWSER), "a browser's POST has an origin");
    }

    #[test]
    fn a_browser_is_known_by_saying_whose_page_it_shows() {
        for site in ["none", "same-origin", "cross-site"] {
            assert!(is_by_browser(&map(&[("Sec-Fetch-Site", site)])), "{site}");
        }
        for headers in [[("user-agent", "curl/8.5.0")], [("sec-fetch-mode", "cors")], [("sec-ch-ua", "x")]] {
            assert!(!is_by_browser(&map(&headers)), "{headers:?}");
        }
    }
}
