"""The client against a real KMS, which the caller restarts with another TLS key when the file `restart` appears.

Reads from standard input what the KMS is: its URL, pins, the root of its simulated platform, and a directory to work in.
Writes what was proved before and after the restart.
"""

import json
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

# The servers of the client's own tests; the client itself is the installed one.
sys.path.append(sys.argv[1])

import cvm_kms
from cryptography.hazmat.primitives.asymmetric import ec

from tests import mock

asked = json.load(sys.stdin)
url, directory, root_ca = asked["url"], Path(asked["directory"]), bytes.fromhex(asked["root_ca"])
by_root = {"root_ca_spki_sha256": asked["pins"]["root_ca_spki_sha256"]}
by_measurement = {"mr_aggregated": asked["pins"]["mr_aggregated"]}
out = {}


def connect(target, pins, **options):
    return cvm_kms.connect(target, pins, root_ca=root_ca, timeout=120, **options)


def refusal(call, *arguments, **options):
    """The code of the error that a call ends in."""
    try:
        call(*arguments, **options)
    except cvm_kms.CvmKmsError as error:
        return error.code
    return None


def proved(attestation):
    return {
        "mr_aggregated": attestation.mr_aggregated,
        "app_id": attestation.app_id,
        "compose_hash": attestation.compose_hash,
        "os_image_hash": attestation.os_image_hash,
        "tcb_status": attestation.tcb_status,
        "root": attestation.statement.root.ca_spki_sha256,
        "k256_public_key": attestation.statement.root.k256_public_key,
        "log_key": attestation.statement.log.key,
        "signed_by_root": attestation.signed_by_root,
        "fresh": attestation.fresh,
        "tls_key": attestation.statement.rpc_spki_sha256,
    }


def passed_on(query):
    """The true answer to a request for an attestation, as a man in the middle gets it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(f"{url}/attestation.json?nonce={query['nonce']}", context=context) as answer:
        return answer.status, {}, answer.read()


def command(*arguments):
    ran = subprocess.run(
        [sys.executable, "-B", "-m", "cvm_kms", "verify", *arguments], stdout=subprocess.PIPE, cwd=directory, check=False
    )
    return ran.returncode, json.loads(ran.stdout)


# A KMS makes three fresh quotes for an address at once, and then one each ten seconds: here are three.
session = connect(url, asked["pins"])
measured = connect(url, by_measurement)
out["before"] = proved(session.attestation)
out["meta"] = session.call("GetMeta")
out["health"] = session.get("/health").text
out["denied"] = refusal(session.call, "GetAppKey", {"api_version": 1})

middle = mock.Server(ec.generate_private_key(ec.SECP256R1()))
middle.routes["/attestation.json"] = passed_on
out["man in the middle"] = refusal(connect, middle.url, by_root)
out["sent to the man in the middle"] = [line.split("?")[0] for line in middle.seen]

# A saved answer, without a nonce.
saved = session.get("/attestation.json").body
(directory / "saved.json").write_bytes(saved)
(directory / "root.der").write_bytes(root_ca)
(directory / "pins.json").write_text(json.dumps(by_root))
out["saved"] = proved(cvm_kms.verify(saved, asked["pins"], root_ca=root_ca))
out["saved, another pin"] = refusal(cvm_kms.verify, saved, {**by_root, "app_id": "00" * 20}, root_ca=root_ca)
out["saved, Intel's root"] = refusal(cvm_kms.verify, saved, by_root)
out["command"] = command("saved.json", "--pins", "pins.json", "--root-ca", "root.der")[0]
out["command, another root"] = command("saved.json", "--pins", "pins.json")[1]["code"]

(directory / "restart").touch()
while not (directory / "restarted").exists():
    time.sleep(0.05)

out["measured after the restart"] = refusal(measured.post, "/health", b"secret")
out["meta after the restart"] = session.call("GetMeta")
out["after"] = proved(session.attestation)
base = mock.PlainServer()
release = json.dumps({"version": 1, "endpoints": [url], "pins": by_root}).encode()
base.routes["/acme/kms/releases/latest/download/cvm-kms-release.json"] = lambda _: (200, {}, release)
out["by repository"] = proved(connect("acme/kms", None, base=base.url).attestation)
out["wrong pin"] = refusal(connect, url, {**by_root, "mr_aggregated": "00" * 32})
for server in (base, middle):
    server.close()
json.dump(out, sys.stdout)
