//! The guest agent's API: HTTP/1.1 POST with JSON over a Unix socket or TCP.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::AttesterError;
use crate::binding::ReportData;
use crate::evidence::Evidence;

/// Default sockets of the agent; the first that exists is used.
const USUAL_SOCKETS: [&str; 2] = ["/var/run/dstack/dstack.sock", "/var/run/dstack.sock"];
/// Time-out of a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Time-out of a response: the hardware can take some seconds to make a quote.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum length of a response, bytes: evidence in hex, or the Info response with the app's compose file.
const MAX_RESPONSE: usize = 8 << 20;

/// A client of a guest agent. Each call opens a connection.
#[derive(Debug, Clone)]
pub struct GuestAgent {
    address: Address,
    response_timeout: Duration,
}

#[derive(Debug, Clone)]
enum Address {
    /// The first of these sockets that exists is used.
    Sockets(Vec<PathBuf>),
    Tcp {
        host: String,
        port: u16,
        prefix: String,
    },
}

#[derive(Deserialize)]
struct AttestResponse {
    attestation: String,
}

#[derive(Deserialize)]
struct InfoResponse {
    #[serde(default)]
    vm_config: String,
}

impl GuestAgent {
    /// The agent at its default sockets.
    pub fn usual() -> Self {
        Self::with(Address::Sockets(USUAL_SOCKETS.map(PathBuf::from).to_vec()))
    }

    /// The agent at `unix:<path>` or `http://<host>[:<port>][/<prefix>]`.
    pub fn at(address: &str) -> Result<Self, AttesterError> {
        if let Some(path) = address.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::with(Address::Sockets(vec![path.into()])));
        }
        for scheme in ["vsock", "https"] {
            if address.strip_prefix(scheme).is_some_and(|rest| rest.starts_with(':')) {
                return Err(AttesterError::UnsupportedScheme(scheme));
            }
        }
        let url = address.parse::<hyper::Uri>().map_err(|_| AttesterError::Address)?;
        let host = url.host().filter(|host| !host.is_empty());
        match (url.scheme_str(), host, url.query()) {
            (Some("http"), Some(host), None) => Ok(Self::with(Address::Tcp {
                host: host.to_owned(),
                port: url.port_u16().unwrap_or(80),
                prefix: url.path().trim_end_matches('/').to_owned(),
            })),
            _ => Err(AttesterError::Address),
        }
    }

    fn with(address: Address) -> Self {
        Self { address, response_timeout: RESPONSE_TIMEOUT }
    }

    /// Requests new evidence (`Attest`).
    pub async fn attest(&self, report_data: ReportData) -> Result<Evidence, AttesterError> {
        let request = serde_json::json!({ "report_data": hex::encode(report_data.0) });
        let response = self.call("/Attest", request.to_string()).await?;
        let malformed = AttesterError::Malformed("attestation");
        let Ok(AttestResponse { attestation }) = crate::json::from_utf8(&response) else {
            return Err(malformed);
        };
        let Ok(attestation) = hex::decode(attestation) else { return Err(malformed) };
        if attestation.is_empty() {
            return Err(AttesterError::Empty);
        }
        let evidence = Evidence::decode(&attestation)?;
        if evidence.report_data()? != report_data {
            return Err(AttesterError::OtherReportData);
        }
        Ok(evidence)
    }

    /// `vm_config` from the agent's `Info`; empty if absent.
    pub async fn vm_config(&self) -> Result<String, AttesterError> {
        let response = self.call("/Info", "{}".to_owned()).await?;
        match crate::json::from_utf8(&response) {
            Ok(InfoResponse { vm_config }) => Ok(vm_config),
            Err(_) => Err(AttesterError::Malformed("vm_config")),
        }
    }

    async fn call(&self, method: &str, body: String) -> Result<Bytes, AttesterError> {
        let unreachable = |address: String| {
            move |error: io::Error| AttesterError::Unreachable { address, kind: error.kind() }
        };
        let path = format!("{method}?json");
        match &self.address {
            Address::Sockets(paths) => {
                let connecting = UnixStream::connect(first_existing(paths));
                let stream = timeout(CONNECT, connecting).await.map_err(|_| AttesterError::Timeout)?;
                let stream = stream.map_err(unreachable(shown(paths)))?;
                self.exchange(stream, "localhost", path, body).await
            }
            Address::Tcp { host, port, prefix } => {
                let connecting = TcpStream::connect((host.trim_matches(['[', ']']), *port));
                let stream = timeout(CONNECT, connecting).await.map_err(|_| AttesterError::Timeout)?;
                let authority = format!("{host}:{port}");
                let stream = stream.map_err(unreachable(format!("http://{authority}")))?;
                self.exchange(stream, &authority, format!("{prefix}{path}"), body).await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: &str,
        path: String,
        body: String,
    ) -> Result<Bytes, AttesterError> {
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| AttesterError::Address)?;
        let exchange = async {
            let broken = |_| AttesterError::Broken;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let sending = async {
                let response = sender.send_request(request).await.map_err(broken)?;
                if response.status() != hyper::StatusCode::OK {
                    return Err(AttesterError::Status(response.status().as_u16()));
                }
                match Limited::new(response.into_body(), MAX_RESPONSE).collect().await {
                    Ok(body) => Ok(body.to_bytes()),
                    Err(error) if error.is::<LengthLimitError>() => {
                        Err(AttesterError::TooLarge { limit: MAX_RESPONSE })
                    }
                    Err(_) => Err(AttesterError::Broken),
                }
            };
            let (mut sending, mut connection) = (std::pin::pin!(sending), std::pin::pin!(connection));
            tokio::select! {
                response = &mut sending => response,
                // The connection ends first if the agent closes it; the response may still be unread.
                _ = &mut connection => sending.await,
            }
        };
        timeout(self.response_timeout, exchange).await.unwrap_or(Err(AttesterError::Timeout))
    }
}

