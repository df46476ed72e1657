"""Strict JSON."""

import unittest

from cvm_kms import _json


class Json(unittest.TestCase):
    def test_texts_with_one_meaning_are_read(self) -> None:
        for text, expected in [
            (b'{"a": [1, -2, 1.5, "x", true, null]}', {"a": [1, -2, 1.5, "x", True, None]}),
            (b'"\\ud83d\\ude00 \xc3\xa9"', "\U0001f600 é"),
            (b'{"a": {"a": 1}, "b": {"a": 1}}', {"a": {"a": 1}, "b": {"a": 1}}),
            (b"18446744073709551615", 2**64 - 1),
        ]:
            self.assertEqual(_json.parse(text), expected)

    def test_others_are_refused(self) -> None:
        for text in [
            b"",
            b"{",
            b"{} {}",
            b"{'a': 1}",
            b'{"a": 1, "a": 1}',
            b'{"a": 1, "\\u0061": 2}',
            b'[{"b": {"a": 1, "a": 2}}]',
            b"NaN",
            b"[Infinity]",
            b"[-Infinity]",
            b"1e999",
            b"[1" + b"0" * 100 + b"]",
            b"1." + b"0" * 100,
            b'"\xff"',
            b'"\xc3"',
            b'"\\ud800"',
            b'{"\\udc00": 1}',
            b'["\\ud83d", "\\ude00"]',
            b'"\x01"',
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\x00}\x00",
            b"[" * 200_000,
            b'{"a":' * 200_000,
        ]:
            with self.subTest(text=text[:40]), self.assertRaises(_json.JsonError):
                _json.parse(text)

    def test_a_repeated_key_behind_many_others_is_found_in_one_pass(self) -> None:
        # The most that an answer has room for; comparing each with each would take minutes.
        others = "".join(f'"{number:x}":0,' for number in range(100_000))
        with self.assertRaises(_json.DuplicateKeyError) as caught:
            _json.parse("{" + others + '"z":0,"z":0}')
        self.assertIn("'z'", str(caught.exception))

    def test_a_repeated_key_is_told_apart_from_other_faults(self) -> None:
        for text, expected in [
            (b'{"a": 1, "a": 1}', True),
            (b'[{"b": {"a": 1, "\\u0061": 2}}]', True),
            (b'{"a": 1, "a": 1} x', False),
            (b'{"a": 1, "a": NaN}', False),
        ]:
            with self.subTest(text=text), self.assertRaises(_json.JsonError) as caught:
                _json.parse(text)
            self.assertEqual(isinstance(caught.exception, _json.DuplicateKeyError), expected)


if __name__ == "__main__":
    unittest.main()
