"""The keys of apps in other domains than the default one, or at other epochs than 0 and 0, computed without the code of the KMS: HKDF by RFC 5869.

Reads a JSON list of cases from standard input, and writes the 32 bytes of each in hex.
"""

import hashlib
import hmac
import json
import struct
import sys


def hkdf(salt, ikm, info):
    """One block of HKDF-SHA256."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def prefixed(part):
    return struct.pack(">I", len(part)) + part


def key(case):
    info = (
        prefixed(case["domain"].encode())
        + struct.pack(">II", case["root_epoch"], case["app_epoch"])
        + bytes.fromhex(case["app_id"])
        + prefixed(bytes.fromhex(case["instance_id"]))
        + prefixed(case["label"].encode())
    )
    return hkdf(b"cvm-kms-keys-v2", bytes.fromhex(case["parent"]), info).hex()


json.dump([key(case) for case in json.load(sys.stdin)], sys.stdout)