fn first_existing(paths: &[PathBuf]) -> &Path {
    let existing = paths.iter().find(|path| path.exists()).or(paths.first());
    existing.map_or(Path::new(""), PathBuf::as_path)
}

/// The sockets that were tried, for messages.
fn shown(paths: &[PathBuf]) -> String {
    let existing = paths.iter().find(|path| path.exists());
    let tried = existing.map_or(paths, std::slice::from_ref);
    let tried: Vec<String> = tried.iter().map(|path| format!("unix:{}", path.display())).collect();
    tried.join(", ")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper::{Response, StatusCode};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;
    use crate::collateral::testing::mock_quote;
    use crate::measurement::RuntimeEvent;

    fn evidence() -> Evidence {
        let events: Vec<RuntimeEvent> = Vec::new();
        Evidence::new_tdx(mock_quote(), events, Vec::new(), ReportData([3; 64]), "{}".into())
    }

    type Seen = Arc<Mutex<Vec<(String, String)>>>;

    async fn respond_once(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        status: u16,
        response: Vec<u8>,
        seen: Seen,
    ) {
        let service = service_fn(move |request: Request<Incoming>| {
            let (response, seen) = (response.clone(), Arc::clone(&seen));
            async move {
                let target = format!("{} {}", request.method(), request.uri());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                seen.lock().unwrap().push((target, String::from_utf8(body.to_vec()).unwrap()));
                let builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
                Ok::<_, Infallible>(builder.body(Full::new(Bytes::from(response))).unwrap())
            }
        });
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    /// An agent on its own socket that sends the same response to every request.
    fn agent(status: u16, response: Vec<u8>) -> (GuestAgent, Seen, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dstack.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Seen::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(respond_once(stream, status, response.clone(), Arc::clone(&shared)));
            }
        });
        (GuestAgent::at(&format!("unix:{}", path.display())).unwrap(), seen, directory)
    }

    fn attest_response(evidence: &Evidence) -> Vec<u8> {
        serde_json::json!({ "attestation": hex::encode(evidence.encode()), "other": 1 })
            .to_string()
            .into_bytes()
    }

    #[tokio::test]
    async fn attest_sends_hex_and_reads_hex() {
        let (agent, seen, _directory) = agent(200, attest_response(&evidence()));
        assert_eq!(agent.attest(ReportData([3; 64])).await.unwrap(), evidence());
        let expected = format!("{{\"report_data\":\"{}\"}}", "03".repeat(64));
        assert_eq!(*seen.lock().unwrap(), [("POST /Attest?json".to_owned(), expected)]);
    }

    #[tokio::test]
    async fn info_gives_the_vm_config() {
        for (response, expected) in [(r#"{"vm_config":"{\"a\":1}","app_id":"x"}"#, "{\"a\":1}"), ("{}", "")] {
            let (agent, seen, _directory) = agent(200, response.as_bytes().to_vec());
            assert_eq!(agent.vm_config().await.unwrap(), expected);
            assert_eq!(*seen.lock().unwrap(), [("POST /Info?json".to_owned(), "{}".to_owned())]);
        }
    }

    #[tokio::test]
    async fn an_http_address_with_a_prefix_is_used_as_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/agent/", listener.local_addr().unwrap());
        let seen = Seen::default();
        let shared = Arc::clone(&seen);
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            respond_once(stream, 200, attest_response(&evidence()), shared).await;
        });
        let agent = GuestAgent::at(&address).unwrap();
        assert!(agent.attest(ReportData([3; 64])).await.is_ok());
        assert_eq!(seen.lock().unwrap()[0].0, "POST /agent/Attest?json");
        server.abort();
    }

    #[tokio::test]
    async fn bad_responses_are_refused_with_a_reason() {
        let mut cut = evidence().encode();
        cut.truncate(100);
        let cut = format!("{{\"attestation\":\"{}\"}}", hex::encode(cut)).into_bytes();
        let cases: [(u16, Vec<u8>, &str); 9] = [
            (404, Vec::new(), "guest agent returned status 404"),
            (200, b"{\"attestation\":\"\"}".to_vec(), "guest agent gave an empty attestation"),
            (500, attest_response(&evidence()), "guest agent returned status 500"),
            (204, Vec::new(), "guest agent returned status 204"),
            (200, b"{}".to_vec(), "response of the guest agent has no usable attestation"),
            (200, b"<html>".to_vec(), "response of the guest agent has no usable attestation"),
            (
                200,
                b"{\"attestation\":\"0g\"}".to_vec(),
                "response of the guest agent has no usable attestation",
            ),
            (200, vec![b' '; MAX_RESPONSE + 1], "response of the guest agent has more than 8388608 bytes"),
            (200, cut, "own evidence: "),
        ];
        for (status, response, expected) in cases {
            let (agent, _, _directory) = agent(status, response);
            let error = agent.attest(ReportData([3; 64])).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn evidence_for_other_report_data_is_refused() {
        let (agent, _, _directory) = agent(200, attest_response(&evidence()));
        let error = agent.attest(ReportData([4; 64])).await.unwrap_err();
        assert!(matches!(error, AttesterError::OtherReportData));
    }

    #[tokio::test]
    async fn no_agent_a_silent_agent_and_a_broken_connection_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dstack.sock");
        let mut agent = GuestAgent::at(&format!("unix:{}", path.display())).unwrap();
        let error = agent.vm_config().await.unwrap_err();
        assert!(matches!(error, AttesterError::Unreachable { kind: io::ErrorKind::NotFound, .. }), "{error}");
        assert!(!error.to_string().contains("dstack.sock"), "{error}");
        let place = format!("(unix:{}); there is no such socket", path.display());
        assert!(error.detailed().contains(&place), "{}", error.detailed());

        let stale = directory.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        let refused = GuestAgent::at(&format!("unix:{}", stale.display())).unwrap().vm_config().await;
        let refused = refused.unwrap_err().detailed();
        assert!(refused.contains("stale.sock); nothing listens there"), "{refused}");
        let refused = GuestAgent::at("http://127.0.0.1:1").unwrap().vm_config().await.unwrap_err().detailed();
        assert!(refused.contains("(http://127.0.0.1:1); nothing listens there"), "{refused}");

        let listener = UnixListener::bind(&path).unwrap();
        agent.response_timeout = Duration::from_millis(50);
        let error = agent.vm_config().await.unwrap_err();
        assert!(matches!(error, AttesterError::Timeout), "{error}");

        let closing = tokio::spawn(async move {
            loop {
                drop(listener.accept().await.unwrap());
            }
        });
        agent.response_timeout = Duration::from_secs(5);
        let error = agent.vm_config().await.unwrap_err();
        assert!(matches!(error, AttesterError::Broken), "{error}");
        closing.abort();
    }

    #[test]
    fn of_the_usual_sockets_the_first_that_exists_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a.sock", "b.sock"].map(|name| directory.path().join(name)).to_vec();
        assert_eq!(first_existing(&paths), paths[0]);
        std::fs::write(&paths[1], "").unwrap();
        assert_eq!(first_existing(&paths), paths[1]);
        std::fs::write(&paths[0], "").unwrap();
        assert_eq!(first_existing(&paths), paths[0]);
    }
}
