"""Judges of numbers and of mathematics."""

import contextlib
import logging
import re
from fractions import Fraction

from nexrl.errors import RewardError
from nexrl.rewards.judges.missing import package

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_FRACTION = r"\d+\s?/\s?\d+(?![\d/]|\.\d)"
# Exponents of three digits at most: exact numbers with larger ones fill the memory.
_NUMBER = re.compile(rf"(?<![\w.])[-+]?(?:{_FRACTION}|(?:{_DIGITS})(?:[eE][-+]?\d{{1,3}}(?!\d))?)")


def last_number(text: str) -> Fraction | None:
    """Return the last number in a text, exactly; None where there is none.

    Example: "5 - 3 = 2, so 1,234.50" -> 2469/2; "3/4" -> 3/4; "no idea" -> None
    """
    for found in reversed(_NUMBER.findall(text)):
        # "1/0" looks like a number and is none; Python reads no integer of more than 4,300 digits.
        with contextlib.suppress(ZeroDivisionError, ValueError):
            return Fraction(re.sub(r"[,\s]", "", found))
    return None


def numbers_equal(answer: str, expected: str | float, *, relative: float = 1e-6) -> bool:
    """Whether the last number of the answer is the expected one, up to a relative difference.

    Raises RewardError where `expected` is a text without a number: the task is wrong, not the answer.

    Example: numbers_equal("That makes 0.75.", "3/4") -> True
    """
    right = last_number(expected) if isinstance(expected, str) else Fraction(expected)
    if right is None:
        raise RewardError(f"expected {expected!r}: there is no number in it")
    given = last_number(answer)
    return given is not None and abs(given - right) <= Fraction(relative) * max(abs(given), abs(right))


def math_equal(answer: str, expected: str) -> bool:
    r"""Whether the answer ends in what equals `expected`: numbers, LaTeX, sets, intervals, equations (math-verify).

    An answer in `\boxed{}` counts before others. Hard comparisons take long: leave the function in its process, which
    is killed after its `timeout_s`. Raises RewardError where `expected` cannot be read as mathematics.

    Example: math_equal(r"Hence $x = \frac{1}{2}$.", "0.5") -> True
    """
    math_verify = package("math_verify", "math-verify[antlr4_13_2]")
    # Its own time limits are signals, which only a main thread can have; ours hold anywhere. It warns of that.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    readings = (math_verify.parse(text, parsing_timeout=None) for text in (expected, f"${expected}$"))
    right = next(filter(None, readings), None)
    if right is None:
        raise RewardError(f"expected {expected!r}: it cannot be read as mathematics; write LaTeX between $ and $")
    given = math_verify.parse(answer, parsing_timeout=None)
    return bool(math_verify.verify(right, given, timeout_seconds=None))
