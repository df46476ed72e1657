//! Tests of invitations without a network.

use std::net::{IpAddr, Ipv4Addr};

use kms_attest::state_file::StateFile;
use kms_wire::join::JoinReport;

use super::*;

const WEEK: u64 = 7 * 24 * 60 * 60;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Home {
    directory: tempfile::TempDir,
    joins: Arc<Joins>,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(&directory.path().join("audit.jsonl")).unwrap());
        let joins = Arc::new(Joins::open(directory.path().join("joins.json"), audit).unwrap());
        Self { directory, joins }
    }

    async fn invite(&self) -> InvitedReplica {
        let new = NewJoin {
            domain: Domain::parse("kms2.example").unwrap(),
            label: None,
            source_url: None,
            valid_for: 900,
        };
        let author = Author { by: "token".to_owned(), remote: HERE };
        self.joins.invite(new, &author).await.unwrap()
    }

    async fn bound(&self, invited: &InvitedReplica, key: u8) -> Result<Bound, JoinError> {
        let shown = self.joins.compare(&invited.token, HERE).await?;
        self.joins.begin(&shown).await?;
        self.joins.bind(shown, [key; 32]).await
    }

    fn stages(&self, invited: &InvitedReplica) -> Vec<&'static str> {
        let record = self.joins.get(&invited.record.id).unwrap();
        record.steps.iter().map(|step| step.stage.name()).collect()
    }
}

fn code<T>(outcome: Result<T, JoinError>) -> &'static str {
    outcome.err().map_or("", |error| error.code())
}

#[tokio::test]
async fn what_was_not_sent_is_given_back_to_the_same_machine_only() {
    let home = Home::new();
    let invited = home.invite().await;
    let claimed = home.joins.claim(home.bound(&invited, 1).await.unwrap()).await.unwrap();
    assert_eq!(code(home.bound(&invited, 1).await), "join_used");
    let shown = home.joins.give_back(claimed).await;
    home.joins.refused(&shown, "frozen", Some("7")).await;
    assert_eq!(home.stages(&invited), ["started", "attested", "allowed", "refused"]);
    assert_eq!(code(home.bound(&invited, 2).await), "join_used_by_another");
    let bound = home.bound(&invited, 1).await.unwrap();
    home.joins.claim(bound).await.unwrap();
    let again = Joins::open(home.directory.path().join("joins.json"), Arc::clone(&home.joins.audit)).unwrap();
    assert_eq!(again.list(), home.joins.list());
    let again = Arc::new(again);
    let shown = again.compare(&invited.token, HERE).await.unwrap();
    assert_eq!(code(again.begin(&shown).await), "join_used");
}

#[tokio::test]
async fn no_keys_leave_by_an_invitation_whose_use_may_be_forgotten() {
    let home = Home::new();
    let path = home.directory.path().join("joins.json");
    let (invited, cancelled) = (home.invite().await, home.invite().await);
    let bound = home.bound(&invited, 1).await.unwrap();
    let unsynced = StateFile::from(path.clone()).synced_by(|_| Err(io::Error::other("no sync")));
    *home.joins.file.lock().await = JoinFile::new(unsynced);
    assert_eq!(code(home.joins.claim(bound).await), "join_not_synced");
    assert_eq!(home.stages(&invited), ["started", "attested", "allowed"], "it is not used up");
    let author = Author { by: "token".to_owned(), remote: HERE };
    assert_eq!(code(home.joins.cancel(&cancelled.record.id, &author).await), "join_not_synced");
    assert_eq!(home.stages(&cancelled), ["cancelled"]);
    let late = home.invite().await;
    assert_eq!(code(home.bound(&late, 1).await), "join_not_synced");
    home.bound(&late, 1).await.expect_err("each step waits for the disk");
    let again = Joins::open(path.clone(), Arc::clone(&home.joins.audit)).unwrap();
    assert_eq!(again.list(), home.joins.list());
    *home.joins.file.lock().await = JoinFile::new(path);
    home.joins.claim(home.bound(&invited, 1).await.unwrap()).await.unwrap();
    let log = std::fs::read_to_string(home.directory.path().join("audit.jsonl")).unwrap();
    assert_eq!(log.matches("invitation_ended").count(), 1, "of the one that was cancelled: {log}");
}

#[tokio::test]
async fn of_many_claims_at_once_one_succeeds() {
    let home = Home::new();
    let invited = home.invite().await;
    let mut bound = Vec::new();
    for _ in 0..8 {
        bound.push(home.bound(&invited, 1).await.unwrap());
    }
    let claims = bound.into_iter().map(|bound| {
        let joins = Arc::clone(&home.joins);
        tokio::spawn(async move { joins.claim(bound).await.is_ok() })
    });
    let claims = futures_util::future::join_all(claims).await;
    assert_eq!(claims.into_iter().filter(|claimed| *claimed.as_ref().unwrap()).count(), 1);
}

