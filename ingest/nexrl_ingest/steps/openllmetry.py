"""OpenLLMetry, the convention of Traceloop: `traceloop.*` for what agents do, numbered `gen_ai.prompt.*` for messages.

Its later versions write the GenAI conventions for calls of models; those are read in `genai.py`.
Source: https://github.com/traceloop/openllmetry
"""

from typing import Any

from nexrl_ingest.steps.genai import usage
from nexrl_ingest.steps.step import Kind, Meaning
from nexrl_ingest.steps.values import Attributes, first, listed, text

SPAN_KIND, REQUEST_TYPE = "traceloop.span.kind", "llm.request.type"
KINDS: dict[str, Kind] = {
    "workflow": "chain",
    "task": "chain",
    "agent": "agent",
    "tool": "tool",
    "chat": "llm",
    "completion": "llm",
    "embedding": "embedding",
    "rerank": "retriever",
}


def meaning(attributes: Attributes) -> Meaning | None:
    """Return what the span says, None where it does not follow this convention."""
    if not (kind := text(attributes, SPAN_KIND, REQUEST_TYPE)):
        return None
    return Meaning(
        kind=KINDS.get(kind.lower(), "other"),
        name=text(attributes, "traceloop.entity.name"),
        model=text(attributes, "gen_ai.request.model", "gen_ai.response.model"),
        input=_messages(attributes, "gen_ai.prompt") or first(attributes, "traceloop.entity.input"),
        output=_messages(attributes, "gen_ai.completion") or first(attributes, "traceloop.entity.output"),
        usage=usage(attributes),
    )


def _messages(attributes: Attributes, prefix: str) -> list[Any]:
    return [_message(item) for item in listed(attributes, prefix)]


def _message(message: Any) -> Any:
    if isinstance(message, dict) and isinstance(calls := message.get("tool_calls"), list):
        message["tool_calls"] = [_call(call) for call in calls]
    return message


def _call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    return {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("arguments")}}
