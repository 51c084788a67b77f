"""Judges of texts: the same, of a form, of a length. Pure."""

import re
import unicodedata
from collections.abc import Iterable


def exact_match(answer: str, expected: str | Iterable[str], *, case: bool = False) -> bool:
    """Whether the answer is the expected text, or one of several; white space at the ends and in runs does not matter.

    Unicode's compatibility forms are the same (NFKC), and so are capitals unless `case` is set.

    Example: exact_match("  New  York ", ["new york", "nyc"]) -> True
    """
    choices = [expected] if isinstance(expected, str) else expected
    return _plain(answer, case) in {_plain(choice, case) for choice in choices}


def matches(answer: str, pattern: str) -> bool:
    r"""Whether the pattern is found in the answer (`re.search`; `$` and `^` are ends of lines).

    Example: matches("So:\nAnswer: 42", r"^Answer: \d+$") -> True
    """
    return re.search(pattern, answer, re.MULTILINE) is not None


def brevity(length: str | int, *, free: int, limit: int) -> float:
    """1 up to the length `free`, 0 from `limit` on, falling evenly between; a text's length is its characters.

    Example: brevity(150, free=100, limit=200) -> 0.5. Tokens: brevity(sum(len(call.completion) for call in calls), ...)
    """
    size = len(length) if isinstance(length, str) else length
    return min(max((limit - size) / (limit - free), 0.0), 1.0)


def _plain(text: str, case: bool) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    return plain if case else plain.casefold()
