//! The guest agent's socket (attestation.md section 19), or a broken one.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_attest::binding::ReportData;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::cvm::Cvm;
use crate::http_server::{self, Handler, Listener, Reply, Request};

/// How the agent responds to calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentMode {
    /// Normally.
    Up,
    /// 500 with an error that contains a path, which must not be passed on.
    Down,
    /// The connection closes.
    Disconnecting,
    /// Normally, after a delay.
    Slow(Duration),
    /// Never.
    Silent,
    /// 200 with a body that is not JSON.
    Garbage,
    /// 200 with a body that never ends.
    Endless,
    /// 200 with JSON whose fields are wrong: an attestation that does not decode, a vm_config that is a number.
    WrongFields,
    /// `Attest` returns evidence over other report data than requested.
    WrongReportData,
}

/// A guest agent. Dropping it closes the socket, removes its file and closes all connections.
pub struct GuestAgent {
    address: String,
    socket: Option<PathBuf>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl GuestAgent {
    /// Serves `cvm` on a unix socket, and replaces the socket file of an earlier run.
    pub async fn serve(cvm: &Arc<Cvm>, socket: impl AsRef<Path>) -> io::Result<Self> {
        let socket = socket.as_ref();
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let listener = Listener::Unix(UnixListener::bind(socket)?);
        Ok(Self::start(cvm, listener, format!("unix:{}", socket.display()), Some(socket.to_owned())))
    }

    /// Serves `cvm` on a free TCP port of 127.0.0.1.
    pub async fn serve_tcp(cvm: &Arc<Cvm>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = format!("http://{}", listener.local_addr()?);
        Ok(Self::start(cvm, Listener::Tcp(listener), address, None))
    }

    /// The value for `DSTACK_AGENT_ADDRESS`: `unix:<path>` or `http://127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sets the mode for all calls.
    pub fn set_mode(&self, mode: AgentMode) {
        self.state.lock().mode = mode;
    }

    /// Serves another CVM, as after a reboot into something else.
    pub fn replace_cvm(&self, cvm: &Arc<Cvm>) {
        self.state.lock().cvm = Arc::clone(cvm);
    }

    /// The number of calls received.
    pub fn request_count(&self) -> usize {
        self.state.lock().requests
    }

    /// Runs until the process ends.
    pub async fn wait(&mut self) {
        let _ = (&mut self.task).await;
    }

    fn start(cvm: &Arc<Cvm>, listener: Listener, address: String, socket: Option<PathBuf>) -> Self {
        let shared = Shared { cvm: Arc::clone(cvm), mode: AgentMode::Up, requests: 0 };
        let state = Arc::new(State { shared: Mutex::new(shared) });
        let task = tokio::spawn(http_server::serve(listener, Arc::clone(&state)));
        Self { address, socket, state, task }
    }
}

impl Drop for GuestAgent {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

struct State {
    shared: Mutex<Shared>,
}

struct Shared {
    cvm: Arc<Cvm>,
    mode: AgentMode,
    requests: usize,
}

impl Handler for State {
    async fn answer(&self, request: Request) -> Reply {
        let (cvm, mode) = {
            let mut shared = self.lock();
            shared.requests += 1;
            (Arc::clone(&shared.cvm), shared.mode)
        };
        match mode {
            AgentMode::Down => return Reply::new(500, r#"{"error":"open /var/lib/agent/secret.sock"}"#),
            AgentMode::Disconnecting => return Reply::Disconnect,
            AgentMode::Silent => return Reply::Silence,
            AgentMode::Endless => return Reply::Endless,
            AgentMode::Garbage => return Reply::new(200, "\u{0}not json"),
            AgentMode::WrongFields => return Reply::new(200, r#"{"attestation":"00ff","vm_config":1}"#),
            AgentMode::Slow(pause) => tokio::time::sleep(pause).await,
            AgentMode::Up | AgentMode::WrongReportData => (),
        }
        if request.method != "POST" && request.method != "GET" {
            return Reply::new(405, "");
        }
        match call(&cvm, &request, mode) {
            Ok(answer) => Reply::new(200, answer.to_string()),
            Err(refusal) => Reply::new(refusal.status, json!({ "error": refusal.message }).to_string()),
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Refusal {
    status: u16,
    message: &'static str,
}

fn call(cvm: &Cvm, request: &Request, mode: AgentMode) -> Result<Value, Refusal> {
    let body: Value = match request.body.is_empty() {
        true => Value::Null,
        false => kms_attest::json::from_utf8(&request.body).map_err(|_| refused("the body must be JSON"))?,
    };
    match request.path.as_str() {
        "/Attest" => {
            let mut data = report_data(&body)?;
            if mode == AgentMode::WrongReportData {
                data[0] ^= 1;
            }
            Ok(json!({ "attestation": hex::encode(cvm.evidence(ReportData(data)).encode()) }))
        }
        "/GetQuote" => {
            let data = report_data(&body)?;
            Ok(json!({
                "quote": hex::encode(cvm.quote(data)),
                "event_log": json!(cvm.event_log()).to_string(),
                "report_data": hex::encode(data),
                "vm_config": cvm.vm_config(),
            }))
        }
        "/EmitEvent" => {
            let name = body["event"].as_str().ok_or(refused("event must be text"))?;
            let payload = hex_field(&body, "payload")?;
            cvm.emit(name, &payload);
            Ok(json!({}))
        }
        "/Info" => Ok(info(cvm)),
        "/Version" => Ok(json!({ "version": "0.6.0", "rev": "simulated" })),
        _ => Err(Refusal { status: 404, message: "no such method" }),
    }
}

/// Padded with zero bytes to 64; more is refused.
fn report_data(body: &Value) -> Result<[u8; 64], Refusal> {
    let given = hex_field(body, "report_data")?;
    let mut padded = [0u8; 64];
    padded
        .get_mut(..given.len())
        .ok_or(refused("report_data must be at most 64 bytes"))?
        .copy_from_slice(&given);
    Ok(padded)
}

fn hex_field(body: &Value, name: &str) -> Result<Vec<u8>, Refusal> {
    match &body[name] {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => hex::decode(text).map_err(|_| refused("byte fields must be hex")),
        _ => Err(refused("byte fields must be hex")),
    }
}

fn refused(message: &'static str) -> Refusal {
    Refusal { status: 400, message }
}

fn info(cvm: &Cvm) -> Value {
    let report = cvm.td_report([0; 64]);
    let event = |name: &str| {
        let events = cvm.runtime_events();
        events
            .iter()
            .find(|event| event.event == name)
            .map(|event| hex::encode(&event.payload))
            .unwrap_or_default()
    };
    let tcb_info = json!({
        "mrtd": hex::encode(report.registers.mr_td),
        "rtmr0": hex::encode(report.registers.rt_mr0),
        "rtmr1": hex::encode(report.registers.rt_mr1),
        "rtmr2": hex::encode(report.registers.rt_mr2),
        "rtmr3": hex::encode(report.rt_mr3),
        "mr_aggregated": hex::encode(cvm.mr_aggregated()),
        "os_image_hash": hex::encode(cvm.os_image_hash()),
        "compose_hash": hex::encode(cvm.compose_hash()),
        "device_id": hex::encode(cvm.platform().device_id()),
        "app_compose": "",
        "event_log": cvm.event_log(),
    });
    json!({
        "app_id": hex::encode(cvm.app_id()),
        "instance_id": hex::encode(cvm.instance_id()),
        "app_cert": "",
        "tcb_info": tcb_info.to_string(),
        "app_name": "simulated",
        "device_id": hex::encode(cvm.platform().device_id()),
        "mr_aggregated": hex::encode(cvm.mr_aggregated()),
        "os_image_hash": hex::encode(cvm.os_image_hash()),
        "key_provider_info": event("key-provider"),
        "compose_hash": hex::encode(cvm.compose_hash()),
        "vm_config": cvm.vm_config(),
        "cloud_vendor": "",
        "cloud_product": "",
    })
}
