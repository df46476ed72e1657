//! The files in which `control` keeps operators' changes over restarts, and how a file of theirs is replaced. Never keys, never permits.

mod app_epochs;
mod approvals;
mod aside;
mod bundles;
mod choices;
mod credentials;
mod domains;
mod drains;
mod freezes;
mod joins;
mod recovery;
pub mod rollout;
mod settings;
pub mod shared;
mod staged;
mod written;

use std::io;

use kms_attest::state_file::{StateFile, StateFileError};

pub use app_epochs::{
    AppEpochFile, AppEpochFileError, AppEpochRecord, content as app_epochs_content, parse as parse_app_epochs,
};
pub use approvals::{ApprovalFile, ApprovalFileError};
pub use aside::set_aside;
pub use bundles::{
    BundleFileError, BundleFiles, BundleRecord, SeenBundle, SeenFork, SeenShadow, parse as parse_bundles,
};
pub use choices::{
    Choices, ChoicesError, ChosenEpochs, HandedDomains, MAX_CHOICES_BYTES, MAX_CHOSEN_APPS,
    MAX_DOMAINS_BYTES, MAX_MADE, MAX_PLACED, StatedDomain, stated_apps,
};
pub use credentials::{
    CredentialContent, CredentialFile, CredentialFileError, CredentialRecord, ReplacedRecord, RevokedOwner,
    RevokedRecord, content as credentials_content, parse as parse_credentials,
};
pub use domains::{
    ArchivedRecord, DomainFile, DomainFileError, DomainRecord, DomainRecords, DomainText, DomainsTooLarge,
    MemberRecord, parse as parse_domains,
};
pub use drains::{
    DrainFile, DrainFileError, DrainRecord, MAX_DRAINED, MAX_DRAINED_BY, content as drains_content,
    parse as parse_drains,
};
pub use freezes::{
    FreezeContent, FreezeFile, FreezeFileError, FreezeRecord, KeptIn, Written, content as freezes_content,
    parse as parse_freezes, write, write_and_tell,
};
pub use joins::{
    JoinFile, JoinFileError, JoinRecord, JoinStage, MAX_JOINS, MAX_LABEL, SourceUrl, SourceUrlError,
    StepRecord, content as joins_content, fitting as fitting_in_join, is_join_label, parse as parse_joins,
};
pub use recovery::{RecoveryFile, RecoveryFileError};
pub use settings::{SettingsFile, SettingsFileError, parse as parse_settings};
pub use staged::{Durability, StagedFile};
pub use written::written;

/// What `parse` makes of a file of at most `limit` bytes; `None` if there is none. One that is too large is damaged.
fn parsed<T, E>(
    file: &StateFile,
    limit: u64,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
    unreadable: impl FnOnce(io::Error) -> E,
    damaged: impl Fn(String) -> E,
) -> Result<Option<T>, E> {
    let bytes = file.read(limit).map_err(|error| match error {
        StateFileError::Unreadable(cause) => unreadable(cause),
        StateFileError::TooLarge => damaged(error.to_string()),
    })?;
    bytes.map(|bytes| parse(&bytes).map_err(damaged)).transpose()
}
