"""OpenInference, the convention of Phoenix: one attribute per field of every message.

Source: https://github.com/Arize-ai/openinference/blob/main/spec/semantic_conventions.md
"""

from typing import Any

from nexrl_ingest.steps.step import Kind, Meaning, Usage
from nexrl_ingest.steps.values import Attributes, count, first, listed, text

SPAN_KIND = "openinference.span.kind"
KINDS: dict[str, Kind] = {
    "LLM": "llm",
    "TOOL": "tool",
    "AGENT": "agent",
    "CHAIN": "chain",
    "RETRIEVER": "retriever",
    "EMBEDDING": "embedding",
}


def meaning(attributes: Attributes) -> Meaning | None:
    """Return what the span says, None where it does not follow this convention."""
    if not (kind := text(attributes, SPAN_KIND)):
        return None
    taken, given = count(attributes, "llm.token_count.prompt"), count(attributes, "llm.token_count.completion")
    return Meaning(
        kind=KINDS.get(kind.upper(), "other"),
        name=text(attributes, "tool.name", "agent.name", "graph.node.name"),
        model=text(attributes, "llm.model_name", "embedding.model_name"),
        input=_messages(attributes, "llm.input_messages") or first(attributes, "input.value", "tool.parameters"),
        output=_messages(attributes, "llm.output_messages")
        or first(attributes, "output.value")
        or _inside(listed(attributes, "retrieval.documents"), "document")
        or None,
        usage=None if taken is None and given is None else Usage(input_tokens=taken, output_tokens=given),
    )


def _messages(attributes: Attributes, prefix: str) -> list[Any]:
    return [_message(item) for item in _inside(listed(attributes, prefix), "message")]


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    calls, contents = message.get("tool_calls"), message.pop("contents", None)
    if isinstance(calls, list):
        message["tool_calls"] = _inside(calls, "tool_call")
    if isinstance(contents, list):
        message.setdefault("content", _inside(contents, "message_content"))
    return message


def _inside(items: list[Any], name: str) -> list[Any]:
    """Take each item out of the one-field object that it is wrapped in."""
    return [item[name] if isinstance(item, dict) and name in item else item for item in items]
