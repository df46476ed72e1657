//! Which passwords are hashed, how often, and in which order.

use std::sync::LazyLock;
use std::time::Instant;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};

use super::*;
use crate::operator::{OperatorToken, Shown, Users};

const COST: u32 = 6;
const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
const HERE: [u8; 4] = [192, 0, 2, 1];
const THERE: [u8; 4] = [198, 51, 100, 1];

static HTPASSWD: LazyLock<String> = LazyLock::new(|| {
    let hash = bcrypt::hash("right", COST).expect("bcrypt");
    USERS.map(|user| format!("{user}:{hash}")).join("\n")
});

/// Each test has its own, because they remember wrong passwords.
fn credentials() -> Arc<Credentials> {
    let users = arc_swap::ArcSwap::from_pointee(Users::parse(&HTPASSWD).expect("file"));
    Arc::new(Credentials::Needed { token: Some(OperatorToken::new("token")), users, named: Arc::default() })
}

fn passwords() -> (Passwords, Arc<Lockout>) {
    let lockout = Arc::<Lockout>::default();
    (Passwords::new(credentials(), Arc::clone(&lockout)), lockout)
}

fn shown(user: &str, password: &str) -> Password {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let value = HeaderValue::from_str(&format!("Basic {encoded}")).expect("a header");
    match credentials().shown(&HeaderMap::from_iter([(header::AUTHORIZATION, value)])) {
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
    assert!(operator < Duration::from_secs(60), "{operator:?}");
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
    // Both turns are taken, so that no request is hashed.
    let busy = Rank { is_stranger: true, failures: 0 };
    let turns = [(); 2].map(|()| passwords.0.queue.turn(HERE.into(), busy));
    let _turns = futures_util::future::join_all(turns).await;
    for address in [HERE, THERE] {
        let verdict = passwords.check(shown("alice", "right"), address.into()).now_or_never();
        assert_eq!(verdict, Some(Verdict::Right(0)), "{address:?}");
    }
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

/// A KMS with the credential `ci`, whose secret has this version.
fn with_version(named: &crate::operator::named::Named, version: u64) {
    use crate::operator::named::{NamedCredential, Secret, SecretHash, Standing};
    let credential = NamedCredential {
        name: "ci".parse().expect("a name"),
        role: kms_wire::role::Role::Viewer,
        domain: None,
        standing: Standing::Active(SecretHash::of(&Secret::generate().expect("random")).expect("random")),
        version,
        replaced: None,
        invitation: None,
        chosen_by: None,
        created_at: 0,
        created_by: String::new(),
        expires_at: None,
        last_used: std::sync::atomic::AtomicU64::new(0),
    };
    let Ok(()) = named.change(|directory| {
        directory.insert(credential.name.clone(), Arc::new(credential));
        Ok::<_, std::convert::Infallible>(())
    });
}

#[tokio::test]
async fn nothing_that_is_remembered_of_other_users_counts() {
    let (lockout, credentials) = (Arc::default(), credentials());
    let passwords = Passwords::new(Arc::clone(&credentials), lockout);
    let ask = async || passwords.check(shown("alice", "right"), HERE.into()).await;
    assert_eq!(ask().await, Verdict::Right(0));
    let operator = credentials.operator("alice", 0).expect("a user");
    let another = async || passwords.check(shown("alice", "another"), HERE.into()).await;
    assert_eq!(another().await, Verdict::Wrong(None), "before the file");
    assert_eq!(another().await, Verdict::Again);
    let hash = bcrypt::hash("another", COST).expect("bcrypt");
    assert!(credentials.is_live(&operator) && credentials.ended(&operator).now_or_never().is_none());
    credentials.set_users(Users::parse(&format!("alice:{hash}")).expect("file"));
    assert_eq!(credentials.operator("alice", 0), None, "while a request waited");
    assert!(!credentials.is_live(&operator), "a stream that runs");
    assert_eq!(credentials.ended(&operator).now_or_never(), Some(()));
    assert_eq!(credentials.person(&operator), None, "and takes no part in approvals");
    assert_eq!(ask().await, Verdict::Wrong(None));
    assert_eq!(another().await, Verdict::Right(1));
}

#[tokio::test]
async fn a_wrong_password_does_not_tell_when_a_secret_changes() {
    let named = Arc::<crate::operator::named::Named>::default();
    with_version(&named, 1);
    let (token, users) = (None, arc_swap::ArcSwap::default());
    let credentials = Arc::new(Credentials::Needed { token, users, named: Arc::clone(&named) });
    let passwords = Passwords::new(credentials, Arc::default());
    let ask = async || passwords.check(shown("ci", "guess"), HERE.into()).await;
    assert_eq!(ask().await, Verdict::Wrong(None));
    assert_eq!(ask().await, Verdict::Again);
    with_version(&named, 2);
    assert_eq!(ask().await, Verdict::Again, "after a rotation");
    let Ok(()) = named.change(|directory| {
        directory.clear();
        Ok::<_, std::convert::Infallible>(())
    });
    assert_eq!(ask().await, Verdict::Again, "after a revocation");
    with_version(&named, 3);
    named.wrong().exempt("ci", "guess");
    for _ in 0..2 {
        assert_eq!(ask().await, Verdict::Wrong(None), "a password that may be right now");
    }
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
