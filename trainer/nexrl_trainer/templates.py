"""Texts with fields of a row in them."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_NAME = re.compile(r"(\{+)(\w+)(\}+)")


def fill(template: str, fields: Mapping[str, Any]) -> str:
    """Put fields in place of their `{name}`s; raises KeyError with the name of one that is not there.

    Doubled braces around a name are single ones that stand for themselves, as in Python's format strings; braces around
    anything else always do. Text is put in as it is, anything else as JSON.

    Example: fill('{a} {{a}} {{{a}}} {"x": {}}', {"a": 1}) -> '1 {a} {1} {"x": {}}'
    """

    def look_up(match: re.Match[str]) -> str:
        opening, name, closing = match.groups()
        paired = min(len(opening), len(closing))
        kept = paired // 2
        value = _written(fields[name]) if paired % 2 else name
        left = "{" * (len(opening) - paired + kept)
        return left + value + "}" * (kept + len(closing) - paired)

    return _NAME.sub(look_up, template)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
