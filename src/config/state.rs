//! `core.state` and `[core.postgres]`: where what operators change is kept, for one machine or for a fleet.

use std::fmt;
use std::path::PathBuf;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use kms_attest::outgoing;
use serde_json::Value;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use zeroize::Zeroizing;

use super::file::{FileError, ca_file, read_file};
use super::reader::Section;
use super::sections::Environment;
use super::{Secret, values};

/// The variable with the URL, where neither `url` nor `url_file` is set.
pub(super) const VARIABLE: &str = "KMS_STATE_URL";
const URL_FILE: &str = "core.postgres.url_file";
const CA_FILE: &str = "core.postgres.ca_file";
/// The permitted values of `max_view_age`: a round begins each second.
const VIEW_AGES: std::ops::RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(3600);
/// The longest name of a node in bytes.
const MAX_NAME: usize = 64;
/// The most nodes that may have to answer.
const MAX_PEERS: u64 = 100;
/// The time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(4);
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// `core.state`
#[derive(Debug, Clone)]
pub enum State {
    /// In files of this machine.
    Files,
    /// In a database that the nodes of a fleet share.
    Postgres(Arc<Postgres>),
}

/// What happens while what other nodes changed may be unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStale {
    /// Nothing is released.
    Refuse,
    /// Releases go on, and operators are told.
    Warn,
}

/// `[core.postgres]`
pub struct Postgres {
    url: UrlSource,
    ca_file: Option<PathBuf>,
    insecure_plaintext: bool,
    /// The oldest view of the shared state with which this node counts as up to date.
    pub max_view_age: Duration,
    /// What happens when the view is older.
    pub when_stale: WhenStale,
    /// What people call this node.
    pub node_name: String,
    /// How many other nodes must have answered for a view to count.
    pub min_peers: usize,
    /// Whether fleets with other root keys use the same database on purpose.
    pub other_fleets: bool,
}

/// Where the URL comes from.
enum UrlSource {
    Given(Secret),
    File(PathBuf),
    /// The configuration has an error, or files are used.
    Missing,
}

/// How the database is reached.
pub struct Database {
    /// Hosts, user, password and database.
    pub config: tokio_postgres::Config,
    /// For TLS; `None` without it.
    pub tls: Option<rustls::ClientConfig>,
}

/// Why the database cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The URL cannot be used.
    #[error("core.postgres.url {0}")]
    Url(&'static str),
    /// TLS cannot be set up.
    #[error("core.postgres: TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Without the URL, which may hold a password.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

/// Without the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Postgres {
    /// How the database is reached. May read files.
    ///
    /// # Errors
    /// [`PostgresError`]; no text has a part of the URL.
    pub fn database(&self) -> Result<Database, PostgresError> {
        let url = match &self.url {
            UrlSource::Given(url) => Zeroizing::new(url.expose().to_owned()),
            UrlSource::File(path) => {
                let content = Zeroizing::new(read_file(URL_FILE, path)?);
                let text = str::from_utf8(&content).map_err(|_| PostgresError::Url("is not UTF-8 text"))?;
                Zeroizing::new(text.trim().to_owned())
            }
            UrlSource::Missing => return Err(PostgresError::Url("is missing")),
        };
        let mut config = parse(&url, self.insecure_plaintext).map_err(PostgresError::Url)?;
        let tls = match config.get_ssl_mode() {
            SslMode::Require => {
                let trusted = ca_file(CA_FILE, self.ca_file.as_deref())?;
                Some(outgoing::client_config(&trusted).map_err(PostgresError::Tls)?)
            }
            _ => None,
        };
        config.application_name("cvm-kms").connect_timeout(CONNECT).tcp_user_timeout(UNACKNOWLEDGED);
        if config.get_hosts().len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(Database { config, tls })
    }
}

impl Database {
    /// How each of the hosts is reached, in their order, with everything else as it is for all.
    pub fn hosts(&self) -> Vec<tokio_postgres::Config> {
        let all = &self.config;
        let hosts = all.get_hosts();
        let is_of_each = |count: usize| count == 0 || count == hosts.len();
        if !is_of_each(all.get_hostaddrs().len())
            || all.get_ports().len() > 1 && !is_of_each(all.get_ports().len())
        {
            // The library says what is wrong.
            return vec![all.clone()];
        }
        (0..hosts.len()).map(|index| of_host(all, index)).collect()
    }
}

fn of_host(all: &tokio_postgres::Config, index: usize) -> tokio_postgres::Config {
    let mut one = tokio_postgres::Config::new();
    match &all.get_hosts()[index] {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    let ports = all.get_ports();
    if let Some(address) = all.get_hostaddrs().get(index) {
        one.hostaddr(*address);
    }
    if let Some(port) = ports.get(index).or(ports.first()) {
        one.port(*port);
    }
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(name) = all.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(time) = all.get_connect_timeout() {
        one.connect_timeout(*time);
    }
    if let Some(time) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*time);
    }
    if let Some(time) = all.get_keepalives_interval() {
        one.keepalives_interval(time);
    }
    if let Some(count) = all.get_keepalives_retries() {
        one.keepalives_retries(count);
    }
    one.ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding())
        .load_balance_hosts(all.get_load_balance_hosts());
    one
}

