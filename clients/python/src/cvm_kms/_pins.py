"""Pins: the values that a KMS must prove."""

from __future__ import annotations

import re
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple, Union

from ._errors import PinsError

# The pins, and how many bytes their values have, in lower-case hexadecimal; `None` is text.
_WIDTHS: Dict[str, Optional[int]] = {
    "root_ca_spki_sha256": 32,
    "k256_public_key": 33,
    "mr_aggregated": 32,
    "os_image_hash": 32,
    "compose_hash": 32,
    "app_id": 20,
    "log_key": None,
    "policy_digest": 32,
}
NAMES = tuple(_WIDTHS)
# Those that say alone which KMS is meant. Of the others, a KMS of anyone can have the same.
IDENTIFYING = ("root_ca_spki_sha256", "mr_aggregated")

MAX_VALUES = 256
MAX_TEXT = 1024

_HEX = re.compile(r"[0-9a-f]*")


class Pins:
    """Expected values by name; each may have several, of which one must be shown.

    `Pins.parse` is the only way to make one: it refuses unknown names, values of another form, and pins that do not
    identify a KMS.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, FrozenSet[str]]) -> None:
        self._values: Dict[str, FrozenSet[str]] = dict(values)

    @classmethod
    def parse(cls, pins: "PinsLike", *, must_identify: bool = True) -> "Pins":
        """Pins from a mapping of names to a text or a list of texts, as in `cvm-kms-release.json`.

        Args:
            pins: the mapping.
            must_identify: whether a pin that identifies the KMS must be among them; not for additions to others.

        Raises:
            PinsError: with the name that is wrong.
        """
        parsed = pins if isinstance(pins, Pins) else cls._read(pins)
        if must_identify and not any(name in parsed for name in IDENTIFYING):
            needed = " or ".join(IDENTIFYING)
            raise PinsError("no_pin", f"nothing says which KMS is meant: pin {needed}")
        return parsed

    @classmethod
    def _read(cls, pins: Any) -> "Pins":
        if not isinstance(pins, Mapping):
            raise PinsError("bad_pins", "pins must be a mapping of names to values")
        values: Dict[str, FrozenSet[str]] = {}
        for name, value in pins.items():
            if name not in _WIDTHS:
                known = ", ".join(NAMES)
                raise PinsError("bad_pins", f"unknown pin {str(name)[:64]!r}; known are {known}")
            values[name] = frozenset(_value(name, one) for one in _list(name, value))
        return cls(values)

    def items(self) -> List[Tuple[str, FrozenSet[str]]]:
        """Names and allowed values, in the order of `NAMES`."""
        return [(name, self._values[name]) for name in NAMES if name in self._values]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> FrozenSet[str]:
        return self._values[name]

    def with_more(self, other: "Pins") -> "Pins":
        """These pins and others. A name that both have allows what both allow.

        Raises:
            PinsError: if that is nothing.
        """
        values = dict(self._values)
        for name, allowed in other.items():
            values[name] = values.get(name, allowed) & allowed
            if not values[name]:
                raise PinsError("bad_pins", f"the pin {name} of the release is not the one given here")
        return Pins(values)


def _list(name: str, value: Any) -> List[Any]:
    found = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if not 1 <= len(found) <= MAX_VALUES:
        raise PinsError("bad_pins", f"the pin {name} must have 1 to {MAX_VALUES} values, got {len(found)}")
    return found


def _value(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise PinsError("bad_pins", f"a value of the pin {name} is not text")
    width = _WIDTHS[name]
    if width is None:
        if not 1 <= len(value) <= MAX_TEXT:
            raise PinsError("bad_pins", f"the pin {name} must have 1 to {MAX_TEXT} characters")
    elif len(value) != 2 * width or not _HEX.fullmatch(value):
        raise PinsError("bad_pins", f"the pin {name} must be {2 * width} lower-case hexadecimal digits")
    return value


PinsLike = Union[Mapping[str, Any], Pins]
