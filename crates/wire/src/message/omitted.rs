//! The fields that JSON omits while they are empty.

/// Fields of epochs, choices, domains, fresh evidence, shared state and invitations, in any message: callers that do not know them read and
/// write the same bytes as before.
pub const OMITTED_FIELDS: [&str; 14] = [
    "root_epoch",
    "app_epoch",
    "identity_epoch",
    "previous",
    "epochs",
    "choices",
    "log_key_changes",
    "challenge",
    "fresh_evidence",
    "app_domain",
    "domains_sha256",
    "shared",
    "join_token",
    "source_root_sha256",
];
