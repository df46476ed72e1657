//! Changes that meet each other, and the secret before a rotation.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::FutureExt as _;
use kms_attest::state_file::StateFile;

use super::*;
use crate::control::Reach;
use crate::control::approvals::OwnerChange;
use crate::operator::OperatorToken;
use crate::operator::named::{Replaced, Secret};
use crate::state::RevokedOwner;
use crate::state::shared::{Arrival, Document as _, Provenance};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Setting {
    directory: tempfile::TempDir,
    audit: Audit,
    configured: Arc<Credentials>,
    credentials: NamedCredentials,
}

impl Setting {
    /// Credentials beside `token`; without it the first start makes the owner `admin`.
    async fn with(token: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let audit = Audit::open(&directory.path().join("audit.jsonl")).expect("an audit log");
        let token = token.map(OperatorToken::new);
        let (users, named) = (arc_swap::ArcSwap::default(), Arc::default());
        let configured = Arc::new(Credentials::Needed { token, users, named });
        let file = CredentialFile::new(directory.path().join("credentials.json"), directory.path());
        let opened = NamedCredentials::open(file, Arc::clone(&configured), &audit, |_| Ok(())).await;
        let credentials = opened.expect("they open").expect("credentials").credentials;
        Self { directory, audit, configured, credentials }
    }

    async fn create(&self, name: &str, role: Role) -> Result<Issued, CredentialError> {
        self.create_by(Operator::Token, name, role).await
    }

    async fn create_by(&self, operator: Operator, name: &str, role: Role) -> Result<Issued, CredentialError> {
        let new = NewCredential {
            name: name.parse().expect("a name"),
            role,
            domain: None,
            expires_at: None,
            issue: Issue::Secret,
        };
        let changer = approved(operator, OwnerCredential::create(&new));
        self.credentials.create(new, changer, &self.audit).await
    }

    fn created_at(&self, name: &str) -> u64 {
        let directory = self.credentials.list();
        directory.get(&name.parse::<CredentialName>().expect("a name")).map_or(0, |it| it.created_at)
    }

    async fn rotate(&self, name: &str, by_whom: Operator) -> Result<Issued, CredentialError> {
        let created_at = self.created_at(name);
        let changer = approved(by_whom, OwnerCredential::Rotate { name: name.to_owned(), created_at });
        let name = name.parse().expect("a name");
        self.credentials.rotate(name, Issue::Secret, changer, &self.audit).await
    }

    async fn revoke(&self, name: &str) -> Result<Reach, CredentialError> {
        self.revoke_by(Operator::Token, name).await
    }

    async fn revoke_by(&self, operator: Operator, name: &str) -> Result<Reach, CredentialError> {
        let created_at = self.created_at(name);
        let changer = approved(operator, OwnerCredential::Revoke { name: name.to_owned(), created_at });
        self.credentials.revoke(name.parse().expect("a name"), changer, &self.audit).await
    }

    fn get(&self, name: &str) -> Option<Arc<NamedCredential>> {
        self.credentials.named.get(name, self.credentials.named.now())
    }

    /// The holder of the secret of this version.
    fn holder(&self, name: &str, version: u64) -> Operator {
        let domain = None;
        let role = self.get(name).expect("a credential").role;
        Operator::Named { name: name.to_owned(), role, domain, version }
    }

    fn kept(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("credentials.json")).expect("the file")
    }

    async fn recorded(&self, event: &str) -> usize {
        let _ = self.audit.record(Event::Suppressed { events: 0, source: None }).await.expect("recorded");
        let log = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).expect("the log");
        log.matches(&format!(r#""event":"{event}""#)).count()
    }
}

/// The operator of a KMS where one owner is enough.
fn approved(operator: Operator, change: OwnerCredential) -> Changer {
    let author = Author { by: operator.to_string(), remote: HERE };
    Changer { operator, author, owner_change: Some(OwnerChange::of_one_owner(change)) }
}

