"""Lists services and calls methods with grpcio and server reflection only, as requested in JSON."""

import json
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT = 30


class Token(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Sends a token with every call, including reflection."""

    def __init__(self, token):
        self.metadata = [("authorization", f"Bearer {token}")]

    def intercept_unary_unary(self, continuation, details, request):
        return continuation(details._replace(metadata=self.metadata), request)

    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(details._replace(metadata=self.metadata), requests)


def channel(asked):
    """A channel to `target`; with TLS if `roots` are given, with a client certificate if there is one."""
    if asked["roots"] is None:
        return grpc.insecure_channel(asked["target"])
    pem = [None if asked[name] is None else asked[name].encode() for name in ("roots", "key", "certificate")]
    return grpc.secure_channel(asked["target"], grpc.ssl_channel_credentials(*pem))


def call(connection, pool, service, method, request):
    """The response and its status code, both as text."""
    described = pool.FindServiceByName(service).methods_by_name[method]
    message, reply = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
    function = connection.unary_unary(
        f"/{service}/{method}",
        request_serializer=message.SerializeToString,
        response_deserializer=reply.FromString,
    )
    try:
        answer = function(json_format.ParseDict(request, message()), timeout=TIMEOUT)
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}
    fields = {
        field.name: value.hex() if isinstance(value, bytes) else value
        for field, value in answer.ListFields()
        if isinstance(value, (bytes, str, int))
    }
    return {"code": "OK", "reply": fields}


asked = json.load(sys.stdin)
with channel(asked) as connection:
    try:
        grpc.channel_ready_future(connection).result(timeout=asked["patience"])
    except grpc.FutureTimeoutError:
        json.dump({"connected": False}, sys.stdout)
        sys.exit()
    if asked["token"] is not None:
        connection = grpc.intercept_channel(connection, Token(asked["token"]))
    database = ProtoReflectionDescriptorDatabase(connection)
    pool = DescriptorPool(database)
    services = sorted(database.get_services())
    methods = {name: sorted(pool.FindServiceByName(name).methods_by_name) for name in services}
    calls = [call(connection, pool, *one) for one in asked["calls"]]
    json.dump({"connected": True, "methods": methods, "calls": calls}, sys.stdout)
