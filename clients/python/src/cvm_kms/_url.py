"""URLs: where a KMS or a release is."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Tuple
from urllib.parse import urlsplit

from ._errors import PinsError

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port of a URL."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str, schemes: Tuple[str, ...] = ("https",)) -> "Origin":
        """The origin of a URL that is nothing else.

        Raises:
            PinsError: `argument`.
        """
        origin, path = split_url(url, schemes)
        if path not in ("", "/"):
            raise PinsError("argument", f"the URL must be {origin} without a path")
        return origin

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"https": 443, "http": 80}[self.scheme]
        return f"{self.scheme}://{host}" if self.port == default else f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def split_url(url: str, schemes: Tuple[str, ...]) -> Tuple[Origin, str]:
    """Origin and path (with query) of a URL.

    Raises:
        PinsError: `argument`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except (ValueError, AttributeError, TypeError) as error:
        raise PinsError("argument", f"not a URL: {str(url)[:200]!r}") from error
    if not url.isprintable() or " " in url or parts.scheme not in schemes or port == 0:
        wanted = " or ".join(schemes)
        raise PinsError("argument", f"a URL must be {wanted}://host[:port], got {url[:200]!r}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise PinsError("argument", "a URL must not have a user or a fragment")
    if not _HOST.fullmatch(host):
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise PinsError("argument", f"a URL must name a host, got {url[:200]!r}") from error
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return Origin(parts.scheme, host, port or {"https": 443, "http": 80}[parts.scheme]), path
