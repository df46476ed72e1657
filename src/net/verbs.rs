//! The HTTP method of a request, and what it needs by the table of routes.

use axum::routing::MethodFilter;
use http::Method;

use crate::api::Access;
use crate::api::routes::{Route, Verb};

/// What a request with this HTTP method to a route needs. If the route is not served for it, that is what the first verb of
/// its row needs, and then the request is answered 405.
pub(super) fn needed(row: &Route, method: &Method) -> Access {
    let (_, first) = row.verbs[0];
    verb(method).and_then(|verb| row.access(verb)).unwrap_or(first)
}

fn verb(method: &Method) -> Option<Verb> {
    match *method {
        Method::GET | Method::HEAD => Some(Verb::Get),
        Method::POST => Some(Verb::Post),
        Method::PUT => Some(Verb::Put),
        Method::PATCH => Some(Verb::Patch),
        Method::DELETE => Some(Verb::Delete),
        _ => None,
    }
}

/// The requests that reach the handler of a route: those with a verb of its row, and no others.
pub(super) fn served(row: &Route) -> MethodFilter {
    let filter = |verb: Verb| match verb {
        // It takes HEAD too.
        Verb::Get => MethodFilter::GET,
        Verb::Post => MethodFilter::POST,
        Verb::Put => MethodFilter::PUT,
        Verb::Patch => MethodFilter::PATCH,
        Verb::Delete => MethodFilter::DELETE,
    };
    let (first, _) = row.verbs[0];
    row.verbs.iter().fold(filter(first), |all, (verb, _)| all.or(filter(*verb)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Role, Service};

    #[test]
    fn a_request_needs_what_the_row_says_of_its_verb() {
        let (viewer, owner) = (Access::Operator(Role::Viewer), Access::Operator(Role::Owner));
        let epochs = Route::at(Service::Admin, "/api/v1/epochs");
        let fetch = Route::at(Service::Admin, "/api/v1/epochs/fetch");
        for (row, method, expected) in [
            (epochs, Method::GET, viewer),
            (epochs, Method::HEAD, viewer),
            (epochs, Method::POST, owner),
            // It is answered 405.
            (epochs, Method::PUT, viewer),
            (epochs, Method::OPTIONS, viewer),
            (fetch, Method::POST, owner),
            (fetch, Method::GET, owner),
            (fetch, Method::HEAD, owner),
        ] {
            assert_eq!(needed(row, &method), expected, "{method} {}", row.path);
        }
    }
}
