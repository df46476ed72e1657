//! The description of the API in OpenAPI 3.1, made from the tables of methods and routes, the proto file, and the types of
//! bodies. Who may call what, and which paths there are, is therefore not written twice.

mod methods;
mod operation;
mod routes;

use serde_json::{Map, Value, json};

use self::operation::{Answer, Bodies, Operation, Verb};
use super::{Access, Role, Service};

/// The document, for the admin listener. It holds no secret and nothing of the configuration.
pub fn document() -> Value {
    let mut bodies = Bodies::default();
    let mut paths = Map::new();
    for operation in routes::operations(&mut bodies).into_iter().chain(methods::operations(&mut bodies)) {
        let path = paths.entry(operation.template()).or_insert_with(|| json!({}));
        if operation.service != Service::Admin && path.get("servers").is_none() {
            path["servers"] = json!([main_listener()]);
        }
        path[operation.verb()] = described(&operation);
    }
    let mut schemas = bodies.into_schemas();
    schemas.insert("Error".to_owned(), error_schema());
    schemas.insert("ApprovalNeeded".to_owned(), approval_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cvm-kms",
            "version": env!("CVM_KMS_VERSION"),
            "description": "Paths with the tag `admin` are on the admin listener, where this document is; those with `main` \
                            are on the main listener of a KMS with keys, and those with `onboarding` on that of a KMS \
                            without. Each prpc method can also be called in protobuf, and by gRPC: docs/protocol.md.",
        },
        "servers": [{ "url": "/", "description": "the admin listener" }],
        "tags": [
            { "name": "admin", "description": "for operators, each with the lowest role that it needs" },
            { "name": "main", "description": "for CVMs, deployers and probes" },
            { "name": "onboarding", "description": "until the KMS has keys" },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "a token of an operator" },
                "basic": { "type": "http", "scheme": "basic", "description": "name and secret, or an htpasswd user" },
                "token": { "type": "apiKey", "in": "header", "name": "X-Admin-Token", "description": "as bearer" },
                "onboarding": { "type": "apiKey", "in": "header", "name": "X-Onboard-Token",
                                "description": "core.onboard.auth_token, if it is set" },
                "certificate": { "type": "mutualTLS", "description": "a client certificate with evidence (RA-TLS)" },
            },
        },
    })
}

fn main_listener() -> Value {
    json!({
        "url": "https://{host}:{port}",
        "description": "the main listener; plain http during onboarding",
        "variables": { "host": { "default": "localhost" }, "port": { "default": "8000" } },
    })
}

fn described(operation: &Operation) -> Value {
    let mut text = operation.description.clone();
    let access = access(operation.access());
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(&access.text);
    let parameters: Vec<Value> = operation.parameters.iter().map(|parameter| parameter.shown()).collect();
    let mut responses = Map::new();
    responses.insert("200".to_owned(), operation.response.shown("the result"));
    for (status, answer) in &operation.others {
        responses.insert(status.to_string(), answer.shown("another result"));
    }
    if !access.security.is_empty() && operation.service == Service::Admin {
        responses.insert("401".to_owned(), json!({ "description": "no valid credential" }));
    }
    if operation.verb != Verb::Get
        && operation.access().role().is_some_and(|role| role.includes(Role::Operator))
    {
        let waits = json!({ "$ref": "#/components/schemas/ApprovalNeeded" });
        responses.insert("202".to_owned(), Answer::Json(waits).shown("it waits for a second owner"));
    }
    let error = json!({ "$ref": "#/components/schemas/Error" });
    let error = match &operation.response {
        Answer::Either(_, other) if operation.method.is_some() => Answer::Either(error, other),
        Answer::Json(_) | Answer::Other(_) | Answer::Either(..) => Answer::Json(error),
    };
    responses.insert("default".to_owned(), error.shown("an error"));
    let mut shown = json!({
        "operationId": operation.id(),
        "summary": operation.summary,
        "description": text,
        "tags": [operation.tag()],
        "security": access.security,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(role) = operation.access().role() {
        shown["x-role"] = role.name().into();
    }
    if let Some(request) = &operation.request {
        shown["requestBody"] = request.shown();
    }
    shown
}

/// Who may call an operation, in words and as requirements.
struct Allowed {
    text: String,
    security: Vec<Value>,
}

fn access(access: Access) -> Allowed {
    let operator = || vec![json!({ "bearer": [] }), json!({ "basic": [] }), json!({ "token": [] })];
    let (text, security) = match access {
        Access::Open => ("Open to anyone.".to_owned(), Vec::new()),
        Access::Onboarding => (
            "Needs the onboarding token, if one is configured.".to_owned(),
            vec![json!({ "onboarding": [] }), json!({})],
        ),
        Access::AttestedCertificate => {
            let text = "Needs a client certificate with evidence, which the policy allows.";
            (text.to_owned(), vec![json!({ "certificate": [] })])
        }
        Access::AttestedMessage => {
            ("Needs evidence in the message, which the policy allows.".to_owned(), Vec::new())
        }
        Access::TokenInMessage => ("Needs the operator's token in the message.".to_owned(), Vec::new()),
        Access::Operator(role) => (format!("Needs the role {role} or a higher one."), operator()),
        Access::OperatorAndAttestedCertificate(role) => {
            let text = format!(
                "Needs the role {role}, and a client certificate with evidence, which the policy allows."
            );
            (text, operator())
        }
        Access::Invitation => (
            "Needs an invitation as bearer token, once.".to_owned(),
            vec![json!({ "bearer": [] }), json!({ "token": [] })],
        ),
    };
    Allowed { text, security }
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error. The header X-Error-Code has its code, or that of a refusal: docs/protocol.md.",
        "properties": {
            "error": { "type": "string", "description": "what is wrong, in words" },
            "message": { "type": "string", "description": "the same; of routes only" },
            "code": { "type": "string", "description": "a stable name; prpc methods have it for refusals only" },
            "denial_id": { "type": "string", "description": "of a refusal: `kmsctl explain --denial`" },
            "request_id": { "type": "string", "description": "as in the header X-Request-Id" },
        },
        "required": ["error"],
    })
}

fn approval_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "code": { "const": "approval_needed" },
            "message": { "type": "string" },
            "approval": { "type": "object", "description": "as /api/v1/approvals/{id}" },
        },
        "required": ["code", "message"],
    })
}

#[cfg(test)]
mod tests;
