//! The files of the setup page and of the console.

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Html,
    Css,
    Script,
    Svg,
}

impl Kind {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Css => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }
}

/// A file, and the path that it is served at.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) content: &'static str,
}

/// `path kind file`, where the file is below `web/`.
macro_rules! files {
    ($($path:literal $kind:ident $file:literal,)*) => {
        &[$(File { path: $path, kind: Kind::$kind, content: include_str!(concat!("../../../web/", $file)) },)*]
    };
}

pub(super) const ONBOARDING: &[File] = files! {
    "/" Html "onboard.html",
    "/assets/tokens.css" Css "tokens.css",
    "/assets/onboard.css" Css "onboard.css",
    "/assets/icon.svg" Svg "icon.svg",
    "/assets/onboard.js" Script "onboard.js",
    "/assets/advice.js" Script "advice.js",
    "/assets/checks.js" Script "checks.js",
    "/assets/keys.js" Script "keys.js",
    "/assets/kms.js" Script "kms.js",
    "/assets/restore.js" Script "restore.js",
    "/assets/serve.js" Script "serve.js",
    "/assets/steps.js" Script "steps.js",
    "/assets/view.js" Script "view.js",
};

pub(super) const CONSOLE: &[File] = files! {
    "/" Html "console/index.html",
    "/assets/console/tokens.css" Css "tokens.css",
    "/assets/console/icon.svg" Svg "icon.svg",
    "/assets/console/console.css" Css "console/console.css",
    "/assets/console/api.js" Script "console/api.js",
    "/assets/console/app.js" Script "console/app.js",
    "/assets/console/chart.js" Script "console/chart.js",
    "/assets/console/format.js" Script "console/format.js",
    "/assets/console/live.js" Script "console/live.js",
    "/assets/console/proof.js" Script "console/proof.js",
    "/assets/console/roles.js" Script "console/roles.js",
    "/assets/console/router.js" Script "console/router.js",
    "/assets/console/shell.js" Script "console/shell.js",
    "/assets/console/signin.js" Script "console/signin.js",
    "/assets/console/ui.js" Script "console/ui.js",
    "/assets/console/views/approvals.js" Script "console/views/approvals.js",
    "/assets/console/views/common.js" Script "console/views/common.js",
    "/assets/console/views/credentials.js" Script "console/views/credentials.js",
    "/assets/console/views/cvms.js" Script "console/views/cvms.js",
    "/assets/console/views/denials.js" Script "console/views/denials.js",
    "/assets/console/views/diagnostics.js" Script "console/views/diagnostics.js",
    "/assets/console/views/domains.js" Script "console/views/domains.js",
    "/assets/console/views/epochs.js" Script "console/views/epochs.js",
    "/assets/console/views/fleet.js" Script "console/views/fleet.js",
    "/assets/console/views/fleet_lists.js" Script "console/views/fleet_lists.js",
    "/assets/console/views/freezes.js" Script "console/views/freezes.js",
    "/assets/console/views/ledger.js" Script "console/views/ledger.js",
    "/assets/console/views/ledger_proof.js" Script "console/views/ledger_proof.js",
    "/assets/console/views/operations.js" Script "console/views/operations.js",
    "/assets/console/views/overview.js" Script "console/views/overview.js",
    "/assets/console/views/platforms.js" Script "console/views/platforms.js",
    "/assets/console/views/policy.js" Script "console/views/policy.js",
    "/assets/console/views/policy_document.js" Script "console/views/policy_document.js",
    "/assets/console/views/policy_parts.js" Script "console/views/policy_parts.js",
    "/assets/console/views/recovery.js" Script "console/views/recovery.js",
    "/assets/console/views/release_proof.js" Script "console/views/release_proof.js",
    "/assets/console/views/releases.js" Script "console/views/releases.js",
    "/assets/console/views/replica_joins.js" Script "console/views/replica_joins.js",
    "/assets/console/views/replicas.js" Script "console/views/replicas.js",
    "/assets/console/views/rollout.js" Script "console/views/rollout.js",
    "/assets/console/views/settings.js" Script "console/views/settings.js",
    "/assets/console/views/settings_parts.js" Script "console/views/settings_parts.js",
    "/assets/vendor/preact.js" Script "vendor/preact.js",
};

/// The page that shows the description of the API; it also uses libraries of the console.
pub(super) const DOCS: &[File] = files! {
    "/docs" Html "docs/index.html",
    "/assets/docs/docs.css" Css "docs/docs.css",
    "/assets/docs/docs.js" Script "docs/docs.js",
};
