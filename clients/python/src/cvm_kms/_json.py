"""JSON from outside, read strictly: one meaning for each text, or an error."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, List, NoReturn, Optional, Set, Tuple, Union

# A u64 has 20 digits. Longer numbers cost time that grows with the square of their length.
MAX_DIGITS = 32

_SURROGATE = re.compile(r"\\u[dD][89abABcdefCDEF]")


class JsonError(ValueError):
    """The text is not JSON, or has more than one meaning."""


class DuplicateKeyError(JsonError):
    """The text is JSON, and an object in it has a key twice."""


def _refuse(constant: str) -> NoReturn:
    raise JsonError(f"{constant} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _fraction(text: str) -> float:
    value = float(text) if len(text) <= 2 * MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise JsonError("a number is too long or too large")
    return value


class _Objects:
    """Makes objects of their members, and remembers the first key that was there twice."""

    def __init__(self) -> None:
        self.repeated: Optional[str] = None

    def __call__(self, pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs) and self.repeated is None:
            # In one pass: an answer has room for a hundred thousand keys.
            known: Set[str] = set()
            for key, _ in pairs:
                if key in known:
                    self.repeated = key
                    break
                known.add(key)
        return found


def _is_text(value: Any) -> bool:
    """Whether every string in the value has a UTF-8 form: an escape can also name half a character."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, str) and any("\ud800" <= character <= "\udfff" for character in one):
            return False
    return True


def parse(data: Union[bytes, str]) -> Any:
    """The value of a JSON text (RFC 8259).

    Refused are bytes that are not UTF-8, repeated keys, `NaN` and infinities, numbers without a finite value,
    halves of surrogate pairs, and nesting beyond Python's limit.

    Raises:
        DuplicateKeyError: an object has a key twice, and nothing else is wrong.
        JsonError: with the reason.
    """
    objects = _Objects()
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=objects,
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_fraction,
        )
    except UnicodeDecodeError as error:
        raise JsonError("the text is not UTF-8") from error
    except RecursionError as error:
        raise JsonError("the text is nested too deeply") from error
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"the text is not JSON: {error}") from error
    if _SURROGATE.search(text) and not _is_text(value):
        raise JsonError("a string has half of a surrogate pair")
    if objects.repeated is not None:
        raise DuplicateKeyError(f"the key {objects.repeated[:64]!r} is there more than once")
    return value
