"""A session with a KMS: every request goes over a connection that ends at the attested TLS key."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
import time
from types import TracebackType
from typing import Any, Collection, Dict, Mapping, Optional, Type

from . import _release
from ._errors import CallError, KeyMismatchError, PinsError, TransportError
from ._pins import Pins, PinsLike
from ._transport import MAX_RESPONSE, TIMEOUT, Connection, Deadline, Response, any_server_context
from ._url import Origin
from ._verify import ROOT_PIN, UP_TO_DATE, Attestation, accepted_statuses, trusted_root, verify

_METHOD = re.compile(r"(?:[A-Za-z]{1,64}\.)?[A-Za-z]{1,64}")


class Session:
    """A KMS that was verified. Made by `connect`; usable by several threads, one request at a time.

    Every connection is compared with the attested key after its TLS handshake and before a request is written to it. If a new
    connection ends at another key, as after a restart, the KMS is verified again on that connection if a root CA is pinned;
    otherwise the request fails with `tls_key`.
    """

    def __init__(
        self,
        origin: Origin,
        pins: Pins,
        *,
        tcb_statuses: Collection[str],
        root_ca: Optional[bytes],
        timeout: float,
        max_bytes: int,
    ) -> None:
        self._origin = origin
        self._pins = pins
        self._tcb_statuses = accepted_statuses(tcb_statuses)
        self._root_ca = trusted_root(root_ca)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._context = any_server_context()
        self._connection: Optional[Connection] = None
        self._attestation: Optional[Attestation] = None
        # Whether a connection to the attested key may be used.
        self._is_verified = False

    @property
    def url(self) -> str:
        """The KMS."""
        return str(self._origin)

    @property
    def attestation(self) -> Attestation:
        """What was proved when the KMS was last verified."""
        if self._attestation is None:
            raise AssertionError("a session is given out only after it was verified")
        return self._attestation

    def get(self, path: str, *, headers: Mapping[str, str] = {}) -> Response:
        """GET of a path, such as `/health`. The answer may have any status but a redirect.

        Raises:
            KeyMismatchError, VerificationError, TransportError.
        """
        return self._request("GET", path, None, headers)

    def post(self, path: str, body: bytes, *, headers: Mapping[str, str] = {}) -> Response:
        """POST of a body to a path. The answer may have any status but a redirect.

        Raises:
            KeyMismatchError, VerificationError, TransportError.
        """
        return self._request("POST", path, body, headers)

    def call(self, method: str, message: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """Calls a method of the KMS, such as `GetMeta`, with JSON; byte strings are hexadecimal both ways.

        Raises:
            CallError: the KMS refused it.
            KeyMismatchError, VerificationError, TransportError.
        """
        if not _METHOD.fullmatch(method):
            raise PinsError("argument", f"{method[:64]!r} is not the name of a method")
        name = method if "." in method else f"KMS.{method}"
        try:
            body = json.dumps(dict(message or {}), allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise PinsError("argument", f"the message has no JSON form: {error}") from error
        answer = self._request("POST", f"/prpc/{name}?json", body, {"Content-Type": "application/json"})
        if answer.status != 200:
            raise _call_error(name, answer)
        found = answer.json()
        if not isinstance(found, dict):
            raise TransportError("http", f"{name} answered with JSON that is not an object")
        return found

    def attest(self) -> Attestation:
        """Verifies the KMS again, on a new connection with a new nonce.

        Raises:
            KeyMismatchError, VerificationError, TransportError.
        """
        with self._lock:
            self._drop()
            # If this fails, no request is sent before the KMS was verified.
            self._is_verified = False
            self._connected(Deadline(self._timeout))
            return self.attestation

    def close(self) -> None:
        """Closes the connection. A later request opens a new one, to the same key."""
        with self._lock:
            self._drop()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, body: Optional[bytes], headers: Mapping[str, str]) -> Response:
        with self._lock:
            deadline = Deadline(self._timeout)
            kept = self._connection
            connection = self._connected(deadline)
            try:
                answer = connection.request(method, path, deadline, body, headers, self._max_bytes)
            except TransportError as error:
                # The server closed a kept connection as the request was written. A GET changes nothing twice.
                if method != "GET" or connection is not kept or error.code != "unreachable":
                    raise
                connection = self._connected(deadline)
                answer = connection.request(method, path, deadline, body, headers, self._max_bytes)
            if 300 <= answer.status < 400:
                raise TransportError("redirect", f"{self._origin} redirects, which is not followed")
            return answer

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, deadline: Deadline) -> Connection:
        return Connection.open(self._origin, self._context, deadline)

    def _connected(self, deadline: Deadline) -> Connection:
        """A connection to the attested key, kept or new. If there is no such key yet, or the root CA is pinned and the key is
        another one, the server of the new connection is verified first."""
        if self._is_verified and self._connection is not None and self._connection.is_usable():
            return self._connection
        # Twice, because a server may close the connection on which it was verified.
        for _ in range(2):
            self._drop()
            connection = self._open(deadline)
            try:
                was_verified = self._admit(connection, deadline)
            except BaseException:
                connection.close()
                raise
            if was_verified or connection.is_usable():
                self._connection = connection
                return connection
            connection.close()
        raise TransportError("unreachable", f"{self._origin} closes its connections")

    def _admit(self, connection: Connection, deadline: Deadline) -> bool:
        """Requires that this connection ends at the attested key. Returns whether it did without a verification."""
        known = self._attestation
        if known is not None:
            shown = connection.spki_sha256()
            is_same = hmac.compare_digest(shown, known.statement.rpc_spki_sha256)
            if is_same and self._is_verified:
                return True
            if not is_same and ROOT_PIN not in self._pins:
                raise _changed()
        self._attestation = self._verified(connection, deadline)
        self._is_verified = True
        return False

    def _verified(self, connection: Connection, deadline: Deadline) -> Attestation:
        """Verifies the server of this connection, of which nothing is known yet. Sends it a nonce and nothing else."""
        nonce = secrets.token_hex(32)
        while True:
            answer = connection.request("GET", f"/attestation.json?nonce={nonce}", deadline)
            wait = _retry_after(answer)
            if wait is None or wait >= deadline.remaining():
                break
            time.sleep(wait)
        if answer.status != 200:
            raise TransportError(
                "status", f"/attestation.json answered {answer.status}: {answer.text[:200]!r}"
            )
        attestation = verify(
            answer.body, self._pins, nonce=nonce, tcb_statuses=self._tcb_statuses, root_ca=self._root_ca
        )
        attestation.check_tls_key(connection.spki())
        return attestation


def _retry_after(answer: Response) -> Optional[int]:
    """How many seconds a KMS that makes too many quotes asks to wait."""
    seconds = answer.headers.get("retry-after", "")
    return int(seconds) if answer.status == 429 and re.fullmatch(r"[1-9]\d{0,3}", seconds, re.ASCII) else None


def _changed() -> KeyMismatchError:
    return KeyMismatchError(
        "tls_key",
        "the server has another TLS key than the one that was attested, and no root CA is pinned; connect again to verify it",
    )


def _call_error(name: str, answer: Response) -> CallError:
    message, code, denial = answer.text[:400], None, None
    try:
        found = answer.json()
    except TransportError:
        found = None
    if isinstance(found, dict):
        message = str(found.get("error", message))[:400]
        code = found.get("code") if isinstance(found.get("code"), str) else None
        denial = found.get("denial_id") if isinstance(found.get("denial_id"), str) else None
    return CallError(f"{name} answered {answer.status}: {message}", answer.status, code, denial)


def connect(
    target: str,
    pins: Optional[PinsLike] = None,
    *,
    base: str = _release.BASE,
    tcb_statuses: Collection[str] = UP_TO_DATE,
    root_ca: Optional[bytes] = None,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_RESPONSE,
) -> Session:
    """Verifies a KMS and returns a session with it.

    Args:
        target: `https://host[:port]`, or `owner/repo`: then the newest release of that repository says where the KMS is and
            what to pin.
        pins: names and values that the KMS must prove; needed with a URL. With `owner/repo` they are added to the release's,
            and a value that contradicts it is an error.
        base: where repositories are.
        tcb_statuses: accepted TCB statuses by Intel's names.
        root_ca: another root than Intel's (DER or PEM), for simulated platforms.
        timeout: seconds for each request with all that it needs, such as a new connection. Only the look-up of the host's
            name can take longer.
        max_bytes: the largest answer.

    Raises:
        PinsError: an argument is wrong, or no pin identifies the KMS.
        ReleaseError: the release does not describe a KMS.
        VerificationError: the KMS does not prove what is pinned.
        KeyMismatchError: the TLS connection does not end at the attested key.
        TransportError: there is no answer.
    """
    if not 0 < timeout <= 3600:
        raise PinsError("argument", "timeout must be more than 0 and at most 3600 seconds")
    if not 0 < max_bytes <= 1 << 30:
        raise PinsError("argument", "max_bytes must be from 1 to 2^30")
    if _release.is_repository(target):
        release = _release.fetch(target, base, Deadline(timeout))
        wanted = release.pins
        if pins is not None:
            wanted = wanted.with_more(Pins.parse(pins, must_identify=False))
        endpoints = release.endpoints
    else:
        endpoints = (str(Origin.parse(target)),)
        if pins is None:
            raise PinsError("no_pin", "pins are needed with a URL")
        wanted = Pins.parse(pins)
    return _first(endpoints, wanted, tcb_statuses, root_ca, timeout, max_bytes)


def _first(
    endpoints: Collection[str],
    pins: Pins,
    tcb_statuses: Collection[str],
    root_ca: Optional[bytes],
    timeout: float,
    max_bytes: int,
) -> Session:
    """A session with the first endpoint that answers. One that answers and does not prove the pins ends the search, because
    that is for a person to see."""
    last: Optional[TransportError] = None
    for endpoint in endpoints:
        session = Session(
            Origin.parse(endpoint),
            pins,
            tcb_statuses=tcb_statuses,
            root_ca=root_ca,
            timeout=timeout,
            max_bytes=max_bytes,
        )
        try:
            session.attest()
            return session
        except TransportError as error:
            last = error
    if last is None:
        raise PinsError("argument", "there is no endpoint")
    raise last
