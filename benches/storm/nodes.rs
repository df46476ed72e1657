//! KMSs with the same root keys, each a process with a key directory of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::MANY;
use crate::support::program::{KMS, Setting};
use crate::support::{Caller, DOMAIN, World, eventually, free_port};

/// Some KMSs; dropping them ends them.
pub(crate) struct Nodes {
    setting: Setting,
    addresses: Vec<SocketAddr>,
    running: Vec<Running>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nodes {
    /// `count` KMSs with these domains, each of which has one app. Rates are lifted: what is measured is work.
    pub(crate) async fn start(count: usize, domains: &[(&str, u8)]) -> Self {
        let mut setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
        for who in ["unauthenticated", "app", "instance"] {
            let most = 1_000_000;
            setting.configure(&format!(
                "core.limits.{who}_per_second = {most}\ncore.limits.{who}_burst = {most}"
            ));
        }
        for (name, app) in domains {
            setting.configure(&format!(
                "[domains.{name}]\nallow_dev_images = true\napps = [\"{}\"]",
                format!("{app:02x}").repeat(20)
            ));
        }
        setting.world.allow_app(&setting.world.app(MANY));
        for (_, app) in domains {
            setting.world.allow_app(&setting.world.app(*app));
        }
        // The first makes the keys, and ends so that they can be copied.
        let first = setting.start().await;
        serves(setting.caller()).await;
        assert_eq!(first.stop(Signal::TERM).await, Some(0), "the first KMS ends in order");
        let mut nodes = Self { setting, addresses: Vec::new(), running: Vec::new() };
        for number in 0..count {
            nodes.add(number);
        }
        for number in 0..count {
            serves(nodes.caller(number)).await;
        }
        nodes
    }

    fn add(&mut self, number: usize) {
        let world = &self.setting.world;
        let directory = world.path(&format!("certs-{number}"));
        copy(&world.path("certs"), &directory);
        let (port, admin) = (free_port(), free_port());
        let text = toml::to_string(&world.config).expect("TOML");
        // Every path in the key directory is under it.
        let old = world.path("certs");
        let text = text.replace(old.to_str().expect("a path"), directory.to_str().expect("a path"));
        let mut config: toml::Table = text.parse().expect("TOML");
        set(&mut config, &["rpc", "port"], port);
        set(&mut config, &["core", "onboard", "port"], port);
        set(&mut config, &["core", "admin", "port"], admin);
        let file = world.path(&format!("kms-{number}.toml"));
        fs::write(&file, toml::to_string(&config).expect("TOML")).expect("a configuration");
        let log = fs::File::create(world.path(&format!("log-{number}"))).expect("a log");
        let mut command = Command::new(KMS);
        command.arg("-c").arg(file).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running.push(Running(command.spawn().expect("the program starts")));
        self.addresses.push((Ipv4Addr::LOCALHOST, port).into());
    }

    pub(crate) fn world(&self) -> &World {
        &self.setting.world
    }

    pub(crate) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// A client of one of them.
    pub(crate) fn caller(&self, number: usize) -> Caller {
        Caller::new(self.addresses[number])
    }
}

/// Waits until a KMS serves keys.
async fn serves(caller: Caller) {
    eventually("keys are served", async || {
        let answer = caller.try_json("GetMeta", json!({})).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

fn set(config: &mut toml::Table, path: &[&str], port: u16) {
    let (last, sections) = path.split_last().expect("a key");
    let section = sections.iter().fold(config, |table, name| {
        table.get_mut(*name).and_then(toml::Value::as_table_mut).expect("a section")
    });
    section.insert((*last).to_owned(), i64::from(port).into());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let (entry, target) =
            entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("an entry");
        match entry.is_dir() {
            true => copy(&entry, &target),
            false => drop(fs::copy(&entry, &target).expect("a copy")),
        }
    }
    let mode = fs::metadata(from).expect("a directory").permissions();
    fs::set_permissions(to, mode).expect("the same mode");
}
