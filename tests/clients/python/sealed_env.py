"""PyHPKE: seals and opens environments of version 1, {open, seal} to {opened, sealed}."""

import base64
import json
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey
from pyhpke.exceptions import OpenError

SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def info(root_epoch, app_epoch):
    return f"dstack-sealed-env-v1:{root_epoch}:{app_epoch}".encode()


def opened(asked):
    """The plaintext, or None if it does not open."""
    envelope = asked["envelope"]
    assert sorted(envelope) == ["app_epoch", "ciphertext", "enc", "root_epoch", "version"] and envelope["version"] == 1
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(asked["secret"]))
    context = SUITE.create_recipient_context(
        base64.b64decode(envelope["enc"], validate=True),
        KEMKey.from_pyca_cryptography_key(key),
        info=info(asked["root_epoch"], asked["app_epoch"]),
    )
    try:
        return json.loads(context.open(base64.b64decode(envelope["ciphertext"], validate=True)))
    except OpenError:
        return None


def sealed(asked):
    key = X25519PublicKey.from_public_bytes(bytes.fromhex(asked["public_key"]))
    epochs = {"root_epoch": asked["root_epoch"], "app_epoch": asked["app_epoch"]}
    enc, context = SUITE.create_sender_context(KEMKey.from_pyca_cryptography_key(key), info=info(**epochs))
    plaintext = json.dumps({"env": asked["env"]}, separators=(",", ":"), ensure_ascii=False).encode()
    return {
        "version": 1,
        **epochs,
        "enc": base64.b64encode(enc).decode(),
        "ciphertext": base64.b64encode(context.seal(plaintext)).decode(),
    }


asked = json.load(sys.stdin)
json.dump({"opened": [opened(one) for one in asked["open"]], "sealed": [sealed(one) for one in asked["seal"]]}, sys.stdout)
