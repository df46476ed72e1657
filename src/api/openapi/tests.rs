//! Tests of the description.

use std::collections::BTreeSet;

use super::*;
use crate::api::METHODS;
use crate::api::routes::ROUTES;

fn paths() -> Map<String, Value> {
    document()["paths"].as_object().cloned().unwrap_or_default()
}

#[test]
fn every_route_and_every_method_is_described() {
    let paths = paths();
    let mut missing = Vec::new();
    for route in ROUTES {
        for (verb, access) in route.verbs {
            let verb = verb.name().to_ascii_lowercase();
            let Some(operation) = paths.get(&route.path.replace("{*", "{")).and_then(|path| path.get(&verb))
            else {
                missing.push(format!("{verb} {} ({})", route.path, route.service.name()));
                continue;
            };
            // A path of more than one listener is described as on the admin listener.
            if operation["tags"] == json!(["admin"]) && route.service == Service::Admin {
                let role = access.role().map(Role::name);
                assert_eq!(operation["x-role"].as_str(), role, "{verb} {}", route.path);
            }
        }
    }
    assert_eq!(missing, [""; 0], "add them in src/api/openapi/routes.rs");
    for row in METHODS {
        let path = format!("/prpc/{}.{}", row.service.name(), row.name);
        let method = &paths[&path]["post"];
        assert!(method["summary"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
    }
}

#[test]
fn every_operation_says_what_it_is_and_who_may_call_it() {
    let mut ids = BTreeSet::new();
    for (path, item) in paths() {
        for verb in ["get", "post", "patch"] {
            let Some(operation) = item.get(verb) else { continue };
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
            assert!(operation["description"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
            assert!(ids.insert(operation["operationId"].to_string()), "{path}");
            let names: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            let parameters = operation["parameters"].as_array().expect("a list").iter();
            let declared: BTreeSet<&str> =
                parameters.filter(|it| it["in"] == "path").filter_map(|it| it["name"].as_str()).collect();
            assert_eq!(names, declared, "{path}");
        }
    }
}

#[test]
fn every_reference_leads_to_a_schema() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn comments_of_the_proto_file_are_descriptions() {
    let document = document();
    let explain = &document["paths"]["/prpc/Admin.Explain"]["post"];
    assert!(
        explain["summary"].as_str().is_some_and(|text| text.starts_with("Why a caller is refused")),
        "{explain}"
    );
    assert_eq!(explain["x-role"], "viewer", "{explain}");
    let meta = &document["components"]["schemas"]["prpc.GetMetaResponse"];
    let properties = meta["properties"].as_object().expect("properties");
    assert!(properties.values().filter(|it| it.get("description").is_some()).count() > 5, "{meta}");
}
