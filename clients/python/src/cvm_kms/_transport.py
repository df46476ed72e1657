"""HTTP/1.1 over a TLS connection whose server key is known before a request is written.

Every wait ends at one deadline, every answer is bounded, no redirect is followed, and proxies of the environment are not used.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import select
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Union

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import _json
from ._errors import PinsError, TransportError
from ._url import Origin

MAX_RESPONSE = 1 << 20
TIMEOUT = 30.0
# A kept connection that was idle for longer is not used again, because the server may be closing it.
MAX_IDLE = 10.0

_PATH = re.compile(r"/[!-~]*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Headers that say where a message ends, or which server it is for.
_RESERVED = frozenset({"host", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True)
class Response:
    """An answer. Header names are in lower case; of a repeated header the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8, with replacement characters for what is not."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON, read strictly.

        Raises:
            TransportError: `http`.
        """
        try:
            return _json.parse(self.body)
        except _json.JsonError as error:
            raise TransportError("http", f"the answer: {error}") from error


class Deadline:
    """The end of all waits of one request."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds, more than 0.

        Raises:
            TransportError: `timeout`.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TransportError("timeout", "the server did not answer in time")
        return left


class _Stream(io.RawIOBase):
    """Reads of a socket, each with what is left until the deadline."""

    def __init__(self, owner: "_Socket") -> None:
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._owner.arm()
        return self._owner.socket.recv_into(buffer)


class _Socket:
    """The part of a socket that `http.client` uses, with a deadline over all calls."""

    def __init__(self, found: socket.socket) -> None:
        self.socket = found
        self.deadline: Optional[Deadline] = None

    def arm(self) -> None:
        if self.deadline is None:
            raise TransportError("timeout", "there is no request under way")
        self.socket.settimeout(self.deadline.remaining())

    def makefile(self, *_arguments: Any, **_options: Any) -> io.BufferedReader:
        return io.BufferedReader(_Stream(self))

    def sendall(self, data: Any) -> None:
        self.arm()
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()


def _failure(error: BaseException, origin: Origin) -> TransportError:
    if isinstance(error, TransportError):
        return error
    if isinstance(error, (socket.timeout, TimeoutError)):
        return TransportError("timeout", f"{origin} did not answer in time")
    if isinstance(error, ssl.SSLError):
        return TransportError("tls", f"no TLS connection to {origin}: {error.reason or error}")
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return TransportError("http", f"{origin} does not speak HTTP as expected: {type(error).__name__}")
    return TransportError("unreachable", f"no connection to {origin}: {error}")


def _connect(origin: Origin, deadline: Deadline) -> socket.socket:
    """A TCP connection to the first address of the host that accepts one."""
    failed: OSError = OSError("the host has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM
    ):
        try:
            found = socket.socket(family, kind, protocol)
        except OSError as error:
            failed = error
            continue
        try:
            found.settimeout(deadline.remaining())
            found.connect(address)
            # Head and body of a request are written one after the other.
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
        except OSError as error:
            found.close()
            failed = error
        except BaseException:
            found.close()
            raise
    raise failed


