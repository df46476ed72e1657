//! What waits for a second owner, on a disk that fails.

use std::net::Ipv4Addr;

use arc_swap::ArcSwap;
use kms_attest::state_file::StateFile;

use super::*;
use crate::operator::{OperatorToken, Users};

fn changer(operator: Operator) -> Changer {
    let author = Author { by: operator.to_string(), remote: Ipv4Addr::LOCALHOST.into() };
    Changer::new(operator, author)
}

fn bob() -> Changer {
    changer(Operator::User { name: "bob".to_owned(), generation: 0 })
}

fn state(approvals: &Approvals, state: u64) -> State {
    let action = Action::from(RepairFleet { state });
    approvals.list().iter().find(|it| it.action == action).expect("a request").state.clone()
}

#[tokio::test]
async fn what_is_not_synced_is_what_the_next_start_reads_and_approves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (log, path) = (home.path().join("audit.jsonl"), home.path().join("approvals.json"));
    let audit = Arc::new(Audit::open(&log).unwrap());
    let users = Users::parse(&format!("bob:{}", bcrypt::hash("a password", 4).unwrap())).unwrap();
    let token = Some(OperatorToken::new("a token"));
    let (users, named) = (ArcSwap::from_pointee(users), Arc::default());
    let credentials = Arc::new(Credentials::Needed { token, users, named });
    let open = |file| {
        let rule = OwnerRule::TwoOwners { lifetime: Duration::from_secs(3600) };
        Approvals::open(rule, ApprovalFile::new(file), Some(Arc::clone(&credentials)), 0, Arc::clone(&audit))
    };
    let file = StateFile::from(path);
    let approvals = open(file.clone().synced_by(|_| Err(io::Error::other("no sync"))));
    let again = || open(file.clone());

    for number in [1, 2] {
        let action = RepairFleet { state: number };
        let asked = approvals.gate(action, changer(Operator::Token)).await;
        assert!(matches!(asked, Err(ApprovalError::Unsynced(_))), "{asked:?}");
        let asked = approvals.gate(action, changer(Operator::Token)).await;
        assert!(matches!(asked, Ok(Gate::Wait(_))), "it waits already: {asked:?}");
        assert_eq!([state(&approvals, number), state(&again(), number)], [State::Waiting, State::Waiting]);
    }
    let ids: Vec<_> = approvals.list().iter().map(|it| it.id.clone()).collect();
    let approved = approvals.approve(&ids[0], None, bob()).await;
    assert!(matches!(approved, Err(ApprovalError::NotKept(_))), "nothing is to be made: {approved:?}");
    for approvals in [&approvals, &again()] {
        assert!(matches!(state(approvals, 1), State::Failed { .. }), "{:?}", state(approvals, 1));
    }
    let approved = approvals.approve(&ids[0], None, bob()).await;
    assert!(matches!(approved, Err(ApprovalError::Ended { .. })), "{approved:?}");
    let rejected = approvals.reject(&ids[1], bob()).await;
    assert!(matches!(rejected, Err(ApprovalError::Unsynced(_))), "{rejected:?}");
    for approvals in [&approvals, &again()] {
        assert!(matches!(state(approvals, 2), State::Rejected { .. }), "{:?}", state(approvals, 2));
    }
    let _ = audit
        .record(Event::ApprovalFailed { id: String::new(), action: "", reason: String::new() })
        .await
        .unwrap();
    let log = std::fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("approval_failed").count(), 2, "of the first request, and the one above: {log}");
}
