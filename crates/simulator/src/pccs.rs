//! A collateral server that responds like a PCCS (attestation.md section 6), or fails like one.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::collateral::{CollateralSpec, Published, Signed};
use crate::http_server::{self, Handler, Listener, Reply, Request};
use crate::platform::{CPU_SVN, PCE_SVN, PckCa, Platform};

/// What a client can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/sgx/certification/v4/pckcert`
    PckCert,
    /// `/sgx/certification/v4/pckcrl`
    PckCrl,
    /// `/tdx/certification/v4/tcb`
    TcbInfo,
    /// `/tdx/certification/v4/qe/identity`
    QeIdentity,
    /// `/sgx/certification/v4/rootcacrl`: hex
    RootCaCrl,
    /// `/IntelSGXRootCA.der`: the same in DER, as at the distribution point in Intel's certificates
    RootCaCrlFile,
}

impl Endpoint {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/sgx/certification/v4/pckcert" => Some(Endpoint::PckCert),
            "/sgx/certification/v4/pckcrl" => Some(Endpoint::PckCrl),
            "/tdx/certification/v4/tcb" => Some(Endpoint::TcbInfo),
            "/tdx/certification/v4/qe/identity" => Some(Endpoint::QeIdentity),
            "/sgx/certification/v4/rootcacrl" => Some(Endpoint::RootCaCrl),
            "/IntelSGXRootCA.der" => Some(Endpoint::RootCaCrlFile),
            _ => None,
        }
    }
}

/// How the server responds to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PccsMode {
    /// Normally.
    Up,
    /// 503 with a body that contains an internal address, which must not be passed on.
    Down,
    /// 404.
    Missing,
    /// The connection closes.
    Disconnecting,
    /// Normally, after a delay.
    Slow(Duration),
    /// Never.
    Silent,
    /// 200 with a page of HTML.
    Garbage,
    /// 200 with a body that never ends.
    Endless,
    /// Normally, but with one bit of the signature (or of the CRL) flipped.
    Corrupt,
}

/// The response to requests with `update=early`.
#[derive(Clone, Debug)]
pub enum EarlySet {
    /// The standard collateral, as when there is no TCB recovery, or from services that ignore the parameter.
    Standard,
    /// 400: the parameter is unknown.
    Refused,
    /// This collateral.
    Published(Box<CollateralSpec>),
}

const LOG_LIMIT: usize = 10_000;

/// A PCCS on a TCP port. Dropping it closes the port and all connections.
pub struct PccsServer {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl PccsServer {
    /// Serves the default collateral of `platform` on a free port of 127.0.0.1.
    pub async fn start(platform: &Arc<Platform>) -> io::Result<Self> {
        Self::start_on(([127, 0, 0, 1], 0).into(), platform, &[]).await
    }

