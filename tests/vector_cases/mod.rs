//! The directory of vectors: the required files, and the check of each.

mod acpi;
mod attestation;
mod cases;
mod certs;
mod decoded;
mod documents;
mod eventlog;
mod firmware_log;
mod fixtures;
pub(crate) mod json;
mod keys;
mod leniency;
mod os_image;
mod os_image_v4;
mod pccs;
mod pki;
mod quotes;
mod server;
mod strictness;
mod transparency_log;

use std::path::{Path, PathBuf};

use self::cases::Cases;
pub(crate) use self::cases::{Case, Notes};
use self::json::{Check, Failure, Json, ensure};
pub(crate) use self::strictness::cases as strictness;

type Build = for<'a> fn(&'a Json, &mut Cases<'a>, &'a Directory) -> Check;

/// The role of a file in this test.
enum Role {
    /// Its cases run here.
    Cases(Build),
    /// Its cases run here if it exists: it is not part of the project.
    OptionalCases(Build),
    /// Known, without cases, and may be missing.
    Elsewhere,
}

/// Every file that the directory may have. Others are a failure, and so are missing ones with cases.
const FILES: &[(&str, Role)] = &[
    ("keys.json", Role::Cases(|file, cases, _| keys::check(file, cases))),
    ("certs.json", Role::Cases(certs::check)),
    ("attestation.json", Role::Cases(attestation::check)),
    ("eventlog.json", Role::Cases(|file, cases, _| eventlog::check(file, cases))),
    ("msgpack_leniency.json", Role::Cases(|file, cases, _| leniency::check(file, cases))),
    ("tdx_quotes.json", Role::Cases(|file, cases, _| quotes::check(file, cases))),
    ("pccs.json", Role::Cases(pccs::check)),
    ("fixtures.json", Role::Cases(fixtures::check)),
    ("os_image.json", Role::Cases(|file, cases, _| os_image::check(file, cases))),
    ("os_image_v4.json", Role::Cases(|file, cases, _| os_image_v4::check(file, cases))),
    ("acpi/acpi_tables.json", Role::Cases(|file, cases, _| acpi::tables(file, cases))),
    ("acpi/acpi_peer_sha256.json", Role::OptionalCases(|file, cases, _| acpi::peers(file, cases))),
    ("ledger.json", Role::Cases(|file, cases, _| transparency_log::check(file, cases))),
    // Listings of some tables, notes on how they were made, and descriptions of formats.
    ("acpi/asl", Role::Elsewhere),
    ("acpi/tools", Role::Elsewhere),
    ("README.md", Role::Elsewhere),
    // Documents of KMSs, which are not the peer's: see Directory::documents.
    ("attestation", Role::Elsewhere),
    // Read by the cases of fixtures.json, which fail on unknown files.
    ("fixtures", Role::Elsewhere),
    // Read by the tests of policy bundles.
    ("minisign", Role::Elsewhere),
];

/// A directory of vectors.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// The directory `KMS_VECTORS_DIR`, or else our own.
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
    fn path(&self) -> &Path {
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

    /// Every file with cases, parsed. An unreadable file is an error in its place.
    pub(crate) fn files(&self) -> Vec<(&'static str, Check<Json>)> {
        let has_cases = FILES.iter().filter(|(name, role)| match role {
            Role::Cases(_) => true,
            Role::OptionalCases(_) => self.0.join(name).exists(),
            Role::Elsewhere => false,
        });
        has_cases.map(|(name, _)| (*name, self.json(name))).collect()
    }

    /// The cases of one file. A fault of the file itself is a case that fails.
    pub(crate) fn cases<'a>(&'a self, name: &str, file: &'a Check<Json>) -> Vec<Case<'a>> {
        let mut cases = Cases::of(name);
        let role = FILES.iter().find(|(known, _)| *known == name).map(|(_, role)| role);
        let outcome = match (role, file) {
            (Some(Role::Cases(build) | Role::OptionalCases(build)), Ok(file)) => {
                if let Some(about) = file.maybe("about") {
                    about.informative();
                }
                build(file, &mut cases, self).and_then(|()| file.is_read_whole())
            }
            (_, Err(Failure(problem))) => Err(Failure(problem.clone())),
            (_, Ok(_)) => Err(Failure("not a file with cases".to_owned())),
        };
        if outcome.is_err() {
            cases.named("file", |_| outcome);
        }
        cases.all
    }

    /// The documents in `attestation`, each a case. Ours in every run, because no other directory has them.
    pub(crate) fn documents() -> Vec<Case<'static>> {
        match documents::cases(&Self::own().0.join("attestation")) {
            Ok(cases) => cases,
            Err(problem) => {
                vec![Case { name: "attestation".to_owned(), run: Box::new(move |_| Err(problem)) }]
            }
        }
    }

    /// The files themselves: no unknown ones. `name` is the name of the case.
    pub(crate) fn listing(&self, name: &str) -> Case<'_> {
        let run = || {
            for folder in ["", "acpi/"] {
                for entry in std::fs::read_dir(self.0.join(folder))? {
                    let name = format!("{folder}{}", entry?.file_name().to_string_lossy());
                    let is_known = name == "acpi" || FILES.iter().any(|(known, _)| *known == name);
                    ensure!(is_known, "{name}: not a file that this test knows");
                }
            }
            Ok(())
        };
        Case { name: name.to_owned(), run: Box::new(move |_| run()) }
    }
}
