//! Traces as messages of OTLP: the fields that we send of `opentelemetry.proto.collector.trace.v1`, with the numbers of
//! <https://github.com/open-telemetry/opentelemetry-proto>. Tests decode them with OpenTelemetry's own types.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::request::{Attribute, Span, SpanKind, Trace};

/// The body of a request to a collector.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    /// 1 internal, 2 server, 3 client.
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    /// 0 unset, 2 error.
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "AnyValueKind", tags = "1, 3")]
    value: Option<AnyValueKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyValueKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

const ERROR: i32 = 2;

/// The request with these traces of the process `boot_id`.
pub(super) fn encoded(traces: &[Trace], boot_id: &str) -> ExportTraceServiceRequest {
    let version = env!("CVM_KMS_VERSION").to_owned();
    let text = |text: &str| Attribute::Text(text.to_owned());
    let about = [
        ("service.name", text("cvm-kms")),
        ("service.version", text(&version)),
        ("service.instance.id", text(boot_id)),
    ];
    let resource = Resource { attributes: about.into_iter().map(KeyValue::from).collect() };
    let spans = traces.iter().flat_map(spans_of).collect();
    let scope = Scope { name: "cvm-kms".to_owned(), version };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }],
    }
}

/// The spans of a trace: the first is the root, and the parent of all others.
fn spans_of(trace: &Trace) -> impl Iterator<Item = SpanMessage> {
    let root = trace.root;
    trace.spans.iter().enumerate().map(move |(index, span)| {
        let id = root.wrapping_add(2 * index as u64);
        let (parent, link) = match index {
            0 => (trace.parent, trace.link),
            _ => (Some(root), None),
        };
        let links = link.map(|link| Link {
            trace_id: link.trace.to_be_bytes().to_vec(),
            span_id: link.span.to_be_bytes().to_vec(),
        });
        let Span { name, kind, begin, took, is_failed, attributes } = span;
        SpanMessage {
            trace_id: trace.id.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
            name: (*name).to_owned(),
            kind: match kind {
                SpanKind::Internal => 1,
                SpanKind::Server => 2,
                SpanKind::Client => 3,
            },
            start_time_unix_nano: nanos(*begin),
            end_time_unix_nano: nanos(*begin).saturating_add(nanos(UNIX_EPOCH + *took)),
            attributes: attributes.iter().cloned().map(KeyValue::from).collect(),
            links: links.into_iter().collect(),
            status: is_failed.then_some(Status { code: ERROR }),
        }
    })
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl From<(&'static str, Attribute)> for KeyValue {
    fn from((key, value): (&'static str, Attribute)) -> Self {
        let value = match value {
            Attribute::Text(text) => AnyValueKind::Text(text),
            Attribute::Number(number) => AnyValueKind::Number(number),
        };
        Self { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }
}
