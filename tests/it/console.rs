//! The files of the console: open to everyone, cached by their content, and nothing else with them.

use cvm_kms::api::routes::{Route, Verb};
use cvm_kms::api::{Access, Method, Reach, Role, Service};

use crate::support::http::{post, request, with};
use crate::support::operator::authorized;
use crate::support::{Answer, Caller, World};

const FILES: [&str; 4] =
    ["/", "/assets/console/app.js", "/assets/console/views/overview.js", "/assets/vendor/preact.js"];

async fn admin(world: &World) -> Caller {
    Caller::new(world.admin_address().await).plain()
}

/// What browsers send when a link on a page of another site is followed.
async fn followed(world: &World, path: &str) -> Answer {
    admin(world).await.send(with(request("GET", path, ""), "sec-fetch-site", "cross-site")).await
}

#[tokio::test]
async fn the_files_need_no_credential_and_everything_else_still_does() {
    let world = World::ready().await;
    for path in FILES {
        let answer = followed(&world, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("www-authenticate").is_empty(), "{path}");
        // Nobody is told more with a credential, and a wrong one is not counted as an attempt.
        for _ in 0..30 {
            let call = with(request("GET", path, ""), "authorization", "Bearer wrong");
            assert_eq!(admin(&world).await.send(call).await.body, answer.body, "{path}");
        }
        let head = admin(&world).await.send(request("HEAD", path, "")).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(admin(&world).await.send(post(path, "")).await.status, 401, "{path}");
    }
    let call = authorized(request("GET", "/livez", ""));
    assert_eq!(admin(&world).await.send(call).await.status, 200, "the address is not locked");
    for path in
        ["/api/v1/me", "/assets/", "/assets/onboard.js", "//api/v1/me", "/assets/console/%2e%2e/api/v1/me"]
    {
        let status = admin(&world).await.send(request("GET", path, "")).await.status;
        assert!([401, 404].contains(&status), "{path}: {status}");
    }
    assert_eq!(world.caller().send(request("GET", "/", "")).await.status, 404, "not on the main listener");
}

#[tokio::test]
async fn a_page_may_load_its_own_files_only_and_is_in_no_frame() {
    let world = World::ready().await;
    for path in FILES {
        let answer = followed(&world, path).await;
        let policy = answer.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'none'",
            "base-uri 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.split("; ").any(|found| found == part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
    }
    let page = followed(&world, "/").await;
    for inline in ["<style", "style=", "onclick", "onload", "<script>", "javascript:"] {
        assert!(!page.text().contains(inline), "{inline}");
    }
}

#[tokio::test]
async fn a_file_that_has_not_changed_is_not_sent_again() {
    let world = World::ready().await;
    for path in FILES {
        let first = followed(&world, path).await;
        let tag = first.header("etag").to_owned();
        assert_eq!((first.header("cache-control"), tag.len()), ("no-cache", 26), "{path}");
        for (shown, status) in [(tag.as_str(), 304), ("\"another\"", 200)] {
            let again =
                admin(&world).await.send(with(request("GET", path, ""), "if-none-match", shown)).await;
            assert_eq!(again.status, status, "{path}");
            assert_eq!(again.body.is_empty(), status == 304, "{path}");
            assert_eq!(again.header("etag"), tag, "{path}");
        }
    }
}

#[tokio::test]
async fn the_page_asks_for_a_credential_only_where_one_is_needed() {
    let (needed, not_needed) = ("data-credentials=\"needed\"", "data-credentials=\"not-needed\"");
    let page = followed(&World::ready().await, "/").await;
    assert!(page.text().contains(needed) && !page.text().contains(not_needed), "{}", page.text());
    let world = World::ready_with("core.admin = { auth_token = \"\", insecure_no_auth = true }").await;
    let page = followed(&world, "/").await;
    assert!(page.text().contains(not_needed) && !page.text().contains(needed), "{}", page.text());
    assert_ne!(page.header("etag"), followed(&World::ready().await, "/").await.header("etag"));
}