/// Parses a URL, and decides whether TLS is used: always, except on this machine, or where the configuration gives it up.
fn parse(url: &str, insecure_plaintext: bool) -> Result<tokio_postgres::Config, &'static str> {
    const FORM: &str = "must be a URL such as postgres://kms@db.example/kms";
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(FORM);
    }
    let mut config: tokio_postgres::Config = url.parse().map_err(|_| FORM)?;
    if config.get_hosts().is_empty() {
        return Err("names no host");
    }
    let is_here = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
    };
    let may_be_plain = insecure_plaintext || config.get_hosts().iter().all(is_here);
    let mode = match (config.get_ssl_mode(), may_be_plain) {
        (SslMode::Require, _) | (SslMode::Prefer, false) => SslMode::Require,
        (SslMode::Disable, false) => {
            return Err("asks for no TLS beyond this machine, which needs insecure_plaintext = true");
        }
        (_, true) => SslMode::Disable,
        (_, false) => SslMode::Require,
    };
    config.ssl_mode(mode);
    Ok(config)
}

/// Reads both keys.
pub(super) fn read(section: &mut Section<'_>, environment: Environment<'_>) -> State {
    let is_postgres = section.required("state", false, |value| match values::string(value)?.as_str() {
        "files" => Ok(false),
        "postgres" => Ok(true),
        _ => Err("must be \"files\" or \"postgres\"".to_owned()),
    });
    let postgres = section.section("postgres", |section| postgres(section, is_postgres, environment));
    match is_postgres {
        true => State::Postgres(Arc::new(postgres)),
        false => State::Files,
    }
}

fn postgres(section: &mut Section<'_>, is_needed: bool, environment: Environment<'_>) -> Postgres {
    let insecure_plaintext = section.flag("insecure_plaintext");
    let given = section.text("url");
    let file = section.path("url_file");
    let variable = environment(VARIABLE).filter(|text| is_needed && !text.trim().is_empty());
    let url = match (values::non_empty(given).or(variable.filter(|_| file.is_none())), file) {
        (Some(_), Some(_)) => {
            section.find("url_file", "must not be set beside url");
            UrlSource::Missing
        }
        (Some(text), None) => {
            if let Err(problem) = parse(text.trim(), insecure_plaintext) {
                section.find("url", problem);
            }
            Secret::trimmed(text).map_or(UrlSource::Missing, UrlSource::Given)
        }
        (None, Some(path)) => UrlSource::File(path),
        (None, None) => {
            if is_needed {
                section.find("url", "is missing: with core.state = \"postgres\" it, url_file or the variable KMS_STATE_URL must be set");
            }
            UrlSource::Missing
        }
    };
    Postgres {
        url,
        ca_file: section.path("ca_file"),
        insecure_plaintext,
        max_view_age: section.required("max_view_age", *VIEW_AGES.start(), |value| {
            let age = values::duration(&values::string(value)?)?.filter(|age| VIEW_AGES.contains(age));
            age.ok_or_else(|| "must be from 3s to 1h".to_owned())
        }),
        when_stale: section.required("when_stale", WhenStale::Refuse, |value| {
            match values::string(value)?.as_str() {
                "refuse" => Ok(WhenStale::Refuse),
                "warn" => Ok(WhenStale::Warn),
                _ => Err("must be \"refuse\" or \"warn\"".to_owned()),
            }
        }),
        node_name: section.required("node_name", String::new(), node_name),
        min_peers: section.required("min_peers", 0, |value| {
            let number = value.as_u64().filter(|number| *number <= MAX_PEERS);
            let number = number.and_then(|number| usize::try_from(number).ok());
            number.ok_or_else(|| format!("must be a whole number up to {MAX_PEERS}"))
        }),
        other_fleets: section.flag("other_fleets"),
    }
}

