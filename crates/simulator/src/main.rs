//! `kms-simulator`: a collateral server on a TCP port and a CVM's guest agent on a unix socket, until stopped.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kms_attest::measurement::EventVersion;
use kms_simulator::{
    AgentMode, CollateralSpec, Cvm, GuestAgent, KeyProvider, PccsServer, Platform, QuoteFormat, Stage,
    TcbLevel, Validity,
};

/// A software TDX platform for tests and development. It protects nothing: its keys follow from the seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Text from which all keys are derived; the same seed gives the same root
    #[arg(long, env = "SIMULATOR_SEED", default_value = "cvm-kms simulator")]
    seed: String,
    /// Address of the collateral server
    #[arg(long, env = "SIMULATOR_PCCS_LISTEN", default_value = "127.0.0.1:8081")]
    pccs_listen: SocketAddr,
    /// Unix socket of the guest agent; default: no guest agent
    #[arg(long, env = "SIMULATOR_AGENT_SOCKET")]
    agent_socket: Option<PathBuf>,
    /// Write the root CA certificate (PEM) here; set `root_ca.tdx` to it
    #[arg(long, env = "SIMULATOR_ROOT_CA")]
    root_ca: Option<PathBuf>,
    /// The CVM's app id: 20 bytes, hex; default: the first 20 bytes of the compose hash
    #[arg(long)]
    app_id: Option<String>,
    /// The CVM's compose hash: 32 bytes, hex
    #[arg(long)]
    compose_hash: Option<String>,
    /// The CVM's instance id: hex, may be empty; default: derived from the app id
    #[arg(long)]
    instance_id: Option<String>,
    /// The CVM's OS image: 32 bytes, hex
    #[arg(long)]
    os_image_hash: Option<String>,
    /// The CVM's TCB level, named as Intel's statuses
    #[arg(long, default_value = "UpToDate")]
    tcb: TcbLevel,
    /// Quote format: 4, 5 (TD 1.0 body) or 5.15 (TD 1.5 body)
    #[arg(long, default_value = "4", value_parser = quote_format)]
    quote: QuoteFormat,
    /// Version of the digests of runtime events: 1, or 2 as guests with `event_log_version: 2`
    #[arg(long, default_value = "1", value_parser = event_version)]
    event_log_version: EventVersion,
    /// Set the debug bit, which every verifier refuses
    #[arg(long)]
    debug: bool,
    /// Start as a guest that is still waiting for its keys, instead of one that has booted
    #[arg(long)]
    awaiting_keys: bool,
    /// Collateral expires this many seconds after the start; default: in 2099
    #[arg(long)]
    collateral_seconds: Option<u64>,
    /// The guest agent responds to every call with 500
    #[arg(long)]
    agent_down: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let platform = Platform::from_seed(arguments.seed.as_bytes());
    if let Some(path) = &arguments.root_ca {
        std::fs::write(path, platform.root_pem()).with_context(|| format!("write {}", path.display()))?;
        println!("root CA certificate written to {}", path.display());
    }

    let pccs = PccsServer::start_on(arguments.pccs_listen, &platform, &[])
        .await
        .with_context(|| format!("listen on {}", arguments.pccs_listen))?;
    if let Some(seconds) = arguments.collateral_seconds {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        pccs.publish(&CollateralSpec::valid(Validity::lasting(now, seconds)));
    }
    println!("collateral at {}", pccs.url());

    let mut agent = None;
    if let Some(socket) = &arguments.agent_socket {
        let cvm = cvm(&arguments, &platform)?;
        let served =
            GuestAgent::serve(&cvm, socket).await.with_context(|| format!("bind {}", socket.display()))?;
        if arguments.agent_down {
            served.set_mode(AgentMode::Down);
        }
        println!("guest agent at {}", served.address());
        println!("app id {}", hex::encode(cvm.app_id()));
        println!("mr_aggregated {}", hex::encode(cvm.mr_aggregated()));
        println!("os_image_hash {}", hex::encode(cvm.os_image_hash()));
        println!("device_id {}", hex::encode(platform.device_id()));
        agent = Some(served);
    }

    stopped().await?;
    drop((agent, pccs));
    Ok(())
}

fn cvm(arguments: &Arguments, platform: &std::sync::Arc<Platform>) -> Result<std::sync::Arc<Cvm>> {
    let mut builder = Cvm::builder(platform).tcb(arguments.tcb).format(arguments.quote);
    builder = builder.event_version(arguments.event_log_version);
    if let Some(text) = &arguments.compose_hash {
        builder = builder.compose_hash(bytes("--compose-hash", text)?);
    }
    if let Some(text) = &arguments.app_id {
        builder = builder.app_id(bytes("--app-id", text)?);
    }
    if let Some(text) = &arguments.instance_id {
        builder = builder.instance_id(&hex::decode(text).context("--instance-id must be hex")?);
    }
    if let Some(text) = &arguments.os_image_hash {
        builder = builder.os_image_hash(bytes("--os-image-hash", text)?);
    }
    if arguments.debug {
        builder = builder.debug();
    }
    if !arguments.awaiting_keys {
        builder = builder.stage(Stage::Ready).key_provider(KeyProvider::LocalSgx(vec![0x51; 32]));
    }
    Ok(builder.build())
}

fn bytes<const N: usize>(flag: &str, text: &str) -> Result<[u8; N]> {
    let bytes = hex::decode(text).with_context(|| format!("{flag} must be hex"))?;
    let length = bytes.len();
    ensure!(length == N, "{flag} must be {N} bytes, got {length}");
    bytes.try_into().ok().with_context(|| format!("{flag} must be {N} bytes"))
}

fn event_version(text: &str) -> Result<EventVersion, String> {
    let version = text.parse().ok().and_then(EventVersion::from_number);
    version.ok_or_else(|| "expected 1 or 2".to_owned())
}

fn quote_format(text: &str) -> Result<QuoteFormat, String> {
    match text {
        "4" => Ok(QuoteFormat::V4),
        "5" => Ok(QuoteFormat::V5Td10),
        "5.15" => Ok(QuoteFormat::V5Td15),
        _ => Err("expected 4, 5 or 5.15".to_owned()),
    }
}

/// Waits for SIGINT or SIGTERM.
async fn stopped() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
    }
    Ok(())
}
