//! Which changes a keyring takes, which it refuses, and what apps get in each state.

use super::*;

/// Epoch 0, and further epochs that were prepared at 100.
fn keyring(epochs: u32) -> Keyring {
    let mut keyring = Keyring::first(RootKeys::generate());
    for _ in 1..epochs {
        let new = keyring.new_epoch(100).unwrap();
        keyring = keyring.after(EpochChange::Prepare(&new), 100).unwrap();
    }
    keyring
}

fn states(keyring: &Keyring, now: u64) -> Vec<EpochState> {
    keyring.infos(now).iter().map(|info| info.state).collect()
}

const ONE: RootEpoch = RootEpoch(1);
const TWO: RootEpoch = RootEpoch(2);

#[test]
fn an_epoch_lives_from_prepared_to_destroyed() {
    use EpochState::{Active, Destroyed, Prepared, Retired};
    let prepared = keyring(2);
    assert_eq!(states(&prepared, 200), [Active, Prepared]);
    assert_eq!(prepared.readable(ONE, 200).unwrap_err(), Unreadable::NotActive(ONE));
    let scheduled = prepared.after(EpochChange::Activate { epoch: ONE, at: 300 }, 200).unwrap();
    assert_eq!((states(&scheduled, 299), scheduled.current(299)), (vec![Active, Prepared], RootEpoch::FIRST));
    assert_eq!((states(&scheduled, 300), scheduled.current(300)), (vec![Active, Active], ONE));
    assert!(scheduled.readable(RootEpoch::FIRST, 300).is_ok() && scheduled.readable(ONE, 300).is_ok());
    assert_eq!(scheduled.identity(300), RootEpoch::FIRST);
    let retired = scheduled.after(EpochChange::Retire(RootEpoch::FIRST), 400).unwrap();
    assert_eq!((states(&retired, 400), retired.identity(400)), (vec![Retired, Active], ONE));
    assert_eq!(retired.readable(RootEpoch::FIRST, 400).unwrap_err(), Unreadable::Retired(RootEpoch::FIRST));
    assert!(retired.epochs()[0].keys().is_some());
    let destroyed = retired.after(EpochChange::Destroy(RootEpoch::FIRST), 500).unwrap();
    assert_eq!(states(&destroyed, 500), [Destroyed, Active]);
    assert!(destroyed.epochs()[0].keys().is_none());
    assert_eq!(destroyed.epochs()[0].public(), prepared.epochs()[0].public());
    assert_eq!(destroyed.new_epoch(600).unwrap().number(), TWO, "no number is used again");
}

#[test]
fn the_statement_of_the_root_that_signs_is_kept_when_it_is_gone() {
    let signer = |epoch: &Epoch| {
        let PublicRoot { ca_spki, k256 } = epoch.public();
        let kept = epoch.statement()?;
        Some((kept.by, statement::root_epoch_signer(epoch.number(), ca_spki, k256, &kept.signature)?))
    };
    let signers = |keyring: &Keyring| keyring.epochs().iter().map(signer).collect::<Vec<_>>();
    let prepared = keyring(2);
    let roots: Vec<_> = prepared.epochs().iter().map(|epoch| epoch.public().k256).collect();
    let by_first = Some((RootEpoch::FIRST, roots[0]));
    let first = Arc::clone(prepared.epochs()[0].keys().unwrap());
    let second = Arc::clone(prepared.epochs()[1].keys().unwrap());
    let stated = prepared.clone().stated(&first);
    assert_eq!(signers(&stated), [None, by_first]);
    let active = stated.after(EpochChange::Activate { epoch: ONE, at: 200 }, 200).unwrap();
    let retired = active.after(EpochChange::Retire(RootEpoch::FIRST), 300).unwrap();
    let destroyed = retired.after(EpochChange::Destroy(RootEpoch::FIRST), 400).unwrap();
    assert_eq!(signers(&destroyed.clone().stated(&second)), [None, by_first]);
    // The next epoch is stated by the root that signs then, and not by the oldest.
    let third = retired.new_epoch(500).unwrap();
    let grown = retired.after(EpochChange::Prepare(&third), 500).unwrap().stated(&second);
    assert_eq!(signers(&grown), [None, by_first, Some((ONE, roots[1]))]);
    // Where the identity has moved already, the oldest root states it as long as it is held.
    assert_eq!(signers(&prepared.clone().stated(&second)), [None, by_first]);
    // What the named root did not sign is not kept.
    let kept = stated.epochs()[1].statement().unwrap();
    assert_eq!(signers(&prepared.clone().with_statement(ONE, kept)), [None, by_first]);
    let mut altered = kept;
    altered.signature[5] ^= 1;
    for wrong in [altered, EpochStatement { by: ONE, ..kept }, EpochStatement { by: RootEpoch(7), ..kept }] {
        assert_eq!(signers(&prepared.clone().with_statement(ONE, wrong)), [None, None]);
    }
}

