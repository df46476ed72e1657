//! The routes that are not methods, with who may call each: probes, setup, console, operators.

use std::sync::LazyLock;

use kms_policy::bundle::MAX_BUNDLE;
use kms_recovery::MAX_MANIFEST;
use kms_wire::role::Role;
use matchit::Router;

use super::recovery::MAX_CREATE;
use super::uploads::MAX_UPLOAD;
use super::{Access, Reach, Service, WhileStale};
use crate::control::MAX_CANDIDATE;

/// An HTTP method that a route is served for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET, and therefore HEAD.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Verb {
    /// Its name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// One route: a row of the table, with the fields that [`super::Row`] has for a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Its path; a part in braces matches any text without a slash, and one with `*` any text.
    pub path: &'static str,
    /// The service it belongs to, which decides its phase and listener.
    pub service: Service,
    /// What it is served for, and who may call it so; what only reads comes first.
    pub verbs: &'static [(Verb, Access)],
    /// Whether credentials of one domain may.
    pub reach: Reach,
    /// What operators and owners with a named credential may do with it while the node is stale.
    pub while_stale: WhileStale,
    /// The largest request body in bytes.
    pub body_limit: usize,
}

/// Enough for a short JSON object.
const SHORT: usize = 16 * 1024;
/// Enough for evidence, as for `Admin.Explain`.
const EVIDENCE: usize = 1024 * 1024;

