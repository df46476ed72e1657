//! The ledger of a file: which cases ran, where ours differs on purpose, what was set aside, and what failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::json::{Check, Failure, Json};

/// What a case says about itself besides passing.
#[derive(Default)]
pub(crate) struct Notes {
    differs: Vec<String>,
    aside: Vec<String>,
}

impl Notes {
    /// Ours differs from the peer on purpose; the case checked what ours does instead.
    pub(crate) fn differs(&mut self, reason: impl Into<String>) {
        self.differs.push(reason.into());
    }

    /// Something of the case has no counterpart here.
    pub(crate) fn aside(&mut self, reason: impl Into<String>) {
        self.aside.push(reason.into());
    }
}

/// The account of one list.
struct Account {
    list: String,
    ran: usize,
    differs: Vec<(String, String)>,
    aside: Vec<(String, String)>,
}

/// The account of one file.
pub(crate) struct Ledger {
    file: String,
    accounts: Vec<Account>,
    /// Files that are known and not run, with the reason.
    elsewhere: Vec<(String, String)>,
    failures: Vec<String>,
}

impl Ledger {
    /// An empty ledger for a file.
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), accounts: Vec::new(), elsewhere: Vec::new(), failures: Vec::new() }
    }

    /// Runs every case of a list that must be there and must not be empty.
    pub(crate) fn list(
        &mut self,
        file: &Json,
        name: &str,
        run: impl FnMut(&Json, &mut Notes) -> Check,
    ) -> Check {
        self.cases(name, file.at(name)?.list()?, run);
        Ok(())
    }

    /// Runs an object that is a case by itself.
    pub(crate) fn single(
        &mut self,
        file: &Json,
        name: &str,
        mut run: impl FnMut(&Json, &mut Notes) -> Check,
    ) -> Check {
        let case = file.at(name)?;
        let mut account = Account::new(name);
        self.case(&mut account, name.to_owned(), case, &mut run);
        self.accounts.push(account);
        Ok(())
    }

    /// Runs cases that were found under `name`.
    pub(crate) fn cases<'a>(
        &mut self,
        name: &str,
        cases: impl IntoIterator<Item = &'a Json>,
        mut run: impl FnMut(&Json, &mut Notes) -> Check,
    ) {
        let mut account = Account::new(name);
        for (index, case) in cases.into_iter().enumerate() {
            self.case(&mut account, label(name, index, case), case, &mut run);
        }
        if account.ran == 0 {
            self.failures.push(format!("{}: {name}: there is no case", self.file));
        }
        self.accounts.push(account);
    }

    /// Runs a case that is a file by itself.
    pub(crate) fn named(&mut self, name: &str, run: impl FnOnce(&mut Notes) -> Check) {
        let mut account = Account::new(name);
        self.run(&mut account, name, run);
        self.accounts.push(account);
    }

    /// A file that is not run here, and why.
    pub(crate) fn elsewhere(&mut self, name: &str, reason: &str) {
        self.elsewhere.push((name.to_owned(), reason.to_owned()));
    }

    fn case(
        &mut self,
        account: &mut Account,
        label: String,
        case: &Json,
        run: &mut impl FnMut(&Json, &mut Notes) -> Check,
    ) {
        self.run(account, &label, |notes| {
            run(case, notes)?;
            match case.left_over().as_slice() {
                [] => Ok(()),
                unknown => Err(Failure(format!("not known to this test: {}", unknown.join(", ")))),
            }
        });
        case.informative();
    }

    fn run(&mut self, account: &mut Account, label: &str, run: impl FnOnce(&mut Notes) -> Check) {
        let mut notes = Notes::default();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut notes)));
        account.ran += 1;
        let problem = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(Failure(problem))) => Some(problem),
            Err(_) => Some("panicked".to_owned()),
        };
        self.failures.extend(problem.map(|problem| format!("{}: {label}: {problem}", self.file)));
        let named = |reasons: Vec<String>| reasons.into_iter().map(|reason| (label.to_owned(), reason));
        account.differs.extend(named(notes.differs));
        account.aside.extend(named(notes.aside));
    }

    /// Ends the file: what no check has taken is a failure.
    pub(crate) fn close(&mut self, file: &Json, outcome: Check) {
        match outcome {
            Ok(()) => {
                let unknown = file.left_over();
                self.failures.extend(unknown.iter().map(|path| format!("{path}: not known to this test")));
            }
            Err(Failure(problem)) => self.failures.push(problem),
        }
    }

    /// A failure of the whole file.
    pub(crate) fn fail(&mut self, problem: String) {
        self.failures.push(problem);
    }

    /// What failed.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Counts of each list; what differs and what was set aside, by case and reason.
    pub(crate) fn summary(&self) -> String {
        let ran: usize = self.accounts.iter().map(|account| account.ran).sum();
        let mut text = format!("{}: {ran} ran, {} failed\n", self.file, self.failures.len());
        for (name, reason) in &self.elsewhere {
            text += &format!("  {name}: not run here: {reason}\n");
        }
        for Account { list, ran, differs, aside } in &self.accounts {
            text += &format!("  {list}: {ran} ran, {} differ, {} set aside\n", differs.len(), aside.len());
            for (kind, notes) in [("differs on purpose", differs), ("set aside", aside)] {
                for (case, reason) in notes {
                    text += &format!("    {kind}: {case}: {reason}\n");
                }
            }
        }
        text
    }
}

impl Account {
    fn new(list: &str) -> Self {
        Self { list: list.to_owned(), ran: 0, differs: Vec::new(), aside: Vec::new() }
    }
}

/// What a case is called in the output: by the name it has, else by its place.
fn label(list: &str, index: usize, case: &Json) -> String {
    let name = ["name", "case"].iter().find_map(|key| case.maybe(key)?.text().ok());
    match name {
        Some(name) => format!("{list}[{index}] {name:?}"),
        None => format!("{list}[{index}]"),
    }
}
