//! Which passwords are hashed, how often, and in which order.

use std::sync::LazyLock;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, header};

use super::*;
use crate::operator::{OperatorToken, Shown, Users};

const COST: u32 = 6;
const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
const HERE: [u8; 4] = [192, 0, 2, 1];
const THERE: [u8; 4] = [198, 51, 100, 1];

static CREDENTIALS: LazyLock<Arc<Credentials>> = LazyLock::new(|| {
    let hash = bcrypt::hash("right", COST).expect("bcrypt");
    let lines = USERS.map(|user| format!("{user}:{hash}"));
    let users = Users::parse(&lines.join("\n")).expect("file");
    Arc::new(Credentials::Needed { token: Some(OperatorToken::new("token")), users, named: Arc::default() })
});

fn passwords() -> (Passwords, Arc<Lockout>) {
    let lockout = Arc::<Lockout>::default();
    (Passwords::new(Arc::clone(&CREDENTIALS), Arc::clone(&lockout)), lockout)
}

fn shown(user: &str, password: &str) -> Password {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let value = HeaderValue::from_str(&format!("Basic {encoded}")).expect("a header");
    match CREDENTIALS.shown(&HeaderMap::from_iter([(header::AUTHORIZATION, value)])) {
        Shown::Password(password) => password,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_flood_of_wrong_passwords_costs_five_hashes_and_no_lock_for_others() {
    let (passwords, _) = passwords();
    let passwords = Arc::new(passwords);
    let flood: Vec<_> = (0..300)
        .map(|number| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move {
                passwords.check(shown("alice", &format!("wrong{number}")), HERE.into()).await
            })
        })
        .collect();
    let began = Instant::now();
    assert_eq!(passwords.check(shown("alice", "right"), THERE.into()).await, Verdict::Right(0));
    let operator = began.elapsed();
    let mut verdicts = Vec::new();
    for task in flood {
        verdicts.push(task.await.expect("no panic"));
    }
    let hashed = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Wrong(_))).count();
    assert!((5..=6).contains(&hashed), "{hashed} were hashed: {verdicts:?}");
    assert!(verdicts.iter().all(|verdict| *verdict != Verdict::Right(0)));
    assert!(operator < Duration::from_secs(5), "{operator:?}");
}

#[tokio::test]
async fn the_same_password_shown_by_many_at_a_time_is_hashed_once_and_locks_nobody_out() {
    let (passwords, lockout) = passwords();
    let checks = (0..50).map(|_| passwords.check(shown("alice", "right"), HERE.into()));
    for verdict in futures_util::future::join_all(checks).await {
        assert_eq!(verdict, Verdict::Right(0));
    }
    assert_eq!(lockout.failures(HERE.into()), 0);
}

#[tokio::test]
async fn who_has_logged_in_is_known_without_hashing_whatever_is_guessed_at_his_address() {
    let (passwords, _) = passwords();
    assert_eq!(passwords.check(shown("alice", "right"), HERE.into()).await, Verdict::Right(0));
    for number in 0..5 {
        let verdict = passwords.check(shown("alice", &format!("wrong{number}")), HERE.into()).await;
        let lock = (number == 4).then_some(Duration::from_secs(1));
        assert_eq!(verdict, Verdict::Wrong(lock));
    }
    assert!(matches!(passwords.check(shown("alice", "wrong"), HERE.into()).await, Verdict::Locked(_)));
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(passwords.check(shown("alice", "right"), HERE.into()).await, Verdict::Right(0));
        assert_eq!(passwords.check(shown("alice", "right"), THERE.into()).await, Verdict::Right(0));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_guess_at_one_user_does_not_lock_another_out() {
    let (passwords, _) = passwords();
    let slot = |user: &&str| passwords.0.slot(user);
    // Names share 256 locks.
    let other = USERS.into_iter().find(|user| slot(user) != slot(&"alice")).expect("not all share one");
    for number in 0..5 {
        passwords.check(shown("alice", &format!("wrong{number}")), HERE.into()).await;
    }
    assert!(matches!(passwords.check(shown("alice", "right"), HERE.into()).await, Verdict::Locked(_)));
    assert_eq!(passwords.check(shown(other, "right"), HERE.into()).await, Verdict::Right(0));
}

#[tokio::test]
async fn the_same_wrong_password_again_and_again_is_hashed_once_and_locks_nobody_out() {
    let (passwords, lockout) = passwords();
    let ask = async |password: &str| passwords.check(shown("alice", password), HERE.into()).await;
    assert_eq!(ask("of last year").await, Verdict::Wrong(None));
    for _ in 0..50 {
        assert_eq!(ask("of last year").await, Verdict::Again);
    }
    assert_eq!(lockout.failures(HERE.into()), 1);
    assert_eq!(ask("right").await, Verdict::Right(0));
}

#[tokio::test]
async fn who_waits_for_a_verdict_is_bounded_and_others_may_wait_too() {
    let (passwords, _) = passwords();
    // Both turns are taken, so that no request gets a verdict.
    let busy = Rank { is_stranger: true, failures: 0 };
    let turns = [(); 2].map(|()| passwords.0.queue.turn(HERE.into(), busy));
    let turns = futures_util::future::join_all(turns).await;
    let mut waiting = Vec::new();
    let mut wait = |address: [u8; 4]| {
        let mut check = Box::pin(passwords.check(shown("alice", "right"), address.into()));
        let verdict = (&mut check).now_or_never();
        waiting.push(check);
        verdict
    };
    let verdicts: Vec<_> = (0..1000).map(|_| wait(HERE)).collect();
    let waits = verdicts.iter().filter(|verdict| verdict.is_none()).count();
    assert_eq!(waits, MAX_UNKNOWN_WAITERS / 2, "one address, with one password");
    assert!(verdicts.iter().flatten().all(|verdict| *verdict == Verdict::Busy));
    assert_eq!(wait(THERE), None, "another address");
    for last in 1..=254 {
        for _ in 0..10 {
            wait([203, 0, 113, last]);
        }
    }
    assert_eq!(wait([198, 51, 100, 7]), Some(Verdict::Busy));
    passwords.knows([198, 51, 100, 7].into());
    assert_eq!(wait([198, 51, 100, 7]), None, "somebody has logged in from there");
    drop(waiting);
    assert!(passwords.0.memory().waiters.is_empty());
    drop(turns);
}

#[test]
fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten() {
    let mut memory = HashMap::new();
    for number in 0..5 {
        remember(&mut memory, number, 3);
    }
    let mut left: Vec<_> = memory.into_keys().collect();
    left.sort_unstable();
    assert_eq!(left, [2, 3, 4]);
}
