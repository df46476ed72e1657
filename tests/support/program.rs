//! The real `kms` program, with the simulated dependencies of a [`World`].

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{Ran, finish};
use super::{Caller, World, config, copy_keys, eventually, free_port, serves};

/// The program built by cargo.
pub const KMS: &str = env!("CARGO_BIN_EXE_kms");

/// A configuration file for the program, with its own ports.
pub struct Setting {
    /// The dependencies of the program.
    pub world: World,
    /// The address of the main listener.
    pub address: SocketAddr,
    /// The address of the admin listener.
    pub admin: SocketAddr,
    /// The command: the program, possibly after that of a program that runs it.
    pub launcher: Vec<String>,
    file: PathBuf,
}

/// Another KMS with the root keys of a [`Setting`]: a key directory, ports and a configuration of its own.
pub struct Sibling {
    /// The address of the main listener.
    pub address: SocketAddr,
    /// The address of the admin listener.
    pub admin: SocketAddr,
    /// The key directory.
    pub keys: PathBuf,
    file: PathBuf,
    log: PathBuf,
}

/// The kind of stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stderr {
    /// A pipe without a reader, empty when the program starts.
    Unread,
    /// The same, but full when the program starts.
    Full,
    /// A pipe whose reader has closed.
    Closed,
    /// A file on a full disk.
    FullDisk,
}

impl Stderr {
    /// The stderr for the program, and the reader to keep open.
    pub fn open(self) -> (Stdio, Option<std::io::PipeReader>) {
        use std::io::Write as _;
        if let Self::FullDisk = self {
            let file = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
            return (file.into(), None);
        }
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        match self {
            Self::Full => {
                let size = rustix::pipe::fcntl_getpipe_size(&writer).expect("its size");
                writer.write_all(&vec![b'.'; size]).expect("room");
                (writer.into(), Some(reader))
            }
            Self::Unread => (writer.into(), Some(reader)),
            _ => (writer.into(), None),
        }
    }
}

/// A running program; dropping it kills it.
pub struct Program {
    child: Child,
    log: PathBuf,
    out: PathBuf,
}

impl Setting {
    /// A world with an allowed KMS, and `kms.toml` in its directory with `toml` added.
    pub async fn with(toml: &str) -> Self {
        let [address, admin] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let mut world = World::stopped_with(toml).await;
        world.configure(&ports(address, admin));
        let file = world.path("kms.toml");
        let setting = Self { world, address, admin, launcher: vec![KMS.to_owned()], file };
        setting.write();
        setting
    }

    /// Adds TOML to the file.
    pub fn configure(&mut self, toml: &str) {
        self.world.configure(toml);
        self.write();
    }

    fn write(&self) {
        fs::write(&self.file, toml::to_string(&self.world.config).expect("TOML")).expect("kms.toml");
    }

    /// `kms -c kms.toml <arguments>`, without our environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let (first, rest) = self.launcher.split_first().expect("a program");
        let mut command = Command::new(first);
        command.args(rest).arg("-c").arg(&self.file).args(arguments).env_clear().current_dir("/");
        command
    }

    /// Runs the program to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments), String::new()).await
    }

    /// Starts the program and waits for its port.
    pub async fn start(&self) -> Program {
        self.awaited(self.spawn()).await
    }

    /// Like [`Setting::start`], with this `RUST_LOG`.
    pub async fn start_logging(&self, filter: &str) -> Program {
        let mut command = self.command(&[]);
        command.env("RUST_LOG", filter);
        let log = fs::File::create(self.world.path("log")).expect("a log");
        self.awaited(self.spawned(command, log)).await
    }

    /// Waits for the port of a started program.
    pub async fn awaited(&self, program: Program) -> Program {
        let program = std::sync::Mutex::new(program);
        eventually("the port opens", async || {
            {
                let mut program = program.lock().expect("no panic");
                let ended = program.child.try_wait().expect("a status");
                assert!(ended.is_none(), "{ended:?}: {}", program.log());
            }
            tokio::net::TcpStream::connect(self.address).await.ok()
        })
        .await;
        program.into_inner().expect("no panic")
    }

    pub fn spawn(&self) -> Program {
        let file = fs::File::create(self.world.path("log")).expect("a log");
        self.spawn_with_stderr(file)
    }

    /// Starts the program with the given stderr; [`Program::log`] is empty unless that is the log file.
    pub fn spawn_with_stderr(&self, stderr: impl Into<Stdio>) -> Program {
        self.spawned(self.command(&[]), stderr)
    }

    fn spawned(&self, command: Command, stderr: impl Into<Stdio>) -> Program {
        Program::spawned(command, stderr, self.world.path("log"), self.world.path("out"))
    }

    /// A client of the program over HTTPS.
    pub fn caller(&self) -> Caller {
        Caller::new(self.address)
    }

    /// Lifts the rates of requests.
    pub fn lift_rates(&mut self) {
        for who in ["unauthenticated", "app", "instance"] {
            let most = 1_000_000;
            self.configure(&format!(
                "core.limits.{who}_per_second = {most}\ncore.limits.{who}_burst = {most}"
            ));
        }
    }

    /// Has the program make its keys, where the configuration says that it does, and ends it.
    pub async fn make_keys(&self) {
        let program = self.start().await;
        serves(&self.caller()).await;
        assert_eq!(program.stop(Signal::TERM).await, Some(0), "the first KMS ends in order");
    }

    /// The sibling of this number, with `toml` added to its configuration.
    pub fn sibling(&self, number: usize, toml: &str) -> Sibling {
        let path = |name| self.world.path(&format!("{name}-{number}"));
        let (own, keys) = (self.world.path("certs"), path("certs"));
        // A configuration is read by the end of its name.
        let file = self.world.path(&format!("kms-{number}.toml"));
        copy_keys(&own, &keys);
        // Every path in the key directory is under it.
        let text = toml::to_string(&self.world.config).expect("TOML");
        let text = text.replace(own.to_str().expect("a path"), keys.to_str().expect("a path"));
        let [address, admin] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let config = config::laid_over(text.parse().expect("TOML"), &ports(address, admin));
        let config = config::laid_over(config, toml);
        fs::write(&file, toml::to_string(&config).expect("TOML")).expect("a configuration");
        Sibling { address, admin, keys, file, log: path("log") }
    }
}

/// The configuration of these listeners.
fn ports(address: SocketAddr, admin: SocketAddr) -> String {
    let (port, admin) = (address.port(), admin.port());
    format!("rpc.port = {port}\ncore.onboard.port = {port}\ncore.admin.port = {admin}")
}

impl Sibling {
    /// Starts its process, whose log follows what it logged before.
    pub fn spawn(&self) -> Program {
        let stderr = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(KMS);
        command.arg("-c").arg(&self.file).env_clear().current_dir("/");
        Program::spawned(command, stderr, self.log.clone(), self.log.with_extension("out"))
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// A client of it over HTTPS.
    pub fn caller(&self) -> Caller {
        Caller::new(self.address)
    }
}

impl Program {
    fn spawned(mut command: Command, stderr: impl Into<Stdio>, log: PathBuf, out: PathBuf) -> Self {
        let stdout = fs::File::create(&out).expect("a file");
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        Self { child: child.expect("the program starts"), log, out }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        eventually("the program ends", async || child.lock().expect("no panic").try_wait().expect("a status"))
            .await
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// What it has printed to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.out).expect("its output")
    }

    /// Sends a signal, waits for the end, and returns the exit status.
    pub async fn stop(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.ended().await.code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
