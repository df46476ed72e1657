//! Connects to the database, and works with each connection until it fails or is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::super::client::{self, Session};
use super::super::error::DatabaseError;
use super::super::history;
use super::super::limited::Received;
use super::super::schema::{Fate, Past};
use super::super::{Request, Unshared};
use super::{Keeper, Look};

/// How often a node looks.
const ROUND: Duration = Duration::from_secs(1);

/// Notifications within this time cause one look; within the longer one while they bring nothing new.
const GATHER: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(250));

/// The first and the longest pause before it connects again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why a connection is over that has not failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Nobody can ask for anything any more.
    Unneeded,
    /// It has read so much that another one takes its place.
    Replaced,
}

impl Keeper {
    pub(super) async fn run(mut self, requests: &mut mpsc::Receiver<Request>) {
        let mut pause = PAUSES.0;
        let mut is_replaced = false;
        let mut told = None;
        loop {
            let error = match self.connect().await {
                Ok(session) => {
                    pause = PAUSES.0;
                    if !std::mem::take(&mut is_replaced) {
                        self.connected = Instant::now();
                        self.view.reached();
                    }
                    match self.attend(session, requests).await {
                        Ok(Over::Replaced) => {
                            is_replaced = true;
                            continue;
                        }
                        Ok(Over::Unneeded) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            is_replaced = false;
            self.metrics.state_round("unreachable");
            if self.view.trouble().is_none() || told.as_ref() != Some(&error) {
                tracing::warn!(%error, "the shared state cannot be read or written now");
            }
            told = Some(error.clone());
            self.view.unusable(&error);
            let again = tokio::time::sleep(jittered(pause));
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    request = requests.recv() => match request {
                        Some(request) => drop(request.asked.reply.send(Err(Unshared::Database(error.clone())))),
                        None => return,
                    },
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn connect(&self) -> Result<Session, DatabaseError> {
        let settings = Arc::clone(&self.settings);
        // It may read files.
        let database = tokio::task::spawn_blocking(move || settings.database()).await;
        let database =
            database.map_err(|_| DatabaseError::Settings("the URL cannot be read".to_owned()))??;
        client::connect(&database, Fate::Committed, &self.woken).await
    }

    /// Works with one connection until it fails or is over.
    async fn attend(
        &mut self,
        mut session: Session,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Over, DatabaseError> {
        let received = session.received();
        self.past = session.past;
        self.view.show_past(self.past);
        if self.past == Past::Unkept {
            tracing::warn!("{}", history::LACKS);
        }
        let over = self.use_session(&mut session.client, &received, requests).await;
        over.map_err(|error| session.end().unwrap_or(error))
    }

    async fn use_session(
        &mut self,
        client: &mut Client,
        received: &Received,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Over, DatabaseError> {
        let mut gather = GATHER.0;
        let mut is_woken = false;
        loop {
            let (began, before) = (Instant::now(), self.head_id());
            let round = self.round(client).await;
            self.unless_locked(round)?;
            self.measure();
            if received.is_enough() {
                return Ok(Over::Replaced);
            }
            // Whoever wakes this node all the time for nothing must not keep it busy.
            gather = match is_woken && self.head_id() == before {
                true => (gather * 2).min(GATHER.1),
                false => GATHER.0,
            };
            is_woken = false;
            let next = tokio::time::sleep_until((began + jittered(ROUND)).into());
            let told = async {
                self.woken.notified().await;
                tokio::time::sleep(gather).await;
            };
            tokio::select! {
                () = next => {}
                () = told => is_woken = true,
                request = requests.recv() => match request {
                    Some(request) => {
                        let served = self.serve(client, request).await;
                        self.unless_locked(served)?;
                    }
                    None => return Ok(Over::Unneeded),
                },
            }
            if client.is_closed() {
                return Err(DatabaseError::Unreachable("the connection was closed".to_owned()));
            }
        }
    }

    /// What another session holds for too long ends nothing: the statement was taken back, and the next round tries again.
    fn unless_locked(&self, done: Result<(), DatabaseError>) -> Result<(), DatabaseError> {
        match done {
            Err(error @ DatabaseError::Locked) => {
                let why = error.to_string();
                if self.view.trouble().as_deref() != Some(&*why) {
                    tracing::warn!(%error, "the shared state cannot be read or written now");
                }
                self.metrics.state_round("unanswered");
                self.view.unusable(&error);
                Ok(())
            }
            done => done,
        }
    }

    /// Looks once, and does what follows from it.
    async fn round(&mut self, client: &mut Client) -> Result<(), DatabaseError> {
        match self.look(client).await? {
            Look::Empty => self.begin(client).await,
            Look::Believed { needs_seals, is_fresh } => {
                if needs_seals {
                    self.renew_seals(client).await?;
                }
                let untold = self.tell_news(client, self.documents.clone()).await?;
                self.exchange_statuses(client).await?;
                match untold {
                    Some(why) => self.view.unanswered(why),
                    None if is_fresh => self.view.settled(),
                    None => {}
                }
                self.forget_gone(client).await?;
                self.exchange_lists(client).await
            }
            Look::Unread => {
                if let Some(why) = self.tell_news(client, self.stopping()).await? {
                    self.view.unanswered(why);
                }
                self.exchange_statuses(client).await
            }
            Look::Doubted => Ok(()),
        }
    }
}

/// Between nine tenths and eleven tenths, so that nodes do not move in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    let _ = aws_lc_rs::rand::fill(&mut random);
    pause.mul_f64(0.9 + f64::from(random[0]) / 1280.0)
}
