//! Third-party programs and packages for tests: from `PATH`, or installed once into `target/tools`.
//!
//! No test is skipped: if something is missing and cannot be installed, the test fails and names it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// The program `name` in `PATH`.
///
/// # Panics
/// If it is not installed.
pub fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("this test needs `{name}` in PATH: bash tests/run --install installs all that tests need")
        })
}

/// A directory with the scripts of `tests/<dir>`, and the packages of its `package-lock.json` in
/// `node_modules`.
pub fn npm(dir: &str) -> PathBuf {
    let installed = npm_ci(dir, &source(dir));
    refresh(&source(dir), &installed);
    installed
}

/// A directory with `node_modules` as the `package-lock.json` of a package of this repository has them.
pub fn npm_packages_of(package: &str) -> PathBuf {
    npm_ci(package, &Path::new(env!("CARGO_MANIFEST_DIR")).join(package))
}

fn npm_ci(name: &str, source: &Path) -> PathBuf {
    install(name, source, &["package.json", "package-lock.json"], |staging| {
        let mut npm = Command::new(program("npm"));
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-timeout=60000"]);
        npm.current_dir(staging);
        npm
    })
}

/// The Python of a virtual environment with only the packages of `tests/<dir>/requirements.txt`.
pub fn python(dir: &str) -> PathBuf {
    let installed = install(dir, &source(dir), &["requirements.txt"], |staging| {
        // Some name a newer Python than Debian 12 has, and run on it.
        let script = "\"$0\" -m venv venv && venv/bin/python -m pip install -q --disable-pip-version-check \
                      --no-deps --ignore-requires-python --only-binary :all: --timeout 60 -r requirements.txt";
        let mut python = Command::new(program("sh"));
        python.args(["-c", script]).arg(program("python3")).current_dir(staging);
        python
    });
    installed.join("venv/bin/python")
}

/// Runs `command` in a new directory with the files `pins` of `source`; once for each content of them.
fn install(dir: &str, source: &Path, pins: &[&str], command: impl FnOnce(&Path) -> Command) -> PathBuf {
    let mut hash = Sha256::new();
    for pin in pins {
        let file = source.join(pin);
        hash.update(fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    fs::create_dir_all(&tools).expect("target/tools");
    let kind = pins[0].split('.').next().expect("a name");
    let digest = hex::encode(&hash.finalize()[..6]);
    let installed = tools.join(format!("{}-{kind}-{digest}", dir.replace('/', "-")));

    let lock = File::create(installed.with_extension("lock")).expect("lock file");
    lock.lock().expect("lock");
    let complete = installed.join(".complete");
    if complete.exists() {
        return installed;
    }
    if installed.exists() {
        fs::remove_dir_all(&installed).expect("remove what an interrupted installation left");
    }
    fs::create_dir(&installed).expect("tool directory");
    for pin in pins {
        fs::copy(source.join(pin), installed.join(pin)).expect("copy");
    }
    let output = command(&installed).output().expect("the installer starts");
    assert!(
        output.status.success(),
        "installing what {dir} needs: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    File::create(complete).expect("marker");
    installed
}

/// Copies the scripts beside their packages, each by a rename, because other tests may be running them.
fn refresh(source: &Path, installed: &Path) {
    for entry in fs::read_dir(source).expect("test directory") {
        let entry = entry.expect("entry");
        let target = installed.join(entry.file_name());
        if entry.path().is_dir() {
            if entry.file_name() != "node_modules" {
                fs::create_dir_all(&target).expect("directory");
                refresh(&entry.path(), &target);
            }
            continue;
        }
        let text = fs::read(entry.path()).expect("script");
        if fs::read(&target).is_ok_and(|present| present == text) {
            continue;
        }
        let staged = tempfile::NamedTempFile::new_in(installed).expect("staging file");
        fs::write(staged.path(), text).expect("copy");
        staged.persist(target).expect("rename");
    }
}

fn source(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir)
}
