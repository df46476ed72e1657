//! Which headers show which credentials, what that costs, and which htpasswd files are read.

use http::HeaderValue;

use super::*;

fn headers(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_str(value).expect("header"));
    headers
}

fn basic_header(text: &str) -> HeaderMap {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    headers("authorization", &format!("Basic {encoded}"))
}

fn hash(cost: u32) -> String {
    let hash = bcrypt::hash_with_result("pass word", 4).expect("bcrypt");
    let hash = hash.format_for_version(bcrypt::Version::TwoY);
    // The hash of no password at another cost, in the form of one.
    format!("$2y${cost:02}{}", &hash[6..])
}

fn password(user: &str, password: &str) -> Password {
    Password { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) }
}

fn credentials() -> Credentials {
    let users = Users::parse(&format!("# people\r\n\r\nalice:{}\r\n", hash(4))).expect("file");
    Credentials::Needed {
        token: Some(OperatorToken::new("s3cret")),
        users: ArcSwap::from_pointee(users),
        named: Arc::default(),
    }
}

/// As on the admin listener, but without delays.
fn admits(credentials: &Credentials, headers: &HeaderMap) -> bool {
    match credentials.shown(headers) {
        Shown::Nothing | Shown::Wrong | Shown::Token(_) => false,
        Shown::Right(_) => true,
        Shown::Password(password) => credentials.admits(&password).is_some(),
    }
}

#[test]
fn each_way_to_show_credentials_passes_and_each_wrong_one_does_not() {
    let credentials = credentials();
    for (headers, admitted) in [
        (headers("x-admin-token", "s3cret"), true),
        (headers("x-admin-token", "S3cret"), false),
        (headers("authorization", "Bearer s3cret"), true),
        (headers("authorization", "bearer s3cret"), true),
        (headers("authorization", "Bearer other"), false),
        (basic_header("alice:pass word"), true),
        (basic_header("alice:wrong"), false),
        (basic_header("bob:pass word"), false),
        (basic_header("anyone:s3cret"), true),
        (basic_header("s3cret:"), true),
        (basic_header("s3cret:x"), false),
        (basic_header("nocolon"), false),
        (headers("authorization", "Basic !!!"), false),
        (headers("authorization", "Digest s3cret"), false),
        (HeaderMap::new(), false),
    ] {
        assert_eq!(admits(&credentials, &headers), admitted, "{headers:?}");
    }
}

#[test]
fn only_a_name_and_a_password_cost_a_hash() {
    let without_users = Credentials::Needed {
        token: Some(OperatorToken::new("s3cret")),
        users: ArcSwap::default(),
        named: Arc::default(),
    };
    for (headers, shown) in [
        (HeaderMap::new(), Shown::Nothing),
        (headers("x-onboard-token", "x"), Shown::Nothing),
        (headers("x-admin-token", "s3cret"), Shown::Right(Operator::Token)),
        (headers("x-admin-token", "x"), Shown::Wrong),
        (basic_header("anyone:s3cret"), Shown::Right(Operator::Token)),
        (basic_header("alice:wrong"), Shown::Password(password("alice", "wrong"))),
    ] {
        assert_eq!(credentials().shown(&headers), shown, "{headers:?}");
        if matches!(shown, Shown::Password(_)) {
            assert_eq!(without_users.shown(&headers), Shown::Wrong, "nobody to compare with");
        }
    }
    assert_eq!(Credentials::NoneNeeded.shown(&HeaderMap::new()), Shown::Right(Operator::Anyone));
}

#[test]
fn an_unknown_user_takes_as_long_as_a_known_one() {
    let hash = bcrypt::hash("pass word", 7).expect("bcrypt");
    let users = Users::parse(&format!("alice:{hash}")).expect("file");
    let time = |user| {
        let started = std::time::Instant::now();
        assert!(!users.admits(&password(user, "wrong")));
        started.elapsed()
    };
    let known = (0..3).map(|_| time("alice")).min().expect("three");
    let unknown = (0..3).map(|_| time("bob")).max().expect("three");
    assert!(unknown * 4 > known, "{unknown:?}, but {known:?} for a known one");
}

