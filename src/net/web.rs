//! The setup page and the console, embedded in the program; they load nothing from other sites.

mod files;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::api::openapi;
use files::{CONSOLE, DOCS, File, Kind, ONBOARDING};

/// A page may load its own files and call its own server, nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Where the console's page says whether it has to ask for a credential.
const CREDENTIALS_NEEDED: &str = "data-credentials=\"needed\"";
const CREDENTIALS_NOT_NEEDED: &str = "data-credentials=\"not-needed\"";

/// Whether callers of the admin listener have to show a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignIn {
    /// The console asks for one.
    Required,
    /// The configuration says that none is needed.
    NotNeeded,
}

/// The setup page of a KMS without keys. It is read once, and another page follows at the same address.
pub(super) fn onboarding() -> Router {
    ONBOARDING.iter().fold(Router::new(), |router, file| {
        router.route(file.path, get(move || async move { uncached(file) }))
    })
}

/// The console of the admin listener. Browsers keep its files, and ask each time whether they are current.
pub fn console(sign_in: SignIn) -> Router {
    CONSOLE.iter().chain(DOCS).fold(description(), |router, file| {
        let content = match (file.kind, sign_in) {
            (Kind::Html, SignIn::NotNeeded) => {
                Vec::from(file.content.replace(CREDENTIALS_NEEDED, CREDENTIALS_NOT_NEEDED)).into()
            }
            (Kind::Html | Kind::Css | Kind::Script | Kind::Svg, _) => {
                bytes::Bytes::from_static(file.content.as_bytes())
            }
        };
        let tag = entity_tag(&content);
        router
            .route(file.path, get(move |asked: HeaderMap| async move { cached(file, content, tag, &asked) }))
    })
}

/// `/openapi.json`, made when it is first asked for.
fn description() -> Router {
    let made: Arc<OnceLock<bytes::Bytes>> = Arc::default();
    Router::new().route(
        "/openapi.json",
        get(move |asked: HeaderMap| async move {
            let content = made.get_or_init(|| openapi::document().to_string().into()).clone();
            let tag = entity_tag(&content);
            let is_known = asked.get(header::IF_NONE_MATCH) == Some(&tag);
            let mut answer = Response::new(if is_known { Body::empty() } else { Body::from(content) });
            if is_known {
                *answer.status_mut() = StatusCode::NOT_MODIFIED;
            }
            let headers = answer.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::ETAG, tag);
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            answer
        }),
    )
}

fn entity_tag(content: &[u8]) -> HeaderValue {
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(content)[..12]));
    HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

fn uncached(file: &'static File) -> Response {
    let mut answer = with_headers(file, Body::from(file.content));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn cached(file: &'static File, content: bytes::Bytes, tag: HeaderValue, asked: &HeaderMap) -> Response {
    let is_known = asked.get(header::IF_NONE_MATCH) == Some(&tag);
    let mut answer = with_headers(file, if is_known { Body::empty() } else { Body::from(content) });
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Not for the setup page: over plain HTTP, which it may be read by, browsers ignore it and complain.
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
    answer
}

fn with_headers(file: &'static File, body: Body) -> Response {
    let mut answer = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, file.kind.media_type()),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routes::{Route, Verb};
    use crate::api::{Access, Service};

    #[test]
    fn the_table_has_every_file_and_leaves_it_open() {
        for (service, files) in
            [(Service::Onboard, ONBOARDING), (Service::Admin, CONSOLE), (Service::Admin, DOCS)]
        {
            for File { path, .. } in files {
                let row = Route::serving(service, path).expect("a row");
                assert_eq!(row.verbs, [(Verb::Get, Access::Open)], "{path}");
            }
        }
    }

    #[test]
    fn every_file_of_the_console_is_served() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        for (part, prefix) in [
            ("console", "/assets/console/"),
            ("console/views", "/assets/console/views/"),
            ("vendor", "/assets/vendor/"),
        ] {
            for entry in std::fs::read_dir(directory.join(part)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if [".js", ".css"].iter().any(|end| name.ends_with(end)) {
                    let path = format!("{prefix}{name}");
                    assert!(
                        CONSOLE.iter().any(|file| file.path == path),
                        "{path} is not in the list of files"
                    );
                }
            }
        }
    }

    #[test]
    fn the_console_is_small_and_loads_nothing_from_elsewhere() {
        let total: usize = CONSOLE.iter().map(|file| file.content.len()).sum();
        assert!(total < 350_000, "{total} bytes");
        for File { path, content, .. } in CONSOLE {
            for elsewhere in
                ["src=\"http", "href=\"http", "url(http", "@import", "src=\"//", "href=\"//", "from 'http"]
            {
                assert!(!content.contains(elsewhere), "{path}: {elsewhere}");
            }
        }
    }

    #[test]
    fn the_page_says_whether_a_credential_is_needed() {
        let page = CONSOLE.iter().find(|file| file.path == "/").expect("the page");
        assert_eq!(page.content.matches(CREDENTIALS_NEEDED).count(), 1);
    }

    #[test]
    fn libraries_are_those_whose_checksums_are_recorded() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web/vendor");
        let sums = std::fs::read_to_string(directory.join("SHA256SUMS")).unwrap();
        let recorded: Vec<(&str, &str)> = sums.lines().filter_map(|line| line.split_once("  ")).collect();
        for (sum, name) in &recorded {
            let content = std::fs::read(directory.join(name)).unwrap();
            assert_eq!(hex::encode(Sha256::digest(content)), *sum, "{name}");
        }
        for entry in std::fs::read_dir(&directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_recorded = recorded.iter().any(|(_, known)| *known == name);
            assert!(is_recorded || ["SHA256SUMS", "README.md"].contains(&&*name), "{name} has no checksum");
        }
    }
}
