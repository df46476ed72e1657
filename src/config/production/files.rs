//! Files with secrets that other users of this machine can read or change.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{UnsafeSetting, Values};
use crate::config::Config;

/// The mode bits that are refused. The group may read, as it does where a container platform mounts secrets.
const LOOSE: u32 = 0o027;

/// The files and directories that hold secrets and are open to others. What does not exist is not reported.
pub(super) fn readable_by_others(config: &Config, values: &Values) -> Vec<UnsafeSetting> {
    let admin = &config.core.admin;
    let mut named: Vec<(String, &Path)> = vec![("core.cert_dir".to_owned(), &config.core.cert_dir)];
    named.extend(values.secret_files().map(|(key, path)| (key.to_owned(), path)));
    if admin.enabled {
        named.push(("core.admin.credentials_file".to_owned(), &admin.credentials_file));
        named.extend(admin.tls.iter().map(|tls| ("core.admin.tls.key".to_owned(), &*tls.key)));
    }
    named.extend(values.files_with_secrets().map(|file| (file.display().to_string(), file)));
    named.sort();
    named.dedup_by(|one, other| one.1 == other.1);
    named.into_iter().filter_map(|(subject, path)| loose(subject, path)).collect()
}

fn loose(subject: String, path: &Path) -> Option<UnsafeSetting> {
    let metadata = std::fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode() & 0o7777;
    let right = if metadata.is_dir() { "0700" } else { "0600" };
    (mode & LOOSE != 0).then(|| UnsafeSetting {
        code: "readable_by_others",
        subject,
        problem: format!("its mode is {mode:04o}, so other users of this machine can read or change it"),
        remedy: format!("Set its mode to {right}"),
    })
}