#[test]
fn changes_that_would_leave_apps_without_keys_or_out_of_order_are_refused() {
    let base = keyring(3);
    let active = base.after(EpochChange::Activate { epoch: TWO, at: 200 }, 200).unwrap();
    let retired = active.after(EpochChange::Retire(ONE), 200).unwrap();
    let destroyed = retired.after(EpochChange::Destroy(ONE), 200).unwrap();
    let stale = base.new_epoch(100).unwrap();
    let grown = base.after(EpochChange::Prepare(&stale), 100).unwrap();
    let (first, none) = (RootEpoch::FIRST, RootEpoch(9));
    for (keyring, change, expected) in [
        (&base, EpochChange::Retire(first), EpochError::IsCurrent(first)),
        (&base, EpochChange::Destroy(first), EpochError::NotRetired(first)),
        (&base, EpochChange::Destroy(ONE), EpochError::NotRetired(ONE)),
        (&base, EpochChange::Activate { epoch: first, at: 300 }, EpochError::IsActive(first)),
        (&active, EpochChange::Activate { epoch: TWO, at: 300 }, EpochError::IsActive(TWO)),
        (
            &active,
            EpochChange::Activate { epoch: ONE, at: 300 },
            EpochError::OutOfOrder { epoch: ONE, other: TWO },
        ),
        (&active, EpochChange::Retire(TWO), EpochError::IsCurrent(TWO)),
        (&retired, EpochChange::Retire(ONE), EpochError::IsRetired(ONE)),
        (&retired, EpochChange::Activate { epoch: ONE, at: 300 }, EpochError::IsRetired(ONE)),
        (&destroyed, EpochChange::Destroy(ONE), EpochError::IsDestroyed(ONE)),
        (&destroyed, EpochChange::Activate { epoch: ONE, at: 300 }, EpochError::IsRetired(ONE)),
        (&base, EpochChange::Retire(none), EpochError::Unknown(none)),
        (&base, EpochChange::Destroy(none), EpochError::Unknown(none)),
        (&base, EpochChange::Activate { epoch: none, at: 300 }, EpochError::Unknown(none)),
        (
            &grown,
            EpochChange::Prepare(&stale),
            EpochError::NotNext { found: RootEpoch(3), next: RootEpoch(4) },
        ),
    ] {
        assert_eq!(keyring.after(change, 250).unwrap_err(), expected, "{change:?}");
    }
}

#[test]
fn a_time_that_has_not_come_can_be_changed_and_epochs_become_active_in_order() {
    let base = keyring(3);
    let activate = |keyring: &Keyring, epoch, at| keyring.after(EpochChange::Activate { epoch, at }, 200);
    let one = activate(&base, ONE, 500).unwrap();
    assert_eq!(activate(&one, TWO, 400).unwrap_err(), EpochError::OutOfOrder { epoch: TWO, other: ONE });
    let both = activate(&one, TWO, 500).unwrap();
    assert_eq!((both.current(499), both.current(500)), (RootEpoch::FIRST, TWO));
    assert_eq!(activate(&both, ONE, 600).unwrap_err(), EpochError::OutOfOrder { epoch: ONE, other: TWO });
    let sooner = activate(&both, ONE, 300).unwrap();
    assert_eq!((sooner.current(300), sooner.current(500)), (ONE, TWO));
    // A scheduled epoch is given up by retiring it.
    let given_up = both.after(EpochChange::Retire(TWO), 200).unwrap();
    assert_eq!(given_up.current(500), ONE);
}

fn parts(keyring: &Keyring) -> Vec<EpochParts> {
    let parts = keyring.epochs().iter().map(|epoch| EpochParts {
        epoch: epoch.number(),
        times: epoch.times(),
        keys: epoch.keys().map_or(EpochKeys::Destroyed(*epoch.public()), EpochKeys::from),
        root_ca_pem: None,
    });
    parts.collect()
}

#[test]
fn a_replica_follows_the_states_of_another_node_but_destroys_nothing() {
    let source = keyring(3);
    let replica = source.clone();
    let source = source.after(EpochChange::Activate { epoch: ONE, at: 200 }, 200).unwrap();
    let source = source.after(EpochChange::Retire(RootEpoch::FIRST), 300).unwrap();
    let source = source.after(EpochChange::Destroy(RootEpoch::FIRST), 300).unwrap();
    let new = source.new_epoch(300).unwrap();
    let source = source.after(EpochChange::Prepare(&new), 300).unwrap();
    let received = replica.received(parts(&source)).unwrap();
    let adopted = replica.after(EpochChange::Adopt(&received), 400).unwrap();
    use EpochState::{Active, Prepared, Retired};
    assert_eq!(states(&adopted, 400), [Retired, Active, Prepared, Prepared]);
    assert!(adopted.epochs()[0].keys().is_some());
    assert_eq!(adopted.changed_since(&replica), [RootEpoch(0), ONE, RootEpoch(3)]);
    let again = adopted.received(parts(&source)).unwrap();
    let again = adopted.after(EpochChange::Adopt(&again), 500).unwrap();
    assert_eq!(again.changed_since(&adopted), []);
    // What is retired here stays so, whatever an older node says.
    let older = adopted.received(parts(&replica)).unwrap();
    let kept = adopted.after(EpochChange::Adopt(&older), 500).unwrap();
    assert_eq!(kept.changed_since(&adopted), []);
}

