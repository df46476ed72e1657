//! Lines to paste into a shell while the sandbox runs.

use std::path::Path;

/// `curl` lines against the running KMS, checked against its root CA, each with what it shows.
pub(crate) fn lines(base: &str, root_ca: &Path, app_id: &[u8]) -> Vec<String> {
    let root_ca = quoted(&root_ca.display().to_string());
    [
        "/prpc/GetMeta".to_owned(),
        format!("/prpc/GetAppEnvEncryptPubKey?app_id={}", hex::encode(app_id)),
        "/prpc/GetTempCaCert".to_owned(),
        "/health".to_owned(),
        "/metrics".to_owned(),
    ]
    .map(|path| format!("curl -s --cacert {root_ca} {}", quoted(&format!("{base}{path}"))))
    .into()
}

/// As a POSIX shell reads back the same text.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_interpret_is_quoted() {
        assert_eq!(quoted("/home/a/root-ca.crt"), "/home/a/root-ca.crt");
        assert_eq!(quoted("/home/a b/$x"), "'/home/a b/$x'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("https://h:1/p?app_id=0"), "'https://h:1/p?app_id=0'");
    }
}