#[tokio::test]
async fn a_name_that_is_made_again_while_its_revocation_waits_is_revoked_too() {
    let setting = Setting::with(Some("token")).await;
    let issued = setting.create("ci", Role::Viewer).await.expect("created");
    let turn = setting.credentials.file.lock().await;
    let mut revocation = Box::pin(setting.revoke("ci"));
    assert!((&mut revocation).now_or_never().is_none(), "another change has the turn");
    assert!(setting.get("ci").is_none(), "it does not count any more");
    // The change that has the turn ends.
    let Ok(()) = setting.credentials.named.change(|directory| {
        directory.insert(issued.credential.name.clone(), Arc::clone(&issued.credential));
        Ok::<_, Infallible>(())
    });
    drop(turn);
    revocation.await.expect("revoked");
    assert!(setting.get("ci").is_none(), "its revocation is recorded");
    assert!(!setting.kept().contains("\"ci\""), "{}", setting.kept());
    assert_eq!(setting.recorded("credential_revoked").await, 1);
}

#[tokio::test]
async fn of_two_revocations_at_once_one_is_recorded() {
    let setting = Setting::with(Some("token")).await;
    setting.create("ci", Role::Viewer).await.expect("created");
    let outcomes = tokio::join!(setting.revoke("ci"), setting.revoke("ci"));
    let outcomes = [outcomes.0, outcomes.1];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().flatten().count() == 1 && setting.get("ci").is_none());
    assert_eq!(setting.recorded("credential_revoked").await, 1);
}

#[tokio::test]
async fn two_owners_that_revoke_each_other_at_once_leave_one() {
    let setting = Setting::with(None).await;
    let first = setting.get("admin").expect("made at the first start");
    let first = setting.holder("admin", first.version);
    let second = setting.create_by(first.clone(), "second", Role::Owner).await.expect("created");
    let second = setting.holder("second", second.credential.version);
    let (one, other) = tokio::join!(setting.revoke_by(first, "second"), setting.revoke_by(second, "admin"));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    assert_eq!(setting.credentials.list().len(), 1);
}

#[tokio::test]
async fn a_rotation_whose_response_is_lost_does_not_lose_the_last_owner() {
    let setting = Setting::with(None).await;
    let old = setting.get("admin").expect("made at the first start").version;
    let holder = setting.holder("admin", old);
    let lost = setting.rotate("admin", holder.clone()).await.expect("rotated").credential.version;
    assert!(setting.configured.is_live(&holder), "the new secret has not been used");
    assert_eq!(setting.configured.versions("admin"), [lost, old]);
    assert!(setting.kept().contains("\"replaced\""), "over a restart");

    // Again with the old secret, which then counts beside the newest one, not beside the lost one.
    let new = setting.rotate("admin", holder.clone()).await.expect("rotated").credential.version;
    assert_eq!(setting.configured.versions("admin"), [new, old]);
    assert!(!setting.configured.is_live(&setting.holder("admin", lost)));

    // The first use of the new one ends the old one.
    assert!(setting.configured.operator("admin", new).is_some());
    assert!(!setting.configured.is_live(&holder));
    assert_eq!(setting.configured.operator("admin", old), None);
    assert_eq!(setting.configured.versions("admin"), [new]);
    let error = setting.rotate("admin", holder).await.expect_err("it does not count any more");
    assert!(matches!(error, CredentialError::NotLive), "{error}");
}