#[test]
fn epochs_of_another_cluster_with_gaps_or_contradictions_are_refused() {
    let ours = keyring(2);
    let other = ours.received(parts(&keyring(2))).unwrap();
    let refused = ours.after(EpochChange::Adopt(&other), 200).unwrap_err();
    assert_eq!(refused, EpochError::OtherKeys(RootEpoch::FIRST));
    let more = keyring(4);
    let gap = ours.received(parts(&more).split_off(3)).unwrap();
    let expected = EpochError::NotNext { found: RootEpoch(3), next: TWO };
    assert_eq!(ours.after(EpochChange::Adopt(&gap), 200).unwrap_err(), expected);
    let mut contradicting = parts(&more);
    contradicting[1].times.destroyed_at = Some(1);
    assert_eq!(ours.received(contradicting).unwrap_err(), EpochError::Contradiction(ONE));
    let mut unusable = parts(&more);
    unusable[1].times = EpochTimes { retired_at: Some(1), destroyed_at: Some(1), ..EpochTimes::FIRST };
    unusable[1].keys = EpochKeys::Destroyed(PublicRoot { ca_spki: [0; SPKI_LENGTH], k256: [2; 33] });
    assert_eq!(ours.received(unusable).unwrap_err(), EpochError::PublicKey(ONE));
    let temp_ca = || copy(more.temp_ca());
    assert_eq!(Keyring::from_parts(temp_ca(), Vec::new()).unwrap_err(), EpochError::NoneActive);
    let mut without_active = parts(&more);
    without_active[0].times.retired_at = Some(1);
    assert_eq!(Keyring::from_parts(temp_ca(), without_active).unwrap_err(), EpochError::NoneActive);
    let late = Keyring::from_parts(temp_ca(), parts(&more).split_off(1)).unwrap_err();
    assert_eq!(late, EpochError::NotNext { found: ONE, next: RootEpoch::FIRST });
}

#[test]
fn a_slow_clock_takes_no_app_its_keys() {
    let base = keyring(2).after(EpochChange::Activate { epoch: ONE, at: 300 }, 200).unwrap();
    let retired = base.after(EpochChange::Retire(RootEpoch::FIRST), 400).unwrap();
    assert_eq!((retired.current(100), retired.identity(100)), (ONE, ONE));
    assert!(retired.readable(ONE, 100).is_ok());
}

#[test]
fn printing_a_keyring_shows_no_secret() {
    let keyring = keyring(2);
    let shown = format!("{keyring:?}");
    for epoch in keyring.epochs() {
        let keys = epoch.keys().unwrap();
        assert!(shown.contains(&hex::encode(keys.k256_public())));
        assert!(!shown.contains(&hex::encode(keys.k256().scalar())));
        assert!(!shown.contains(&hex::encode(keys.ca().scalar())));
    }
}

#[test]
fn the_current_epoch_of_every_keyring_can_be_read_at_any_time() {
    let times = |activate_at, retired_at| EpochTimes { activate_at, retired_at, ..EpochTimes::default() };
    let all: Vec<EpochTimes> = [None, Some(0), Some(5), Some(u64::MAX)]
        .into_iter()
        .flat_map(|at| [None, Some(0), Some(6)].map(|end| times(at, end)))
        .flat_map(|held| [held, EpochTimes { destroyed_at: held.retired_at.map(|_| 7), ..held }])
        .collect();
    let keys: Vec<EpochParts> = (0..3).map(|number| parts_of(RootEpoch(number))).collect();
    let mut usable = 0;
    for one in &all {
        for two in &all {
            for three in &all {
                let parts = keys.iter().zip([one, two, three]).map(|(part, times)| {
                    let EpochKeys::Held { ca, k256 } = &part.keys else { panic!("keys") };
                    let ca = P256Key::from_scalar(ca.scalar()).unwrap();
                    let k256 = K256Key::from_scalar(k256.scalar()).unwrap();
                    let public = PublicRoot { ca_spki: ca.spki_der(), k256: *k256.public_key() };
                    let keys = match times.destroyed_at {
                        None => EpochKeys::Held { ca, k256 },
                        Some(_) => EpochKeys::Destroyed(public),
                    };
                    EpochParts { epoch: part.epoch, times: *times, keys, root_ca_pem: None }
                });
                let Ok(keyring) = Keyring::from_parts(P256Key::generate(), parts.collect()) else { continue };
                usable += 1;
                for now in [0, 4, 5, 6, 7, u64::MAX] {
                    assert!(keyring.readable(keyring.current(now), now).is_ok(), "{now}: {keyring:?}");
                    assert!(keyring.readable(keyring.identity(now), now).is_ok(), "{now}: {keyring:?}");
                }
            }
        }
    }
    assert!(usable > 100, "{usable}");
}

fn parts_of(epoch: RootEpoch) -> EpochParts {
    let keys = EpochKeys::Held { ca: P256Key::generate(), k256: K256Key::generate() };
    EpochParts { epoch, times: EpochTimes::FIRST, keys, root_ca_pem: None }
}
