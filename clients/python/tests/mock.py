"""A simulated machine that makes attestations, from the development PKI of the repository's vectors, and a TLS server."""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import json
import os
import socket
import ssl
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

VECTORS = Path(os.environ.get("CVM_KMS_VECTORS") or Path(__file__).resolve().parents[3] / "tests" / "vectors")
QUOTES = json.loads((VECTORS / "tdx_quotes.json").read_text())
ROOT_CA = bytes.fromhex(QUOTES["root_ca"]["mock"]["der"])
OTHER_ROOT_CA = bytes.fromhex(QUOTES["root_ca"]["other"]["der"])
NOW = 1_750_000_000
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

BODY = slice(48, 632)
RTMR3 = 48 + 472
REPORT_DATA = 48 + 520


def pki_key(label: str) -> ec.EllipticCurvePrivateKey:
    """The key of the development PKI with this label: SHA-256("dstack-mock-p256-v1" ‖ seed ‖ label ‖ u32be counter)."""
    for counter in range(8):
        seed = b"dstack-mock-p256-v1" + bytes.fromhex(QUOTES["mock_seed"]) + label.encode()
        scalar = int.from_bytes(hashlib.sha256(seed + counter.to_bytes(4, "big")).digest(), "big")
        if 0 < scalar < ORDER:
            return ec.derive_private_key(scalar, ec.SECP256R1())
    raise AssertionError("no scalar")


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def root_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP256R1())


# Of the KMS that `answer` is about.
ROOT_KEY = root_key(1)
ROOT_SPKI_SHA256 = hashlib.sha256(spki(ROOT_KEY)).hexdigest()


def event(name: str, payload: bytes = b"", version: int = 1) -> dict:
    preimage = (0x08000001).to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    if version == 2:
        fields = {"name": name, "payload": payload.hex(), "type": 0x08000001}
        preimage = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    entry = {
        "imr": 3,
        "event_type": 0x08000001,
        "digest": hashlib.sha384(preimage).hexdigest(),
        "event": name,
        "event_payload": payload.hex(),
    }
    return entry if version == 1 else {**entry, "version": 2, "preimage": preimage.hex()}


EVENTS = [
    event("system-preparing"),
    event("app-id", b"\x11" * 20),
    event("compose-hash", b"\x22" * 32),
    event("instance-id", b"\x33" * 20),
    event("boot-mr-done"),
    event("key-provider", b'{"name":"none","id":""}'),
    event("system-ready"),
    event("app:event", b"anything"),
]


def replay(events: list) -> bytes:
    register = bytes(48)
    for entry in events:
        register = hashlib.sha384(register + bytes.fromhex(entry["digest"])).digest()
    return register


