//! The certificate of the admin listener (`[core.admin.tls]`): that of the main listener, an operator's own,
//! or one issued by our root CA.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::certificate;
use kms_attest::p256::P256Key;
use kms_attest::state_file;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::AppError;
use super::leaf::AdminRenewal;
use crate::config::{AdminTls, Config, FileError, MissingFiles, read_file};
use crate::lifecycle::Ready;
use crate::net::tls::Leaf;

const KEY: &str = "core.admin.tls.key";
const CERTS: &str = "core.admin.tls.certs";
/// Permission bits of the files that are created here.
const KEY_MODE: u32 = 0o600;
const CERTS_MODE: u32 = 0o644;

/// Where the certificate of the admin listener comes from.
enum Source {
    /// From the main listener, and renewed with it: the configured files are those of the key directory.
    Main,
    /// From the operator's files, which are never written.
    Files(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    /// From our root CA, for the key in the file, at each start and before it expires.
    Issued(Own),
}

/// A certificate for the admin listener that we issue.
#[derive(Clone)]
pub(super) struct Own {
    key: Arc<P256Key>,
    tls: Arc<AdminTls>,
    names: Arc<[String]>,
}

/// The certificate of the admin listener, and its source.
pub(super) struct AdminCertificate {
    source: Source,
    pub(super) leaf: Arc<Leaf>,
}

impl AdminCertificate {
    /// As `[core.admin.tls]` says; `None` without an admin listener, or if it serves plain HTTP. `main` is
    /// the certificate of the main listener.
    pub(super) async fn find(
        config: &Config,
        main: &Arc<Leaf>,
        ready: &Arc<Ready>,
        attester: Option<&Attester>,
    ) -> Result<Option<Self>, AppError> {
        let admin = &config.core.admin;
        let Some(tls) = admin.tls.as_ref().filter(|_| admin.enabled) else { return Ok(None) };
        let source = Source::find(tls, config, ready)?;
        let leaf = source.leaf(main, ready, attester).await?;
        Ok(Some(Self { source, leaf }))
    }

    /// The renewal of a certificate that we issue for this listener; `None` for the other sources.
    pub(super) fn renewal(&self) -> Option<AdminRenewal> {
        match &self.source {
            Source::Issued(own) => Some(AdminRenewal { own: own.clone(), leaf: Arc::clone(&self.leaf) }),
            Source::Main | Source::Files(..) => None,
        }
    }
}

impl Source {
    /// Reads the files, and creates a missing key where that is allowed.
    fn find(tls: &Arc<AdminTls>, config: &Config, ready: &Ready) -> Result<Self, AppError> {
        if is_main(tls, config) {
            return Ok(Self::Main);
        }
        let may_create = tls.missing_files == MissingFiles::Created;
        let own = |key: P256Key| {
            let names = names(tls, config, ready).into();
            Self::Issued(Own { key: Arc::new(key), tls: Arc::clone(tls), names })
        };
        match (exists(KEY, &tls.key)?, exists(CERTS, &tls.certs)?) {
            (false, false) if may_create => {
                let key = P256Key::generate();
                kept(write(KEY, &tls.key, KEY_MODE, key.pem().as_bytes()));
                Ok(own(key))
            }
            (true, false) if may_create => Ok(own(own_key(&tls.key)?)),
            (_, _) => {
                let (chain, key) = files(tls)?;
                match chain.first() {
                    Some(leaf) if may_create && ready.has_issued(leaf) => Ok(own(own_key(&tls.key)?)),
                    _ => Ok(Self::Files(chain, key)),
                }
            }
        }
    }

