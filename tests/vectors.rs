//! Known answers of the peer: every case of `tests/vectors`, or of the directory that `KMS_VECTORS_DIR` names, through
//! the functions that the service itself uses.
//!
//! Nothing here depends on which values or cases the files have. What the test does not know (a file, a list, a key, a
//! kind of case) fails it; where ours differs from the peer on purpose, a property of the case says so, and the summary
//! names case and reason.

mod vector_cases;

use std::io::Write;

use self::vector_cases::{Directory, Ledger};

#[test]
fn every_case_of_every_file_has_the_peers_answer() {
    let directory = Directory::chosen();
    let ledgers = directory.run();
    // Straight to standard error: the summary is to be seen when the test passes, too.
    let mut output = std::io::stderr().lock();
    let _ = writeln!(output, "\nvectors of {}", directory.path().display());
    for ledger in &ledgers {
        let _ = write!(output, "{}", ledger.summary());
    }
    drop(output);
    let failures: Vec<&str> = ledgers.iter().flat_map(Ledger::failures).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
