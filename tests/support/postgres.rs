//! A PostgreSQL server of its own for a test: on a Unix socket in a temporary directory, and gone when the test ends, however it
//! ends.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use super::eventually;

/// The user `nobody`: the server does not run as root.
const NOBODY: u32 = 65_534;
/// The password of the user `kms`.
pub const PASSWORD: &str = "a password of the database";

/// Runs a server, and stops it when its standard input ends: also when the test is killed.
const KEEPER: &str =
    r#"exec 3<&0; "$@" </dev/null 3<&- & server=$!; read -r _ <&3; kill -QUIT "$server"; wait "$server""#;

/// A server with one database.
pub struct Postgres {
    directory: tempfile::TempDir,
    programs: PathBuf,
    server: Option<Child>,
    /// Beyond the usual ones.
    settings: Vec<String>,
    port: u16,
}

/// Where Debian has the programs of the newest version, or else `PATH`.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").is_file()).max();
    let in_path = || super::tools::program("initdb").parent().expect("a directory").to_owned();
    newest.unwrap_or_else(in_path)
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

impl Postgres {
    /// Makes a database and starts its server.
    pub async fn start() -> Self {
        let mut postgres = Self::in_new_directory();
        let template = Self::template();
        let copied =
            Command::new("cp").arg("-a").arg(template).arg(postgres.path("data")).output().expect("cp");
        assert!(copied.status.success(), "cp: {}", String::from_utf8_lossy(&copied.stderr));
        postgres.resume().await;
        postgres
    }

    /// A database that no server uses. It is made once and kept, because making one takes a second of CPU time.
    fn template() -> PathBuf {
        let arguments = [
            "--no-sync",
            "--username=kms",
            "--auth=scram-sha-256",
            "--locale=C",
            "--encoding=UTF8",
            "--wal-segsize=1",
        ];
        let mut hasher = DefaultHasher::new();
        (programs(), arguments, PASSWORD, is_root()).hash(&mut hasher);
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let template = kept.join(format!("postgres-{:016x}", hasher.finish()));
        if template.exists() {
            return template;
        }
        let new = Self::in_new_directory();
        let password = new.path("password");
        fs::write(&password, PASSWORD).expect("a file");
        let made = new
            .command("initdb")
            .args(arguments)
            .arg(format!("--pwfile={}", password.display()))
            .arg(new.path("data"))
            .output()
            .expect("initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let copy = tempfile::tempdir_in(kept).expect("a directory");
        let copied =
            Command::new("cp").arg("-a").arg(new.path("data")).arg(copy.path()).output().expect("cp");
        assert!(copied.status.success(), "cp: {}", String::from_utf8_lossy(&copied.stderr));
        // Another test may have been first.
        let renamed = fs::rename(copy.path().join("data"), &template);
        assert!(renamed.is_ok() || template.exists(), "{renamed:?}");
        template
    }

    fn in_new_directory() -> Self {
        let directory = tempfile::Builder::new().prefix("kms-pg-").tempdir().expect("a directory");
        if is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("nobody's directory");
        }
        Self { programs: programs(), directory, server: None, settings: Vec::new(), port: 5432 }
    }

    /// A program of the server, as a user that may run it.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.directory.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// A program of the client, with the password.
    pub fn client_command(&self, name: &str) -> Command {
        let mut command = self.command(name);
        command.env("PGPASSWORD", PASSWORD).env("PGHOST", self.directory.path()).env("PGUSER", "kms");
        command.env("PGDATABASE", "postgres");
        command
    }

