"""OpenTelemetry's GenAI semantic conventions.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from typing import Any

from nexrl import attributes as at
from nexrl_ingest.steps.step import Kind, Meaning, Usage
from nexrl_ingest.steps.values import Attributes, count, first, text

KINDS: dict[str, Kind] = {
    "chat": "llm",
    "text_completion": "llm",
    "generate_content": "llm",
    "embeddings": "embedding",
    "retrieval": "retriever",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "invoke_workflow": "chain",
}


def meaning(attributes: Attributes) -> Meaning | None:
    """Return what the span says, None where it does not follow this convention."""
    if not (operation := text(attributes, at.OPERATION)):
        return None
    kind = KINDS.get(operation, "other")
    return Meaning(
        kind=kind,
        name=text(attributes, "gen_ai.tool.name") if kind == "tool" else text(attributes, at.AGENT_NAME),
        model=text(attributes, at.REQUEST_MODEL, "gen_ai.response.model"),
        input=_input(attributes),
        output=_messages(first(attributes, at.OUTPUT_MESSAGES, "gen_ai.tool.call.result")),
        usage=usage(attributes),
    )


def usage(attributes: Attributes) -> Usage | None:
    """Return the tokens used, under their present names or those of older versions."""
    taken = count(attributes, at.INPUT_TOKENS, "gen_ai.usage.prompt_tokens")
    given = count(attributes, at.OUTPUT_TOKENS, "gen_ai.usage.completion_tokens")
    return None if taken is None and given is None else Usage(input_tokens=taken, output_tokens=given)


def chat(message: Any) -> Any:
    """Return a message of parts as a chat message; what is none is returned as it is.

    Example: {"role": "user", "parts": [{"type": "text", "content": "hi"}]} => {"role": "user", "content": "hi"}
    """
    if not isinstance(message, dict) or not isinstance(parts := message.get("parts"), list):
        return message
    made = {name: value for name, value in message.items() if name != "parts"}
    parts = [part for part in parts if isinstance(part, dict)]
    for field, kind in (("content", "text"), ("reasoning_content", "reasoning")):
        if texts := [str(part.get("content", "")) for part in parts if part.get("type") == kind]:
            made[field] = "".join(texts)
    if calls := [part for part in parts if part.get("type") == "tool_call"]:
        made["tool_calls"] = [
            {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("arguments")}}
            for call in calls
        ]
    for part in parts:
        if part.get("type") == "tool_call_response":
            made |= {"tool_call_id": part.get("id"), "content": part.get("response", part.get("result"))}
    if rest := [part for part in parts if part.get("type") not in _KNOWN_PARTS]:
        made["parts"] = rest
    return made


_KNOWN_PARTS = {"text", "reasoning", "tool_call", "tool_call_response"}


def _input(attributes: Attributes) -> Any:
    found = _messages(first(attributes, at.INPUT_MESSAGES, "gen_ai.tool.call.arguments"))
    system = first(attributes, "gen_ai.system_instructions")
    if isinstance(system, list) and isinstance(found, list):
        return [chat({"role": "system", "parts": system}), *found]
    return found


def _messages(found: Any) -> Any:
    return [chat(message) for message in found] if isinstance(found, list) else found
