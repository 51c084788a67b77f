"""The grammar of a reply that is JSON after a schema, or calls tools instead.

Pure. A schema alone would forbid the calls, and no schema would promise what nobody keeps. So the reply is either the
JSON or begins a call as the model's format does; what follows there is the model's own, as without a schema. Told to
engines as a structural tag: https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html (SGLang and vLLM have it).
"""

from typing import Any

import msgspec

from nexrl_proxy.parsers.think import Tags

_GAP = {"type": "regex", "pattern": "[ \\n]*"}
_ANYTHING = {"type": "any_text"}


def json_or_call(schema: str, *, call: str, thought: Tags | None, open_thought: bool) -> str:
    """Return the structural tag, as JSON.

    `schema` is JSON itself, `call` the text that begins a call. A reply may think first, between the tags of `thought`;
    with `open_thought` the prompt has opened them.
    """
    called = _sequence([{"type": "const_string", "value": call}, _ANYTHING])
    written = {"type": "json_schema", "json_schema": msgspec.json.decode(schema)}
    reply = [_GAP, {"type": "or", "elements": [written, called]}]
    if thought and open_thought:
        reply = [_tag("", thought.closing), *reply]
    elif thought:
        thinking = _sequence([_GAP, _tag(thought.opening, thought.closing)])
        reply = [{"type": "optional", "content": thinking}, *reply]
    return msgspec.json.encode({"type": "structural_tag", "format": _sequence(reply)}).decode()


def _sequence(elements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "sequence", "elements": elements}


def _tag(begin: str, end: str) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": _ANYTHING, "end": end}
