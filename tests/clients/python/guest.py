"""The calls of a guest at boot: gets evidence from the guest agent, makes a client certificate, checks the server, gets its keys."""

import datetime
import hashlib
import http.client
import json
import os
import ssl
import sys
import tempfile
import time
import urllib.parse

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from dstack_sdk import DstackClient

from evidence import ARC, collateral_of, read

asked = json.load(sys.stdin)
url = urllib.parse.urlsplit(asked["url"])


def octet_string(content):
    """DER of an OCTET STRING of 128 to 65535 bytes."""
    return b"\x04\x82" + len(content).to_bytes(2, "big") + content


def post(connection, method, message):
    """A call like those of the peer's guests: `?json` and no content type."""
    connection.request("POST", f"/prpc/{method}?json", json.dumps(message).encode())
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def call_anyone(method, message):
    """A call to an unauthenticated server."""
    connection = http.client.HTTPSConnection(
        url.hostname, url.port, context=ssl._create_unverified_context(), timeout=30
    )
    try:
        return post(connection, method, message)
    finally:
        connection.close()


def client_certificate(temp_ca, agent):
    """A certificate of the temporary CA for a new key, with evidence that binds the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    evidence = agent.attest(hashlib.sha512(b"ratls-cert:" + public).digest()).decode_attestation()
    issuer = x509.load_pem_x509_certificate(temp_ca["temp_ca_cert"].encode())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RA-TLS TEMP Cert")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1975, 1, 1))
        .not_valid_after(datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{ARC}.8"), octet_string(evidence)), critical=False
        )
        .sign(load_pem_private_key(temp_ca["temp_ca_key"].encode(), None), hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + pem


def verdict(der):
    """The server's certificate: its usage, the status of its quote, and whether the quote binds its key."""
    shown = read(der)
    collateral = collateral_of(shown["quote"], asked["pccs"])
    root = bytes.fromhex(asked["root"])
    status = dcap_qvl.verify_with_root_ca(shown["quote"], collateral, root, int(time.time())).status
    bound = dcap_qvl.Quote.parse(shown["quote"]).report.report_data == shown["bound"]
    return {"usage": shown["usage"], "status": status, "bound": bound}


status, temp_ca = call_anyone("GetTempCaCert", {})
assert status == 200, temp_ca
agent = DstackClient(asked["agent"])
with tempfile.TemporaryDirectory() as directory:
    file = os.path.join(directory, "client.pem")
    with open(file, "wb") as pem:
        pem.write(client_certificate(temp_ca, agent))
    context = ssl.create_default_context(cadata=temp_ca["ca_cert"])
    # A default since Python 3.13: it requires authority key identifiers, which no certificate here has.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(file)
    connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=30)
    connection.connect()
    server = verdict(connection.sock.getpeercert(binary_form=True))
    status, keys = post(connection, "GetAppKey", {"api_version": 1, "vm_config": agent.info().vm_config})
    connection.close()

answer = {"server": server, "status": status, "answer": keys}
if status == 200:
    root_ca = x509.load_pem_x509_certificate(keys["ca_cert"].encode()).public_key()
    answer["key_provider_id"] = root_ca.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
json.dump(answer, sys.stdout)
