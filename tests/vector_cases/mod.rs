//! The directory of vectors: which files there have to be, and who checks each of them.

mod acpi;
mod attestation;
mod certs;
mod decoded;
mod eventlog;
mod firmware_log;
mod fixtures;
pub(crate) mod json;
mod keys;
mod ledger;
mod leniency;
mod os_image;
mod os_image_v4;
mod pccs;
mod pki;
mod quotes;
mod server;
mod strictness;
mod tree;

use std::path::{Path, PathBuf};

use self::json::{Check, Failure, Json};
pub(crate) use self::ledger::Ledger;

/// What a file is to this test.
enum Role {
    /// Its cases run here.
    Cases(fn(&Json, &mut Ledger, &Directory) -> Check),
    /// Its cases run here where it is: it is not part of the project.
    OptionalCases(fn(&Json, &mut Ledger, &Directory) -> Check),
    /// Known, may be missing, and not run here.
    Elsewhere(&'static str),
}

/// Every file that may be in the directory. Another one is a failure, and so is a missing one with cases.
const FILES: &[(&str, Role)] = &[
    ("keys.json", Role::Cases(|file, ledger, _| keys::check(file, ledger))),
    ("certs.json", Role::Cases(certs::check)),
    ("attestation.json", Role::Cases(attestation::check)),
    ("eventlog.json", Role::Cases(|file, ledger, _| eventlog::check(file, ledger))),
    ("msgpack_leniency.json", Role::Cases(|file, ledger, _| leniency::check(file, ledger))),
    ("tdx_quotes.json", Role::Cases(|file, ledger, _| quotes::check(file, ledger))),
    ("pccs.json", Role::Cases(pccs::check)),
    ("fixtures.json", Role::Cases(fixtures::check)),
    ("os_image.json", Role::Cases(|file, ledger, _| os_image::check(file, ledger))),
    ("os_image_v4.json", Role::Cases(|file, ledger, _| os_image_v4::check(file, ledger))),
    ("acpi/acpi_tables.json", Role::Cases(|file, ledger, _| acpi::tables(file, ledger))),
    ("acpi/acpi_peer_sha256.json", Role::OptionalCases(|file, ledger, _| acpi::peers(file, ledger))),
    ("acpi/asl", Role::Elsewhere("listings of some of the tables")),
    ("acpi/tools", Role::Elsewhere("how the tables were made")),
    ("ledger.json", Role::Elsewhere("run by the tests of kms-ledger")),
    ("README.md", Role::Elsewhere("describes the formats")),
    ("fixtures", Role::Elsewhere("read by fixtures.json, which fails on files that it does not know")),
];

/// A directory of vectors.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// The directory that `KMS_VECTORS_DIR` names, else our own.
    pub(crate) fn chosen() -> Self {
        match std::env::var_os("KMS_VECTORS_DIR") {
            Some(path) if !path.is_empty() => Self(path.into()),
            _ => Self::own(),
        }
    }

    /// `tests/vectors`.
    pub(crate) fn own() -> Self {
        Self(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file, by its path below the directory.
    fn bytes(&self, name: &str) -> Check<Vec<u8>> {
        std::fs::read(self.0.join(name)).map_err(|error| Failure(format!("{name}: {error}")))
    }

    /// A file as JSON; a key that is there twice is an error.
    fn json(&self, name: &str) -> Check<Json> {
        Json::parse(name, &self.bytes(name)?)
    }

    /// Runs every file; the last ledger is of the directory itself.
    pub(crate) fn run(&self) -> Vec<Ledger> {
        let run = FILES.iter().filter(|(name, role)| match role {
            Role::Cases(_) => true,
            Role::OptionalCases(_) => self.0.join(name).exists(),
            Role::Elsewhere(_) => false,
        });
        let mut ledgers: Vec<Ledger> = run.map(|(name, _)| self.run_file(name)).collect();
        ledgers.push(self.listing());
        ledgers
    }

    /// Runs one file that has cases.
    pub(crate) fn run_file(&self, name: &str) -> Ledger {
        match self.bytes(name) {
            Ok(bytes) => self.run_bytes(name, &bytes),
            Err(Failure(problem)) => {
                let mut ledger = Ledger::new(name);
                ledger.fail(problem);
                ledger
            }
        }
    }

    /// Runs other bytes in the place of one file.
    pub(crate) fn run_bytes(&self, name: &str, bytes: &[u8]) -> Ledger {
        let mut ledger = Ledger::new(name);
        let role = FILES.iter().find(|(known, _)| *known == name).map(|(_, role)| role);
        match (role, Json::parse(name, bytes)) {
            (Some(Role::Cases(check) | Role::OptionalCases(check)), Ok(file)) => {
                let outcome = check(&file, &mut ledger, self);
                ledger.close(&file, outcome);
            }
            (_, Err(Failure(problem))) => ledger.fail(problem),
            _ => ledger.fail(format!("{name}: not a file with cases")),
        }
        ledger
    }

    /// The files themselves: none may be unknown.
    fn listing(&self) -> Ledger {
        let mut ledger = Ledger::new("directory");
        for folder in ["", "acpi/"] {
            self.list_folder(folder, &mut ledger);
        }
        ledger
    }

    fn list_folder(&self, folder: &str, ledger: &mut Ledger) {
        let path = self.0.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries.flatten(),
            Err(error) => {
                ledger.fail(format!("{}: {error}", path.display()));
                return;
            }
        };
        for entry in entries {
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            match FILES.iter().find(|(known, _)| *known == name) {
                Some((_, Role::Cases(_) | Role::OptionalCases(_))) => {}
                Some((_, Role::Elsewhere(reason))) => ledger.elsewhere(&name, reason),
                None if name == "acpi" => {}
                None => ledger.fail(format!("{name}: not a file that this test knows")),
            }
        }
    }
}
