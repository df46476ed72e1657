//! What errors of the database and of its library mean.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, lookup_host};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Config, NoTls};

use super::*;

#[test]
fn the_name_of_the_host_is_shown_only_where_the_whole_cause_is_asked_for() {
    let expected = ServerName::try_from("db.inside.example").unwrap();
    let presented = vec!["other.example".to_owned()];
    let wrong = CertificateError::NotValidForNameContext { expected, presented };
    let wrong = rustls::Error::InvalidCertificate(wrong);
    let error = DatabaseError::from(&io::Error::new(io::ErrorKind::InvalidData, wrong));
    assert!(matches!(error, DatabaseError::Tls(TlsFault::Name, _)), "{error:?}");
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("example"), "{text}");
    }
    assert!(error.detailed().contains("db.inside.example"), "{}", error.detailed());
}

#[test]
fn a_database_that_is_not_reached_is_told_in_a_sentence_and_with_a_remedy() {
    for (kind, sentence) in [
        (io::ErrorKind::NotFound, "there is no such socket"),
        (io::ErrorKind::ConnectionRefused, "nothing listens there"),
        (io::ErrorKind::ConnectionReset, "the connection was closed"),
    ] {
        let error = DatabaseError::from(&io::Error::from(kind));
        assert_eq!(error.to_string(), format!("the database cannot be reached: {sentence}"));
        assert!(error.remedy().is_some_and(|remedy| remedy.starts_with("Start PostgreSQL")));
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_told() {
    let unknown = lookup_host(("nothing.invalid", 5432)).await.err().unwrap();
    let error = DatabaseError::of_lookup(&unknown).to_string();
    assert!(error.ends_with("the name of its host is not known"), "{error}");
    let no_socket = DatabaseError::of_lookup(&io::Error::from_raw_os_error(2)).to_string();
    assert!(no_socket.ends_with("there is no such socket"), "{no_socket}");
}

/// Why the library does not connect, as `change` says, to a server that gives these answers.
async fn unconnected(answers: Vec<Vec<u8>>, change: impl FnOnce(&mut Config)) -> DatabaseError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut told = [0; 1024];
        for answer in answers {
            let _ = stream.read(&mut told).await;
            let _ = stream.write_all(&answer).await;
        }
        // The client ends it.
        while stream.read(&mut told).await.is_ok_and(|length| length > 0) {}
    });
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("kms").ssl_mode(SslMode::Disable);
    change(&mut config);
    let error = config.connect(NoTls).await.err().unwrap();
    server.await.unwrap();
    error.into()
}

/// A message of PostgreSQL's protocol.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

/// What only the words of the library say, or the kind of an error that it makes itself: an update that changes them fails here.
#[tokio::test]
async fn what_the_library_says_without_a_code_is_understood() {
    let password = message(b'R', &3_u32.to_be_bytes());
    let error = unconnected(vec![password], |_| ()).await;
    let text = "the database asks for a password, and core.postgres.url has none";
    assert_eq!(error, DatabaseError::Settings(text.to_owned()));

    let error = unconnected(vec![b"N".to_vec()], |config| {
        config.ssl_mode(SslMode::Require);
    })
    .await;
    assert!(matches!(error, DatabaseError::Tls(TlsFault::Missing, _)), "{error:?}");

    let ready = message(b'Z', b"I");
    let column = [&b"\0\x01transaction_read_only\0"[..], &[0; 6], &25_u32.to_be_bytes(), &[0xff; 6], &[0; 2]];
    let row = [&b"\0\x01"[..], &2_u32.to_be_bytes(), b"on"];
    let read_only = [
        message(b'T', &column.concat()),
        message(b'D', &row.concat()),
        message(b'C', b"SHOW\0"),
        ready.clone(),
    ];
    let answers = vec![[message(b'R', &[0; 4]), ready].concat(), read_only.concat()];
    let read_write = |config: &mut Config| {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    };
    assert_eq!(unconnected(answers, read_write).await, DatabaseError::ReadOnly);
}

#[test]
fn a_commit_is_refused_only_by_a_server_that_goes_on() {
    for (state, refuses) in [
        (SqlState::T_R_SERIALIZATION_FAILURE, true),
        (SqlState::DISK_FULL, true),
        (SqlState::READ_ONLY_SQL_TRANSACTION, true),
        (SqlState::QUERY_CANCELED, true),
        (SqlState::ADMIN_SHUTDOWN, false),
        (SqlState::CRASH_SHUTDOWN, false),
        (SqlState::CONNECTION_FAILURE, false),
        (SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN, false),
    ] {
        assert_eq!(refuses_commit(state.code()), refuses, "{state:?}");
    }
}

#[test]
fn what_the_database_says_of_itself_is_shown_only_if_it_is_a_code() {
    assert_eq!(sqlstate("40P01"), "40P01");
    for text in ["40P0", "40P01x", "db.in", "ünïcö", ""] {
        assert_eq!(sqlstate(text), "unknown", "{text}");
    }
}
