"""`cvm-kms-release.json`: where a KMS is, and its pins, as a release asset of a repository."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Optional, Tuple
from urllib.parse import urljoin

from . import _json
from ._errors import PinsError, ReleaseError, TransportError
from ._pins import Pins
from ._transport import Connection, Deadline
from ._url import Origin, split_url

BASE = "https://github.com"
ASSET = "cvm-kms-release.json"
MAX_BYTES = 64 * 1024
MAX_REDIRECTS = 5
MAX_ENDPOINTS = 16

_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/(?!\.\.?$)[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Release:
    """A release: its URLs in order of preference, and the pins."""

    endpoints: Tuple[str, ...]
    pins: Pins


def is_repository(target: str) -> bool:
    """Whether this is `owner/repo`."""
    return bool(_REPOSITORY.fullmatch(target))


def parse(data: bytes) -> Release:
    """A release of version 1. Fields that this client does not know are ignored; pins that it does not know are an error.

    Raises:
        ReleaseError: with the reason.
    """
    try:
        found = _json.parse(data)
        if not isinstance(found, dict) or type(found.get("version")) is not int or found["version"] != 1:
            raise ReleaseError("release", f"{ASSET} is not an object of version 1")
        endpoints = found.get("endpoints")
        if not isinstance(endpoints, list) or not 1 <= len(endpoints) <= MAX_ENDPOINTS:
            raise ReleaseError("release", f"{ASSET} must have 1 to {MAX_ENDPOINTS} endpoints")
        origins = tuple(str(Origin.parse(endpoint)) for endpoint in endpoints)
        return Release(origins, Pins.parse(found.get("pins", {})))
    except (_json.JsonError, PinsError) as error:
        raise ReleaseError("release", f"{ASSET}: {error}") from error


def _place(url: str) -> Tuple[Origin, str]:
    """Origin and path of a URL that a release may be fetched from.

    Raises:
        PinsError: `argument`.
    """
    origin, path = split_url(url, ("https", "http"))
    if origin.scheme == "http" and not origin.is_loopback:
        raise PinsError("argument", "a release is fetched over https, over http only from this machine")
    return origin, path


def fetch(repository: str, base: str, deadline: Deadline) -> Release:
    """The newest release of a repository: `<base>/owner/repo/releases/latest/download/cvm-kms-release.json`.

    The certificate of each server must chain to a CA of this machine. Redirects are followed, to https only.

    Raises:
        ReleaseError: the answer is not a release.
        TransportError: there is no answer.
        PinsError: `argument`, if the base is not https, or http of this machine.
    """
    if "?" in split_url(base, ("https", "http"))[1]:
        raise PinsError("argument", "the base of repositories must not have a query")
    url = f"{base.rstrip('/')}/{repository}/releases/latest/download/{ASSET}"
    origin, path = _place(url)
    for _ in range(MAX_REDIRECTS + 1):
        context: Optional[ssl.SSLContext] = ssl.create_default_context() if origin.scheme == "https" else None
        connection = Connection.open(origin, context, deadline)
        try:
            answer = connection.request("GET", path or "/", deadline, max_bytes=MAX_BYTES)
        finally:
            connection.close()
        if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
            try:
                url = urljoin(url, answer.headers["location"])
                target, path = _place(url)
            except ValueError as error:
                raise TransportError(
                    "redirect", f"{origin} redirects to what cannot be fetched: {error}"
                ) from error
            if (origin.scheme, target.scheme) == ("https", "http"):
                raise TransportError("redirect", f"{origin} redirects from https to http")
            origin = target
            continue
        if answer.status != 200:
            raise TransportError("status", f"{origin} answered {answer.status} instead of the release")
        return parse(answer.body)
    raise TransportError("redirect", f"more than {MAX_REDIRECTS} redirects to the release")
