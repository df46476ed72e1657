//! Cases by name, with their own additional results.

use std::sync::Arc;

use super::json::{Check, Failure, Json};

/// Remarks of a case beside its result.
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Vec<String>);

impl Notes {
    /// Ours differs from the peer on purpose; the case has checked what ours does.
    pub(crate) fn differs(&mut self, reason: impl Into<String>) {
        self.0.push(format!("differs on purpose: {}", reason.into()));
    }

    /// A part of the case has no counterpart here.
    pub(crate) fn aside(&mut self, reason: impl Into<String>) {
        self.0.push(format!("set aside: {}", reason.into()));
    }
}

/// One test.
pub(crate) struct Case<'a> {
    /// File, list and case.
    pub(crate) name: String,
    pub(crate) run: Box<dyn FnOnce(&mut Notes) -> Check + Send + 'a>,
}

/// The cases of a file.
pub(crate) struct Cases<'a> {
    file: String,
    pub(super) all: Vec<Case<'a>>,
}

impl<'a> Cases<'a> {
    /// A file without cases.
    pub(crate) fn of(file: &str) -> Self {
        Self { file: file.to_owned(), all: Vec::new() }
    }

    /// Every item of a list that must be there and must not be empty.
    pub(crate) fn list(
        &mut self,
        file: &'a Json,
        name: &str,
        run: impl Fn(&'a Json, &mut Notes) -> Check + Send + Sync + 'a,
    ) -> Check {
        self.each(name, file.at(name)?.list()?, run);
        Ok(())
    }

    /// An object that is a case by itself.
    pub(crate) fn single(
        &mut self,
        file: &'a Json,
        name: &str,
        run: impl Fn(&'a Json, &mut Notes) -> Check + Send + Sync + 'a,
    ) -> Check {
        self.case(name, file.at(name)?, &Arc::new(run));
        Ok(())
    }

    /// Values that were found under `name`.
    pub(crate) fn each(
        &mut self,
        name: &str,
        cases: impl IntoIterator<Item = &'a Json>,
        run: impl Fn(&'a Json, &mut Notes) -> Check + Send + Sync + 'a,
    ) {
        let (run, before) = (Arc::new(run), self.all.len());
        for (index, case) in cases.into_iter().enumerate() {
            let label = ["name", "case"].iter().find_map(|key| case.maybe(key)?.text().ok());
            let label = label.map(|label| format!(" {label}")).unwrap_or_default();
            self.case(&format!("{name}/{index}{label}"), case, &run);
        }
        if self.all.len() == before {
            self.named(name, |_| Err(Failure("there is no case".to_owned())));
        }
    }

    /// A case without a value in the file.
    pub(crate) fn named(&mut self, name: &str, run: impl FnOnce(&mut Notes) -> Check + Send + 'a) {
        self.all.push(Case { name: format!("{}/{name}", self.file), run: Box::new(run) });
    }

    fn case<F>(&mut self, name: &str, case: &'a Json, run: &Arc<F>)
    where
        F: Fn(&'a Json, &mut Notes) -> Check + Send + Sync + 'a,
    {
        case.make_case();
        let run = Arc::clone(run);
        self.named(name, move |notes| {
            run(case, notes)?;
            case.is_read_whole()
        });
    }
}
