"""The calls of `vmm-cli.py` and `dstack-cloud` for an environment, step by step with the libraries that they use."""

import http.client
import json
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

from dstack_sdk import EnvVar, encrypt_env_vars_sync
from eth_keys import keys
from eth_utils import keccak

asked = json.load(sys.stdin)
UNVERIFIED = ssl._create_unverified_context()
PREFIX = b"dstack-env-encrypt-pubkey:"


def signer(signature, message):
    """The compressed key of the signer, in the form of the whitelists."""
    assert len(signature) == 65 and signature[64] in (0, 1), "r, s, and v of 0 or 1"
    key = keys.Signature(signature).recover_public_key_from_msg_hash(keccak(message))
    return "0x" + key.to_compressed_bytes().hex()


def vmm_cli(url, app_id):
    """Drops the path of the URL, uses HTTP/1.1, ignores the status, sends hex without `0x`, checks the dated signature first."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=UNVERIFIED, timeout=30)
    body = json.dumps({"app_id": app_id})
    connection.request(
        "POST", "/prpc/GetAppEnvEncryptPubKey?json", body, {"Content-Type": "application/json"}
    )
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if "signature_v1" not in answer or "signature" not in answer:
        return {"asks_the_operator": True, "error": answer.get("error")}
    key = bytes.fromhex(answer["public_key"])
    assert type(answer["timestamp"]) is int
    bare = bytes.fromhex(app_id.removeprefix("0x"))
    dated = bare + answer["timestamp"].to_bytes(8, "big") + key
    return {
        "public_key": answer["public_key"],
        "signer": signer(bytes.fromhex(answer["signature_v1"]), PREFIX + dated),
        "older_signer": signer(bytes.fromhex(answer["signature"]), PREFIX + bare + key),
        "blob": encrypt_env_vars_sync([EnvVar("FROM", "vmm-cli")], answer["public_key"]),
    }


def dstack_cloud(url, app_id):
    """Appends to the URL as given, raises on status 400 and above, checks only the signature without a date."""
    request = urllib.request.Request(
        f"{url}/prpc/GetAppEnvEncryptPubKey?json",
        data=json.dumps({"app_id": app_id}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10, context=UNVERIFIED) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        return {"raised": error.code}
    key = bytes.fromhex(answer["public_key"])
    bare = bytes.fromhex(app_id.removeprefix("0x"))
    return {
        "public_key": answer["public_key"],
        "signer": signer(bytes.fromhex(answer["signature"]), PREFIX + bare + key),
        "blob": encrypt_env_vars_sync([EnvVar("FROM", "dstack-cloud")], answer["public_key"]),
    }


tools = {"vmm-cli": vmm_cli, "dstack-cloud": dstack_cloud}
json.dump([tools[tool](url, app_id) for tool, url, app_id in asked], sys.stdout)
