//! Floors rise and never fall: in memory, on the disk, against two processes and a damaged file.

use super::*;
use crate::collateral::testing::{collateral_set, mock_root_der, numbered};
use crate::collateral::{CaKind, Numbers};

fn of(tcb_info: u32, qe_identity: u32, root_crl: u64, pck_crl: u64) -> Collateral {
    numbered(collateral_set("good"), Numbers { tcb_info, qe_identity, root_crl, pck_crl })
}

const FMSPC: [u8; 6] = [0; 6];

#[test]
fn a_lower_number_of_any_kind_is_refused() {
    use FloorKind::{PckCrl, QeIdentity, RootCrl, TcbInfo};
    use TcbSet::Standard;
    let floors = Floors::in_memory(0);
    let seen = of(20, 19, 7, 300);
    assert_eq!(floors.admit(&seen, Standard), Ok(true));
    assert_eq!(floors.admit(&seen, Standard), Ok(false), "the same numbers do not raise it");
    for (collateral, kind, number, seen) in [
        (of(17, 19, 7, 300), TcbInfo(Standard, FMSPC), 17, 20),
        (of(20, 18, 7, 300), QeIdentity(Standard), 18, 19),
        (of(20, 19, 6, 300), RootCrl, 6, 7),
        (of(20, 19, 7, 0), PckCrl(CaKind::Platform), 0, 300),
    ] {
        assert_eq!(
            floors.admit(&collateral, Standard),
            Err(FetchFailure::RolledBack { kind, number, seen }),
            "{kind}"
        );
        assert!(floors.is_below(&collateral, Standard), "{kind}");
    }
    assert_eq!(floors.refused(), [1, 1, 1, 1]);
    for (fine, has_risen) in [(of(20, 19, 7, 300), false), (of(21, 21, 8, 301), true)] {
        assert_eq!(floors.admit(&fine, Standard), Ok(has_risen));
    }
    assert!(floors.is_below(&seen, Standard), "it is old now");
}

#[test]
fn the_early_set_does_not_raise_the_floor_of_the_standard_one() {
    let floors = Floors::in_memory(0);
    let (standard, early) = (of(17, 17, 5, 5), of(18, 18, 5, 5));
    assert_eq!(floors.admit(&early, TcbSet::Early), Ok(true));
    assert_eq!(floors.admit(&standard, TcbSet::Standard), Ok(true));
    assert!(floors.admit(&standard, TcbSet::Early).is_err(), "the early set falls back");
    assert_eq!(floors.admit(&early, TcbSet::Early), Ok(false));
    // CRLs are the same in both sets.
    assert!(floors.admit(&of(18, 18, 4, 5), TcbSet::Early).is_err());
}

#[test]
fn the_operators_minimum_is_for_evaluation_numbers_of_both_sets() {
    let floors = Floors::in_memory(18);
    let kind = FloorKind::TcbInfo(TcbSet::Standard, FMSPC);
    assert_eq!(
        floors.admit(&of(17, 18, 0, 0), TcbSet::Standard),
        Err(FetchFailure::BelowMinimum { kind, number: 17, minimum: 18 })
    );
    assert!(floors.admit(&of(18, 17, 0, 0), TcbSet::Early).is_err());
    assert_eq!(floors.admit(&of(18, 18, 0, 0), TcbSet::Standard), Ok(true));
}

#[test]
fn kinds_have_one_spelling() {
    use FloorKind::{PckCrl, QeIdentity, RootCrl, TcbInfo};
    for (kind, text) in [
        (TcbInfo(TcbSet::Standard, [0xb0, 0xc0, 0x6f, 0, 0, 0]), "tcb_info/standard/b0c06f000000"),
        (TcbInfo(TcbSet::Early, FMSPC), "tcb_info/early/000000000000"),
        (QeIdentity(TcbSet::Early), "qe_identity/early"),
        (RootCrl, "root_crl"),
        (PckCrl(CaKind::Processor), "pck_crl/processor"),
    ] {
        assert_eq!(kind.to_string(), text);
        assert_eq!(FloorKind::parse(text), Some(kind));
        assert!(FloorKind::NAMES.contains(&kind.name()));
    }
    for text in [
        "",
        "tcb_info",
        "tcb_info/standard",
        "tcb_info/standard/B0C06F000000",
        "tcb_info/standard/b0c06f000000/x",
        "qe_identity",
        "qe_identity/Early",
        "root_crl/platform",
        "pck_crl/root",
        "crl",
    ] {
        assert_eq!(FloorKind::parse(text), None, "{text}");
    }
}

struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("deep/floors.json")
    }

    fn open(&self) -> Result<Floors, FloorsFileError> {
        Floors::open(self.path(), &mock_root_der(), 0)
    }

    /// Floors that have seen 20, 19, 7 and 300.
    fn filled() -> Self {
        let disk = Self::new();
        let floors = disk.open().unwrap();
        assert!(!disk.path().exists(), "opening writes nothing");
        assert_eq!(floors.admit(&of(20, 19, 7, 300), TcbSet::Standard), Ok(true));
        floors.save();
        assert_eq!(floors.unsaved(), 0);
        disk
    }
}