/// What an action of the console calls.
enum Calls {
    Method(Method),
    Route(Verb, &'static str),
}
use Calls::Route as To;

impl Calls {
    fn needs(&self) -> (Access, Reach) {
        match self {
            Self::Method(method) => (method.row().access, method.row().reach),
            Self::Route(verb, path) => {
                let row = Route::at(Service::Admin, path);
                (row.access(*verb).unwrap_or_else(|| panic!("{verb:?} {path}")), row.reach)
            }
        }
    }
}

/// The actions of `web/console/roles.js`, in its order. `domain.manage` makes domains too, for which the function asks that the
/// credential is of the whole KMS.
const ACTIONS: &[(&str, &[Calls])] = &[
    ("denial.explain", &[To(Verb::Post, "/api/v1/explain"), Calls::Method(Method::Explain)]),
    ("record.read", &[To(Verb::Get, "/log/tile/entries/{*tile}"), To(Verb::Get, "/api/v1/audit-logs")]),
    ("policy.check", &[To(Verb::Post, "/api/v1/policy/check")]),
    ("shadow.start", &[Calls::Method(Method::StartShadow), To(Verb::Post, "/api/v1/policy/bundles/shadow")]),
    ("shadow.stop", &[Calls::Method(Method::StopShadow)]),
    ("freeze.create", &[To(Verb::Post, "/api/v1/freezes"), Calls::Method(Method::Freeze)]),
    ("action.run", &[To(Verb::Post, "/api/v1/actions/{name}")]),
    ("reload", &[To(Verb::Post, "/api/v1/reload")]),
    ("collateral.refresh", &[Calls::Method(Method::RefreshCollateral)]),
    ("event.report", &[To(Verb::Post, "/api/v1/new_event")]),
    ("freeze.lift", &[To(Verb::Post, "/api/v1/freezes/{id}/lift"), Calls::Method(Method::Unfreeze)]),
    ("policy.upload", &[To(Verb::Post, "/api/v1/file-upload/{name}")]),
    ("policy.activate", &[To(Verb::Post, "/api/v1/policy/activate")]),
    (
        "approval.decide",
        &[To(Verb::Post, "/api/v1/approvals/{id}/approve"), To(Verb::Post, "/api/v1/approvals/{id}/reject")],
    ),
    (
        "credential.manage",
        &[
            To(Verb::Get, "/api/v1/credentials"),
            To(Verb::Post, "/api/v1/credentials"),
            To(Verb::Post, "/api/v1/credentials/{name}/rotate"),
            To(Verb::Post, "/api/v1/credentials/{name}/revoke"),
        ],
    ),
    ("settings.change", &[To(Verb::Patch, "/api/v1/settings")]),
    ("restart", &[To(Verb::Post, "/api/v1/restart")]),
    (
        "recovery.manage",
        &[
            To(Verb::Post, "/api/v1/recovery/sets"),
            To(Verb::Get, "/api/v1/recovery/sets/{id}"),
            To(Verb::Post, "/api/v1/recovery/drill"),
            To(Verb::Delete, "/api/v1/recovery/drill"),
        ],
    ),
    (
        "epoch.manage",
        &[
            To(Verb::Post, "/api/v1/epochs"),
            To(Verb::Post, "/api/v1/epochs/fetch"),
            To(Verb::Post, "/api/v1/epochs/accept"),
            To(Verb::Post, "/api/v1/epochs/{id}/activate"),
            To(Verb::Post, "/api/v1/epochs/{id}/retire"),
            To(Verb::Post, "/api/v1/epochs/{id}/destroy"),
        ],
    ),
    (
        "domain.manage",
        &[
            To(Verb::Post, "/api/v1/domains/{name}/archive"),
            To(Verb::Post, "/api/v1/domains/{name}/restore"),
            To(Verb::Post, "/api/v1/domains/{name}/apps"),
            To(Verb::Post, "/api/v1/domains/{name}/apps/{app}/move"),
        ],
    ),
    (
        "replica.invite",
        &[To(Verb::Post, "/api/v1/replica-joins"), To(Verb::Delete, "/api/v1/replica-joins/{id}")],
    ),
    ("fleet.repair", &[To(Verb::Post, "/api/v1/fleet/repair")]),
    ("fleet.forget", &[To(Verb::Post, "/api/v1/fleet/forget")]),
    ("rollout.manage", &[To(Verb::Post, "/api/v1/rollout"), To(Verb::Post, "/api/v1/rollout/{order}")]),
];

/// The texts in single quotes between two lines of the console's table.
fn quoted(from: &str, to: &str) -> Vec<&'static str> {
    const TABLE: &str = include_str!("../../web/console/roles.js");
    let (_, rest) = TABLE.split_once(from).expect("its beginning");
    let (rows, _) = rest.split_once(to).expect("its end");
    rows.split('\'').skip(1).step_by(2).collect()
}

#[test]
fn the_console_asks_for_the_roles_that_the_kms_requires() {
    let order = quoted("const ORDER = [", "]");
    let order: Vec<_> = order.iter().map(|name| name.parse::<Role>().expect("a role")).collect();
    let roles = quoted("export const ACTIONS = {", "};");
    let whole = quoted("const WHOLE = [", "];");
    assert_eq!(roles.len(), 2 * ACTIONS.len(), "an action of the console has no line here, or the other way");
    for ([name, role], (action, calls)) in roles.as_chunks().0.iter().zip(ACTIONS) {
        assert_eq!(name, action);
        for (access, reach) in calls.iter().map(Calls::needs) {
            let needed = access.role().expect("a role");
            let least = order.iter().find(|role| role.includes(needed)).expect("a role of people");
            assert_eq!(least.name(), *role, "{action}");
            // Viewers and auditors of the only domain read what is about the whole KMS.
            if least.includes(Role::Operator) {
                assert_eq!(whole.contains(action), reach == Reach::WholeKms, "{action}");
            }
        }
    }
    assert!(whole.iter().all(|name| ACTIONS.iter().any(|(action, _)| action == name)), "{whole:?}");
}
