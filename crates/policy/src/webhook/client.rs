//! The HTTP client of a webhook: its roots, its credentials, and the retry after a broken connection.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use kms_attest::outgoing::{self, ResponseTimeout, Timeouts};
use kms_attest::tls::{ChainLimit, trusting};
use reqwest::{Client, RequestBuilder, Response, redirect};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::bounds::{Bounds, printable};
use crate::error::SetupError;
use crate::file::read;
use crate::settings::{ClientFiles, Webhook};

/// The time that an idle connection is kept: shorter than in common servers (5 s).
const IDLE: Duration = Duration::from_secs(4);

/// The idle time of an HTTP/2 connection before a ping is sent, and the time-out of the ping.
const SILENCE: Duration = Duration::from_secs(3);

const CA_FILE: &str = "core.auth_api.webhook.ca_file";
const CERT_FILE: &str = "core.auth_api.webhook.client_cert_file";
const KEY_FILE: &str = "core.auth_api.webhook.client_key_file";

/// A client with pooled connections that follows no redirects. It uses a proxy only for services on other
/// machines.
pub(super) fn build(webhook: &Webhook, bounds: &Bounds) -> Result<Client, SetupError> {
    let timeouts = Timeouts { connect: bounds.connect, response: ResponseTimeout::Caller };
    outgoing::client(&webhook.url, tls(webhook)?, timeouts, redirect::Policy::none())
        .user_agent(concat!("dstack-kms/", env!("CARGO_PKG_VERSION")))
        .default_headers(credentials(webhook)?)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(bounds.concurrent)
        // All requests share one HTTP/2 connection, so a dead one must be found soon.
        .http2_keep_alive_interval(SILENCE)
        .http2_keep_alive_timeout(SILENCE)
        .build()
        .map_err(SetupError::Client)
}

fn credentials(webhook: &Webhook) -> Result<HeaderMap, SetupError> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &webhook.bearer_token {
        let value = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| SetupError::file("core.auth_api.webhook.bearer_token", "must be printable ASCII"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

fn tls(webhook: &Webhook) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider supports TLS 1.3 and 1.2");
    let builder = trusting(builder, roots(webhook.ca_file.as_deref())?, ChainLimit::PUBLIC)
        .expect("a file without certificates is refused");
    let mut config = match &webhook.client {
        None => builder.with_no_client_auth(),
        Some(ClientFiles { certificate, key }) => {
            let chain = certificates(CERT_FILE, certificate)?;
            let pem = zeroize::Zeroizing::new(read(KEY_FILE, key)?);
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| SetupError::file(KEY_FILE, "holds no private key in PEM"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    SetupError::file(KEY_FILE, "is not the key of the certificate in client_cert_file")
                }
                error => SetupError::file(CERT_FILE, format!("cannot be used with client_key_file: {error}")),
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, SetupError> {
    let Some(file) = file else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA_FILE, file)? {
        roots.add(certificate).map_err(|error| {
            SetupError::file(CA_FILE, format!("contains an invalid certificate: {error}"))
        })?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let pem = read(key, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(SetupError::file(key, "holds no certificate in PEM")),
    }
}

/// Sends the request, and once more if the connection broke before a response: the service can close an idle
/// connection just when it is used again. The service may get a request twice, which changes nothing there.
pub(super) async fn send(request: RequestBuilder) -> reqwest::Result<Response> {
    let again = request.try_clone();
    match (request.send().await, again) {
        (Err(error), Some(again)) if is_broken_connection(&error) => again.send().await,
        (answer, _) => answer,
    }
}

/// Whether an established connection ended without a response; an invalid response is a response.
fn is_broken_connection(error: &reqwest::Error) -> bool {
    if error.is_connect() || error.is_timeout() {
        return false;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            return matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe);
        }
        cause = error.source();
    }
    false
}

/// The error and its causes, without the URL, which can contain credentials.
pub(super) fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    printable(&text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::webhook::bounds::BOUNDS;
    use kms_attest::outgoing::Endpoint;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let files = Self { directory };
            for name in ["one", "two"] {
                let key = KeyPair::generate().unwrap();
                let certificate =
                    CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
                files.write(&format!("{name}.crt"), &certificate.pem());
                files.write(&format!("{name}.key"), &key.serialize_pem());
            }
            files.write("empty", "");
            files.write("other", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
            files
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn build(&self, ca: Option<&str>, client: Option<(&str, &str)>) -> Result<(), String> {
            let webhook = Webhook {
                ca_file: ca.map(|name| self.path(name)),
                client: client.map(|(certificate, key)| ClientFiles {
                    certificate: self.path(certificate),
                    key: self.path(key),
                }),
                ..Webhook::at(Endpoint::parse("https://auth.example").unwrap())
            };
            build(&webhook, &BOUNDS).map(drop).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn files_are_checked_when_the_client_is_built_and_errors_name_the_key() {
        let files = Files::new();
        for (ca, client, expected) in [
            (None, None, Ok(())),
            (Some("one.crt"), Some(("one.crt", "one.key")), Ok(())),
            (Some("missing"), None, Err("core.auth_api.webhook.ca_file cannot be read: No such file")),
            (Some("."), None, Err("core.auth_api.webhook.ca_file cannot be read: not a file")),
            (Some("empty"), None, Err("core.auth_api.webhook.ca_file holds no certificate in PEM")),
            (Some("one.key"), None, Err("core.auth_api.webhook.ca_file holds no certificate in PEM")),
            (Some("other"), None, Err("core.auth_api.webhook.ca_file contains an invalid certificate")),
            (
                None,
                Some(("missing", "one.key")),
                Err("core.auth_api.webhook.client_cert_file cannot be read"),
            ),
            (None, Some(("one.crt", "missing")), Err("core.auth_api.webhook.client_key_file cannot be read")),
            (
                None,
                Some(("one.crt", "one.crt")),
                Err("core.auth_api.webhook.client_key_file holds no private"),
            ),
            (
                None,
                Some(("one.crt", "two.key")),
                Err("core.auth_api.webhook.client_key_file is not the key of"),
            ),
        ] {
            let built = files.build(ca, client);
            match (&built, expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
                _ => panic!("{ca:?} {client:?}: {built:?}"),
            }
            let path = files.directory.path().display().to_string();
            assert!(!built.err().is_some_and(|error| error.contains(&path)), "no path in an error");
        }
    }
}
