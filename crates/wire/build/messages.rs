//! The messages of `kms.proto`, with their JSON form.

use prost_build::Config;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};

use crate::omitted::OMITTED_FIELDS;

/// Messages with secrets: no derived `Debug`, wiped on drop (`src/message.rs`).
const SECRET_MESSAGES: [&str; 9] = [
    "AppKeyResponse",
    "KmsKeys",
    "KmsKeyResponse",
    "EpochKeys",
    "GetTempCaCertResponse",
    "LegacyClearImageCacheRequest",
    "OnboardRequest",
    "GetKmsKeyRequest",
    "ReportJoinRequest",
];

/// Writes `kms.rs`.
pub(crate) fn generate(descriptors: FileDescriptorSet) -> std::io::Result<()> {
    let mut config = Config::new();
    config.skip_debug(SECRET_MESSAGES.map(|name| format!(".kms.{name}")));
    config.type_attribute(".kms", "#[derive(serde::Serialize, serde::Deserialize)]");
    for message in
        descriptors.file.iter().filter(|file| file.package() == "kms").flat_map(|f| &f.message_type)
    {
        for field in &message.field {
            config.field_attribute(
                format!(".kms.{}.{}", message.name(), field.name()),
                json_form(message.name(), field),
            );
        }
    }
    config.compile_fds(descriptors)
}

/// The serde attributes of a field. Defaults are set field by field, because messages that implement `Drop`
/// cannot take them from a whole default.
fn json_form(message: &str, field: &prost_types::FieldDescriptorProto) -> &'static str {
    if message == "AttestationInfoResponse" && field.name() == "tee_variant" {
        return r#"#[serde(flatten, with = "crate::message::json::tee_variant")]"#;
    }
    if OMITTED_FIELDS.contains(&field.name()) {
        return match (field.r#type(), field.label()) {
            (_, Label::Repeated) => r#"#[serde(default, skip_serializing_if = "Vec::is_empty")]"#,
            (Type::Bytes, _) => {
                r#"#[serde(default, with = "crate::message::json::hex_bytes", skip_serializing_if = "Vec::is_empty")]"#
            }
            (Type::String | Type::Bool, _) if field.proto3_optional() => {
                r#"#[serde(default, skip_serializing_if = "Option::is_none")]"#
            }
            (Type::String, _) => r#"#[serde(default, skip_serializing_if = "String::is_empty")]"#,
            (Type::Bool, _) => r#"#[serde(default, skip_serializing_if = "std::ops::Not::not")]"#,
            _ => {
                r#"#[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::message::json::optional_number")]"#
            }
        };
    }
    match (field.r#type(), field.label(), field.proto3_optional()) {
        (Type::Bytes, Label::Optional, _) => r#"#[serde(default, with = "crate::message::json::hex_bytes")]"#,
        (Type::Uint32 | Type::Uint64, Label::Optional, true) => {
            r#"#[serde(default, deserialize_with = "crate::message::json::optional_number")]"#
        }
        (Type::Uint32 | Type::Uint64, Label::Optional, false) => {
            r#"#[serde(default, deserialize_with = "crate::message::json::number")]"#
        }
        _ => "#[serde(default)]",
    }
}