fn node_name(value: Value) -> Result<String, String> {
    let name = values::string(value)?;
    match name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(name),
        false => Err(format!("must have at most {MAX_NAME} letters, digits and signs, without spaces")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn findings(text: &str) -> Vec<String> {
        let found = Config::from_toml(text).err().map(|error| error.findings).unwrap_or_default();
        found.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect()
    }

    fn database(keys: &str) -> Result<Database, PostgresError> {
        let (config, _) = Config::from_toml(&format!("core.state = 'postgres'\n{keys}")).expect("valid");
        let State::Postgres(postgres) = config.core.state else { panic!("postgres") };
        postgres.database()
    }

    #[test]
    fn files_are_the_default_and_tls_is_used_beyond_this_machine() {
        let (config, _) = Config::from_toml("").unwrap();
        assert!(matches!(config.core.state, State::Files));
        for (keys, has_tls) in [
            ("core.postgres.url = 'postgres://kms:pw@db.example/kms'", true),
            ("core.postgres.url = 'postgres://kms@db.example/kms?sslmode=prefer'", true),
            ("core.postgres = { url = 'postgres://kms@db.example/kms', insecure_plaintext = true }", false),
            ("core.postgres.url = 'postgresql://kms@127.0.0.1:5433/kms'", false),
            ("core.postgres.url = 'postgres://kms:pw@/kms?host=/run/postgresql'", false),
            ("core.postgres.url = 'postgres://kms@localhost/kms?sslmode=require'", true),
            ("core.postgres.url = 'postgres://kms@%2Frun%2Fpostgresql/kms'", false),
            ("core.postgres.url = 'postgres://kms@127.0.0.1,db.example/kms'", true),
        ] {
            assert_eq!(database(keys).unwrap().tls.is_some(), has_tls, "{keys}");
        }
    }

    #[test]
    fn each_host_is_reached_as_the_url_says_of_all() {
        let more = "application_name=x&sslnegotiation=direct&connect_timeout=7&tcp_user_timeout=8&keepalives=0&keepalives_idle=9\
                    &keepalives_interval=10&keepalives_retries=11&target_session_attrs=read-only&channel_binding=require\
                    &load_balance_hosts=random&options=-c%20a%3Db&sslmode=require&hostaddr=";
        let config = |hosts: &str, addresses: &str| -> tokio_postgres::Config {
            format!("postgres://kms:pw@{hosts}/fleet?{more}{addresses}").parse().unwrap()
        };
        let hosts = |config: &tokio_postgres::Config| Database { config: config.clone(), tls: None }.hosts();
        let one = config("db.example:5433", "10.0.0.1");
        assert_eq!(hosts(&one), std::slice::from_ref(&one));
        let two = [one, config("%2Frun:5434", "10.0.0.2")];
        assert_eq!(hosts(&config("db.example:5433,%2Frun:5434", "10.0.0.1,10.0.0.2")), two);
        let wrong = config("a,b,c", "10.0.0.1,10.0.0.2");
        assert_eq!(hosts(&wrong), std::slice::from_ref(&wrong));
    }

    #[test]
    fn what_cannot_work_is_found_and_no_url_is_shown() {
        for (keys, expected) in [
            ("", "core.postgres.url: is missing: with core.state"),
            ("core.postgres.url = 'mysql://kms:hush@db/kms'", "core.postgres.url: must be a URL such as"),
            (
                "core.postgres.url = 'postgres://kms:hush@db/kms?x=hush'",
                "core.postgres.url: must be a URL such",
            ),
            ("core.postgres.url = 'postgres:///hush'", "core.postgres.url: names no host"),
            (
                "core.postgres.url = 'postgres://kms:hush@db/kms?sslmode=disable'",
                "core.postgres.url: asks for no TLS beyond this machine",
            ),
            (
                "core.postgres = { url = 'postgres://db/kms', url_file = '/x' }",
                "core.postgres.url_file: must not be set beside url",
            ),
            (
                "core.postgres = { url = 'postgres://db/kms', max_view_age = '1s' }",
                "core.postgres.max_view_age: must be from 3s to 1h",
            ),
            (
                "core.postgres = { url = 'postgres://db/kms', when_stale = 'x' }",
                "core.postgres.when_stale: must be \"refuse\" or \"warn\"",
            ),
            (
                "core.postgres = { url = 'postgres://db/kms', node_name = 'a b' }",
                "core.postgres.node_name: must",
            ),
        ] {
            let found = findings(&format!("core.state = 'postgres'\n{keys}"));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{keys}: {found:?}");
            assert!(!found[0].contains("hush"), "{found:?}");
        }
        let (config, _) = Config::from_toml(
            "core.state = 'postgres'\ncore.postgres.url = 'postgres://kms:hush@db.example/hush2'",
        )
        .unwrap();
        let shown = format!("{:?} {:?}", config.effective, config.core.state);
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_url_comes_from_a_file_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("url");
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            database(&format!("core.postgres.url_file = {path:?}"))
                .map(|it| it.config.get_dbname().map(str::to_owned))
        };
        assert_eq!(read("postgres://kms:pw@db.example/fleet\n").unwrap().as_deref(), Some("fleet"));
        assert_eq!(
            read("hush").unwrap_err().to_string(),
            "core.postgres.url must be a URL such as postgres://kms@db.example/kms"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(database(&format!("core.postgres.url_file = {path:?}")).is_err());
    }
}