/// All routes. The routers, access control during onboarding, and `tests/it/access_table.rs` read this table.
pub const ROUTES: &[Route] = &{
    use Access::{Invitation, Onboarding, Open, Operator};
    use Service::{Admin, Kms, Onboard};
    use Verb::{Delete, Get, Patch, Post, Put};
    const EVENTS_WRITER: Access = Operator(Role::EventsWriter);
    const VIEWER: Access = Operator(Role::Viewer);
    const AUDITOR: Access = Operator(Role::Auditor);
    const OPERATOR: Access = Operator(Role::Operator);
    const OWNER: Access = Operator(Role::Owner);
    type Verbs = &'static [(Verb, Access)];
    const fn row(service: Service, path: &'static str, verbs: Verbs, body_limit: usize) -> Route {
        assert!(!verbs.is_empty(), "a route that is served for nothing");
        let (reach, while_stale) = (Reach::WholeKms, WhileStale::Reads);
        Route { path, service, verbs, reach, while_stale, body_limit }
    }
    /// A row for credentials of one domain too: its function asks for a `DomainScope`, and needs no more than that.
    const fn of_domains(path: &'static str, verbs: Verbs, body_limit: usize) -> Route {
        Route { reach: Reach::Domain, ..row(Admin, path, verbs, body_limit) }
    }
    /// A row for named credentials on a stale node too: it changes nothing, only stops something, or ends that the node is stale.
    const fn always(row: Route) -> Route {
        Route { while_stale: WhileStale::All, ..row }
    }
    /// A row that changes something by GET too.
    const fn changing(row: Route) -> Route {
        Route { while_stale: WhileStale::Nothing, ..row }
    }
    [
        row(Kms, "/health", &[(Get, Open)], 0),
        row(Kms, "/livez", &[(Get, Open)], 0),
        row(Kms, "/readyz", &[(Get, Open)], 0),
        row(Kms, "/metrics", &[(Get, Open)], 0),
        row(Kms, "/attestation.json", &[(Get, Open)], 0),
        // Hashes only; entries are on the admin listener.
        row(Kms, "/log/checkpoint", &[(Get, Open)], 0),
        row(Kms, "/log/tile/{*tile}", &[(Get, Open)], 0),
        // Officers need not be operators: shares prove themselves.
        row(Kms, "/recovery", &[(Get, Open)], 0),
        row(Kms, "/recovery/shares", &[(Post, Open)], SHORT),
        row(Onboard, "/", &[(Get, Open)], 0),
        row(Onboard, "/assets/{file}", &[(Get, Open)], 0),
        row(Onboard, "/health", &[(Get, Open)], 0),
        row(Onboard, "/livez", &[(Get, Open)], 0),
        row(Onboard, "/readyz", &[(Get, Open)], 0),
        row(Onboard, "/api/v1/setup/status", &[(Get, Onboarding)], 0),
        row(Onboard, "/api/v1/setup/validate/{check}", &[(Post, Onboarding)], SHORT),
        // The peer's names for the status since its release 0.6.3. Its fields are not documented, so the
        // response has ours.
        row(Onboard, "/prpc/GetSetupStatus", &[(Get, Onboarding), (Post, Onboarding)], SHORT),
        row(Onboard, "/prpc/Onboard.GetSetupStatus", &[(Get, Onboarding), (Post, Onboarding)], SHORT),
        row(Onboard, "/finish", &[(Get, Onboarding)], 0),
        // Officers need not be operators: shares prove themselves.
        row(Onboard, "/recovery", &[(Get, Open)], 0),
        row(Onboard, "/recovery/shares", &[(Post, Open)], SHORT),
        row(Onboard, "/recovery/restore", &[(Post, Onboarding)], MAX_MANIFEST),
        row(Onboard, "/recovery/cancel", &[(Post, Onboarding)], 0),
        // The console: the same files for everyone, without data.
        row(Admin, "/", &[(Get, Open)], 0),
        row(Admin, "/assets/console/{*file}", &[(Get, Open)], 0),
        row(Admin, "/assets/vendor/{*file}", &[(Get, Open)], 0),
        // The description of the API: nothing in it depends on the configuration.
        row(Admin, "/openapi.json", &[(Get, Open)], 0),
        row(Admin, "/docs", &[(Get, Open)], 0),
        row(Admin, "/assets/docs/{*file}", &[(Get, Open)], 0),
        of_domains("/livez", &[(Get, VIEWER)], 0),
        of_domains("/readyz", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/health", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/diagnostics/key-flow", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/fleet", &[(Get, VIEWER)], 0),
        always(row(Admin, "/api/v1/fleet/repair", &[(Post, OWNER)], 0)),
        row(Admin, "/api/v1/rollout", &[(Get, VIEWER), (Post, OWNER)], 4 * SHORT),
        row(Admin, "/api/v1/rollout/step", &[(Post, OPERATOR)], SHORT),
        row(Admin, "/api/v1/rollout/{order}", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/fleet/forget", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/replica-joins", &[(Get, VIEWER), (Post, OWNER)], SHORT),
        row(Admin, "/api/v1/replica-joins/{id}", &[(Get, VIEWER), (Delete, OWNER)], SHORT),
        row(Admin, "/api/v1/operations", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/operations/{id}", &[(Get, VIEWER)], 0),
        row(Admin, "/status/{id}", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/actions", &[(Get, VIEWER)], 0),
        changing(row(Admin, "/api/v1/actions/{name}", &[(Get, OPERATOR), (Post, OPERATOR)], SHORT)),
        row(Admin, "/api/v1/settings", &[(Get, VIEWER), (Patch, OWNER)], SHORT),
        always(row(Admin, "/api/v1/reload", &[(Post, OPERATOR)], 0)),
        always(row(Admin, "/api/v1/restart", &[(Post, OWNER)], 0)),
        row(Admin, "/api/v1/setup/status", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/policy", &[(Get, VIEWER)], 0),
        // A text as a JSON string is longer than the text.
        always(of_domains("/api/v1/policy/check", &[(Post, OPERATOR)], MAX_CANDIDATE * 2)),
        row(Admin, "/api/v1/policy/activate", &[(Post, OWNER)], SHORT),
        // A bundle that an operator brings waits for an owner; its signers vouch for it.
        of_domains("/api/v1/policy/bundles", &[(Get, VIEWER), (Post, OPERATOR)], MAX_BUNDLE),
        of_domains("/api/v1/policy/bundles/fetch", &[(Post, OPERATOR)], SHORT),
        row(Admin, "/api/v1/policy/bundles/shadow", &[(Post, OPERATOR)], SHORT),
        row(Admin, "/api/v1/policy/bundles/activate", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/file-upload/{name}", &[(Post, OWNER)], MAX_UPLOAD),
        of_domains("/log/checkpoint", &[(Get, VIEWER)], 0),
        row(Admin, "/log/tile/entries/{*tile}", &[(Get, AUDITOR)], 0),
        of_domains("/log/tile/{*tile}", &[(Get, VIEWER)], 0),
        of_domains("/logs", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/events", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/events/stream", &[(Get, VIEWER)], 0),
        always(of_domains("/api/v1/new_event", &[(Get, EVENTS_WRITER), (Post, EVENTS_WRITER)], SHORT)),
        of_domains("/api/v1/audit-logs", &[(Get, AUDITOR)], 0),
        of_domains("/api/v1/me", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/approvals", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/approvals/{id}", &[(Get, VIEWER)], 0),
        always(row(Admin, "/api/v1/approvals/{id}/approve", &[(Post, OWNER)], SHORT)),
        always(row(Admin, "/api/v1/approvals/{id}/reject", &[(Post, OWNER)], SHORT)),
        of_domains("/api/v1/credentials", &[(Get, OWNER), (Post, OWNER)], SHORT),
        of_domains("/api/v1/credentials/{name}/rotate", &[(Post, OWNER)], SHORT),
        always(of_domains("/api/v1/credentials/{name}/revoke", &[(Post, OWNER)], SHORT)),
        row(Admin, "/api/v1/set-basic-auth", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/activate", &[(Post, Invitation)], SHORT),
        of_domains("/api/v1/overview", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/history", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/releases", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/releases/{seq}", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/denials", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/denials/{id}", &[(Get, VIEWER)], 0),
        always(of_domains("/api/v1/explain", &[(Post, VIEWER)], EVIDENCE)),
        of_domains("/api/v1/cvms", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/cvms/{id}", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/resolve/{app}", &[(Get, VIEWER)], 0),
        of_domains("/v1/resolve/{app}", &[(Get, VIEWER)], 0),
        always(of_domains("/api/v1/freezes", &[(Get, VIEWER), (Post, OPERATOR)], SHORT)),
        always(of_domains("/api/v1/freezes/preview", &[(Post, VIEWER)], SHORT)),
        row(Admin, "/api/v1/freezes/{id}/lift", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/epochs", &[(Get, VIEWER), (Post, OWNER)], SHORT),
        row(Admin, "/api/v1/epochs/fetch", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/epochs/accept", &[(Post, OWNER)], SHORT),
        of_domains("/api/v1/epochs/apps", &[(Get, VIEWER)], 0),
        of_domains("/api/v1/epochs/apps/{app}", &[(Get, VIEWER), (Put, OWNER), (Delete, OWNER)], SHORT),
        row(Admin, "/api/v1/epochs/{id}", &[(Get, VIEWER)], 0),
        // Ids of replicas are in the body of an activation.
        row(Admin, "/api/v1/epochs/{id}/activate", &[(Post, OWNER)], 4 * SHORT),
        row(Admin, "/api/v1/epochs/{id}/retire", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/epochs/{id}/destroy", &[(Post, OWNER)], SHORT),
        // A new domain needs an owner of the whole KMS, which its function asks for.
        of_domains("/api/v1/domains", &[(Get, VIEWER), (Post, OWNER)], SHORT),
        of_domains("/api/v1/domains/{name}", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/domains/{name}/archive", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/domains/{name}/restore", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/domains/{name}/apps", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/domains/{name}/apps/{app}/move", &[(Post, OWNER)], SHORT),
        row(Admin, "/api/v1/platforms", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/collateral", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/collateral/bundle", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/ledger", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/replicas", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/recovery", &[(Get, VIEWER)], 0),
        row(Admin, "/api/v1/recovery/sets", &[(Post, OWNER)], MAX_CREATE),
        row(Admin, "/api/v1/recovery/sets/{id}", &[(Get, OWNER)], 0),
        row(Admin, "/api/v1/recovery/drill", &[(Get, VIEWER), (Post, OWNER), (Delete, OWNER)], SHORT),
    ]
};

/// The routes of each service by path, matched as axum matches them.
static BY_PATH: LazyLock<[Router<&'static Route>; 3]> = LazyLock::new(|| {
    let mut services = [(); 3].map(|()| Router::new());
    for route in ROUTES {
        services[route.service as usize]
            .insert(route.path, route)
            .expect("no path twice, which a test shows");
    }
    services
});

impl Route {
    /// The route of `service` with exactly this `path`.
    ///
    /// # Panics
    /// If the table has no such row, so that no route is served without one.
    pub fn at(service: Service, path: &str) -> &'static Self {
        ROUTES
            .iter()
            .find(|route| route.service == service && route.path == path)
            .unwrap_or_else(|| panic!("no row for {path} in src/api/routes.rs"))
    }

    /// Who may call it with this HTTP method; `None` if it is not served for it.
    pub fn access(&self, verb: Verb) -> Option<Access> {
        self.verbs.iter().find(|(served, _)| *served == verb).map(|(_, access)| *access)
    }

    /// The route that matches a request's `path`.
    pub fn serving(service: Service, path: &str) -> Option<&'static Self> {
        let at = BY_PATH[service as usize].at(path).ok()?;
        // Between two slashes, the matcher takes nothing for a part.
        at.params.iter().all(|(_, part)| !part.is_empty()).then_some(*at.value)
    }

    /// The paths of all routes, in braces what differs between requests. One that several listeners have is there as
    /// often.
    pub fn paths() -> impl Iterator<Item = &'static str> {
        ROUTES.iter().map(|route| route.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_in_braces_stands_for_one_part_of_a_path() {
        let served = |path| Route::serving(Service::Onboard, path).map(|route| route.path);
        assert_eq!(served("/assets/view.js"), Some("/assets/{file}"));
        for other in ["/assets/", "/assets/a/b", "/assets", "/assets/../api/v1/setup/status", "/Health", ""] {
            assert_eq!(served(other), None, "{other}");
        }
        assert_eq!(served("/"), Some("/"));
        let served = |path| Route::serving(Service::Kms, path).map(|route| route.path);
        assert_eq!(served("/log/tile/0/x001/234.p/5"), Some("/log/tile/{*tile}"));
        assert_eq!(served("/log/tile/"), None);
        let served = |path| Route::serving(Service::Admin, path).map(|route| route.path);
        assert_eq!(served("/log/tile/entries/000"), Some("/log/tile/entries/{*tile}"));
        assert_eq!(served("/api/v1/credentials/ci/rotate"), Some("/api/v1/credentials/{name}/rotate"));
        for other in
            ["/api/v1/credentials//rotate", "/api/v1/credentials/ci/", "/api/v1/credentials/a/b/rotate"]
        {
            assert_eq!(served(other), None, "{other}");
        }
    }

    #[test]
    fn no_row_is_there_twice() {
        for route in ROUTES {
            assert_eq!(Route::at(route.service, route.path), route);
            for (verb, access) in route.verbs {
                assert_eq!(route.access(*verb), Some(*access), "{verb:?} {}", route.path);
            }
        }
    }

    #[test]
    fn a_row_begins_with_what_needs_the_least() {
        for route in ROUTES {
            let (first, least) = route.verbs[0];
            for (verb, access) in route.verbs {
                let told = format!("{} {}", verb.name(), route.path);
                assert!(*verb != Verb::Get || first == Verb::Get, "{told}");
                match (access.role(), least.role()) {
                    (Some(needed), Some(least)) => assert!(needed.includes(least), "{told}"),
                    (needed, least) => assert_eq!(needed, least, "{told}"),
                }
            }
        }
    }
}
