//! Where the parts of `control` keep what operators change.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kms_attest::state_file::Replaced;

use crate::audit::{Audit, Event};
use crate::state::shared::{AdoptError, Shared, Unshared, View};
use crate::state::{self, set_aside};

/// Where what operators change is kept, beside a file of this machine.
#[derive(Debug, Clone)]
pub enum Store {
    /// Nowhere else.
    File,
    /// In the database that the nodes of a fleet share.
    Shared(Arc<Shared>),
}

/// How far a change that is in force here has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// There are no other nodes.
    ThisMachine,
    /// It is in the state that the nodes share.
    Fleet,
    /// It is not in the shared state yet, and is written as soon as possible.
    NotYet(Unshared),
}

impl Store {
    /// How old what this node knows of the others is; `None` without others.
    pub fn view(&self) -> Option<&View> {
        match self {
            Self::File => None,
            Self::Shared(shared) => Some(shared.view()),
        }
    }
}

/// Waits until this node has adopted what a document says for all nodes now.
///
/// # Errors
/// [`Unshared`]: that is not known.
pub(super) async fn see_newest(shared: &Shared, document: &'static str) -> Result<(), Unshared> {
    let Ok(()) = shared.change(document, "", |_| Ok::<_, Infallible>((None, ()))).await?;
    Ok(())
}

/// Ends the adoption of a document of a fleet, which is in force: writes it to the file of this machine. A file at `aside` has what
/// only this machine has, and stays beside the new one.
///
/// # Errors
/// [`AdoptError::NotKept`]; the old file is then unchanged, unless only the directory could not be synced.
pub(super) async fn keep_adopted(
    document: &'static str,
    aside: Option<PathBuf>,
    write: impl FnOnce() -> io::Result<Replaced> + Send + 'static,
    audit: &Audit,
) -> Result<(), AdoptError> {
    let kept = state::written(move || {
        let aside = match aside.as_deref().map(set_aside) {
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
            aside => aside.transpose()?,
        };
        Ok((aside, write()?))
    });
    let (aside, replaced) = kept.await.map_err(AdoptError::NotKept)?;
    if let Some(file) = aside {
        audit.note(Event::StateSetAside { document, file });
    }
    replaced.safely().map_err(AdoptError::NotKept)
}
