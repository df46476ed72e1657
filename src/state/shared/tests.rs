//! What is believed of a database that anybody may have written to, without a database.

use std::collections::BTreeMap;

use kms_attest::p256::P256Key;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::alarm::Alarm;
use super::beat::{Beat, Challenge, KIND};
use super::head::{Head, HeadId, Kinship, Listed, Sha256Digest, Writer};
use super::history::{Followed, Trail};
use super::judge::{Before, Seen, judge};
use super::memory::Memory;
use super::seal::{FleetId, NodeId, Opened, Seal, Sealed, Seals};
use super::table::{DocumentRow, HeadRow, ReportRow};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochChange, Keyring};
use crate::keys::{K256Key, RootKeys};

const NOW: u64 = 1_800_000_000;

fn keyring() -> Keyring {
    Keyring::first(RootKeys::from_parts(P256Key::generate(), P256Key::generate(), K256Key::generate()))
}

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn writer() -> Writer {
    Writer { node: node(1), name: "one".to_owned(), operator: "zoe".to_owned() }
}

/// A database that nodes with these keys have written.
struct Database {
    seals: Seals,
    history: Vec<(Head, HeadId)>,
    documents: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Database {
    fn new(keyring: &Keyring) -> Self {
        let mut database =
            Self { seals: Seals::of(keyring, NOW), history: Vec::new(), documents: BTreeMap::new() };
        let head = Head::first(writer());
        database.push(head, &[("freezes", b"none"), ("credentials", b"two")]);
        database
    }

    fn push(&mut self, mut head: Head, changes: &[(&str, &[u8])]) {
        for (name, body) in changes {
            let version = self.documents.get(*name).map_or(1, |(version, _)| version + 1);
            self.documents.insert((*name).to_owned(), (version, body.to_vec()));
            let sha256 = Sha256Digest(Sha256::digest(body).into());
            head.documents.insert((*name).to_owned(), Listed { version, sha256 });
        }
        let digest = Sha256Digest(self.seals.head_digest(&head.encode()));
        let id = HeadId { seq: head.seq, digest };
        self.history.push((head, id));
    }

    fn change(&mut self, name: &str, body: &[u8]) {
        let (head, id) = self.last().clone();
        self.push(head.next(id.digest, writer()), &[(name, body)]);
    }

    fn last(&self) -> &(Head, HeadId) {
        self.history.last().unwrap()
    }

    fn seen(&self) -> Seen {
        let body = self.last().0.encode();
        let seal = self.seals.seal(Sealed::Head { body: &body }).unwrap();
        let head = Some(HeadRow { seq: i64::try_from(self.last().0.seq).unwrap(), body, seal });
        let documents = self.documents.iter().map(|(name, (version, body))| {
            let sha256: [u8; 32] = Sha256::digest(body).into();
            let seal =
                self.seals.seal(Sealed::Row { document: name, version: *version, sha256: &sha256 }).unwrap();
            let (version, sha256) = (i64::try_from(*version).unwrap(), sha256.to_vec());
            DocumentRow { name: name.clone(), version, sha256, seal }
        });
        Seen {
            head,
            documents: documents.collect(),
            beats: vec![self.beat(2, Some(self.last().1))],
            followed: None,
        }
    }

    /// What the heads that the database keeps show to a node that knows this one, without some of them.
    fn followed(&self, known: HeadId, without: impl Fn(u64) -> bool) -> Option<Followed> {
        let (head, id) = self.last().clone();
        let mut trail = Trail::new(head, id.digest, known);
        let kept = self.history.iter().rev().filter(|(head, id)| head.is_kept() && !without(id.seq));
        for (head, id) in kept {
            trail.back_to(&head.encode(), id.digest);
        }
        trail.end()
    }

    /// One that has the same so far.
    fn copy(&self, keyring: &Keyring) -> Self {
        Self {
            seals: Seals::of(keyring, NOW),
            history: self.history.clone(),
            documents: self.documents.clone(),
        }
    }

    fn beat(&self, number: u8, head: Option<HeadId>) -> ReportRow {
        let beat = Beat {
            name: format!("node {number}"),
            challenge: Challenge([number; 16]),
            run: None,
            time_ms: None,
            head,
            answers: Vec::new(),
        };
        let (body, node) = (beat.encode(), node(number));
        let seal = self.seals.seal(Sealed::Report { node, kind: KIND, counter: 5, body: &body }).unwrap();
        ReportRow { node: node.0.to_vec(), counter: 5, body, seal }
    }

    /// The beat of a node by whose clock it is this time.
    fn beat_at(&self, number: u8, time_ms: Option<u64>) -> ReportRow {
        let row = self.beat(number, None);
        let body = Beat { time_ms, ..Beat::parse(&row.body).unwrap() }.encode();
        let sealed = Sealed::Report { node: node(number), kind: KIND, counter: 5, body: &body };
        ReportRow { seal: self.seals.seal(sealed).unwrap(), body, ..row }
    }

    fn judge(&self, known: Option<&(Head, HeadId)>, seen: &Seen) -> Result<Option<HeadId>, Alarm> {
        let before = known.map(|(head, id)| Before { head: *id, documents: &head.documents });
        let followed = before.and_then(|before| self.followed(before.head, |_| false));
        let seen = Seen { followed, ..seen.clone() };
        judge(&self.seals, before, &seen).map(|believed| believed.map(|believed| believed.id))
    }
}

#[test]
fn what_nodes_write_is_believed() {
    let mut database = Database::new(&keyring());
    let first = database.last().clone();
    assert_eq!(database.judge(None, &Seen::default()), Ok(None), "nothing is there, and nothing was known");
    for change in 0..40_u8 {
        let before = database.last().clone();
        database.change("freezes", &[change]);
        let newest = database.last().1;
        assert_eq!(database.judge(Some(&before), &database.seen()), Ok(Some(newest)));
        assert_eq!(database.judge(None, &database.seen()), Ok(Some(newest)), "by a node that is new");
        assert_eq!(database.judge(Some(&first), &database.seen()), Ok(Some(newest)), "by one that was away");
    }
}

#[test]
fn of_too_many_nodes_the_own_one_and_those_that_wrote_last_count() {
    let database = Database::new(&keyring());
    // The clock of this node, whose row comes first, is wrong.
    let mut beats = vec![database.beat_at(255, Some(0))];
    beats.extend((0..200).map(|number| database.beat_at(number, Some(1_000 + u64::from(number)))));
    beats.push(database.beat_at(201, None));
    let believed = judge(&database.seals, None, &Seen { beats, ..database.seen() }).unwrap().unwrap();
    let expected: Vec<_> = (73..200).chain([255]).map(node).collect();
    assert_eq!(believed.beats.keys().copied().collect::<Vec<_>>(), expected);
}

#[test]
fn what_goes_back_or_is_of_another_history_is_noticed() {
    let keyring = keyring();
    let mut database = Database::new(&keyring);
    let old = database.seen();
    let mut other = database.copy(&keyring);
    database.change("freezes", b"one");
    other.change("freezes", b"two");
    let known = database.last().clone();
    let rolled_back = Err(Alarm::RolledBack { known: 2, shown: 1 });
    assert_eq!(database.judge(Some(&known), &old), rolled_back, "a backup");
    assert_eq!(database.judge(Some(&known), &Seen::default()), Err(Alarm::RolledBack { known: 2, shown: 0 }));
    let forked = Err(Alarm::Forked { known: 2 });
    assert_eq!(database.judge(Some(&known), &other.seen()), forked, "the same number");
    other.change("freezes", b"three");
    assert_eq!(database.judge(Some(&known), &other.seen()), forked, "a higher number");

    // A node that knew nothing of it learns it from the others.
    let hidden = Seen { beats: vec![database.beat(2, Some(known.1))], ..old.clone() };
    let expected = Alarm::Hidden { node: "node 2".to_owned(), known: 2, shown: 1 };
    assert_eq!(database.judge(None, &hidden), Err(expected));
    let nothing = Seen { beats: vec![database.beat(2, Some(known.1))], ..Seen::default() };
    assert!(matches!(database.judge(None, &nothing), Err(Alarm::Hidden { known: 2, shown: 0, .. })));
    let elsewhere = Seen { beats: vec![other.beat(2, Some(known.1))], ..other.seen() };
    assert!(matches!(other.judge(None, &elsewhere), Err(Alarm::ForkedFrom { known: 2, .. })));

    // An owner may write over it, above everything that was known.
    let repaired =
        Head { seq: 9, repaired: 9, documents: known.0.documents.clone(), ..Head::first(writer()) };
    database.push(repaired, &[]);
    let newest = database.last().1;
    assert_eq!(database.judge(Some(&known), &database.seen()), Ok(Some(newest)));
    let late = Seen { beats: vec![database.beat(2, Some(other.last().1))], ..database.seen() };
    assert_eq!(database.judge(Some(&known), &late), Ok(Some(newest)), "a node that does not know of it yet");
}

#[test]
fn a_node_that_was_away_believes_only_what_follows_the_state_that_it_knows() {
    let keyring = keyring();
    let mut database = Database::new(&keyring);
    for change in 0..45_u8 {
        database.change("freezes", &[change]);
    }
    let mut other = database.copy(&keyring);
    // The node knows a freeze that only the one database has; the fleet goes on in the other.
    database.change("freezes", b"frozen");
    let known = database.last().clone();
    other.change("freezes", b"not frozen");
    for changes in 1..200_u8 {
        database.change("credentials", &[changes]);
        other.change("credentials", &[changes]);
        let newest = Ok(Some(database.last().1));
        assert_eq!(database.judge(Some(&known), &database.seen()), newest, "{changes}");
        let alarm = other.judge(Some(&known), &other.seen()).unwrap_err();
        assert_eq!(alarm.code(), "forked", "{changes} changes later: {alarm}");
    }
    // Any head between that is not shown leaves it open, and so does a proof of another node or another head.
    let (before, newest) = (Before { head: known.1, documents: &known.0.documents }, database.last().1);
    let unproven = Alarm::Unproven { known: known.1.seq, shown: newest.seq };
    let judged = |followed| judge(&database.seals, Some(before), &Seen { followed, ..database.seen() });
    let shown = database.followed(known.1, |_| false);
    assert!(judged(shown).is_ok());
    let between = (known.1.seq..newest.seq - 32).filter(|seq| seq.is_multiple_of(32));
    assert_eq!(between.clone().count(), 5);
    for gone in between {
        assert_eq!(judged(database.followed(known.1, |seq| seq == gone)), Err(unproven.clone()), "{gone}");
    }
    for followed in [
        None,
        shown.map(|shown| Followed { head: other.last().1.digest, ..shown }),
        shown.map(|shown| Followed { known: other.history[3].1, ..shown }),
    ] {
        assert_eq!(judged(followed), Err(unproven.clone()), "{followed:?}");
    }
    // What others wrote among them is passed over.
    let mut trail = Trail::new(database.last().0.clone(), newest.digest, known.1);
    for (head, id) in database.history.iter().rev().filter(|(head, _)| head.is_kept()) {
        trail.back_to(b"{}", id.digest);
        trail.back_to(&head.encode(), Sha256Digest([7; 32]));
        let same = &other.history[usize::try_from(id.seq).unwrap() - 1];
        trail.back_to(&same.0.encode(), same.1.digest);
        trail.back_to(&head.encode(), id.digest);
    }
    assert_eq!(trail.end(), shown);
    // An owner's word counts without.
    let repaired = Head { seq: 400, repaired: 400, ..Head::first(writer()) };
    let repaired = Head { documents: known.0.documents.clone(), ..repaired };
    other.push(repaired, &[("credentials", b"two"), ("freezes", b"none")]);
    for change in 0..50_u8 {
        other.change("freezes", &[change]);
    }
    assert_eq!(other.judge(Some(&known), &other.seen()), Ok(Some(other.last().1)));
}

#[test]
fn where_a_node_of_the_version_before_writes_too_nobody_is_locked_out() {
    let keyring = keyring();
    let mut database = Database::new(&keyring);
    let older = |database: &mut Database, changes: u8| {
        for change in 0..changes {
            let (head, id) = database.last().clone();
            // It keeps no field that it does not know.
            database.push(Head { traced: 0, ..head.next(id.digest, writer()) }, &[("freezes", &[change])]);
        }
    };
    let first = database.last().clone();
    older(&mut database, 40);
    let text = String::from_utf8(database.last().0.encode()).unwrap().replace(",\"traced\":0", "");
    assert_eq!(Head::parse(text.as_bytes()), Ok(database.last().0.clone()), "as it writes it");
    let known = database.last().clone();
    let judged = |database: &Database, known: &(Head, HeadId), what: &str| {
        assert_eq!(database.judge(Some(known), &database.seen()), Ok(Some(database.last().1)), "{what}");
    };
    judged(&database, &first, "nothing was kept");
    database.change("credentials", b"three");
    let traced = database.last().clone();
    for change in 0..100_u8 {
        database.change("credentials", &[change]);
    }
    assert_eq!(database.last().0.traced, traced.1.seq);
    for known in [&first, &known, &traced] {
        judged(&database, known, "a node of this version goes on");
    }
    for (head, id) in [&traced, &known] {
        let forged = (head.clone(), HeadId { digest: Sha256Digest([7; 32]), ..*id });
        assert!(database.judge(Some(&forged), &database.seen()).is_err(), "and what it wrote is followed");
    }
    older(&mut database, 40);
    judged(&database, &traced, "one of the version before goes on");
}

#[test]
fn every_changed_byte_is_noticed() {
    let mut database = Database::new(&keyring());
    database.change("freezes", b"one");
    let known = database.last().clone();
    let seen = database.seen();
    let alarmed = |seen: &Seen, what: &str| {
        for known in [None, Some(&known)] {
            assert!(database.judge(known, seen).is_err(), "{what}");
        }
    };
    let head = seen.head.clone().unwrap();
    for at in 0..head.body.len() {
        let mut changed = seen.clone();
        changed.head.as_mut().unwrap().body[at] ^= 1;
        alarmed(&changed, &format!("byte {at} of the head"));
    }
    for at in 0..head.seal.mac.len() {
        let mut changed = seen.clone();
        changed.head.as_mut().unwrap().seal.mac[at] ^= 1;
        alarmed(&changed, &format!("byte {at} of the seal of the head"));
    }
    for (index, row) in seen.documents.iter().enumerate() {
        for at in 0..row.seal.mac.len() {
            let mut changed = seen.clone();
            changed.documents[index].seal.mac[at] ^= 1;
            alarmed(&changed, &format!("byte {at} of the seal of {}", row.name));
        }
        for at in 0..32 {
            let mut changed = seen.clone();
            changed.documents[index].sha256[at] ^= 1;
            alarmed(&changed, &format!("byte {at} of {}", row.name));
        }
        for change in [
            |row: &mut DocumentRow| row.version += 1,
            |row: &mut DocumentRow| row.version -= 1,
            |row: &mut DocumentRow| row.version = -row.version,
            |row: &mut DocumentRow| row.name.push('x'),
            |row: &mut DocumentRow| row.sha256.truncate(31),
            |row: &mut DocumentRow| row.seal.mac.truncate(16),
            |row: &mut DocumentRow| row.seal.mac.clear(),
            |row: &mut DocumentRow| row.seal.epoch = 1,
        ] {
            let mut changed = seen.clone();
            change(&mut changed.documents[index]);
            alarmed(&changed, &format!("{:?}", changed.documents[index]));
        }
        let mut dropped = seen.clone();
        dropped.documents.remove(index);
        alarmed(&dropped, "a dropped row");
    }
    let mut swapped = seen.clone();
    let names: Vec<_> = swapped.documents.iter().map(|row| row.name.clone()).collect();
    swapped.documents[0].name = names[1].clone();
    swapped.documents[1].name = names[0].clone();
    alarmed(&swapped, "swapped rows");
    let mut added = seen.clone();
    added.documents.push(DocumentRow { name: "domains".to_owned(), ..seen.documents[0].clone() });
    alarmed(&added, "an added row");
    let mut gone = seen.clone();
    gone.head = None;
    alarmed(&gone, "no head");
    let mut renumbered = seen;
    renumbered.head.as_mut().unwrap().seq += 1;
    alarmed(&renumbered, "another number beside the head");
}

#[test]
fn an_older_version_of_a_row_is_not_taken_for_the_newer() {
    let mut database = Database::new(&keyring());
    let old = database.seen();
    database.change("freezes", b"one");
    let mut replayed = database.seen();
    replayed.documents = old.documents;
    let mismatched = Err(Alarm::Mismatched { row: "freezes".to_owned() });
    assert_eq!(database.judge(None, &replayed), mismatched);
    assert_eq!(database.judge(Some(database.last()), &replayed), mismatched);
}

#[test]
fn rows_of_another_fleet_are_not_authentic() {
    let (one, other) = (keyring(), keyring());
    assert_ne!(FleetId::of(&one), FleetId::of(&other));
    let (own, foreign) = (Database::new(&one), Database::new(&other));
    let mut seen = own.seen();
    seen.documents[0] = foreign.seen().documents[0].clone();
    assert!(matches!(own.judge(None, &seen), Err(Alarm::Altered { .. })));
    assert!(matches!(own.judge(None, &foreign.seen()), Err(Alarm::Altered { row }) if row == "head"));
    // What somebody says without the keys says nothing.
    let stranger =
        Seen { beats: vec![foreign.beat(2, Some(HeadId { seq: 99, ..own.last().1 }))], ..own.seen() };
    assert_eq!(own.judge(None, &stranger), Ok(Some(own.last().1)));
}

#[test]
fn a_retired_root_epoch_vouches_for_nothing_new() {
    let first = keyring();
    let new = first.new_epoch(NOW - 20).unwrap();
    let prepared = first.after(EpochChange::Prepare(&new), NOW - 20).unwrap();
    let epoch = new.number();
    let active = prepared.after(EpochChange::Activate { epoch, at: NOW - 10 }, NOW - 15).unwrap();
    let before = Database::new(&first);
    let known = before.last().clone();
    let of = |keyring: &Keyring| Database {
        seals: Seals::of(keyring, NOW),
        history: before.history.clone(),
        documents: before.documents.clone(),
    };
    // The new epoch is active: what is of the old one counts, and is sealed again.
    let node = of(&active);
    let believed =
        judge(&node.seals, Some(Before { head: known.1, documents: &known.0.documents }), &before.seen());
    assert!(believed.unwrap().unwrap().needs_seals);
    let again = judge(&node.seals, None, &node.seen()).unwrap().unwrap();
    assert!(!again.needs_seals && again.id == known.1, "a new seal is no new state");
    let waiting = of(&prepared);
    let newer =
        judge(&waiting.seals, Some(Before { head: known.1, documents: &known.0.documents }), &node.seen());
    assert!(
        !newer.unwrap().unwrap().needs_seals,
        "a node whose current epoch is older leaves the seals alone"
    );
    // The old one is retired: only what was known before counts.
    let retired = active.after(EpochChange::Retire(RootEpoch::FIRST), NOW - 1).unwrap();
    let node = of(&retired);
    assert_eq!(node.judge(None, &before.seen()), Err(Alarm::Epoch { epoch: 0 }));
    assert_eq!(node.judge(Some(&known), &before.seen()), Ok(Some(known.1)));
    let mut later = of(&first);
    later.change("freezes", b"forged with a stolen key");
    assert_eq!(node.judge(Some(&known), &later.seen()), Err(Alarm::Epoch { epoch: 0 }));
    // A node that has not got the new epoch yet says so.
    let behind = of(&first);
    assert_eq!(behind.judge(Some(&known), &of(&active).seen()), Err(Alarm::Epoch { epoch: 1 }));
}

#[test]
fn heads_name_those_before_them() {
    let database = Database::new(&keyring());
    let (mut head, mut id) = database.last().clone();
    let first = id;
    for _ in 0..100 {
        let next = head.next(id.digest, writer());
        let digest = Sha256Digest(database.seals.head_digest(&next.encode()));
        assert_eq!(next.kinship(digest, id), Kinship::Newer);
        assert_eq!(head.kinship(id.digest, HeadId { seq: next.seq, digest }), Kinship::Older);
        let other = HeadId { digest: Sha256Digest([7; 32]), ..id };
        assert_eq!(next.kinship(digest, other), Kinship::Fork);
        (head, id) = (next, HeadId { seq: id.seq + 1, digest });
    }
    assert!(head.before.len() == 32 && head.encode().len() < 4096);
    assert_eq!(head.kinship(id.digest, first), Kinship::Distant, "too long ago to be named");
    assert_eq!(Head::parse(&head.encode()), Ok(head));
}

#[test]
fn a_node_remembers_who_it_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("fleet.json");
    let first = Memory::open(path.clone()).unwrap();
    let again = Memory::open(path.clone()).unwrap();
    assert_eq!(first.node(), again.node());
    assert!(again.first_counter() > first.first_counter(), "numbers of reports only grow");
    std::fs::write(&path, "{\"version\":2}").unwrap();
    let told = Memory::open(path).unwrap_err().to_string();
    assert!(told.contains("fleet.json of the key directory is damaged"), "{told}");
    assert!(told.contains("in force again on all nodes, and must be ended again"), "{told}");
}

