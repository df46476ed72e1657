//! The fields that JSON omits while they are empty.

/// Fields of epochs, in any message: callers that know no epochs read and write the same bytes as before.
pub const EPOCH_FIELDS: [&str; 6] =
    ["root_epoch", "app_epoch", "identity_epoch", "previous", "epochs", "log_key_changes"];