def quote(report_data: bytes, rtmr3: bytes, changes: dict | None = None, case: int = 0) -> bytes:
    """A quote that verifies under the development root: a recorded one with other contents, signed again."""
    recorded = bytes.fromhex(QUOTES["cases"][case]["quote"])
    body = bytearray(recorded[:632])
    body[RTMR3 : RTMR3 + 48] = rtmr3
    body[REPORT_DATA : REPORT_DATA + 64] = report_data
    for offset, value in (changes or {}).items():
        body[offset : offset + len(value)] = value
    rest = recorded[632 + 4 + 128 :]
    report, after = bytearray(rest[6 : 6 + 384]), rest[6 + 384 + 64 :]
    auth = after[2 : 2 + int.from_bytes(after[:2], "little")]
    key = ec.derive_private_key(7, ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    report[320:352] = hashlib.sha256(point + auth).digest()
    certified = bytes(report) + raw_signature(pki_key("tdx-pck"), bytes(report)) + after
    signed = (
        raw_signature(key, bytes(body)) + point + rest[:2] + len(certified).to_bytes(4, "little") + certified
    )
    # Bytes of the recorded quote after its end are not kept.
    return bytes(body) + len(signed).to_bytes(4, "little") + signed


def statement(**changes: object) -> dict:
    root = {"ca_spki_sha256": ROOT_SPKI_SHA256, "k256_public_key": "02" + "bb" * 32}
    return {
        "version": 1,
        "time": NOW,
        "nonce": None,
        "kms_version": "0.6.0",
        "program_sha256": None,
        "name": "kms.example.com",
        "endpoints": ["https://kms.example.com:8000"],
        "rpc_spki_sha256": "cc" * 32,
        "root": root,
        "epochs": [{"epoch": 0, "state": "active", **root}],
        "log": {"origin": "kms.example.com/log", "key": "kms.example.com/log+0+AA", "checkpoint": "x\n"},
        "policies": {"default": {"kind": "allowlist", "digest": "dd" * 32}},
        "relaxed": [],
        "sealed": True,
        **changes,
    }


def answer(
    text: str | None = None,
    events: list | None = None,
    collateral: str = "good",
    changes: dict | None = None,
    case: int = 0,
    root: ec.EllipticCurvePrivateKey = ROOT_KEY,
) -> dict:
    """An answer of `/attestation.json` about a statement (JSON text)."""
    text = json.dumps(statement()) if text is None else text
    log = EVENTS if events is None else events
    bound = hashlib.sha512(b"cvm-kms-attestation:" + text.encode()).digest()
    made = quote(bound, replay(log), changes, case)
    digests = hashlib.sha256(made).digest() + hashlib.sha256(text.encode()).digest()
    signature = raw_signature(root, b"cvm-kms-attestation-root:" + digests)
    return {
        "version": 1,
        "statement": text,
        "quote": made.hex(),
        "event_log": json.dumps(log),
        "vm_config": json.dumps({"os_image_hash": "44" * 32}),
        "collateral": copy.deepcopy(QUOTES["collateral"][collateral]),
        "root": {"ca_spki": spki(root).hex(), "signature": signature.hex()},
    }


def certificate_of(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate of anyone over this key: the client looks at the key only."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kms")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime.datetime(1975, 1, 1)).not_valid_after(
        datetime.datetime(2099, 1, 1)
    )
    return builder.sign(key, hashes.SHA256())


def pem_identity(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key and a certificate as `load_cert_chain` reads them."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate_of(key).public_bytes(Encoding.PEM)


class PlainServer:
    """An HTTP server on a free port of 127.0.0.1.

    `routes` maps a path without its query to a function from the query to status, headers and body. `seen` has the request
    lines, `handshakes` the number of TLS connections.
    """

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict = {}
        self.seen: list = []
        self.handshakes = 0
        self.connections: list = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                self.request.settimeout(60)
                owner.connections.append(self.request)
                if context is not None:
                    self.request.do_handshake()
                    owner.handshakes += 1
                super().setup()

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                owner.seen.append(f"{self.command} {self.path}")
                found = urlsplit(self.path)
                route = owner.routes.get(found.path)
                if route is None:
                    status, headers, data = 404, {}, b"not found"
                else:
                    query = {name: values[0] for name, values in parse_qs(found.query).items()}
                    status, headers, data = route({**query, "body": body})
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._listener = Listener(("127.0.0.1", port), Handler)
        if context is not None:
            listening = self._listener.socket
            self._listener.socket = context.wrap_socket(
                listening, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._listener.server_port
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


class Server(PlainServer):
    """The same with TLS."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, port: int = 0) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "identity.pem"
            file.write_bytes(pem_identity(key))
            self.context.load_cert_chain(file)
        super().__init__(port, self.context)


class FakeKms(Server):
    """A server that answers like a KMS: it attests its own TLS key, signed by a root key."""

    def __init__(self, port: int = 0, root: ec.EllipticCurvePrivateKey = ROOT_KEY, **changes: object) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = root
        self.changes = changes
        super().__init__(self.key, port)
        self.routes["/attestation.json"] = self._attestation
        self.routes["/prpc/KMS.GetMeta"] = lambda _: (200, {}, b'{"version": "1"}')
        self.routes["/health"] = lambda _: (200, {}, b"OK")

    @property
    def spki_sha256(self) -> str:
        return hashlib.sha256(spki(self.key)).hexdigest()

    def _attestation(self, query: dict) -> tuple:
        own = {"time": int(time.time()), "nonce": query.get("nonce"), "rpc_spki_sha256": self.spki_sha256}
        found = statement(**{**own, **self.changes})
        return 200, {}, json.dumps(answer(json.dumps(found), root=self.root)).encode()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