#[test]
fn a_name_that_is_nobodys_is_compared_at_the_usual_cost_not_at_the_largest() {
    for (costs, expected) in [
        (&[4][..], "04"),
        (&[17, 4, 5, 5][..], "05"),
        (&[12, 10][..], "10"),
        (&[17][..], "14"),
        (&[17, 17, 10][..], "14"),
    ] {
        let lines: Vec<String> =
            costs.iter().enumerate().map(|(number, cost)| format!("u{number}:{}", hash(*cost))).collect();
        let users = Users::parse(&lines.join("\n")).expect("file");
        let nobody = users.nobody.as_ref().expect("a hash");
        assert_eq!(&nobody[4..6], expected, "{costs:?}");
        assert_eq!(users.slow().count(), costs.iter().filter(|cost| **cost > 14).count());
        assert!(nobody.parse::<bcrypt::HashParts>().is_ok(), "{nobody}");
    }
}

#[test]
fn a_token_that_looks_like_a_named_credential_is_the_token() {
    let token = format!("ckms_x_{}", "0".repeat(64));
    let credentials = Credentials::Needed {
        token: Some(OperatorToken::new(&token)),
        users: ArcSwap::default(),
        named: Arc::default(),
    };
    for headers in [
        headers("x-admin-token", &token),
        headers("authorization", &format!("Bearer {token}")),
        basic_header(&format!("x:{token}")),
    ] {
        assert_eq!(credentials.shown(&headers), Shown::Right(Operator::Token), "{headers:?}");
    }
}

#[test]
fn without_a_token_no_token_is_right() {
    let credentials = Credentials::Needed { token: None, users: ArcSwap::default(), named: Arc::default() };
    assert!(!admits(&credentials, &headers("x-admin-token", "")));
    assert!(!admits(&credentials, &basic_header(":")));
}

#[test]
fn a_file_with_which_somebody_could_not_log_in_is_refused_with_its_line() {
    let good = hash(4);
    let broken = format!("a:{}!", &good[..59]);
    for (text, bad) in [
        ("alice".to_owned(), BadHtpasswd::Malformed { line: 1 }),
        ("\nalice:plain".to_owned(), BadHtpasswd::Malformed { line: 2 }),
        ("a:$2y$10$short".to_owned(), BadHtpasswd::Malformed { line: 1 }),
        (":$2y$".to_owned(), BadHtpasswd::Malformed { line: 1 }),
        (broken, BadHtpasswd::Malformed { line: 1 }),
        (format!("a :{good}"), BadHtpasswd::Malformed { line: 1 }),
        (format!("a:{good}\n\u{feff}b:{good}"), BadHtpasswd::Malformed { line: 2 }),
        (format!("\u{feff}a:{good}"), BadHtpasswd::ByteOrderMark),
        (format!("a:{good}\nb:{good}\na:{good}"), BadHtpasswd::Repeated { line: 3 }),
        (format!("a:{}", hash(3)), BadHtpasswd::Cost { line: 1, cost: 3 }),
        (format!("a:{}", hash(19)), BadHtpasswd::Cost { line: 1, cost: 19 }),
        (format!("a:{}", hash(31)), BadHtpasswd::Cost { line: 1, cost: 31 }),
    ] {
        assert_eq!(Users::parse(&text).expect_err("malformed"), bad, "{text:?}");
    }
    assert_eq!(Users::read(b"a\xff:x").expect_err("no text"), BadHtpasswd::NotUtf8);
    let utf16: Vec<u8> = "a:b".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(Users::read(&utf16).expect_err("UTF-16"), BadHtpasswd::Malformed { line: 1 });
}

