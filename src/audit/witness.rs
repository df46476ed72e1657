//! Witnesses (C2SP `tlog-witness`): each remembers the newest checkpoint of this log that it has seen, and
//! cosigns a new one only if it continues that one. A log that shows two histories needs their help.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kms_attest::outgoing::{self, BodyError, ResponseTimeout, Timeouts};
use kms_ledger::Size;
use kms_ledger::key::VerifyingKey;
use kms_ledger::note::{MAX_NOTE, Note};
use kms_ledger::proof::ConsistencyProof;
use kms_ledger::store::TileFiles;
use kms_ledger::tile::TileReadError;
use kms_ledger::witness::{Answer, AnswerError, Request, RequestError};
use reqwest::{Client, redirect};

use super::Head;
use super::health::Status;
use super::ledger::Published;
use crate::clock::unix_now;
use crate::config;
use crate::metrics::Upstream;

/// Time-out of a request to a witness.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long the other witnesses are waited for after enough have cosigned.
const GRACE: Duration = Duration::from_millis(500);
/// Interval of checkpoints sent to witnesses when no release waits for one.
const PACE: Duration = Duration::from_secs(1);
/// Interval at which an unchanged checkpoint is cosigned again, with a newer time.
const FRESH: Duration = Duration::from_secs(600);
/// Pause after the first failure of a witness; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Maximum number of attempts: a witness that also cosigns for other processes may know another size each
/// time.
const MAX_ATTEMPTS: usize = 10;

/// Why a witness gives no cosignature.
#[derive(Debug, thiserror::Error)]
enum WitnessError {
    #[error("no connection, or none in time: {0}")]
    Connection(outgoing::RequestError),
    #[error("the answer is too long")]
    TooLong,
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the tree cannot be read: {0}")]
    Tree(String),
}

impl WitnessError {
    /// The cause, without the address of the witness.
    fn name(&self) -> String {
        match self {
            Self::Connection(_) => "no connection, or none in time".to_owned(),
            Self::TooLong | Self::Answer(_) | Self::Request(_) => self.to_string(),
            Self::Tree(_) => "the tree cannot be read".to_owned(),
        }
    }

    /// As operators see it: hosts and files are in the process log only.
    fn shown(&self) -> String {
        match self {
            Self::Connection(_) => "no connection, or none in time".to_owned(),
            Self::Tree(_) => "the tree cannot be read".to_owned(),
            Self::TooLong | Self::Answer(_) | Self::Request(_) => self.to_string(),
        }
    }

    /// Whether the witness says that this log has contradicted itself.
    fn is_fork(&self) -> bool {
        match self {
            Self::Answer(AnswerError::Ahead { .. } | AnswerError::Inconsistent) => true,
            Self::Answer(_) | Self::Connection(_) | Self::TooLong | Self::Request(_) | Self::Tree(_) => false,
        }
    }
}

/// The witnesses of a log.
pub(super) struct Witnesses {
    members: Vec<Member>,
    require: usize,
}

/// A witness, as it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessState {
    /// The name of its key.
    pub name: String,
    /// When it last cosigned, Unix seconds; `None` if not since the start.
    pub last: Option<u64>,
    /// The size of the tree that it has cosigned last.
    pub size: Option<u64>,
    /// Why its last answer is no cosignature.
    pub problem: Option<String>,
}

impl WitnessState {
    /// Whether its last answer was a cosignature.
    pub fn is_well(&self) -> bool {
        self.last.is_some() && self.problem.is_none()
    }

    pub(super) fn new(witness: &config::Witness) -> Self {
        Self { name: witness.key.name().to_string(), last: None, size: None, problem: None }
    }
}

struct Member {
    client: Client,
    key: VerifyingKey,
    url: url::Url,
    /// The size that it has cosigned last, as far as known.
    known: Size,
    pause: Duration,
    next_try: Instant,
}

impl Witnesses {
    /// # Errors
    /// The HTTP client cannot be built.
    pub(super) fn new(settings: &config::Witnesses) -> io::Result<Self> {
        let tls = outgoing::client_config(&[]).map_err(|error| io::Error::other(error.to_string()))?;
        let timeouts =
            Timeouts { connect: MAX_REQUEST_TIME, response: ResponseTimeout::Total(MAX_REQUEST_TIME) };
        let member = |witness: &config::Witness| {
            let client = outgoing::client(&witness.url, tls.clone(), timeouts, redirect::Policy::none());
            Ok(Member {
                client: client.build().map_err(io::Error::other)?,
                key: witness.key.clone(),
                url: witness.add_checkpoint(),
                known: Size::ZERO,
                pause: Duration::ZERO,
                next_try: Instant::now(),
            })
        };
        let members = settings.list.iter().map(member).collect::<io::Result<_>>()?;
        Ok(Self { members, require: settings.require })
    }

