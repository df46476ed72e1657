"""The standard health service through grpcio-health-checking: `Check` as grpc_health_probe asks, and `Watch`."""

import json
import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

TIMEOUT = 30


def check(stub, service):
    """The status, or the error code."""
    try:
        answer = stub.Check(HealthCheckRequest(service=service), timeout=TIMEOUT)
    except grpc.RpcError as error:
        return error.code().name
    return HealthCheckResponse.ServingStatus.Name(answer.status)


def watch(stub, service):
    """The first status; the watch would continue."""
    stream = stub.Watch(HealthCheckRequest(service=service), timeout=TIMEOUT)
    try:
        first = HealthCheckResponse.ServingStatus.Name(next(stream).status)
        stream.cancel()
        return first
    except grpc.RpcError as error:
        return error.code().name


asked = json.load(sys.stdin)
if asked["roots"] is None:
    connection = grpc.insecure_channel(asked["target"])
else:
    connection = grpc.secure_channel(asked["target"], grpc.ssl_channel_credentials(asked["roots"].encode()))
with connection:
    stub = HealthStub(connection)
    answers = {service: [check(stub, service), watch(stub, service)] for service in asked["services"]}
    json.dump(answers, sys.stdout)