    /// Serves the default collateral of `platform` and of `others`, which must have the same seed.
    pub async fn start_on(
        address: SocketAddr,
        platform: &Arc<Platform>,
        others: &[Arc<Platform>],
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            platform: Arc::clone(platform),
            others: others.to_vec(),
            shared: Mutex::new(Shared {
                published: Arc::new(Published::new(platform, others, &CollateralSpec::default())),
                early: Early::Standard,
                mode: PccsMode::Up,
                endpoint_modes: HashMap::new(),
                log: VecDeque::new(),
                counts: HashMap::new(),
                total: 0,
            }),
        });
        let task = tokio::spawn(http_server::serve(Listener::Tcp(listener), Arc::clone(&state)));
        Ok(Self { address, state, task })
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of the root's CRL in DER, for [`PlatformSpec::root_crl_url`](crate::PlatformSpec) of another
    /// platform of the same seed that is served by another server.
    pub fn root_crl_url(&self) -> String {
        format!("{}/IntelSGXRootCA.der", self.url())
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Publishes other collateral.
    pub fn publish(&self, spec: &CollateralSpec) {
        let published = Arc::new(Published::new(&self.state.platform, &self.state.others, spec));
        self.state.lock().published = published;
    }

    /// Sets the response to `update=early`.
    pub fn set_early(&self, early: EarlySet) {
        self.state.lock().early = match early {
            EarlySet::Standard => Early::Standard,
            EarlySet::Refused => Early::Refused,
            EarlySet::Published(spec) => {
                Early::Published(Arc::new(Published::new(&self.state.platform, &self.state.others, &spec)))
            }
        };
    }

    /// Sets the mode for all requests.
    pub fn set_mode(&self, mode: PccsMode) {
        let mut shared = self.state.lock();
        shared.mode = mode;
        shared.endpoint_modes.clear();
    }

    /// Sets the mode for one endpoint, until the next [`set_mode`](Self::set_mode).
    pub fn set_endpoint_mode(&self, endpoint: Endpoint, mode: PccsMode) {
        self.state.lock().endpoint_modes.insert(endpoint, mode);
    }

    /// The number of requests received.
    pub fn request_count(&self) -> usize {
        self.state.lock().total
    }

    /// The number of requests to `endpoint`.
    pub fn requests_to(&self, endpoint: Endpoint) -> usize {
        self.state.lock().counts.get(&endpoint).copied().unwrap_or(0)
    }

    /// The last requests (up to 10,000), as `GET /path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().log.iter().cloned().collect()
    }

    /// Runs until the process ends.
    pub async fn wait(&mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for PccsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    platform: Arc<Platform>,
    others: Vec<Arc<Platform>>,
    shared: Mutex<Shared>,
}

/// [`EarlySet`] with its signatures.
#[derive(Clone)]
enum Early {
    Standard,
    Refused,
    Published(Arc<Published>),
}

struct Shared {
    published: Arc<Published>,
    early: Early,
    mode: PccsMode,
    endpoint_modes: HashMap<Endpoint, PccsMode>,
    log: VecDeque<String>,
    counts: HashMap<Endpoint, usize>,
    total: usize,
}

impl Handler for State {
    async fn answer(&self, request: Request) -> Reply {
        let endpoint = Endpoint::of(&request.path);
        let (published, early, mode) = self.record(&request, endpoint);
        let asks_early = form_urlencoded::parse(request.query.as_bytes())
            .any(|(key, value)| key == "update" && value == "early");
        match mode {
            PccsMode::Down => return Reply::new(503, "upstream http://10.11.12.13:8081/internal refused"),
            PccsMode::Missing => return Reply::new(404, ""),
            PccsMode::Disconnecting => return Reply::Disconnect,
            PccsMode::Silent => return Reply::Silence,
            PccsMode::Endless => return Reply::Endless,
            PccsMode::Garbage => return Reply::new(200, "<html><body>Sign in to the network</body></html>"),
            PccsMode::Slow(pause) => tokio::time::sleep(pause).await,
            PccsMode::Up | PccsMode::Corrupt => (),
        }
        let published = match early {
            Early::Refused if asks_early => return Reply::new(400, "unknown parameter update"),
            Early::Published(early) if asks_early => early,
            Early::Standard | Early::Refused | Early::Published(_) => published,
        };
        match endpoint {
            Some(endpoint) if request.method == "GET" => {
                self.document(endpoint, &request.query, &published, mode)
            }
            Some(_) => Reply::new(405, ""),
            None => Reply::new(404, "no such endpoint"),
        }
    }
}

impl State {
    fn record(&self, request: &Request, endpoint: Option<Endpoint>) -> (Arc<Published>, Early, PccsMode) {
        let mut shared = self.lock();
        if shared.log.len() == LOG_LIMIT {
            shared.log.pop_front();
        }
        let question_mark = if request.query.is_empty() { "" } else { "?" };
        shared.log.push_back(format!("{} {}{question_mark}{}", request.method, request.path, request.query));
        shared.total += 1;
        if let Some(endpoint) = endpoint {
            *shared.counts.entry(endpoint).or_default() += 1;
        }
        let mode = endpoint
            .and_then(|endpoint| shared.endpoint_modes.get(&endpoint).copied())
            .unwrap_or(shared.mode);
        (Arc::clone(&shared.published), shared.early.clone(), mode)
    }