    /// The certificate for new handshakes; `main` is the main listener's.
    async fn leaf(
        &self,
        main: &Arc<Leaf>,
        ready: &Arc<Ready>,
        attester: Option<&Attester>,
    ) -> Result<Arc<Leaf>, AppError> {
        match self {
            Self::Main => Ok(Arc::clone(main)),
            Self::Files(chain, key) => Ok(Leaf::with_key(chain.clone(), key.clone_key())?),
            Self::Issued(own) => {
                let certificate = own.issue(ready, attester).await?;
                Ok(Leaf::new(vec![certificate], &own.key_der())?)
            }
        }
    }
}

impl Own {
    /// Issues the certificate, attested like the main listener's, and writes it to its file.
    pub(super) async fn issue(
        &self,
        ready: &Arc<Ready>,
        attester: Option<&Attester>,
    ) -> Result<CertificateDer<'static>, AppError> {
        let evidence = match attester {
            Some(attester) => {
                let report_data = ReportData::ra_tls(&self.key.spki_der());
                Some(attester.attest(report_data).await.map_err(AppError::Unattested)?)
            }
            None => None,
        };
        let (own, ready) = (self.clone(), Arc::clone(ready));
        let issue = move || {
            let now = SystemTime::now();
            let certificate = ready.issue_server_leaf(&own.names, &own.key, evidence.as_ref(), now)?;
            kept(write(CERTS, &own.tls.certs, CERTS_MODE, certificate::pem(&certificate).as_bytes()));
            Ok::<_, AppError>(certificate)
        };
        tokio::task::spawn_blocking(issue).await.map_err(AppError::Panicked)?
    }

    /// Its private key, PKCS#8 DER.
    pub(super) fn key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.pkcs8_der().to_vec())
    }
}

/// A full or read-only disk must not stop the KMS: the new certificate is used without the file, and issued
/// again at the next start.
fn kept(written: Result<(), FileError>) {
    if let Err(FileError::Unreadable { key, source }) = written {
        // Only the kind, because the whole error names the file.
        tracing::warn!(error = %source.kind(), "{key} cannot be written: the admin listener continues without the file");
    }
}

/// Whether a KMS that serves could use or create the files.
pub(super) fn check(tls: &AdminTls, config: &Config) -> Result<(), AppError> {
    let is_there = exists(KEY, &tls.key)? || exists(CERTS, &tls.certs)?;
    if is_main(tls, config) || (!is_there && tls.missing_files == MissingFiles::Created) {
        return Ok(());
    }
    if tls.missing_files == MissingFiles::Created && !exists(CERTS, &tls.certs)? {
        return own_key(&tls.key).map(drop).map_err(AppError::from);
    }
    let (chain, key) = files(tls)?;
    Leaf::with_key(chain, key).map(drop).map_err(AppError::from)
}

fn is_main(tls: &AdminTls, config: &Config) -> bool {
    let directory = &config.core.cert_dir;
    tls.key == directory.join("rpc.key") && tls.certs == directory.join("rpc.crt")
}

/// The names in a certificate that we issue: the configured ones, or else our domain and the address of the
/// listener.
fn names(tls: &AdminTls, config: &Config, ready: &Ready) -> Vec<String> {
    if !tls.hosts.is_empty() {
        return tls.hosts.iter().map(|host| host.as_str().to_owned()).collect();
    }
    let address = config.core.admin.address;
    let address = (!address.is_unspecified()).then(|| address.to_string());
    let mut names = vec![ready.domain().as_str().to_owned()];
    names.extend(address.filter(|address| *address != names[0]));
    names
}

fn files(tls: &AdminTls) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), FileError> {
    let unreadable = |key, what: &str| {
        let source = io::Error::new(io::ErrorKind::InvalidData, what);
        FileError::Unreadable { key, source }
    };
    let pem = read_file(KEY, &tls.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unreadable(KEY, "not a private key in PEM"))?;
    let pem = read_file(CERTS, &tls.certs)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok((chain, key)),
        _ => Err(unreadable(CERTS, "not certificates in PEM")),
    }
}

/// The key of a certificate that we issue.
fn own_key(path: &Path) -> Result<P256Key, FileError> {
    let pem = Zeroizing::new(read_file(KEY, path)?);
    let text = std::str::from_utf8(&pem).ok();
    text.and_then(|text| P256Key::from_pem(text).ok()).ok_or_else(|| {
        let what = "not a P-256 private key in PEM, for which a certificate could be issued";
        FileError::Unreadable { key: KEY, source: io::Error::new(io::ErrorKind::InvalidData, what) }
    })
}

fn exists(key: &'static str, path: &Path) -> Result<bool, FileError> {
    fs::exists(path).map_err(|source| FileError::Unreadable { key, source })
}

/// Writes a whole file or none; creates missing directories.
fn write(key: &'static str, path: &Path, mode: u32, content: &[u8]) -> Result<(), FileError> {
    let written = || {
        let directory = state_file::directory(path);
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(directory)?.sync_all()
    };
    written().map_err(|source: io::Error| FileError::Unreadable { key, source })
}
