"""Makes known_answer.json: a recovery set by a second implementation. Needs `cryptography`; run it in this directory."""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# P-256: FIPS 186-5, SP 800-186.
P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(k, point=G):
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


def compressed(point):
    return bytes([2 + (point[1] & 1)]) + point[0].to_bytes(32, "big")


def scalar(name):
    return int.from_bytes(hashlib.sha512(name.encode()).digest(), "big") % N


def hkdf(salt, ikm, info):
    key = hmac.new(salt, ikm, hashlib.sha256).digest()
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


coefficients = [scalar(f"coefficient {i}") for i in range(3)]
shares = [sum(c * x**i for i, c in enumerate(coefficients)) % N for x in range(1, 6)]
set_id = hashlib.sha256(b"set").digest()[:16]
salt = hashlib.sha256(b"salt").digest()
material = b"the root keys of every epoch"
context = b"cvm-kms-recovery-seal-v1" + set_id
key = hkdf(salt, coefficients[0].to_bytes(32, "big"), context)
sealed = AESGCM(key).encrypt(bytes(12), material, context)
json.dump(
    {
        "set": set_id.hex(),
        "salt": salt.hex(),
        "material": material.hex(),
        "secret": f"{coefficients[0]:064x}",
        "commitments": [compressed(multiply(c)).hex() for c in coefficients],
        "shares": [f"{share:064x}" for share in shares],
        "sealed": sealed.hex(),
    },
    open("known_answer.json", "w"),
    indent=2,
)