#[test]
fn what_is_sealed_cannot_be_read_as_something_else() {
    let seals = Seals::of(&keyring(), NOW);
    let sha256 = [3; 32];
    let what = [
        Sealed::Row { document: "freezes", version: 1, sha256: &sha256 },
        Sealed::Row { document: "freeze", version: 1, sha256: &sha256 },
        Sealed::Row { document: "freezes", version: 2, sha256: &sha256 },
        Sealed::Head { body: b"" },
        Sealed::Head { body: b"freezes" },
        Sealed::Report { node: node(1), kind: KIND, counter: 1, body: b"freezes" },
        Sealed::Report { node: node(2), kind: KIND, counter: 1, body: b"freezes" },
        Sealed::Report { node: node(1), kind: "status", counter: 1, body: b"freezes" },
    ];
    for (one, sealed) in what.iter().enumerate() {
        let seal = seals.seal(*sealed).unwrap();
        for (other, opened) in what.iter().enumerate() {
            let expected = (one == other).then_some(Opened::Current);
            assert_eq!(seals.open(&seal, *opened).ok(), expected, "{one} {other}");
        }
    }
}

proptest! {
    /// No bytes of others are believed, and none of them ends the program.
    #[test]
    fn arbitrary_rows_are_not_believed(
        seq in any::<i64>(), body in prop::collection::vec(any::<u8>(), 0..300),
        mac in prop::collection::vec(any::<u8>(), 0..40), epoch in any::<u32>(), name in "\\PC{0,20}", version in any::<i64>(),
        sha256 in prop::collection::vec(any::<u8>(), 0..40), node in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let database = Database::new(&keyring());
        let seal = Seal { epoch, mac };
        let head = HeadRow { seq, body: body.clone(), seal: seal.clone() };
        let row = DocumentRow { name, version, sha256, seal: seal.clone() };
        let beat = ReportRow { node, counter: version, body, seal };
        let seen = Seen { head: Some(head), ..Seen::default() };
        prop_assert!(database.judge(None, &seen).is_err());
        let mut seen = database.seen();
        seen.documents.push(row);
        prop_assert!(database.judge(None, &seen).is_err());
        let mut seen = database.seen();
        seen.beats.push(beat);
        prop_assert_eq!(database.judge(None, &seen), Ok(Some(database.last().1)));
    }
}
