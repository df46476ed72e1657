//! The methods of the proto file as operations: prpc in JSON.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

use super::operation::{Answer, Bodies, Content, Operation, Verb};
use crate::api::{METHODS, Row};
use crate::proto::{DESCRIPTORS, OMITTED_FIELDS};

/// Compiled in for its comments, which the descriptors lack.
const PROTO: &str = include_str!("../../../proto/kms.proto");

/// The answer to a request in protobuf, and to one without a body and a media type.
const PROTOBUF: &str = "application/octet-stream";

/// A direction, which decides what a message may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Numbers may be decimal text, and fields may be missing.
    Request,
    /// Every field is present, except [`OMITTED_FIELDS`].
    Response,
}

/// All methods.
pub(super) fn operations(bodies: &mut Bodies) -> Vec<Operation> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let files: Vec<_> = set.file.iter().filter(|file| file.package() == "kms").collect();
    let proto = Proto {
        messages: files.iter().flat_map(|file| &file.message_type).map(|it| (it.name(), it)).collect(),
        comments: comments(PROTO),
    };
    let mut needed = BTreeSet::new();
    let mut operations = Vec::new();
    for row in &METHODS {
        let services = files.iter().flat_map(|file| &file.service);
        let of_service = services.filter(|service| service.name() == row.service.name());
        let method = of_service.flat_map(|service| &service.method).find(|method| method.name() == row.name);
        let Some(method) = method else { continue };
        let (input, output) = (bare(method.input_type()), bare(method.output_type()));
        operations.push(proto.operation(row, input, output));
        proto.collect(input, Way::Request, &mut needed);
        proto.collect(output, Way::Response, &mut needed);
    }
    for (name, way) in needed {
        bodies.message(schema_name(name, way), proto.schema(name, way));
    }
    operations
}

struct Proto<'a> {
    messages: BTreeMap<&'a str, &'a DescriptorProto>,
    comments: BTreeMap<String, String>,
}

/// `.kms.AppId` → `AppId`.
fn bare(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn schema_name(message: &str, way: Way) -> String {
    match way {
        Way::Request => format!("prpc.request.{message}"),
        Way::Response => format!("prpc.{message}"),
    }
}

fn reference(message: &str, way: Way) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", schema_name(message, way)) })
}

impl Proto<'_> {
    fn operation(&self, row: &'static Row, input: &str, output: &str) -> Operation {
        let name = format!("{}.{}", row.service.name(), row.name);
        let comment = self.comments.get(&name).cloned().unwrap_or_default();
        let (summary, description) = match comment.split_once(". ") {
            Some((first, rest)) => (first.to_owned(), rest.to_owned()),
            None => (comment.trim_end_matches('.').to_owned(), String::new()),
        };
        let is_empty = |message: &str| message == "Empty";
        Operation {
            service: row.service,
            verb: Verb::Post,
            path: format!("/prpc/{name}"),
            method: Some(row),
            summary,
            description,
            parameters: Vec::new(),
            request: (!is_empty(input)).then(|| Content {
                kind: "application/json",
                schema: reference(input, Way::Request),
                is_required: false,
            }),
            response: match is_empty(output) {
                true => Answer::Either(json!({}), PROTOBUF),
                false => Answer::Either(reference(output, Way::Response), PROTOBUF),
            },
            others: Vec::new(),
        }
    }

    /// The message and those in its fields.
    fn collect<'a>(&'a self, message: &str, way: Way, needed: &mut BTreeSet<(&'a str, Way)>) {
        let Some((name, message)) = self.messages.get_key_value(message) else { return };
        if needed.insert((*name, way)) {
            let below = message.field.iter().filter(|field| field.r#type() == Type::Message);
            below.for_each(|field| self.collect(bare(field.type_name()), way, needed));
        }
    }

    fn schema(&self, name: &str, way: Way) -> Value {
        let Some(message) = self.messages.get(name) else { return json!({}) };
        let mut properties = Map::new();
        for field in &message.field {
            let mut schema = field_schema(field, way);
            if let Some(comment) = self.comments.get(&format!("{name}.{}", field.name())) {
                schema["description"] = comment.as_str().into();
            }
            properties.insert(field.name().to_owned(), schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        if let Some(comment) = self.comments.get(name) {
            schema["description"] = comment.as_str().into();
        }
        if way == Way::Response {
            let names = message.field.iter().map(|field| field.name());
            schema["required"] = names.filter(|name| !OMITTED_FIELDS.contains(name)).collect();
        }
        schema
    }
}

fn field_schema(field: &FieldDescriptorProto, way: Way) -> Value {
    let one = match field.r#type() {
        Type::Bool => json!({ "type": "boolean" }),
        Type::Uint32 | Type::Uint64 => {
            let limit = if field.r#type() == Type::Uint32 { u64::from(u32::MAX) } else { u64::MAX };
            match way {
                Way::Response => json!({ "type": "integer", "minimum": 0, "maximum": limit }),
                Way::Request => json!({ "anyOf": [
                    { "type": "integer", "minimum": 0, "maximum": limit },
                    { "type": "string", "pattern": "^[0-9]+$" },
                ] }),
            }
        }
        Type::Bytes => match way {
            Way::Response => json!({ "type": "string", "pattern": "^([0-9a-f]{2})*$" }),
            Way::Request => json!({ "type": "string", "pattern": "^(0x)*([0-9a-fA-F]{2})*$" }),
        },
        Type::Message => reference(bare(field.type_name()), way),
        Type::String => json!({ "type": "string" }),
        Type::Double | Type::Float => json!({ "type": "number" }),
        Type::Int32
        | Type::Int64
        | Type::Sint32
        | Type::Sint64
        | Type::Sfixed32
        | Type::Sfixed64
        | Type::Fixed32
        | Type::Fixed64
        | Type::Enum => json!({ "type": "integer" }),
        Type::Group => json!({}),
    };
    let is_message = field.r#type() == Type::Message;
    match field.label() {
        Label::Repeated => json!({ "type": "array", "items": one }),
        _ if way == Way::Response && OMITTED_FIELDS.contains(&field.name()) => one,
        _ if field.proto3_optional() || is_message => json!({ "anyOf": [one, { "type": "null" }] }),
        _ => one,
    }
}

/// Comments by `Service.Method`, `Message` and `Message.field`.
fn comments(proto: &str) -> BTreeMap<String, String> {
    let mut comments = BTreeMap::new();
    let (mut pending, mut block) = (Vec::new(), String::new());
    for line in proto.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("//") {
            pending.push(comment.trim());
            continue;
        }
        let words: Vec<&str> =
            line.split(|c: char| c.is_whitespace() || c == '(').filter(|it| !it.is_empty()).collect();
        let name = match words.as_slice() {
            ["service" | "message", name, ..] => {
                block = (*name).to_owned();
                Some(block.clone())
            }
            ["rpc", name, ..] => Some(format!("{block}.{name}")),
            [.., name, "=", number] if number.ends_with(';') => Some(format!("{block}.{name}")),
            _ => None,
        };
        if let Some(name) = name.filter(|_| !pending.is_empty()) {
            comments.insert(name, pending.join(" "));
        }
        pending.clear();
    }
    comments
}