    /// Sends each new checkpoint to the witnesses, until the process ends.
    pub(super) async fn cosign_loop(mut self, published: Arc<Published>, status: Arc<Status>) {
        let mut heads = published.heads();
        loop {
            let Some((head, tiles)) = heads.borrow_and_update().clone() else {
                if heads.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let began = Instant::now();
            let is_complete = self.round(&head, &tiles, &published, &status).await;
            status.set_lacks_witnesses(!is_complete);
            if self.require == 0 || !is_complete {
                tokio::time::sleep(PACE.saturating_sub(began.elapsed())).await;
            }
            let wait = if is_complete { FRESH } else { PACE };
            if let Ok(Err(_)) = tokio::time::timeout(wait, heads.changed()).await {
                return;
            }
        }
    }

    /// Sends one checkpoint to all witnesses concurrently; returns whether enough have cosigned it.
    async fn round(
        &mut self,
        head: &Arc<Head>,
        tiles: &TileFiles,
        published: &Published,
        status: &Status,
    ) -> bool {
        let now = Instant::now();
        let require = self.require.max(1);
        let is_due = |member: &&mut Member| member.next_try <= now;
        let mut asked: FuturesUnordered<_> = self
            .members
            .iter_mut()
            .filter(is_due)
            .map(async |member| {
                let cosigned = member.cosign(head, tiles);
                let outcome = match status.metrics() {
                    Some(metrics) => metrics.ask(Upstream::Witness, cosigned, WitnessError::name).await,
                    None => cosigned.await,
                };
                member.note(&outcome);
                published.asked(&member.state(&outcome, head));
                outcome
            })
            .collect();
        let mut lines = Vec::new();
        loop {
            let next = async {
                match lines.len() >= require {
                    true => tokio::time::timeout(GRACE, asked.next()).await.ok().flatten(),
                    false => asked.next().await,
                }
            };
            match next.await {
                Some(Ok(line)) => {
                    lines.push(line);
                    published.cosigned(head, &lines, lines.len() >= require);
                }
                Some(Err(error)) if error.is_fork() => status.contradicted(),
                Some(Err(_)) => {}
                None => return lines.len() >= require,
            }
        }
    }
}

impl Member {
    fn note(&mut self, outcome: &Result<String, WitnessError>) {
        let name = self.key.name();
        match outcome {
            Ok(_) => {
                if !self.pause.is_zero() {
                    tracing::info!(witness = %name, "the witness cosigns again");
                }
                self.pause = Duration::ZERO;
            }
            Err(error) if error.is_fork() => {
                tracing::error!(witness = %name, %error, "FORK: nothing is released until an operator has looked");
                self.pause = MAX_PAUSE;
            }
            Err(error) => {
                if self.pause.is_zero() {
                    tracing::warn!(witness = %name, %error, "the witness does not cosign");
                }
                self.pause = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
            }
        }
        self.next_try = Instant::now() + self.pause;
    }

    /// What is shown of the witness after it was asked. Its own words are not shown.
    fn state(&self, outcome: &Result<String, WitnessError>, head: &Head) -> WitnessState {
        let name = self.key.name().to_string();
        match outcome {
            Ok(_) => {
                WitnessState { name, last: Some(unix_now()), size: Some(head.size.get()), problem: None }
            }
            Err(error) => WitnessState { name, last: None, size: None, problem: Some(error.shown()) },
        }
    }

    /// The cosignature lines for a checkpoint.
    async fn cosign(&mut self, head: &Head, tiles: &TileFiles) -> Result<String, WitnessError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let proof = proven(tiles, self.known.min(head.size), head.size).await?;
            let request = Request::new(self.known.min(head.size), proof, &head.checkpoint)?;
            let (status, kind, body) = self.ask(&request).await?;
            let answer = Answer { status, content_type: kind.as_deref(), body: &body };
            match request.read_answer(&answer, std::slice::from_ref(&self.key)) {
                Ok(_) => {
                    self.known = head.size;
                    return Ok(self.own_lines(&body));
                }
                Err(AnswerError::Conflict { known }) if attempt < MAX_ATTEMPTS => self.known = known,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn ask(&self, request: &Request) -> Result<(u16, Option<String>, Vec<u8>), WitnessError> {
        let broken = |error: reqwest::Error| WitnessError::Connection(error.into());
        let mut answer =
            self.client.post(self.url.clone()).body(request.to_string()).send().await.map_err(broken)?;
        let kind = answer.headers().get(http::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| Some(kind.to_str().ok()?.to_owned()));
        let body = outgoing::read_at_most(&mut answer, MAX_NOTE).await.map_err(|error| match error {
            BodyError::TooLarge => WitnessError::TooLong,
            BodyError::Connection(error) => broken(error),
        })?;
        Ok((answer.status().as_u16(), kind, body))
    }

    /// The lines of this witness in a verified response.
    fn own_lines(&self, body: &[u8]) -> String {
        let body = String::from_utf8_lossy(body);
        let is_own = |line: &&str| {
            let note = format!("x\n\n{line}");
            Note::parse(note.as_bytes()).is_ok_and(|note| {
                note.signatures().iter().any(|by| by.name() == self.key.name() && by.id() == self.key.id())
            })
        };
        body.split_inclusive('\n').filter(is_own).collect()
    }
}

async fn proven(tiles: &TileFiles, old: Size, new: Size) -> Result<ConsistencyProof, WitnessError> {
    let tiles = tiles.clone();
    let built = tokio::task::spawn_blocking(move || {
        ConsistencyProof::build(&tiles.hashes(new), old, new)
            .map_err(|error: kms_ledger::proof::BuildError<TileReadError<io::Error>>| error.to_string())
    });
    let built = built.await.map_err(|error| WitnessError::Tree(error.to_string()))?;
    built.map_err(WitnessError::Tree)
}