def any_server_context() -> ssl.SSLContext:
    """TLS 1.3 with any certificate. The handshake proves that the server holds the certificate's key; which key that must be
    is checked by the caller, before a request is written."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Connection:
    """An open connection to a server. Used for one request at a time."""

    def __init__(self, origin: Origin, found: socket.socket, certificate: Optional[bytes]) -> None:
        self.origin = origin
        # The server's certificate (DER) on a TLS connection.
        self.certificate = certificate
        self._socket = _Socket(found)
        self._http = http.client.HTTPConnection(origin.host, origin.port)
        # It never connects by itself: a new connection must be checked first.
        self._http.auto_open = 0
        self._http.sock = self._socket
        self._used_at = time.monotonic()
        self._is_open = True

    @classmethod
    def open(cls, origin: Origin, context: Optional[ssl.SSLContext], deadline: Deadline) -> "Connection":
        """Connects, with TLS if there is a context. Nothing is sent but the handshake.

        Raises:
            TransportError: `unreachable`, `timeout`, `tls`.
        """
        found: Optional[socket.socket] = None
        try:
            found = _connect(origin, deadline)
            certificate = None
            if context is not None:
                wrapped = context.wrap_socket(
                    found, server_hostname=origin.host, do_handshake_on_connect=False
                )
                found = wrapped
                wrapped.settimeout(deadline.remaining())
                wrapped.do_handshake()
                certificate = wrapped.getpeercert(binary_form=True)
                if certificate is None:
                    raise TransportError("tls", f"{origin} showed no certificate")
            return cls(origin, found, certificate)
        except (OSError, ValueError, TransportError) as error:
            if found is not None:
                found.close()
            raise _failure(error, origin) from error

    def spki(self) -> bytes:
        """SubjectPublicKeyInfo (DER) of the server's certificate.

        Raises:
            TransportError: `tls`.
        """
        return public_key_of(self.certificate or b"")

    def spki_sha256(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, in hexadecimal."""
        return hashlib.sha256(self.spki()).hexdigest()

    def is_usable(self) -> bool:
        """Whether a further request may be written: open, not idle for long, and the server has neither closed nor sent
        anything."""
        if not self._is_open or time.monotonic() - self._used_at > MAX_IDLE:
            return False
        try:
            readable, _, _ = select.select([self._socket.socket], [], [], 0)
        except (OSError, ValueError):
            return False
        pending = self._socket.socket.pending() if isinstance(self._socket.socket, ssl.SSLSocket) else 0
        return not readable and not pending

    def request(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Optional[bytes] = None,
        headers: Mapping[str, str] = {},
        max_bytes: int = MAX_RESPONSE,
    ) -> Response:
        """Sends a request and reads its whole answer.

        Raises:
            PinsError: `argument`, if the path or a header is none.
            TransportError: `timeout`, `answer_too_large`, `http`, `unreachable`. The connection is closed then.
        """
        sent = _headers(headers)
        if not _PATH.fullmatch(path):
            raise PinsError("argument", "a path must begin with / and have printable ASCII only")
        self._socket.deadline = deadline
        try:
            self._http.request(method, path, body=body, headers=sent)
            answer = self._http.getresponse()
            data = _bounded(answer, max_bytes)
            found = Response(
                answer.status, {name.lower(): value for name, value in answer.getheaders()}, data
            )
            if answer.will_close:
                self.close()
        except (OSError, ValueError, http.client.HTTPException, TransportError) as error:
            self.close()
            raise _failure(error, self.origin) from error
        except BaseException:
            self.close()
            raise
        self._used_at = time.monotonic()
        return found

    def close(self) -> None:
        """Closes the connection."""
        self._is_open = False
        self._http.close()
        self._socket.close()


def _bounded(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    length = answer.length
    if length is not None and length > max_bytes:
        raise TransportError("answer_too_large", f"an answer must be at most {max_bytes} bytes, got {length}")
    parts: List[bytes] = []
    total = 0
    while True:
        part = answer.read(min(65536, max_bytes + 1 - total))
        if not part:
            break
        total += len(part)
        if total > max_bytes:
            raise TransportError("answer_too_large", f"an answer must be at most {max_bytes} bytes")
        parts.append(part)
    if answer.length:
        raise TransportError("http", "the answer ends before its end")
    return b"".join(parts)


def _headers(headers: Mapping[str, str]) -> Dict[str, str]:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _RESERVED:
            raise PinsError("argument", f"the header {name[:64]!r} cannot be set")
        if not value.isascii() or not (value + "x").isprintable():
            raise PinsError("argument", f"the value of the header {name} is not printable ASCII")
    return dict(headers)


def public_key_of(certificate: Union[bytes, x509.Certificate]) -> bytes:
    """SubjectPublicKeyInfo (DER) of a certificate.

    Raises:
        TransportError: `tls`.
    """
    try:
        if isinstance(certificate, bytes):
            certificate = x509.load_der_x509_certificate(certificate)
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise TransportError("tls", "the server's certificate does not parse") from error
