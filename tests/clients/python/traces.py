"""OpenTelemetry's own messages on bodies that a collector got, a JSON list of hex: their spans, as a JSON list."""

import json
import sys

from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


spans = []
for body in json.load(sys.stdin):
    request = ExportTraceServiceRequest.FromString(bytes.fromhex(body))
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert not len(UnknownFieldSet(span)), span
                assert len(span.trace_id) == 16 and len(span.span_id) == 8, span
                assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
                spans.append(
                    {
                        "resource": plain(resource.resource.attributes),
                        "scope": scope.scope.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "name": span.name,
                        "kind": Span.SpanKind.Name(span.kind),
                        "failed": span.status.code == Status.STATUS_CODE_ERROR,
                        "attributes": plain(span.attributes),
                        "links": [link.trace_id.hex() for link in span.links],
                    }
                )
json.dump(spans, sys.stdout)