    /// A file in the server's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the server again.
    pub async fn resume(&mut self) {
        let socket = self.directory.path().display().to_string();
        let log = fs::File::create(self.path("log")).expect("a log");
        let mut keeper = Command::new("/bin/sh");
        keeper
            .args(["-c", KEEPER, "sh"])
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.path("data"));
        for setting in [
            "listen_addresses=",
            &format!("unix_socket_directories={socket}"),
            "fsync=off",
            "shared_buffers=16MB",
            "max_connections=60",
        ] {
            keeper.args(["-c", setting]);
        }
        for setting in &self.settings {
            keeper.args(["-c", setting]);
        }
        if is_root() {
            keeper.uid(NOBODY).gid(NOBODY);
        }
        keeper.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.server = Some(keeper.spawn().expect("a shell"));
        eventually("the database", async || self.try_client().await).await;
    }

    /// Starts it again with TLS and on a TCP port, which is given: with the certificate of a new CA for `name`. The CA's certificate is
    /// in `ca.pem` of its directory.
    pub async fn with_tls(&mut self, name: &str) -> u16 {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).expect("names");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(ca, ca_key).expect("a CA");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("names");
        let certificate = params.signed_by(&key, &ca).expect("a certificate");
        let files = [("ca.pem", ca.pem()), ("tls.pem", certificate.pem()), ("tls.key", key.serialize_pem())];
        for (file, text) in files {
            fs::write(self.path(file), text).expect("a file");
        }
        let private = self.path("tls.key");
        fs::set_permissions(&private, PermissionsExt::from_mode(0o600)).expect("a mode");
        if is_root() {
            chown(&private, Some(NOBODY), Some(NOBODY)).expect("nobody's file");
        }
        let port = super::free_port();
        let (certificate, key) = (self.path("tls.pem"), private);
        self.stop();
        self.settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ];
        // Only TLS is accepted over TCP.
        let rules = "local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.path("data/pg_hba.conf"), rules).expect("rules");
        self.port = port;
        self.resume().await;
        port
    }

    /// Stops the server at once, as a crash would.
    pub fn stop(&mut self) {
        self.go_on();
        let Some(mut server) = self.server.take() else { return };
        drop(server.stdin.take());
        server.wait().expect("the server ends");
    }

    /// Stops the server in order: connections are closed first.
    pub async fn shut_down(&mut self) {
        if let Some(server) = self.processes().first() {
            kill_process(*server, Signal::INT).expect("it runs");
        }
        eventually("the server ends", async || self.processes().is_empty().then_some(())).await;
        self.stop();
    }

    /// Suspends all processes of the server: connections stay open, and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`Postgres::pause`].
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for process in self.processes() {
            // A process of a connection may have ended.
            let _ = kill_process(process, signal);
        }
    }

    /// The server's processes while it runs, the first of them first.
    fn processes(&self) -> Vec<Pid> {
        let pid = |text: &str| text.trim().parse().ok().and_then(Pid::from_raw);
        let file = fs::read_to_string(self.path("data/postmaster.pid")).unwrap_or_default();
        let Some(first) = file.lines().next().and_then(pid) else { return Vec::new() };
        let number = first.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
        let children = children.unwrap_or_default();
        std::iter::once(first).chain(children.split_whitespace().filter_map(pid)).collect()
    }

    /// A server that follows this one, and knows a change before this one confirms it.
    pub async fn standby(&self) -> Self {
        let mut standby = Self::in_new_directory();
        let copied = standby
            .client_command("pg_basebackup")
            .env("PGHOST", self.directory.path())
            .args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "-D"])
            .arg(standby.path("data"))
            .output()
            .expect("pg_basebackup");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        standby.resume().await;
        self.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        self.run("SELECT pg_reload_conf()").await;
        eventually("the standby follows", async || {
            let state = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
            let rows = self.client().await.query(state, &[]).await.ok()?;
            (!rows.is_empty()).then_some(())
        })
        .await;
        standby
    }

    /// Makes a standby the server.
    pub async fn promote(&self) {
        // Not by `pg_promote()`, which the recovery may cancel.
        let mut command = self.command("pg_ctl");
        command.args(["promote", "-D"]).arg(self.path("data"));
        let promoted = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let promoted = promoted.expect("pg_ctl");
        assert!(promoted.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&promoted.stderr));
        self.follows_nobody().await;
    }

    /// Changes no longer wait for a standby.
    pub async fn follows_nobody(&self) {
        self.run("ALTER SYSTEM RESET synchronous_standby_names").await;
        self.run("SELECT pg_reload_conf()").await;
    }

    /// The socket on which it listens.
    pub fn socket(&self) -> PathBuf {
        self.path(&format!(".s.PGSQL.{}", self.port))
    }

    /// Its URL through proxies, tried in this order.
    pub fn url_through(&self, proxies: &[SocketAddr]) -> String {
        let hosts: Vec<_> = proxies.iter().map(SocketAddr::to_string).collect();
        format!("postgres://kms:{}@{}/postgres", PASSWORD.replace(' ', "%20"), hosts.join(","))
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        self.url_of("kms", PASSWORD)
    }

    /// Its URL for another user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        let encoded = |text: &str| text.replace('/', "%2F").replace(' ', "%20");
        let socket = encoded(&self.directory.path().display().to_string());
        format!("postgres://{user}:{}@{socket}:{}/postgres", encoded(password), self.port)
    }

    /// The TOML by which a KMS uses it.
    pub fn toml(&self, node: &str) -> String {
        Self::toml_of(&self.url(), node)
    }

    /// The same with another URL.
    pub fn toml_of(url: &str, node: &str) -> String {
        format!(
            "core.state = \"postgres\"\ncore.postgres.url = \"{url}\"\ncore.postgres.node_name = \"{node}\""
        )
    }

    async fn try_client(&self) -> Option<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// A connection of the test.
    pub async fn client(&self) -> Client {
        eventually("a connection", async || self.try_client().await).await
    }

    /// Runs statements.
    pub async fn run(&self, statements: &str) {
        let ran = tokio::time::timeout(Duration::from_secs(60), async {
            self.client().await.batch_execute(statements).await
        });
        ran.await.expect("the database answers").unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// Writes a backup of everything.
    pub fn dump(&self, to: &Path) {
        let dump = self.client_command("pg_dump").args(["--clean", "--if-exists", "-f"]).arg(to).output();
        let dump = dump.expect("pg_dump");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    }

    /// Restores a backup.
    pub fn restore(&self, from: &Path) {
        let restore =
            self.client_command("psql").args(["-q", "-1", "-v", "ON_ERROR_STOP=1", "-f"]).arg(from).output();
        let restore = restore.expect("psql");
        assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.go_on();
        let Some(mut server) = self.server.take() else { return };
        drop(server.stdin.take());
        let _ = server.wait();
    }
}