    fn document(&self, endpoint: Endpoint, query: &str, published: &Published, mode: PccsMode) -> Reply {
        let parameter = |name: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default()
        };
        match endpoint {
            Endpoint::PckCert => self.pck_certificate(&parameter("encrypted_ppid")),
            Endpoint::PckCrl => {
                let kind = match parameter("ca").as_str() {
                    "platform" => PckCa::Platform,
                    "processor" => PckCa::Processor,
                    _ => return Reply::new(400, "ca must be processor or platform"),
                };
                if parameter("encoding") != "der" {
                    return Reply::new(400, "only encoding=der is simulated");
                }
                let crl = published.pck_crl(kind);
                with_chain(flipped(&crl.der, mode), "SGX-PCK-CRL-Issuer-Chain", &crl.chain)
            }
            Endpoint::TcbInfo => match published.tcb_info(&parameter("fmspc")) {
                Some(signed) => with_chain(
                    document("tcbInfo", signed, mode),
                    "TCB-Info-Issuer-Chain",
                    &published.tcb_info_chain,
                ),
                None => Reply::new(404, "no TCB info for this FMSPC"),
            },
            Endpoint::QeIdentity => with_chain(
                document("enclaveIdentity", &published.qe_identity, mode),
                "SGX-Enclave-Identity-Issuer-Chain",
                &published.qe_identity_chain,
            ),
            Endpoint::RootCaCrl => Reply::new(200, hex::encode(flipped(&published.root_crl, mode))),
            Endpoint::RootCaCrlFile => Reply::new(200, flipped(&published.root_crl, mode)),
        }
    }

    fn pck_certificate(&self, encrypted_ppid: &str) -> Reply {
        let known = |platform: &&Arc<Platform>| {
            platform.is_certified_by_ppid()
                && hex::encode(platform.encrypted_ppid()).eq_ignore_ascii_case(encrypted_ppid)
        };
        let Some(platform) = [&self.platform].into_iter().chain(&self.others).find(known) else {
            return Reply::new(404, "no such platform");
        };
        let body = platform.pck_pem().as_bytes().to_vec();
        let reply = with_chain(body, "SGX-PCK-Certificate-Issuer-Chain", &platform.pck_issuer_chain());
        let tcbm = hex::encode([&CPU_SVN[..], &PCE_SVN.to_le_bytes()].concat());
        with_header(reply, "SGX-TCBm", &tcbm)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `{"<name>":<exact text>,"signature":"<hex>"}`
fn document(name: &str, signed: &Signed, mode: PccsMode) -> Vec<u8> {
    let signature = hex::encode(flipped(&signed.signature, mode));
    format!(r#"{{"{name}":{},"signature":"{signature}"}}"#, signed.json).into_bytes()
}

/// `bytes`, with the last bit flipped if the mode is [`PccsMode::Corrupt`].
fn flipped(bytes: &[u8], mode: PccsMode) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let (PccsMode::Corrupt, Some(last)) = (mode, bytes.last_mut()) {
        *last ^= 1;
    }
    bytes
}

fn with_chain(body: Vec<u8>, header: &'static str, chain: &str) -> Reply {
    with_header(Reply::new(200, body), header, &utf8_percent_encode(chain, NON_ALPHANUMERIC).to_string())
}

fn with_header(mut reply: Reply, header: &'static str, value: &str) -> Reply {
    if let (Reply::Answer(response), Ok(value)) = (&mut reply, HeaderValue::from_str(value)) {
        response.headers_mut().insert(header_name(header), value);
    }
    reply
}

fn header_name(name: &'static str) -> http::HeaderName {
    http::HeaderName::from_bytes(name.as_bytes()).expect("the names in this file are header names")
}
