"""Arguments that a format writes as bare text, as JSON of the types that the tool's schema gives them.

Where the format holds no JSON something must be decided. A value that may be a string and nothing else is one. A value
of other types is taken as it is spelled, if that is JSON; Python's True, False and None are read as what they mean;
what then does not fit stays a string, for the agent to refuse. Without a schema a number, boolean, null, array or
object is taken for what it looks like, and everything else for a string.
"""

from typing import Any

import msgspec

from nexrl_proxy.parsers import Tools
from nexrl_proxy.parsers.scan import SPACE
from nexrl_proxy.parsers.written import UNREADABLE, quoted

ANY = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_DEEPEST = 8


def arguments_of(pairs: dict[str, str], types: dict[str, frozenset[str]]) -> str:
    """Return a call's arguments as a JSON object."""
    items = (f"{quoted(name)}: {spelled(value, types.get(name, ANY))}" for name, value in pairs.items())
    return "{" + ", ".join(items) + "}"


def spelled(value: str, types: frozenset[str]) -> str:
    """Return one value as JSON, given the JSON types its schema allows."""
    bare = value.strip(SPACE)
    spelling = _PYTHON.get(bare, bare)
    kind = _kind(spelling)
    fits = kind in types or (kind == "integer" and "number" in types) or "string" not in types
    return spelling if kind and kind != "string" and fits else quoted(value)


def types_of(tools: Tools, name: str) -> dict[str, frozenset[str]]:
    """Return the JSON types of each parameter of the tool `name`; empty where nothing is known of it."""
    for tool in tools or ():
        described = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(described, dict) and described.get("name") == name:
            schema: Any = described.get("parameters") or described.get("input_schema")
            properties: Any = schema.get("properties") if isinstance(schema, dict) else None
            known = properties if isinstance(properties, dict) else {}
            return {key: _types(value, schema, _DEEPEST) for key, value in known.items()}
    return {}


def _types(schema: Any, root: dict[str, Any], depth: int) -> frozenset[str]:
    match schema:
        case {"$ref": str(reference)} if depth:
            return _types(_followed(root, reference), root, depth - 1)
        case {"type": str() | [*_] as named}:
            return frozenset([named] if isinstance(named, str) else map(str, named))
        case {"enum": [*values]} | {"const": values}:
            allowed = values if "enum" in schema else [values]
            return frozenset(_kind(msgspec.json.encode(value).decode()) or "string" for value in allowed)
        case {"allOf": [*branches]} if depth:
            return frozenset.intersection(ANY, *(_types(branch, root, depth - 1) for branch in branches))
        case {"anyOf": [*branches]} | {"oneOf": [*branches]} if depth:
            return frozenset[str]().union(*(_types(branch, root, depth - 1) for branch in branches))
        case _:
            return ANY


def _followed(root: dict[str, Any], reference: str) -> Any:
    """Return what a reference inside the schema points at; None where it leads out of it."""
    place: Any = root
    for step in reference.removeprefix("#/").split("/"):
        place = place.get(step) if isinstance(place, dict) else None
    return place


def _kind(text: str) -> str | None:
    """Return the JSON type of a spelled value; None where it is no JSON."""
    try:
        value = msgspec.json.decode(text)
    except UNREADABLE:
        return None
    whole = isinstance(value, float) and value.is_integer()
    return "integer" if whole else _KINDS[type(value)]