#[test]
fn a_new_process_accepts_nothing_older_than_the_one_before() {
    let disk = Disk::filled();
    let floors = disk.open().unwrap();
    assert!(floors.admit(&of(17, 19, 7, 300), TcbSet::Standard).is_err());
    assert_eq!(floors.admit(&of(20, 19, 7, 300), TcbSet::Standard), Ok(false));
    // Each root has its own floors.
    let other = Floors::open(disk.path(), b"another root", 0).unwrap();
    assert_eq!(other.admit(&of(1, 1, 1, 1), TcbSet::Standard), Ok(true));
    other.save();
    assert_eq!(disk.open().unwrap().list(), floors.list(), "and do not replace ours");
}

#[test]
fn two_processes_with_one_file_do_not_lower_each_others_floors() {
    let disk = Disk::filled();
    let (first, second) = (disk.open().unwrap(), disk.open().unwrap());
    assert_eq!(first.admit(&of(22, 19, 7, 300), TcbSet::Standard), Ok(true));
    first.save();
    assert_eq!(second.admit(&of(21, 21, 7, 300), TcbSet::Standard), Ok(true));
    second.save();
    let expected = [22, 21, 7, 300];
    for floors in [second, disk.open().unwrap()] {
        let numbers: Vec<u64> = floors.list().into_iter().map(|(_, number)| number).collect();
        assert_eq!(numbers, expected);
    }
}

#[test]
fn what_another_process_writes_between_reading_and_writing_is_not_lost() {
    use crate::state_file::Lock;

    let disk = Disk::new();
    let (ours, theirs) = (disk.open().unwrap(), disk.open().unwrap());
    ours.admit(&of(20, 19, 7, 300), TcbSet::Standard).unwrap();
    theirs.admit(&of(17, 19, 9, 300), TcbSet::Standard).unwrap();
    theirs.save();
    let newer = std::fs::read(disk.path()).unwrap();
    std::fs::remove_file(disk.path()).unwrap();
    // The other process holds the lock: it has read, and writes a little later.
    let lock = Lock::take(&disk.path()).unwrap();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| ours.save());
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(!disk.path().exists() && !saving.is_finished(), "no other process writes in between");
        }
        std::fs::write(disk.path(), &newer).unwrap();
        drop(lock);
    });
    assert_eq!(ours.unsaved(), 0);
    let kept = disk.open().unwrap().list();
    assert!(kept.contains(&(FloorKind::RootCrl, 9)), "theirs: {kept:?}");
    assert!(kept.contains(&(FloorKind::TcbInfo(TcbSet::Standard, FMSPC), 20)), "ours: {kept:?}");
}

#[test]
fn a_damaged_file_is_an_error_and_no_lower_floor() {
    let disk = Disk::filled();
    let good = std::fs::read(disk.path()).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let lower = text.replace(": 20", ": 17");
    assert_ne!(lower, text);
    let mut cases: Vec<Vec<u8>> = vec![
        lower.into_bytes(),
        text.replace("\"version\": 1", "\"version\": 2").into_bytes(),
        text.replace("tcb_info", "tcb_imfo").into_bytes(),
        text.replace("sha256", "sha512").into_bytes(),
        Vec::new(),
        b"{}".to_vec(),
        vec![b' '; (4 << 20) + 1],
    ];
    cases.extend((0..good.len() - 1).step_by(5).map(|cut| good[..cut].to_vec()));
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        cases.push(flipped);
    }
    let floors = disk.open().unwrap().list();
    for case in cases {
        std::fs::write(disk.path(), &case).unwrap();
        match disk.open() {
            Err(error) => assert!(matches!(error, FloorsFileError::Damaged(_)), "{error}"),
            // Only white space or another root's name was changed.
            Ok(read) => assert_eq!(read.list(), floors, "{}", String::from_utf8_lossy(&case)),
        }
    }
    std::fs::remove_file(disk.path()).unwrap();
    std::fs::create_dir(disk.path()).unwrap();
    assert!(matches!(disk.open(), Err(FloorsFileError::Unreadable(_))));
}

#[test]
fn what_the_disk_does_not_take_holds_in_memory_and_is_counted() {
    let disk = Disk::filled();
    let floors = disk.open().unwrap();
    std::fs::write(disk.path(), b"damaged while we run").unwrap();
    assert_eq!(floors.admit(&of(25, 25, 25, 325), TcbSet::Standard), Ok(true));
    floors.save();
    assert_eq!(floors.unsaved(), 1);
    assert!(floors.admit(&of(24, 25, 25, 325), TcbSet::Standard).is_err());
}
