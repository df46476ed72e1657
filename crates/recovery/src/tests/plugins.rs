//! Plugins of age: one that hangs is ended with all that it has started, and nothing prints a share.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use bech32::{Bech32, Hrp};

use super::*;
use crate::envelope::{self, EncryptError};
use crate::{Identities, IdentityError, NoCallbacks};

const SECRET: &[u8] = b"a share that nobody may see";

fn recipient(name: &str) -> Recipient {
    let name = Hrp::parse(name).expect("text");
    bech32::encode::<Bech32>(name, &[1; 32]).expect("short").parse().expect("a recipient")
}

/// A directory with the programs `age-plugin-hang`, which starts another one and waits for ever, and `age-plugin-end`,
/// which ends at once. Each program that hangs leaves its number there.
struct Programs(PathBuf);

impl Programs {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("kms-recovery-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let here = directory.display();
        for (program, script) in [
            (
                "hang",
                format!(
                    "(echo $$ > {here}/of; sleep 100000) &\necho $! > {here}/child\necho $$ > {here}/own\nwait\n"
                ),
            ),
            ("end", "exit 1\n".to_owned()),
        ] {
            let path = directory.join(format!("age-plugin-{program}"));
            fs::write(&path, format!("#!/bin/sh\n{script}")).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        Self(directory)
    }

    /// Runs one of the tests below that need another environment, and gives what it prints.
    fn run(&self, test: &str, more: &[(&str, &str)]) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", &format!("tests::plugins::{test}"), "--ignored", "--nocapture"]);
        command.env_remove("AGEDEBUG").env("PATH", format!("{}:{path}", self.0.display()));
        command.env("PROGRAMS", &self.0).envs(more.iter().copied());
        let ran = command.output().expect("this test");
        let text =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && text.contains("1 passed"), "{text}");
        text
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_plugin_that_hangs_is_ended_with_what_it_has_started() {
    Programs::new("hang").run("hangs", &[]);
}

#[test]
#[ignore = "run by another test, with plugins in PATH"]
fn hangs() {
    let programs = PathBuf::from(std::env::var_os("PROGRAMS").expect("the directory"));
    let threads = || fs::read_dir("/proc/self/task").expect("threads").count();
    let before = threads();
    let late = envelope::encrypt_within(Duration::from_secs(2), &recipient("age1hang"), SECRET);
    assert_eq!(late, Err(EncryptError::Late("age-plugin-hang".to_owned())));
    for name in ["own", "child"] {
        let number = fs::read_to_string(programs.join(name)).expect("it was started");
        let status = PathBuf::from(format!("/proc/{}/status", number.trim()));
        until(|| fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tZ")));
    }
    until(|| threads() <= before);
    // One that ends at once fails at once.
    let failed = envelope::encrypt(&recipient("age1end"), SECRET);
    assert_eq!(failed, Err(EncryptError::Plugin("age-plugin-end".to_owned())));
    // None stays behind as a zombie.
    let children = || {
        let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
        tasks
            .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default())
            .collect::<String>()
    };
    until(|| children().trim().is_empty());
}

#[track_caller]
fn until(holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not come to be");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn age_prints_no_share_where_its_environment_asks_for_that() {
    for value in ["plugin", "1", ""] {
        let text = Programs::new("debug").run("debug", &[("AGEDEBUG", value)]);
        assert!(!text.contains("AGE ENCRYPTED") && !text.contains("nobody may see"), "{text}");
        // What age would print, it encodes.
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(SECRET);
        assert!(!text.contains(&encoded) && !text.contains("wrap-file-key"), "{text}");
    }
}

#[test]
#[ignore = "run by another test, with AGEDEBUG"]
fn debug() {
    for name in ["age1hang", "age1end"] {
        assert_eq!(envelope::encrypt(&recipient(name), SECRET), Err(EncryptError::Debug), "{name}");
    }
    let own = age::x25519::Identity::generate();
    let file = envelope::encrypt(&named("a", &own).recipient, SECRET).expect("no plugin is needed");
    assert!(file.contains("AGE ENCRYPTED"));
    let name = Hrp::parse("age-plugin-end-").expect("text");
    let identity = bech32::encode_upper::<Bech32>(name, &[1; 32]).expect("short");
    assert_eq!(Identities::parse(identity.as_bytes(), NoCallbacks).err(), Some(IdentityError::Debug));
}