#[test]
fn the_difference_of_two_files_names_each_user_and_no_hash() {
    let (first, second) = (hash(4), hash(5));
    let users = |entries: &[(&str, &str)]| {
        let lines: Vec<_> = entries.iter().map(|(name, hash)| format!("{name}:{hash}")).collect();
        Users::parse(&lines.join("\n")).expect("a file")
    };
    let old = users(&[("alice", &first), ("bob", &first), ("dave", &first)]);
    for (new, expected) in [
        (users(&[("dave", &first), ("bob", &first), ("alice", &first)]), "no user is changed"),
        (users(&[("alice", &first), ("bob", &first)]), "removed: dave"),
        (
            users(&[("alice", &second), ("bob", &first), ("x; removed", &first), ("bob, erin", &second)]),
            "new: \"bob, erin\", \"x; removed\"; removed: dave; with another password: alice",
        ),
        (users(&[("\u{202e}ecila", &first)]), "new: \"\\u{202e}ecila\"; removed: alice, bob, dave"),
    ] {
        assert_eq!(new.changes_from(&old).to_string(), expected);
        let digests = new.digests();
        assert_eq!(digests.lines().count(), new.names().count(), "{digests}");
        assert!(!digests.contains("$2y$") && !digests.contains('\u{202e}'), "{digests}");
    }
}

#[test]
fn each_name_costs_the_same_hashes() {
    use super::named::{NamedCredential, Replaced, Secret, SecretHash};
    let secret_hash = || SecretHash::of(&Secret::generate().expect("random")).expect("random");
    let credential = |name: &str, replaced| NamedCredential {
        name: name.parse().expect("a name"),
        role: Role::Viewer,
        domain: None,
        standing: Standing::Active(secret_hash()),
        version: 5,
        replaced,
        invitation: None,
        chosen_by: None,
        created_at: 0,
        created_by: String::new(),
        expires_at: (name == "ended").then_some(1),
        last_used: std::sync::atomic::AtomicU64::new(0),
    };
    let overlap = || Some(Replaced::new(secret_hash(), 4, u64::MAX));
    let huge = "x".repeat(4000);
    for (replaced, users, hashes) in
        [(None, false, 1), (overlap(), false, 2), (None, true, 2), (overlap(), true, 3)]
    {
        let users = if users { format!("alice:{}", hash(4)) } else { String::new() };
        let users = Users::parse(&users).expect("a file");
        let named = Arc::<Named>::default();
        let mut credentials = vec![credential("ci", None), credential("ended", None)];
        credentials.push(credential("owner", replaced));
        let Ok(()) = named.change(|directory| {
            directory.extend(credentials.into_iter().map(|it| (it.name.clone(), Arc::new(it))));
            Ok::<_, std::convert::Infallible>(())
        });
        let credentials = Credentials::Needed { token: None, users: ArcSwap::from_pointee(users), named };
        for name in ["ci", "owner", "ended", "nobody", "alice", "", "Ä ö", "a\0b", &huge] {
            let before = HASHES.get();
            assert_eq!(credentials.admits(&password(name, "wrong")), None, "{name}");
            assert_eq!(HASHES.get() - before, hashes, "{name}");
        }
    }
}

#[test]
fn of_two_headers_none_counts() {
    let credentials = credentials();
    for name in ["x-admin-token", "authorization"] {
        for values in [["s3cret", "other"], ["other", "s3cret"], ["s3cret", "s3cret"]] {
            let mut headers = HeaderMap::new();
            for value in values {
                let value =
                    if name == "authorization" { format!("Bearer {value}") } else { value.to_owned() };
                headers.append(name, HeaderValue::from_str(&value).expect("a header"));
            }
            assert_eq!(credentials.shown(&headers), Shown::Wrong, "{headers:?}");
        }
    }
}

#[test]
fn a_password_may_contain_colons_and_other_characters() {
    let hash = bcrypt::hash("pä:ss: word", 4).expect("bcrypt");
    let users = Users::parse(&format!("alice:{hash}")).expect("a file");
    let credentials =
        Credentials::Needed { token: None, users: ArcSwap::from_pointee(users), named: Arc::default() };
    assert!(admits(&credentials, &basic_header("alice:pä:ss: word")));
    assert!(!admits(&credentials, &basic_header("alice:pä")));
}

#[test]
fn a_password_and_its_parts_are_not_printed() {
    assert_eq!(format!("{:?}", Shown::Password(password("alice", "hush"))), "Password(Password { .. })");
}

#[test]
fn a_token_is_known_by_its_hash() {
    let hash = Sha256::digest(b"old token").into();
    assert!(OperatorToken::from_hash(hash).is("old token"));
    assert!(!OperatorToken::from_hash(hash).is("old token "));
}
