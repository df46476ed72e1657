//! One operation of the description: a path, an HTTP method, and what goes in and out.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::api::routes::Route;
pub(super) use crate::api::routes::Verb;
use crate::api::{Access, Row, Service};

/// Schemas of bodies, with those that they name.
pub(super) struct Bodies {
    responses: SchemaGenerator,
    requests: SchemaGenerator,
    messages: Map<String, Value>,
}

impl Default for Bodies {
    fn default() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            responses: settings().for_serialize().into_generator(),
            requests: settings().for_deserialize().into_generator(),
            messages: Map::new(),
        }
    }
}

impl Bodies {
    /// The schema of a type that is sent.
    pub(super) fn of<T: JsonSchema>(&mut self) -> Value {
        self.responses.subschema_for::<T>().to_value()
    }

    /// The schema of a type that is received.
    pub(super) fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    /// The parameters of a query that a type is read from.
    pub(super) fn query<T: JsonSchema>(&mut self) -> Vec<Parameter> {
        let mut inline = SchemaSettings::draft2020_12().for_deserialize();
        inline.inline_subschemas = true;
        let schema = inline.into_generator().into_root_schema_for::<T>().to_value();
        let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let parameter = |(name, mut schema): (String, Value)| {
            let description =
                schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
            // What may be missing in a query is never `null`.
            let alternative =
                schema.get("anyOf").and_then(Value::as_array).and_then(|all| all.first()).cloned();
            if let Some(alternative) = alternative {
                schema = alternative;
            }
            if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
                kinds.retain(|kind| kind != "null");
            }
            if let Some(object) = schema.as_object_mut() {
                object.remove("description");
                object.remove("default");
            }
            Parameter { place: "query", name, description, schema }
        };
        properties.into_iter().map(parameter).collect()
    }

    /// Adds the schema of a message of the proto file.
    pub(super) fn message(&mut self, name: String, schema: Value) {
        self.messages.insert(name, schema);
    }

    pub(super) fn into_schemas(mut self) -> Map<String, Value> {
        let mut schemas = self.messages;
        for (name, schema) in
            self.requests.take_definitions(true).into_iter().chain(self.responses.take_definitions(true))
        {
            schemas.insert(name, schema);
        }
        schemas
    }
}

/// What a response has.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// JSON with this schema.
    Json(Value),
    /// One of these media types.
    Other(&'static [&'static str]),
    /// JSON, or another media type that the request asks for.
    Either(Value, &'static str),
}

impl Answer {
    pub(super) fn shown(&self, description: &str) -> Value {
        let mut content = Map::new();
        match self {
            Self::Json(schema) | Self::Either(schema, _) => {
                content.insert("application/json".to_owned(), json!({ "schema": schema }));
            }
            Self::Other(_) => {}
        }
        let others = match self {
            Self::Json(_) => &[][..],
            Self::Either(_, other) => std::slice::from_ref(other),
            Self::Other(kinds) => kinds,
        };
        for kind in others {
            content.insert((*kind).to_owned(), json!({ "schema": {} }));
        }
        json!({ "description": description, "content": content })
    }
}

/// What a request has.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) kind: &'static str,
    pub(super) schema: Value,
    pub(super) is_required: bool,
}

impl Content {
    pub(super) fn shown(&self) -> Value {
        json!({ "required": self.is_required, "content": { (self.kind): { "schema": self.schema } } })
    }
}

/// A parameter of the path or the query.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) place: &'static str,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) schema: Value,
}

impl Parameter {
    pub(super) fn shown(&self) -> Value {
        json!({
            "in": self.place,
            "name": self.name,
            "description": self.description,
            "required": self.place == "path",
            "schema": self.schema,
        })
    }
}

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) service: Service,
    pub(super) verb: Verb,
    /// As in the table of routes, or `/prpc/<Service>.<Method>`.
    pub(super) path: String,
    /// Its row if it is a method of the proto file, and not a route.
    pub(super) method: Option<&'static Row>,
    pub(super) summary: String,
    pub(super) description: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) request: Option<Content>,
    pub(super) response: Answer,
    /// Further statuses that are no errors, or have no error's body.
    pub(super) others: Vec<(u16, Answer)>,
}

impl Operation {
    /// The path as OpenAPI writes it.
    pub(super) fn template(&self) -> String {
        self.path.replace("{*", "{")
    }

    /// Who may call it, by the table of methods or routes.
    ///
    /// # Panics
    /// If the route is not served for the verb, so that nothing is described which is not there.
    pub(super) fn access(&self) -> Access {
        match self.method {
            Some(row) => row.access,
            None => Route::at(self.service, &self.path)
                .access(self.verb)
                .unwrap_or_else(|| panic!("{} is not served for {}", self.path, self.verb())),
        }
    }

    /// The verb as OpenAPI writes it.
    pub(super) fn verb(&self) -> String {
        self.verb.name().to_ascii_lowercase()
    }

    pub(super) fn tag(&self) -> &'static str {
        match self.service {
            Service::Admin => "admin",
            Service::Kms => "main",
            Service::Onboard => "onboarding",
        }
    }

    pub(super) fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let path = words.collect::<Vec<_>>().join("_");
        format!("{}_{}_{path}", self.tag(), self.verb())
    }
}

pub(super) fn get(service: Service, path: &str, summary: &str, response: Answer) -> Operation {
    Operation {
        service,
        verb: Verb::Get,
        path: path.to_owned(),
        method: None,
        summary: summary.to_owned(),
        description: String::new(),
        parameters: path_parameters(path),
        request: None,
        response,
        others: Vec::new(),
    }
}

pub(super) fn post(service: Service, path: &str, summary: &str, response: Answer) -> Operation {
    Operation { verb: Verb::Post, ..get(service, path, summary, response) }
}

fn path_parameters(path: &str) -> Vec<Parameter> {
    let names = [
        ("{name}", "name", "its name"),
        ("{id}", "id", "its id"),
        ("{app}", "app", "the app id in hexadecimal"),
        ("{seq}", "seq", "its number in the audit log"),
        ("{*file}", "file", "the path of a file"),
        ("{file}", "file", "the name of a file"),
        ("{*tile}", "tile", "the path of a tile, as C2SP tlog-tiles has it"),
        ("{check}", "check", "the name of a check"),
        ("{order}", "order", "pause, resume, retry, skip or cancel"),
    ];
    let found = names.into_iter().filter(|(mark, ..)| path.contains(mark));
    let parameter = |(_, name, description)| Parameter {
        place: "path",
        name: String::from(name),
        description: String::from(description),
        schema: json!({ "type": "string", "minLength": 1 }),
    };
    found.map(parameter).collect()
}

pub(super) fn query(name: &str, description: &str, schema: Value) -> Parameter {
    Parameter { place: "query", name: name.to_owned(), description: description.to_owned(), schema }
}

impl Operation {
    pub(super) fn described(self, description: &str) -> Self {
        Self { description: description.to_owned(), ..self }
    }

    pub(super) fn with_query(mut self, parameters: Vec<Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    pub(super) fn taking(self, kind: &'static str, schema: Value) -> Self {
        Self { request: Some(Content { kind, schema, is_required: true }), ..self }
    }

    pub(super) fn or(mut self, status: u16, answer: Answer) -> Self {
        self.others.push((status, answer));
        self
    }
}

pub(super) fn object(properties: Value) -> Value {
    let names: Vec<String> =
        properties.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    json!({ "type": "object", "properties": properties, "required": names })
}
