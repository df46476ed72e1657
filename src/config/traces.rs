//! `[core.traces]`: where traces of requests are sent.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use zeroize::Zeroizing;

use super::file::{FileError, ca_file, read_file};
use super::reader::Section;
use super::{Endpoint, values};

/// The most headers of a request to the collector.
const MAX_HEADERS: usize = 16;

const HEADER_FILE: &str = "core.traces.header_file";
const CA_FILE: &str = "core.traces.ca_file";

/// `[core.traces]`: a collector of traces by OTLP over HTTP.
#[derive(Clone)]
pub struct Traces {
    /// The URL for traces; `None`: nothing is traced.
    pub endpoint: Option<Endpoint>,
    /// The share of requests that are traced, 0 to 1.
    pub sample_ratio: f64,
    /// The longest time that a request to the collector takes.
    pub timeout: Duration,
    header_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("sample_ratio", &self.sample_ratio).finish_non_exhaustive()
    }
}

/// Why the files of `[core.traces]` are unusable.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of headers has a line that is not one.
    #[error("{HEADER_FILE} must have at most {MAX_HEADERS} lines \"name: value\"; line {0} is not one")]
    Header(usize),
}

impl Traces {
    /// The headers of each request to the collector, such as a token. May read a file.
    ///
    /// # Errors
    /// [`TracesError`].
    pub fn headers(&self) -> Result<HeaderMap, TracesError> {
        let mut headers = HeaderMap::new();
        let Some(path) = &self.header_file else { return Ok(headers) };
        let content = Zeroizing::new(read_file(HEADER_FILE, path)?);
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let wrong = || TracesError::Header(index + 1);
            let (name, mut value) = header(line).filter(|_| headers.len() < MAX_HEADERS).ok_or_else(wrong)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// The certificates that are trusted for the collector besides the public roots. May read a file.
    ///
    /// # Errors
    /// [`TracesError`].
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TracesError> {
        Ok(ca_file(CA_FILE, self.ca_file.as_deref())?)
    }
}

/// The header of a line `name: value`.
fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
    Some((name, HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?))
}

pub(super) fn read(section: &mut Section<'_>) -> Traces {
    let plain_http = section.flag("insecure_plain_http");
    let endpoint = section.optional("endpoint", |value| match value.as_str() {
        Some("") => Ok(None),
        _ => match values::endpoint(value)? {
            url if url.is_exposed() && !plain_http => {
                Err("must be an https URL, unless insecure_plain_http is true".to_owned())
            }
            url => Ok(Some(url)),
        },
    });
    let endpoint = endpoint.flatten();
    let [header_file, ca_file] = ["header_file", "ca_file"].map(|key| section.path(key));
    if ca_file.is_some() && endpoint.as_ref().is_some_and(|url| url.url().scheme() == "http") {
        section.find("ca_file", "needs an https URL: over plain http nobody shows a certificate");
    }
    Traces {
        endpoint,
        sample_ratio: section.required("sample_ratio", 0.0, ratio),
        timeout: section.required("timeout", Duration::from_secs(5), limit),
        header_file,
        ca_file,
    }
}

fn ratio(value: Value) -> Result<f64, String> {
    let ratio = value.as_f64().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn limit(value: Value) -> Result<Duration, String> {
    const LIMITS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
    let duration = values::duration(&values::string(value)?)?;
    duration
        .filter(|duration| LIMITS.contains(duration))
        .ok_or_else(|| "must be between 1s and 1m".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::{Config, ConfigError};

    fn config(text: &str) -> Result<Config, ConfigError> {
        Config::from_toml(text).map(|(config, _)| config)
    }

    fn findings(text: &str) -> Vec<String> {
        let error = config(text).map(drop).expect_err("a finding");
        error.findings.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect()
    }

    #[test]
    fn nothing_is_traced_unless_an_endpoint_is_named() {
        assert!(config("").unwrap().core.traces.endpoint.is_none());
        let traces = config("core.traces.endpoint = 'http://127.0.0.1:4318/v1/traces'").unwrap().core.traces;
        assert!(traces.endpoint.is_some() && traces.headers().unwrap().is_empty());
        assert!((traces.sample_ratio - 0.01).abs() < 1e-9, "{traces:?}");
    }

    #[test]
    fn what_cannot_be_used_is_found() {
        let url = "core.traces.endpoint = 'https://collector.example/v1/traces'";
        for (text, expected) in [
            (
                "core.traces.endpoint = 'http://collector.example'",
                "core.traces.endpoint: must be an https URL, unless insecure_plain_http is true",
            ),
            ("core.traces.endpoint = 'collector'", "core.traces.endpoint: must be an http or https URL"),
            (
                &*format!("{url}\ncore.traces.sample_ratio = 2"),
                "core.traces.sample_ratio: must be a number from 0 to 1",
            ),
            (
                &*format!("{url}\ncore.traces.sample_ratio = '1'"),
                "core.traces.sample_ratio: must be a number from 0 to 1",
            ),
            (
                &*format!("{url}\ncore.traces.timeout = '2h'"),
                "core.traces.timeout: must be between 1s and 1m",
            ),
            (
                "core.traces = { endpoint = 'http://127.0.0.1:4318', ca_file = '/x' }",
                "core.traces.ca_file: needs an https URL: over plain http nobody shows a certificate",
            ),
        ] {
            let found = findings(text);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{text}: {found:?}");
        }
        assert!(
            config("core.traces = { endpoint = 'http://collector.example', insecure_plain_http = true }")
                .is_ok()
        );
    }

    #[test]
    fn headers_come_from_a_file_and_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("headers");
        let read = |content: &str| {
            fs::write(&path, content).unwrap();
            let text =
                format!("core.traces = {{ endpoint = 'https://collector.example', header_file = {path:?} }}");
            config(&text).unwrap().core.traces.headers().map_err(|error| error.to_string())
        };
        let headers = read("authorization: Bearer s3cret: x\n\n x-team :kms\n").unwrap();
        assert!(headers.len() == 2 && headers["x-team"] == "kms");
        assert!(headers["authorization"] == "Bearer s3cret: x" && !format!("{headers:?}").contains("s3cret"));
        let many = "a: b\n".repeat(2) + &(0..MAX).map(|n| format!("h{n}: v\n")).collect::<String>();
        for (content, line) in [("authorization", 1), ("a: b\nc d: e", 2), ("a: b\u{7}c", 1), (&*many, 18)] {
            let error = read(content).unwrap_err();
            assert!(error.contains(&format!("line {line} is not one")), "{error}");
        }
    }

    const MAX: usize = super::MAX_HEADERS;
}
