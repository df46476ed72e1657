//! Known results of the peer: every case of `tests/vectors`, or of the directory `KMS_VECTORS_DIR`, through
//! the functions that the service uses. A case is a test: `cargo test --test vectors inclusion` runs those
//! with `inclusion` in their name, which consists of file, list, position and name.
//!
//! Nothing here depends on the values or cases in the files. An unknown file, list, key or kind of case is a
//! failure. Where ours differs from the peer on purpose, a property of the case says so, and the last lines
//! of the output list reason and case.

mod vector_cases;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use self::vector_cases::json::Failure;
use self::vector_cases::{Case, Directory, Notes, strictness};

/// Remarks with the names of their cases.
type Remarks = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Lives as long as the process, like the tests.
    let directory: &Directory = Box::leak(Box::new(Directory::chosen()));
    // Ours in every run, so that no file is missed where another directory is run.
    let own: &Directory = Box::leak(Box::new(Directory::own()));
    let mut cases = vec![directory.listing("directory"), own.listing("own directory")];
    for (name, file) in directory.files() {
        cases.extend(directory.cases(name, Box::leak(Box::new(file))));
    }
    cases.extend(Directory::documents());
    cases.extend(strictness());
    let remarks = Remarks::default();
    let trials = cases.into_iter().map(|case| trial(case, &remarks)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (remark, cases) in &*remarks.lock().unwrap_or_else(PoisonError::into_inner) {
        eprintln!("{remark}\n    {}", cases.join("\n    "));
    }
    conclusion.exit_code()
}

fn trial(case: Case<'static>, remarks: &Remarks) -> Trial {
    let (Case { name, run }, remarks) = (case, Arc::clone(remarks));
    Trial::test(name.clone(), move || {
        let mut notes = Notes::default();
        let outcome = run(&mut notes);
        let mut remarks = remarks.lock().unwrap_or_else(PoisonError::into_inner);
        for remark in notes.0 {
            remarks.entry(remark).or_default().push(name.clone());
        }
        outcome.map_err(|Failure(why)| Failed::from(why))
    })
}
