"""What is sent on of stored spans: all but their packed bytes, messages in the form that other tools read. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl_ingest.blocks import Found

SESSION_ID = "session.id"
"""What Phoenix and Langfuse group by."""
_WRITTEN = frozenset({at.INPUT_MESSAGES, at.OUTPUT_MESSAGES, at.TOOL_DEFINITIONS})
"""Attributes that hold chat messages or chat tools, which the conventions write in another form."""
_dicts = msgspec.json.Decoder(list[dict[str, Any]])


class Stored(NamedTuple):
    """A span from the log."""

    seq: int
    session: str | None
    found: Found


def request_of(stored: Iterable[Stored]) -> ExportTraceServiceRequest:
    """Return the request that sends spans on, each under the resource and the scope that it came with."""
    request = ExportTraceServiceRequest()
    groups: dict[bytes, Any] = {}
    for item in stored:
        origin = item.found.origin()
        key = origin.SerializeToString(deterministic=True)
        if key not in groups:
            group = request.resource_spans.add()
            group.CopyFrom(origin)
            groups[key] = group.scope_spans[0]
        groups[key].spans.append(sendable(item.found.span, item.session))
    return request


def sendable(span: Span, session: str | None) -> Span:
    """Return the span without attributes of bytes (Phoenix loses spans that have any), named by session.

    Messages are those of this call alone: what its parent call had is not repeated.
    """
    sent = Span()
    sent.CopyFrom(span)
    sent.DiscardUnknownFields()
    del sent.attributes[:]
    reason = _finish_reason(span)
    sent.attributes.extend(_readable(item, reason) for item in span.attributes if not _has_bytes(item.value))
    if session and not any(item.key == SESSION_ID for item in span.attributes):
        sent.attributes.append(KeyValue(key=SESSION_ID, value=AnyValue(string_value=session)))
    return sent


def parts_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return a chat message in the parts of the GenAI conventions; one that has parts is returned as it is.

    Example: {"role": "user", "content": "hi"} => {"role": "user", "parts": [{"type": "text", "content": "hi"}]}
    """
    if "parts" in message:
        return message
    content, calls = message.get("content"), message.get("tool_calls")
    parts: list[Any] = []
    if reasoning := message.get("reasoning_content"):
        parts.append({"type": "reasoning", "content": reasoning})
    if message.get("role") == "tool":
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content})
    elif isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    elif isinstance(content, list):
        parts.extend(map(_part, content))
    parts.extend(map(_call, calls if isinstance(calls, list) else ()))
    return {"role": message.get("role", "user"), "parts": parts}


def _part(item: Any) -> Any:
    if isinstance(item, dict) and item.get("type") == "text":
        return {"type": "text", "content": item.get("text", "")}
    return item


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return {"type": "tool_call", "name": "", "arguments": call}
    return {
        "type": "tool_call",
        "id": call.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def _readable(item: KeyValue, finish_reason: str) -> KeyValue:
    if item.key not in _WRITTEN:
        return item
    try:
        given = _dicts.decode(item.value.string_value)
    except (msgspec.DecodeError, RecursionError):
        return item
    match item.key:
        case at.INPUT_MESSAGES:
            made = [parts_of(message) for message in given]
        case at.OUTPUT_MESSAGES:
            made = [{"finish_reason": finish_reason} | parts_of(message) for message in given]
        case _:
            made = [_definition(tool) for tool in given]
    return KeyValue(key=item.key, value=AnyValue(string_value=msgspec.json.encode(made).decode()))


def _definition(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a chat tool as the conventions write it: what stands under `function` beside the type."""
    function = tool.get("function")
    return {"type": tool.get("type", "function")} | function if isinstance(function, dict) else tool


def _finish_reason(span: Span) -> str:
    found = (item.value.array_value.values for item in span.attributes if item.key == at.FINISH_REASONS)
    return next((values[0].string_value for values in found if values), "")


def _has_bytes(value: AnyValue) -> bool:
    match value.WhichOneof("value"):
        case "bytes_value":
            return True
        case "array_value":
            return any(map(_has_bytes, value.array_value.values))
        case "kvlist_value":
            return any(_has_bytes(item.value) for item in value.kvlist_value.values)
        case _:
            return False
