//! `kmsctl audit watch`: whether logs only grow, compared with what was kept of them and with what other URLs show.

mod alarm;
mod compare;
mod round;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kms_client::ledger::watched::{MAX_BYTES, MAX_VIEWS, Watched};
use kms_client::operator::OperatorUrl;
use tokio::time::{Instant, sleep};

use self::alarm::Alarm;
use self::round::Round;
use super::source::{LogKey, Source};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Audience, Output, Terminal};
use crate::target::AdminBeside;
use crate::when;

/// How often it is looked whether standard output is still read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `kmsctl audit watch`.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// URL of a KMS, a replica or a mirror of a log; what several show of one log is compared
    #[arg(value_name = "URL", required = true)]
    urls: Vec<OperatorUrl>,
    /// File that keeps the last verified checkpoints [default: kmsctl/watch.json in the user's state directory]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// How often they are looked at
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = when::duration)]
    every: Duration,
    /// Look once; the exit code says what was found
    #[arg(long, conflicts_with = "every")]
    once: bool,
    /// Alarm if a log was not shown for so long
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = when::duration)]
    stopped_after: Duration,
    /// Alarm if a log did not grow for so long
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    grows_within: Option<Duration>,
    /// Tiles of earlier leaves that are verified again each time, chosen at random
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=64))]
    spot_checks: u8,
    /// Accept another log at a URL if the same root key has signed its key: a balancer, or a new node
    #[arg(long)]
    accept_new: bool,
    /// Of one URL: read new records too, through the admin listener (--admin, KMS_ADMIN_TOKEN)
    #[arg(long)]
    entries: bool,
    /// Key of a log, as GetMeta shows it (log_key); may be given more than once
    #[arg(long = "log-key", value_name = "KEY")]
    log_keys: Vec<LogKey>,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    admin: AdminBeside,
}

impl Watch {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        if self.urls.len() > MAX_VIEWS / 4 {
            return Err(Failure::usage(format_args!("at most {} URLs", MAX_VIEWS / 4)));
        }
        if self.entries && self.urls.len() > 1 {
            return Err(Failure::usage("--entries is for one URL: an admin listener is that of one KMS"));
        }
        let state = self.state_file()?;
        let _lock = lock(&state)?;
        let mut watched = read(&state)?;
        let mut alarms: Vec<Alarm> = Vec::new();
        loop {
            let began = Instant::now();
            let round = Round::look(&self, &mut watched, &state, terminal).await?;
            // What was found wins over what cannot be kept or said of it.
            let mut exit = round.exit();
            let mut lost = |failure: Failure| {
                terminal.warn(&failure.message);
                exit = exit.max(Exit::Failed);
            };
            if let Err(failure) = write(&state, &watched) {
                lost(failure);
            }
            if self.once {
                let shown = terminal.show(&round.report(&round.alarms), |page| round.show(page));
                shown.unwrap_or_else(lost);
                return Ok(exit);
            }
            for alarm in &round.alarms {
                alarm.clone().remember(&mut alarms);
            }
            let text = match terminal.audience() {
                Audience::People => terminal.page(|page| round.show_changes(page, &alarms)),
                Audience::Machines => format!("{}\n", round.report(&alarms)),
            };
            if terminal.append(&text)? == Output::Closed {
                return Ok(Exit::Done);
            }
            while began.elapsed() < self.every {
                sleep(LOOK_EVERY.min(self.every.saturating_sub(began.elapsed()))).await;
                if terminal.output() == Output::Closed {
                    return Ok(Exit::Done);
                }
            }
        }
    }

    fn state_file(&self) -> Outcome<PathBuf> {
        if let Some(path) = &self.state {
            return Ok(path.clone());
        }
        let directory =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = directory("XDG_STATE_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".local/state")))
            .ok_or_else(|| Failure::usage("there is no home directory; name a file with --state"))?
            .join("kmsctl");
        fs::create_dir_all(&directory).map_err(|error| Failure::file("cannot create", &directory, &error))?;
        Ok(directory.join("watch.json"))
    }
}

/// Two watchers would each forget what the other has seen.
fn lock(state: &Path) -> Outcome<File> {
    let path = beside(state, ".lock");
    let failed = |error: std::io::Error| Failure::file("cannot lock", &path, &error);
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::failed(format_args!("{}: another kmsctl uses it now", state.display())))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A file whose name goes on after that of the state file.
fn beside(state: &Path, ending: &str) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Never more than [`read`] reads.
fn write(state: &Path, watched: &Watched) -> Outcome<()> {
    let text = watched.to_string();
    if text.len() > MAX_BYTES {
        return Err(Failure::failed(format_args!(
            "{}: not written, as it would have more than {MAX_BYTES} bytes; watch fewer logs with one --state",
            state.display()
        )));
    }
    files::write(state, text.as_bytes(), Readers::Everyone, Existing::Replaced)
}

fn read(state: &Path) -> Outcome<Watched> {
    match fs::symlink_metadata(state) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Watched::default()),
        Err(error) => return Err(Failure::file("cannot read", state, &error)),
        Ok(_) => {}
    }
    let file = files::read(state, MAX_BYTES)?;
    Watched::parse(&file).map_err(|error| {
        Failure::usage(format_args!(
            "{} is damaged: {error}. Restore it; moved away, all that it knew of these logs is lost",
            state.display()
        ))
    })
}
