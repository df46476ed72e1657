//! Misuse does not compile: the compiler must reject each file in `tests/compile_fail/` with the errors
//! beside it.
//!
//! The compiler runs against the library that this test was built with, so that nothing is built twice.
//! `KMS_BLESS=1` stores the current errors as the expected ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs};

/// The compiler's errors for `source`, one a line; empty if it compiles.
fn errors(library: &Path, source: &str) -> String {
    let deps = library.parent().expect("a directory");
    let scratch = tempfile::tempdir().expect("a directory");
    let output = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "bin", "--emit", "metadata", "--error-format", "short"])
        .arg("-Ldependency=".to_owned() + &deps.display().to_string())
        .arg(format!("--extern=cvm_kms={}", library.display()))
        .args(["--out-dir".as_ref(), scratch.path().as_os_str()])
        .args(["--crate-name", "case", source])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("rustc, which built this test");
    let said = String::from_utf8(output.stderr).expect("text");
    let errors: Vec<_> = said.lines().filter(|line| line.contains(": error")).collect();
    assert_eq!(output.status.success(), errors.is_empty(), "{source}: {said}");
    errors.iter().map(|line| format!("{line}\n")).collect()
}

/// The library beside this test: the newest one, if there are several builds.
fn library() -> PathBuf {
    let test = env::current_exe().expect("this program");
    let built =
        |path: &Path| path.metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let library = fs::read_dir(test.parent().expect("a directory"))
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libcvm_kms-") && name.ends_with(".rlib")
        })
        .max_by_key(|path| built(path));
    library.expect("the library that this test was built with")
}

#[test]
fn misuse_does_not_compile() {
    let directory = "tests/compile_fail";
    let library = library();
    assert_eq!(errors(&library, &format!("{directory}/proper/use.rs")), "", "proper use compiles");
    let mut names: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory))
        .expect("readable")
        .filter_map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .into_string()
                .expect("text")
                .strip_suffix(".rs")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 9);
    let mut differing = Vec::new();
    for name in names {
        let said = errors(&library, &format!("{directory}/{name}.rs"));
        let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{directory}/{name}.stderr"));
        if env::var_os("KMS_BLESS").is_some() {
            fs::write(&expected, &said).expect("written");
        }
        assert!(!said.is_empty(), "{name} compiles");
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if said != expected {
            differing.push(format!("{name}: expected\n{expected}but the compiler says\n{said}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