#[tokio::test]
async fn no_clock_makes_an_invitation_last_longer() {
    let home = Home::new();
    let (by_clock, by_time) = (home.invite().await, home.invite().await);
    let bound = home.bound(&by_time, 1).await.unwrap();
    // As if 900 seconds had passed, whatever the clock of the wall says.
    home.joins.ends.lock().unwrap().insert(by_time.record.id.clone(), Instant::now());
    assert_eq!(code(home.joins.claim(bound).await), "join_expired");
    assert!(home.bound(&by_clock, 1).await.is_ok());
    // The audit log has seen a later time than the clock shows.
    home.joins.audit.floor().raise_by_record(by_clock.record.expires_at);
    assert_eq!(code(home.bound(&by_clock, 1).await), "join_expired");
    home.joins.expire().await;
    for invited in [&by_clock, &by_time] {
        assert_eq!(home.stages(invited).last(), Some(&"expired"));
    }
}

#[tokio::test]
async fn reports_need_the_key_that_got_the_keys() {
    let home = Home::new();
    let invited = home.invite().await;
    let bound = home.bound(&invited, 1).await.unwrap();
    let shown = home.joins.compare(&invited.token, HERE).await.unwrap();
    let report = async |key: u8, stage| home.joins.report(&shown, [key; 32], stage).await;
    assert_eq!(code(report(1, JoinReport::Serving).await), "join_no_keys");
    home.joins.claim(bound).await.unwrap();
    assert_eq!(code(report(2, JoinReport::Serving).await), "join_used_by_another");
    report(1, JoinReport::Serving).await.unwrap();
    report(1, JoinReport::Committed).await.unwrap();
    assert_eq!(home.stages(&invited), ["started", "attested", "allowed", "keys", "committed", "serving"]);
    home.joins.audit.floor().raise_by_record(home.joins.now() + REPORTS + 60);
    assert_eq!(code(report(1, JoinReport::Serving).await), "join_late");
}

#[test]
fn what_is_over_is_forgotten_and_what_is_open_is_not() {
    let record = |number: usize, expires_at, steps: &[JoinStage]| JoinRecord {
        id: format!("{number:016x}"),
        domain: "kms2.example".to_owned(),
        label: None,
        source_url: None,
        hash: String::new(),
        created_at: 1,
        created_by: String::new(),
        expires_at,
        key: None,
        steps: steps
            .iter()
            .map(|stage| crate::state::StepRecord { stage: *stage, at: 1, code: None, denial: None })
            .collect(),
    };
    let turn = |now| Turn { now, ends: Arc::default() };
    let mut records = vec![
        record(1, 9, &[]),
        record(2, WEEK * 2, &[]),
        record(3, 9, &[JoinStage::Keys]),
        record(4, 9, &[JoinStage::Cancelled]),
    ];
    let ids = |records: &[JoinRecord]| {
        records.iter().map(|it| it.id.trim_start_matches('0').to_owned()).collect::<Vec<_>>()
    };
    prune(&mut records, &turn(WEEK + 1));
    assert_eq!(ids(&records), ["1", "2", "3", "4"]);
    prune(&mut records, &turn(WEEK + 2));
    assert_eq!(ids(&records), ["2"]);
    let mut records: Vec<_> =
        (0..300).map(|number| record(number, if number % 2 == 0 { 9 } else { 99 }, &[])).collect();
    prune(&mut records, &turn(50));
    assert_eq!(records.len(), crate::state::MAX_JOINS);
    assert_eq!(records.iter().filter(|it| it.expires_at == 99).count(), 150, "none that is open");
}

#[tokio::test]
async fn a_repair_opens_no_invitation_again() {
    use crate::state::shared::{Arrival, Document, Provenance};

    let home = Home::new();
    let (used, cancelled, open) = (home.invite().await, home.invite().await, home.invite().await);
    let claimed = home.bound(&used, 1).await.unwrap();
    let older = state::joins_content(&home.joins.list()).unwrap();
    home.joins.claim(claimed).await.unwrap();
    let author = Author { by: "token".to_owned(), remote: HERE };
    home.joins.cancel(&cancelled.record.id, &author).await.unwrap();
    let known = home.joins.list();
    let shared = SharedJoins::new(Arc::clone(&home.joins));
    let from = |arrival| Provenance { state: 9, node: "two".to_owned(), operator: "amy".to_owned(), arrival };
    assert!(!shared.has_news() && shared.merge(Some(&older)) == Ok(None));
    // A node that has not seen how they ended writes what it knows over it, and others use the result before this one can speak.
    shared.adopt(&older, &from(Arrival::Repaired)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(home.joins.list(), known);
        assert_eq!(code(home.bound(&used, 1).await), "join_used");
        assert_eq!(code(home.bound(&cancelled, 1).await), "join_cancelled");
        assert!(shared.has_news());
        shared.adopt(&older, &from(Arrival::Other)).await.unwrap();
    }
    let closed = shared.merge(Some(&older)).unwrap().expect("something to say");
    assert_eq!(state::parse_joins(&closed).unwrap(), *known);
    shared.adopt(&closed, &from(Arrival::Own)).await.unwrap();
    assert!(!shared.has_news());
    home.joins.claim(home.bound(&open, 2).await.unwrap()).await.unwrap();
    // What was given back since is open again by the word of its source, which is no repair.
    shared.adopt(&older, &from(Arrival::Other)).await.unwrap();
    assert!(!shared.has_news() && home.bound(&used, 1).await.is_ok());
}
