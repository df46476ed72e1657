//! Tests of the sentences.

use super::*;

fn record(kind: &str, fields: &str) -> Record {
    let line = format!(
        r#"{{"seq":7,"time":"2026-01-02T03:04:05.678Z","prev":"00","event":"{kind}"{fields},"hash":"11"}}"#
    );
    Record::read(line.as_bytes()).expect("a record")
}

/// The names of the variants of `Event`, as they are recorded.
fn kinds() -> Vec<String> {
    let source = include_str!("../event.rs");
    let variants = source.split_once("pub enum Event {").expect("the enum").1;
    let variants = variants.split_once("\n}\n").expect("its end").0;
    let is_variant = |line: &&str| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase();
    let name = |line: &str| line.trim().trim_end_matches([' ', '{', ',']).to_owned();
    let snake = |name: String| {
        let parts = name.char_indices().map(|(at, c)| match c.is_ascii_uppercase() && at > 0 {
            true => format!("_{}", c.to_ascii_lowercase()),
            false => c.to_ascii_lowercase().to_string(),
        });
        parts.collect::<String>()
    };
    variants.lines().filter(|line| line.len() > 5).filter(is_variant).map(name).map(snake).collect()
}

#[test]
fn every_type_of_event_has_a_sentence() {
    let kinds = kinds();
    assert_eq!(kinds.len(), EventType::ALL.len());
    assert!(kinds.len() >= 28 && kinds.contains(&"app_key_released".to_owned()), "{kinds:?}");
    for kind in kinds {
        let record = record(&kind, "");
        assert!(record.known_sentence().is_some(), "no sentence for {kind}");
        assert!(EventType::parse(&kind).is_some(), "no type for {kind}");
        assert!(!record.sentence().contains('\n'));
    }
    assert_eq!(record("of_later", "").sentence(), "event of type of_later");
}

#[test]
fn sentences_say_who_and_what() {
    for (kind, fields, sentence) in [
        (
            "app_key_released",
            r#","app_id":"aa","instance_id":"bb","remote":"10.0.0.1""#,
            "keys were released to app aa (instance bb) at 10.0.0.1",
        ),
        (
            "frozen",
            r#","scope":"app","value":"aa","reason":"stolen","by":"user eve","remote":"::1""#,
            "app aa was frozen by user eve from ::1: stolen",
        ),
        (
            "unfreeze_failed",
            r#","scope":"app","value":"aa","reason":"no disk","by":"user eve","remote":"::1""#,
            "the unfreeze of app aa by user eve from ::1 was not made: no disk",
        ),
        (
            "keys_not_received",
            r#","domain":"d","source":"https://s","code":"source_invitation_over","remote":"::1""#,
            "root keys for domain d were not received from https://s: source_invitation_over; ask one of its owners for a new invitation",
        ),
        ("unfrozen", r#","scope":"app","value":"aa","by":"token""#, "app aa was unfrozen by token"),
        (
            "replica_progress",
            r#","domain":"127.0.0.1","stage":"keys","invitation":"7""#,
            "the invited replica 127.0.0.1 was sent the root keys; invitation 7",
        ),
        (
            "state_adopted",
            r#","document":"drain","change":"changed","target":"","by":"user amy","node":"two""#,
            "drains of nodes were changed on the node two, by user amy; here it is in force too",
        ),
        ("suppressed", r#","events":3"#, "3 events came too fast to be recorded"),
        ("suppressed", r#","events":3,"source":"pipe""#, "[pipe] 3 events came too fast to be recorded"),
        (
            "keys_restored",
            r#","domain":"d","set":"s","officers":["ann","bob"],"ledger_origin":"o","ledger_checkpoint":"7 aa=""#,
            "root keys for domain d were restored from the recovery set s by ann, bob; when the set was made, the log o was at 7 aa=",
        ),
        ("reported", r#","source":"pipe","message":"disk swapped""#, "[pipe] disk swapped"),
        ("reported", r#","source":"api","message":"x","by":"token","remote":"::1""#, "[api, token] x"),
        (
            "started",
            r#","version":"1","phase":"ready","posture":[]"#,
            "KMS version 1 started, phase ready; relaxed: none",
        ),
    ] {
        assert_eq!(record(kind, fields).sentence(), sentence);
    }
}

#[test]
fn values_of_others_neither_break_a_line_nor_fill_it() {
    let long = "x".repeat(5000);
    let fields = format!(r#","app_id":"aa","code":"c","reason":"a\nb\u001b[2J\u202e{long}","remote":"::1""#);
    let sentence = record("denied", &fields).sentence();
    assert!(sentence.ends_with('…') && sentence.len() < 500, "{sentence}");
    assert!(sentence.contains(r"a\nb\u{1b}[2J\u{202e}xxx"), "{sentence}");
}

#[test]
fn no_sentence_of_ours_begins_like_one_from_outside() {
    // These two have a source.
    let is_ours = |kind: &&String| !["reported", "suppressed"].contains(&kind.as_str());
    for kind in kinds().iter().filter(is_ours) {
        let record =
            record(kind, r#","source":"[pipe] x","scope":"[pipe] x","by":"[pipe] x","reason":"[pipe]""#);
        assert_eq!(record.source(), "kms");
        // The scope is one of our own words.
        assert!(kind.ends_with("frozen") || !record.sentence().starts_with('['), "{kind}");
    }
}
