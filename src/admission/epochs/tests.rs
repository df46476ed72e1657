//! Tests of the choice of epochs.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Epochs from 0 on by their state: active, retired, destroyed, prepared.
#[derive(Debug)]
struct Ring(&'static str);

impl RootEpochs for Ring {
    fn current(&self) -> RootEpoch {
        RootEpoch(self.0.rfind('a').expect("one is active") as u32)
    }

    fn readable(&self, epoch: RootEpoch) -> Result<(), Unreadable> {
        match self.0.as_bytes().get(epoch.0 as usize) {
            Some(b'a') => Ok(()),
            Some(b'r') => Err(Unreadable::Retired(epoch)),
            Some(b'd') => Err(Unreadable::Destroyed(epoch)),
            Some(_) => Err(Unreadable::NotActive(epoch)),
            None => Err(Unreadable::Unknown(epoch)),
        }
    }
}

fn said(entry: &Value) -> Option<AppEpochs> {
    AppEpochs::parse(entry.as_object().expect("an object")).expect("valid")
}

fn asked(text: &str) -> AskedEpochs {
    let number = |text: &str| (!text.is_empty()).then(|| text.parse().expect("a number"));
    match text.split_once('.') {
        Some((root, app)) => AskedEpochs::new(number(root), number(app)),
        None => AskedEpochs::new(number(text), None),
    }
}

fn found(ring: &'static str, entry: &Value, ask: &str) -> String {
    match grant(asked(ask), said(entry).as_ref(), None, &Ring(ring)) {
        Ok(granted) => dotted(granted.used()),
        Err(denial) => denial.code.name().to_owned(),
    }
}

#[test]
fn an_app_whose_epoch_is_far_beyond_all_gets_older_keys_at_no_cost() {
    let entry = json!({ "rootEpoch": u32::MAX, "appEpoch": u32::MAX });
    let granted = grant(asked("0.0"), said(&entry).as_ref(), None, &Ring("aap")).expect("an older epoch");
    assert_eq!(granted.used(), KeyEpochs::FIRST);
    let roots: BTreeSet<u32> = granted.previous().iter().map(|epochs| epochs.root.0).collect();
    assert_eq!(roots, BTreeSet::from([0, 1]), "those that can be read");
    assert!(granted.previous().len() <= MAX_PREVIOUS);
    assert_eq!(found("aap", &entry, ""), "epoch_unknown");
}

#[test]
fn the_epochs_of_a_request_are_those_of_its_app_or_older_ones() {
    let none = json!({});
    let current = json!({ "rootEpoch": "current" });
    let second = json!({ "rootEpoch": "current", "appEpoch": 2 });
    let listed = |list: Value| json!({ "rootEpoch": "current", "appEpoch": 2, "readableEpochs": list });
    for (ring, entry, ask, expected) in [
        // An app that follows nothing stays at 0, whatever is active.
        ("a", &none, "", "0.0"),
        ("aa", &none, "", "0.0"),
        ("aap", &none, "0", "0.0"),
        ("aa", &none, "0.0", "0.0"),
        ("aa", &none, "1", "epoch_too_new"),
        ("aa", &none, "0.1", "epoch_too_new"),
        ("aa", &none, ".1", "epoch_too_new"),
        ("aap", &none, "2", "epoch_not_active"),
        ("aa", &none, "7", "epoch_unknown"),
        ("ra", &none, "", "epoch_retired"),
        ("da", &none, "", "epoch_destroyed"),
        ("ra", &none, "0", "epoch_retired"),
        // An app that follows the current one, and names the one before for its disk.
        ("aa", &current, "", "1.0"),
        ("aap", &current, "", "1.0"),
        ("aa", &current, "0", "0.0"),
        ("aa", &current, "1.0", "1.0"),
        ("aap", &current, "2", "epoch_not_active"),
        ("aa", &current, "2", "epoch_unknown"),
        ("ra", &current, "0", "epoch_retired"),
        ("da", &current, "0", "epoch_destroyed"),
        ("ra", &current, "", "1.0"),
        ("aa", &current, "1.1", "epoch_too_new"),
        ("aa", &current, "0.1", "epoch_too_new"),
        // With an epoch of its own. A root epoch alone means app epoch 0.
        ("aa", &second, "", "1.2"),
        ("aa", &second, "1", "1.0"),
        ("aa", &second, ".1", "1.1"),
        ("aa", &second, "0.2", "0.2"),
        ("aa", &second, "0.3", "epoch_too_new"),
        ("aa", &second, "1.3", "epoch_too_new"),
        // The policy stays with one, or names one that is not there.
        ("aa", &json!({ "rootEpoch": 1 }), "", "1.0"),
        ("aaa", &json!({ "rootEpoch": 1 }), "2", "epoch_too_new"),
        ("ap", &json!({ "rootEpoch": 1 }), "", "epoch_not_active"),
        ("a", &json!({ "rootEpoch": 1 }), "", "epoch_unknown"),
        ("a", &json!({ "rootEpoch": 1 }), "0", "0.0"),
        // What may be read is listed.
        ("aa", &listed(json!([])), "", "1.2"),
        ("aa", &listed(json!([])), "1.1", "epoch_not_readable"),
        ("aa", &listed(json!([])), "0.2", "epoch_not_readable"),
        ("aa", &listed(json!([0])), "0.2", "0.2"),
        ("aa", &listed(json!([0])), "0.0", "0.0"),
        ("aa", &listed(json!([0])), "1.1", "epoch_not_readable"),
        ("aa", &listed(json!([1])), "1.1", "1.1"),
        ("aa", &listed(json!(["0.1"])), "0.1", "0.1"),
        ("aa", &listed(json!(["0.1"])), "0.0", "epoch_not_readable"),
        ("aa", &listed(json!(["0.9"])), "0.9", "0.9"),
        ("aa", &listed(json!(["1.9"])), "1.9", "epoch_too_new"),
        ("ra", &listed(json!([0])), "0.0", "epoch_retired"),
    ] {
        assert_eq!(found(ring, entry, ask), expected, "{ring} {entry} {ask}");
    }
}

#[test]
fn an_operators_choice_counts_where_the_policy_says_nothing() {
    let chosen = Some(ChosenEpochs { root: RootChoice::Current, app: AppEpoch(3) });
    for (entry, expected) in [
        (json!({}), "1.3"),
        (json!({ "rootEpoch": 0 }), "0.3"),
        (json!({ "appEpoch": 1 }), "1.1"),
        (json!({ "rootEpoch": 0, "appEpoch": 0 }), "0.0"),
        (json!({ "readableEpochs": [] }), "1.3"),
    ] {
        let granted = grant(AskedEpochs::NONE, said(&entry).as_ref(), chosen, &Ring("aa")).expect("granted");
        assert_eq!(dotted(granted.used()), expected, "{entry}");
    }
}

#[test]
fn an_answer_lists_the_older_epochs_that_can_be_read() {
    let previous = |ring, entry: &Value, ask: &str| {
        let granted = grant(asked(ask), said(entry).as_ref(), None, &Ring(ring)).expect("granted");
        granted.previous().iter().copied().map(dotted).collect::<Vec<_>>().join(" ")
    };
    let entry = |app: u32| json!({ "rootEpoch": "current", "appEpoch": app });
    assert_eq!(previous("aa", &json!({}), ""), "");
    assert_eq!(previous("aa", &entry(0), ""), "0.0");
    assert_eq!(previous("aa", &entry(0), "0"), "", "the newer ones are not older");
    assert_eq!(previous("aa", &entry(2), ""), "1.1 1.0 0.2 0.1 0.0");
    assert_eq!(previous("ardaa", &entry(0), ""), "3.0 0.0");
    let mut listed = entry(2);
    listed["readableEpochs"] = json!(["0.1", 1, "0.7", "1.2", "1.5"]);
    assert_eq!(previous("aa", &listed, ""), "1.1 1.0 0.7 0.1");
    // Bounded, with a share for each root epoch.
    let long =
        grant(AskedEpochs::NONE, said(&entry(u32::MAX)).as_ref(), None, &Ring("aaaa")).expect("granted");
    assert_eq!(long.previous().len(), MAX_PREVIOUS);
    for root in 0..4 {
        assert!(long.previous().iter().any(|epochs| epochs.root == RootEpoch(root)), "{root}");
    }
}

#[test]
fn a_caller_that_names_none_and_gets_what_it_always_got_is_told_nothing() {
    for (entry, ask, expected) in [
        (json!({}), "", None),
        (json!({}), "0", Some("0.0")),
        (json!({ "rootEpoch": 1 }), "", Some("1.0")),
        (json!({ "rootEpoch": 1 }), "0", Some("0.0")),
    ] {
        let granted = grant(asked(ask), said(&entry).as_ref(), None, &Ring("aa")).expect("granted");
        assert_eq!(granted.said().map(dotted).as_deref(), expected, "{entry} {ask}");
    }
    let granted = grant(AskedEpochs::NONE, None, None, &Ring("aa")).expect("granted");
    assert_eq!(granted, GrantedEpochs::FIRST);
}

proptest! {
    /// Whatever is asked for, what is granted can be read and is not newer than the app's own; all that an answer lists is
    /// granted when it is asked for.
    #[test]
    fn what_is_granted_is_readable_and_not_newer(
        ring in prop_oneof![Just("a"), Just("aa"), Just("rap"), Just("daaap"), Just("aradaapp")],
        root in prop_oneof![Just(json!(null)), Just(json!("current")), (0..6_u32).prop_map(|it| json!(it))],
        app in prop_oneof![Just(json!(null)), (0..4_u32).prop_map(|it| json!(it))],
        readable in prop_oneof![
            Just(json!(null)),
            prop::collection::vec(
                prop_oneof![
                    (0..6_u32).prop_map(|it| json!(it)),
                    (0..6_u32, 0..6_u32).prop_map(|(root, app)| json!(format!("{root}.{app}"))),
                ],
                0..4,
            ).prop_map(|it| json!(it)),
        ],
        asked_root in prop::option::of(0..7_u32),
        asked_app in prop::option::of(0..6_u32),
    ) {
        let ring = Ring(ring);
        let entry = said(&json!({ "rootEpoch": root, "appEpoch": app, "readableEpochs": readable }));
        let own = own_epochs(entry.as_ref(), None, &ring);
        let asked = AskedEpochs::new(asked_root, asked_app);
        match grant(asked, entry.as_ref(), None, &ring) {
            Ok(granted) => {
                prop_assert!(granted.used() <= own);
                prop_assert_eq!(ring.readable(granted.used().root), Ok(()));
                if !asked.is_some() {
                    prop_assert_eq!(granted.used(), own);
                }
                prop_assert!(granted.previous().is_sorted_by(|one, next| one > next));
                for older in granted.previous() {
                    prop_assert!(*older < own && *older != granted.used());
                    let again = AskedEpochs::new(Some(older.root.0), Some(older.app.0));
                    prop_assert_eq!(grant(again, entry.as_ref(), None, &ring).map(|it| it.used()), Ok(*older));
                }
            }
            Err(denial) => {
                let named = asked.of(own);
                let is_plain = named == own || (entry.as_ref().is_none_or(|it| it.readable.is_none()) && named < own && named.app <= own.app);
                prop_assert!(!is_plain || ring.readable(named.root).is_err(), "{:?}", denial);
                prop_assert_eq!(denial.actual, Some(dotted(named)));
            }
        }
    }
}
