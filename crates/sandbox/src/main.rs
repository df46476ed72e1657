//! `kms-sandbox`: a KMS and a confidential VM on simulated TDX hardware, in one process, on a laptop.

mod allow;
mod demo;
mod env;
mod fleet;
mod guest;
mod kms;
mod output;
mod paste;
mod state;
mod viewer;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use demo::{Demo, Ports};
use output::Output;
use state::StateDir;

/// Shows the whole life of a KMS: simulated TDX hardware, onboarding, policy, and a confidential VM that
/// fetches its keys. Everything is real except the hardware; the keys that it makes protect nothing.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Port of the KMS on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Port of its admin listener on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8001)]
    admin_port: u16,
    /// Directory for keys, policy and logs between runs [default: $XDG_STATE_HOME/kms-sandbox or
    /// ~/.local/state/kms-sandbox]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End when the CVM has its keys: with status 0, or 1 if it did not receive them
    #[arg(long)]
    once: bool,
    /// Boot no further CVMs after the demo
    #[arg(long)]
    quiet: bool,
}

/// What the sandbox does after the demo.
#[derive(Clone, Copy)]
enum Afterwards {
    End,
    Stay,
    StayAndBoot,
}

impl Arguments {
    fn afterwards(&self) -> Afterwards {
        match (self.once, self.quiet) {
            (true, _) => Afterwards::End,
            (false, true) => Afterwards::Stay,
            (false, false) => Afterwards::StayAndBoot,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut output = Output::new();
    match run(Arguments::parse(), &mut output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.failure(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let mut interruption = Interruption::new()?;
    let afterwards = arguments.afterwards();
    let state = StateDir::open(arguments.dir)?;
    log_to(&state)?;
    let mut demo = Demo::new(state, Ports { main: arguments.port, admin: arguments.admin_port });
    let lived = live(&mut demo, output, &mut interruption, afterwards).await;
    output.stopping();
    demo.end().await;
    lived
}

async fn live(
    demo: &mut Demo,
    output: &mut Output,
    interruption: &mut Interruption,
    afterwards: Afterwards,
) -> Result<()> {
    tokio::select! {
        told = demo.tell(output) => told?,
        () = interruption.comes() => bail!("interrupted before the CVM had its keys"),
    }
    let preparing = async {
        if matches!(afterwards, Afterwards::StayAndBoot) {
            demo.populate(output).await?;
        }
        demo.invite(output).await
    };
    match afterwards {
        Afterwards::End => return Ok(()),
        Afterwards::Stay | Afterwards::StayAndBoot => tokio::select! {
            prepared = preparing => prepared?,
            () = interruption.comes() => return Ok(()),
        },
    }
    tokio::select! {
        ended = demo.kms_ended() => ended,
        () = interruption.comes() => Ok(()),
    }
}

/// Ctrl-C or SIGTERM, from the start of the program.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn comes(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The log of the KMS goes to a file, because the terminal is for the demo.
fn log_to(state: &StateDir) -> Result<()> {
    let path = state.log();
    let file = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(file).init();
    Ok(())
}