#[tokio::test]
async fn only_the_last_owner_has_two_secrets_for_a_while() {
    let setting = Setting::with(Some("token")).await;
    for role in [Role::Owner, Role::Viewer] {
        let name = role.name();
        let old = setting.create(name, role).await.expect("created").credential.version;
        let holder = setting.holder(name, old);
        setting.rotate(name, Operator::Token).await.expect("rotated");
        assert!(!setting.configured.is_live(&holder), "{name}");
        assert_eq!(setting.configured.versions(name).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_not_in_force() {
    let setting = Setting::with(Some("token")).await;
    let version = setting.create("ci", Role::Viewer).await.expect("created").credential.version;
    std::fs::create_dir(setting.directory.path().join("credentials.json.new")).expect("an obstacle");
    let error = setting.create("other", Role::Owner).await.expect_err("not kept");
    assert!(matches!(error, CredentialError::NotKept(_)), "{error}");
    let error = setting.rotate("ci", Operator::Token).await.expect_err("not kept");
    assert!(matches!(error, CredentialError::NotKept(_)), "{error}");
    assert!(setting.get("other").is_none());
    assert_eq!(setting.configured.versions("ci"), [version]);
    assert!(!setting.kept().contains("other"));
    assert_eq!(setting.recorded("credential_change_failed").await, 2, "the log has what was not kept");
}

#[tokio::test]
async fn a_secret_that_is_replaced_ends_by_time() {
    let setting = Setting::with(None).await;
    let owner = setting.get("admin").expect("made at the first start");
    let replaced = Some(Replaced::new(owner.hash().clone(), 7, 100));
    let credential = NamedCredential { replaced, ..again(&owner, owner.standing.clone(), owner.version) };
    for (now, counts) in [(99, true), (100, false), (u64::MAX, false)] {
        assert_eq!(credential.versions(now).any(|version| version == 7), counts, "{now}");
    }
}

#[tokio::test]
async fn an_old_secret_that_ends_during_a_rotation_does_not_come_back() {
    let setting = Setting::with(Some("token")).await;
    let old = setting.create("ci", Role::Owner).await.expect("created").credential;
    let now = setting.credentials.named.now();
    let with_overlap = |of: &NamedCredential, version| {
        let replaced = Some(overlap(of, now, now + OVERLAP));
        Arc::new(NamedCredential { replaced, ..again(of, of.standing.clone(), version) })
    };
    let turn = setting.credentials.file.lock().await;
    let changer = || {
        let name = "ci".to_owned();
        approved(Operator::Token, OwnerCredential::Rotate { name, created_at: old.created_at })
    };
    let event = || Event::OldSecretEnded { name: "ci".to_owned() };
    let put = async |before: u64, credential: &Arc<NamedCredential>| {
        let (changer, event) = (changer(), event());
        let done = setting.credentials.put(&turn, Some(before), credential, &changer, event, &setting.audit);
        done.await.expect("put");
    };
    let second = with_overlap(&old, 2);
    put(old.version, &second).await;
    assert_eq!(setting.configured.versions("ci"), [2, old.version]);
    let third = with_overlap(&second, 3);
    assert!(setting.configured.operator("ci", 2).is_some(), "the second one is used");
    put(2, &third).await;
    assert_eq!(setting.configured.versions("ci"), [3]);
}

#[tokio::test]
async fn a_chosen_secret_keeps_the_end_of_its_owner() {
    let setting = Setting::with(Some("token")).await;
    let end = Some(setting.credentials.named.now() + 3600);
    let new = NewCredential {
        name: FIRST.parse().expect("a name"),
        role: Role::Owner,
        domain: None,
        expires_at: end,
        issue: Issue::Secret,
    };
    let changer = approved(Operator::Token, OwnerCredential::create(&new));
    setting.credentials.create(new, changer, &setting.audit).await.expect("created");
    let secret = Secret::generate().expect("random");
    let changer = Changer::new(Operator::Token, Author { by: "token".to_owned(), remote: HERE });
    let set = setting.credentials.owner_secret(SecretHash::of(&secret).expect("random"), &changer);
    let set = set.expect("an owner");
    let unapproved =
        OwnerSecret { name: set.name.clone(), hash: set.hash.clone(), created_at: set.created_at };
    let refused = setting.credentials.set_secret(unapproved, changer, &setting.audit).await;
    assert!(matches!(refused, Err(CredentialError::OfOwner)), "{refused:?}");
    let changer = approved(Operator::Token, OwnerCredential::set_secret(&set));
    setting.credentials.set_secret(set, changer, &setting.audit).await.expect("set");
    let owner = setting.get(FIRST).expect("an owner");
    assert_eq!((owner.expires_at, owner.is_lasting_owner()), (end, false));
}

#[tokio::test]
async fn an_owner_who_has_ended_keeps_the_name_and_is_not_dropped() {
    let setting = Setting::with(Some("token")).await;
    let now = setting.credentials.named.now();
    let template = setting.create("ci", Role::Viewer).await.expect("created").credential;
    let fill = |name: String, role, count: usize| {
        let Ok(()) = setting.credentials.named.change(|directory| {
            directory.extend((0..count).map(|number| {
                let name: CredentialName = format!("{name}{number}").parse().expect("a name");
                let standing = template.standing.clone();
                let (ended, name_of) = (Some(now), name.clone());
                let of = NamedCredential {
                    name: name_of,
                    role,
                    expires_at: ended,
                    ..again(&template, standing, template.version)
                };
                (name, Arc::new(of))
            }));
            Ok::<_, Infallible>(())
        });
    };
    fill("owner".to_owned(), Role::Owner, 1);
    fill("viewer".to_owned(), Role::Viewer, MAX_CREDENTIALS - 2);
    assert_eq!(setting.credentials.list().len(), MAX_CREDENTIALS);
    let error = setting.create("owner0", Role::Viewer).await.expect_err("of an owner");
    assert!(matches!(error, CredentialError::WasOwner(_)), "{error}");
    assert_eq!(setting.configured.count_owners(), 2, "with the token");
    setting.create("viewer0", Role::Operator).await.expect("the name is free");
    let names: Vec<_> = setting.credentials.list().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["ci", "owner0", "viewer0"], "the others were dropped");
    assert_eq!(setting.configured.count_owners(), 2);

    fill("owner".to_owned(), Role::Owner, MAX_CREDENTIALS - 2);
    let error = setting.create("more", Role::Viewer).await.expect_err("no room");
    assert!(matches!(error, CredentialError::Full), "{error}");
    assert_eq!(setting.credentials.list().len(), MAX_CREDENTIALS, "as many as the next start reads");
    setting.create("owner0", Role::Owner).await.expect("an owner instead of an owner");
}

#[tokio::test]
async fn one_domain_does_not_take_the_room_of_the_others() {
    let setting = Setting::with(Some("token")).await;
    let template = setting.create("ci", Role::Viewer).await.expect("created").credential;
    let domain = |name: &str| Some(name.parse::<DomainName>().expect("a name"));
    let Ok(()) = setting.credentials.named.change(|directory| {
        directory.extend((0..SHARE_OF_DOMAIN).map(|number| {
            let name: CredentialName = format!("viewer{number}").parse().expect("a name");
            let of = again(&template, template.standing.clone(), template.version);
            (name.clone(), Arc::new(NamedCredential { name, domain: domain("sandbox"), ..of }))
        }));
        Ok::<_, Infallible>(())
    });
    let free = |by: Option<&str>, of: &str, name: &str| {
        let new = NewCredential {
            name: name.parse().expect("a name"),
            role: Role::Viewer,
            domain: domain(of),
            expires_at: None,
            issue: Issue::Secret,
        };
        let operator = Operator::Named {
            name: "owner".to_owned(),
            role: Role::Owner,
            domain: by.and_then(domain),
            version: 1,
        };
        let changer = Changer::new(operator, Author { by: "owner".to_owned(), remote: HERE });
        setting.credentials.expect_free(&new, &changer)
    };
    let full = free(Some("sandbox"), "sandbox", "more").expect_err("it has its share");
    assert!(
        matches!(&full, CredentialError::ShareFull(own) if Some(own) == domain("sandbox").as_ref()),
        "{full}"
    );
    assert!(free(Some("prod"), "prod", "more").is_ok(), "another domain");
    assert!(free(None, "sandbox", "more").is_ok(), "an owner of the whole KMS");
}

#[tokio::test]
async fn an_invitation_to_replace_a_secret_leaves_it_until_it_is_used() {
    let setting = Setting::with(None).await;
    let old = setting.get("admin").expect("made at the first start");
    let holder = setting.holder("admin", old.version);
    let invite = async |by: Operator| {
        let rotate = OwnerCredential::Rotate { name: "admin".to_owned(), created_at: old.created_at };
        let name = "admin".parse().expect("a name");
        let changer = approved(by, rotate);
        let issued = setting.credentials.rotate(name, Issue::Invitation, changer, &setting.audit).await;
        let credential = issued.expect("invited").credential;
        credential.invitation.clone().expect("an invitation").version
    };
    let invited = |version| Operator::Invited { name: "admin".to_owned(), domain: None, version };
    let earlier = invite(holder.clone()).await;
    let version = invite(holder.clone()).await;
    assert_eq!(setting.configured.versions("admin"), [old.version, version], "one invitation");
    assert_eq!(setting.configured.operator("admin", earlier), None);
    assert_eq!(setting.configured.operator("admin", version), Some(invited(version)));
    assert_eq!(setting.configured.operator("admin", old.version), Some(holder.clone()));
    assert!(setting.get("admin").expect("an owner").is_lasting_owner());
    let read =
        CredentialFile::new(setting.directory.path().join("credentials.json"), setting.directory.path());
    let records = read.read().expect("the file").expect("records");
    let kept = directory(records.credentials).expect("it can be read").remove(&old.name).expect("an owner");
    assert_eq!(kept.invitation.as_ref().map(|it| it.version), Some(version), "over a restart");

    // The holder's own rotation takes it back.
    let own = setting.rotate("admin", holder.clone()).await.expect("rotated").credential.version;
    assert!(!setting.configured.is_live(&invited(version)));
    assert_eq!(setting.configured.versions("admin"), [own, old.version]);
    let holder = setting.configured.operator("admin", own).expect("the new secret");

    let version = invite(holder).await;
    assert_eq!(setting.configured.versions("admin"), [own, version]);
    setting.audit.floor().raise_by_record(setting.credentials.named.now() + INVITATION);
    assert_eq!(setting.configured.versions("admin"), [own], "it has lapsed");
    let changer = Changer::new(invited(version), Author { by: "admin".to_owned(), remote: HERE });
    let error = setting.credentials.activate(changer, &setting.audit).await.expect_err("it has lapsed");
    assert!(matches!(error, CredentialError::NotInvited), "{error}");
}

#[tokio::test]
async fn a_credential_whose_directory_is_not_synced_is_what_the_next_start_reads() {
    let setting = Setting::with(Some("of-the-configuration")).await;
    {
        let mut file = setting.credentials.disk.lock().await;
        let path = setting.directory.path().join("credentials.json");
        let unsynced = StateFile::from(path).synced_by(|_| Err(io::Error::other("no sync")));
        *file = Arc::new(CredentialFile::new(unsynced, setting.directory.path()));
    }
    setting.create("ann", Role::Viewer).await.expect("its secret is shown, because it counts");
    assert!(setting.get("ann").is_some());
    let file =
        CredentialFile::new(setting.directory.path().join("credentials.json"), setting.directory.path());
    let kept = || file.read().expect("readable").expect("a file").credentials.len();
    assert_eq!(kept(), 1);
    let outcome = setting.revoke("ann").await;
    assert!(matches!(outcome, Err(CredentialError::RevokedNotKept(_))), "{outcome:?}");
    assert!(setting.get("ann").is_none() && kept() == 0);
}

#[tokio::test]
async fn a_directory_that_another_node_has_filled_takes_no_more_and_can_be_read() {
    let setting = Setting::with(Some("token")).await;
    let template = setting.create("ci", Role::Viewer).await.expect("created").credential;
    let now = setting.credentials.named.now();
    let domain: DomainName = "sandbox".parse().expect("a name");
    let named = |name: String, domain: Option<&DomainName>| {
        let name: CredentialName = name.parse().expect("a name");
        let of = again(&template, template.standing.clone(), template.version);
        (name.clone(), Arc::new(NamedCredential { name, domain: domain.cloned(), ..of }))
    };
    let (_, new) = named("more".to_owned(), None);
    let mut full: Directory = (0..MAX_CREDENTIALS).map(|number| named(format!("ci{number}"), None)).collect();
    let refused = put(&mut full, None, &new, None, now);
    assert!(matches!(refused, Err(CredentialError::Full)), "{refused:?}");
    let (_, again) = named("ci7".to_owned(), None);
    put(&mut full, Some(template.version), &again, None, now).expect("it takes no room");
    assert_eq!(directory(records_of(&full, now)).map(|read| read.len()), Ok(MAX_CREDENTIALS));

    let (_, new) = named("more".to_owned(), Some(&domain));
    let of_domain = |number| named(format!("ci{number}"), Some(&domain));
    let mut shared: Directory = (0..SHARE_OF_DOMAIN).map(of_domain).collect();
    let refused = put(&mut shared, None, &new, Some(&domain), now);
    assert!(matches!(refused, Err(CredentialError::ShareFull(_))), "{refused:?}");
    put(&mut shared, None, &new, None, now).expect("by an owner of the whole KMS");
    let other = put(&mut shared, Some(template.version + 1), &new, None, now);
    assert!(matches!(other, Err(CredentialError::OfOwner)), "it is another one there: {other:?}");
}

#[tokio::test]
async fn a_revocation_is_written_for_all_nodes_once_it_is_decided_and_can_be_taken_back() {
    let setting = Setting::with(Some("token")).await;
    let credentials = &setting.credentials;
    let named = setting.create("ci", Role::Viewer).await.expect("created").credential;
    let there = state::credentials_content(records_of(&credentials.list(), 0)).expect("a document");
    let written = || {
        let merged = credentials.merge(Some(&there)).expect("readable");
        merged.body.map(|body| state::parse_credentials(&body).expect("records").len())
    };
    let here = || credentials.taken(&Directory::new(), Directory::clone(&credentials.list())).len();
    assert_eq!((written(), here()), (None, 1));
    credentials.marks().begin(&named);
    assert_eq!((written(), here()), (None, 0), "it takes effect here only");
    credentials.marks().decided(&named.name, false);
    assert_eq!((written(), here()), (Some(0), 0), "it is to be written");
    credentials.marks().take_back(&named.name);
    assert_eq!((written(), here()), (Some(1), 1), "what is there is adopted again");
}

#[tokio::test]
async fn an_owner_who_was_revoked_without_the_others_counts_again_where_too_few_owners_would_be_left() {
    for (token, least_owners, there, left, taken_back) in [
        (Some("token"), 1, &["bob"][..], &[][..], false),
        (None, 1, &["bob"], &["bob"], true),
        (None, 1, &["bob", "cat"], &["cat"], false),
        (None, 2, &["bob", "cat"], &["bob", "cat"], true),
        (Some("token"), 2, &["bob", "cat"], &["cat"], false),
    ] {
        let setting = Setting::with(token).await;
        let mut documents = Directory::new();
        for name in there {
            let made = setting.create(name, Role::Owner).await.expect("created").credential;
            documents.insert(made.name.clone(), made);
        }
        let credentials = &setting.credentials;
        let bob = setting.get("bob").expect("a credential");
        let owner = RevokedOwner { least_owners, by: "credential amy".to_owned(), remote: HERE };
        credentials.marks().add_owner(&bob, owner.clone());
        let kept = credentials.content(&credentials.list()).revoked;
        assert_eq!(kept[0].owner, Some(owner.clone()), "a restart knows it");
        let document = state::credentials_content(records_of(&documents, 0)).expect("a document");
        let merged = credentials.merge(Some(&document)).expect("readable");
        let names: Vec<_> = state::parse_credentials(&merged.body.expect("news")).expect("records");
        let names: Vec<_> = names.into_iter().map(|record| record.name).collect();
        let case = format!("{token:?} {least_owners} {there:?}");
        assert_eq!(names, left, "{case}");
        let expected: Vec<_> = taken_back.then(|| (bob.name.clone(), owner)).into_iter().collect();
        assert_eq!(merged.taken_back, expected, "{case}");
        let here = credentials.taken(&Directory::new(), documents);
        assert_eq!(here.contains_key(&bob.name), taken_back, "{case}");
    }
}

#[tokio::test]
async fn enough_owners_are_left_also_before_a_revocation_can_be_written() {
    let setting = Setting::with(None).await;
    let bob = setting.create("bob", Role::Owner).await.expect("created").credential;
    let Setting { directory: _directory, audit, credentials, .. } = setting;
    let owner = RevokedOwner { least_owners: 1, by: "credential amy".to_owned(), remote: HERE };
    credentials.marks().add_owner(&bob, owner);
    let credentials = Arc::new(credentials);
    let shared = SharedCredentials::new(Arc::clone(&credentials), Arc::new(audit));
    // Another node has revoked all others.
    let left = Directory::from([(bob.name.clone(), Arc::clone(&bob))]);
    let document = state::credentials_content(records_of(&left, 0)).expect("a document");
    let (node, operator) = ("two".to_owned(), "credential bob".to_owned());
    let from = Provenance { state: 2, node, operator, arrival: Arrival::Other };
    shared.adopt(&document, &from).await.expect("it is read");
    assert_eq!(credentials.list().keys().collect::<Vec<_>>(), [&bob.name]);
    assert!(credentials.content(&credentials.list()).revoked.is_empty());
}

#[tokio::test]
async fn who_asks_for_a_change_counts_where_it_is_made() {
    let setting = Setting::with(None).await;
    let admin = setting.get("admin").expect("made at the first start");
    let holder = setting.holder("admin", admin.version);
    let person = setting.configured.person(&holder).expect("an owner");
    let here = setting.credentials.list();
    let rotated = {
        let other = again(&admin, admin.standing.clone(), admin.version ^ 1);
        Directory::from([(admin.name.clone(), Arc::new(other))])
    };
    let without = Directory::new();
    for (operator, requester, there, counts) in [
        (&holder, None, &*here, true),
        (&holder, None, &rotated, false),
        (&holder, None, &without, false),
        (&Operator::Token, None, &without, true),
        (&Operator::Token, Some(&person), &*here, true),
        (&Operator::Token, Some(&person), &rotated, true),
        (&Operator::Token, Some(&person), &without, false),
    ] {
        let asker = Asker::with(&setting.configured, operator.clone(), requester.cloned());
        assert_eq!(asker.expect_live_in(there).is_ok(), counts, "{operator} {requester:?} {}", there.len());
    }
    setting.revoke_by(holder.clone(), "admin").await.expect_err("the last one");
    setting.rotate("admin", holder.clone()).await.expect("rotated");
    let admin = setting.get("admin").expect("an owner");
    assert!(setting.configured.operator("admin", admin.version).is_some(), "the new secret is used");
    let asker = Asker::with(&setting.configured, holder, None);
    assert!(asker.expect_live_in(&here).is_err(), "it must count here too");
}

#[tokio::test]
async fn the_audit_log_says_that_another_node_changed_more_credentials_than_it_names() {
    let setting = Setting::with(Some("token")).await;
    let template = setting.create("ci", Role::Viewer).await.expect("created").credential;
    let Setting { directory: home, audit, credentials, .. } = setting;
    let (audit, credentials) = (Arc::new(audit), Arc::new(credentials));
    let shared = SharedCredentials::new(credentials, Arc::clone(&audit));
    let mut there = Directory::from([(template.name.clone(), Arc::clone(&template))]);
    let mut before = 0;
    for (state, changes, names_all) in [(2, 50, true), (3, 51, false)] {
        there.extend((0..changes).map(|number| {
            let name: CredentialName = format!("ci-{state}-{number}").parse().expect("a name");
            let of = again(&template, template.standing.clone(), template.version);
            (name.clone(), Arc::new(NamedCredential { name, ..of }))
        }));
        let document = state::credentials_content(records_of(&there, 0)).expect("a document");
        let (node, operator) = ("two".to_owned(), "credential amy".to_owned());
        let from = Provenance { state, node, operator, arrival: Arrival::Other };
        shared.adopt(&document, &from).await.expect("it is read");
        let _ = audit.record(Event::Suppressed { events: 0, source: None }).await.expect("recorded");
        let log = std::fs::read_to_string(home.path().join("audit.jsonl")).expect("the log");
        let events = log.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let adopted: Vec<serde_json::Value> =
            events.filter(|it: &serde_json::Value| it["event"] == "state_adopted").skip(before).collect();
        before += adopted.len();
        let (named, whole): (Vec<_>, Vec<_>) = adopted.iter().partition(|it| it["target"] != "");
        assert_eq!((named.len(), whole.is_empty()), (50, names_all), "{changes}");
        assert!(named.iter().all(|it| it["target"].as_str().is_some_and(|it| it.contains("ci-"))));
        for more in whole {
            let facts = ["document", "change", "by", "node"].map(|field| more[field].as_str());
            assert_eq!(facts, [Some("credentials"), Some("changed"), Some("credential amy"), Some("two")]);
            assert_eq!((&more["state"], &more["domain"]), (&state.into(), &serde_json::Value::Null));
        }
    }
}
