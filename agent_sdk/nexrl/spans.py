"""A call as an OpenTelemetry span, and back: `call_of(span_of(call)) == call`.

Token ids and logprobs travel as packed bytes; as OTLP arrays they would cost a server 20 times the work.
Written without the SDK, whose exporter drops spans when its queue is full: capture must not.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl import wire
from nexrl.errors import PayloadError
from nexrl.records import Call, Float32s, Int32s, pack, unpack_float32s, unpack_int32s

_CONVENTIONS = {
    "top_p": at.REQUEST_TOP_P,
    "top_k": at.REQUEST_TOP_K,
    "max_new_tokens": at.REQUEST_MAX_TOKENS,
    "frequency_penalty": at.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": at.REQUEST_PRESENCE_PENALTY,
    "sampling_seed": at.REQUEST_SEED,
    "stop": at.REQUEST_STOPS,
}
"""The attributes of sampling parameters that the GenAI conventions name."""
TEXTS = frozenset(
    {at.SESSION, at.PARENT, at.DRIFT, at.AGENT_NAME, at.GROUP, at.REQUEST_MODEL, at.DIALECT, at.RESPONSE_ID, at.POLICY}
)
FLAGS = frozenset({at.EXACT, at.MALFORMED_TOOL_CALL, at.INSTRUCTED, at.STORED, at.OTHER_MODEL})
"""Attributes of a call that hold text, and truth values, wherever they stand."""
_dicts = msgspec.json.Decoder(list[dict[str, Any]])
_dict = msgspec.json.Decoder(dict[str, Any])


def trace_id_of(session: str) -> bytes:
    """Return the 16-byte trace id all spans of a session share unless the caller brought its own trace."""
    return hashlib.sha256(session.encode()).digest()[:16]


def span_of(call: Call, *, prompt_tokens: int) -> Span:
    """Return the call as a span."""
    return Span.FromString(span_bytes(call, prompt_tokens=prompt_tokens))


def span_bytes(call: Call, *, prompt_tokens: int, trace_id: bytes | None = None, parent_span: bytes = b"") -> bytes:
    """Return the call as a serialised span.

    `prompt_tokens` is the whole prompt's length, `trace_id` (16 bytes) and `parent_span` (8 bytes) the caller's trace.
    """
    values: dict[str, Any] = {
        at.CONVERSATION: call.session,
        at.RESPONSE_ID: call.response,
        at.INPUT_TOKENS: prompt_tokens,
        at.OUTPUT_TOKENS: len(call.completion),
        at.INPUT_MESSAGES: msgspec.json.encode(call.messages).decode(),
        at.OUTPUT_MESSAGES: msgspec.json.encode([call.reply]).decode(),
        at.SESSION: call.session,
        at.PROMPT_DELTA: pack(call.prompt_delta),
        at.COMPLETION: pack(call.completion),
        at.LOGPROBS: pack(call.logprobs),
        at.WEIGHT_VERSIONS: pack(run_lengths(call.weight_versions)),
    }
    optional: dict[str, Any] = {
        at.PARENT: call.parent,
        at.DRIFT: call.drift,
        at.AGENT_NAME: call.agent,
        at.GROUP: call.group,
        at.SAMPLING: msgspec.json.encode(call.sampling).decode() if call.sampling else None,
        at.INSTRUCTED: call.instructed or None,
        at.STORED: call.stored or None,
        at.OTHER_MODEL: call.other_model or None,
        at.POLICY: call.policy or None,
        at.TEMPLATE: msgspec.json.encode(call.template).decode() if call.template else None,
        at.TOOL_DEFINITIONS: None if call.tools is None else msgspec.json.encode(call.tools).decode(),
    }
    optional |= {name: call.sampling[param] for param, name in _CONVENTIONS.items() if param in call.sampling}
    values |= {name: value for name, value in optional.items() if value is not None}
    return wire.span(
        trace_id=trace_id or trace_id_of(call.session),
        span_id=bytes.fromhex(call.id),
        parent_span_id=parent_span,
        name=f"{_operation(call.dialect)} {call.model}",
        start_ns=call.started_ns,
        end_ns=call.ended_ns,
        attributes=_common(
            call.dialect, call.model, float(call.temperature), call.finish_reason, call.exact, call.malformed_tool_call
        )
        + wire.span_attributes(values),
    )


def _operation(dialect: str) -> str:
    return "text_completion" if dialect == "completions" else "chat"


@lru_cache(maxsize=1024)
def _common(dialect: str, model: str, temperature: float, finish: str, exact: bool, malformed: bool) -> bytes:
    """Return the attributes that calls have in common; most of a run's have all of them."""
    return wire.span_attributes(
        {
            at.OPERATION: _operation(dialect),
            at.PROVIDER: "nexrl",
            at.REQUEST_MODEL: model,
            at.REQUEST_TEMPERATURE: temperature,
            at.FINISH_REASONS: [finish],
            at.DIALECT: dialect,
            at.EXACT: exact,
            at.MALFORMED_TOOL_CALL: malformed,
        }
    )


def call_of(span: Span) -> Call:
    """Return the call a span holds.

    Raises PayloadError where the span is no model call of the proxy's, or its token payload does not fit together.
    """
    values = attributes_of(span)
    if at.SESSION not in values or at.COMPLETION not in values:
        raise PayloadError(f"span {span.span_id.hex()} ({span.name!r}) is not a model call recorded by the proxy")
    try:
        call = _decode(span, values)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise PayloadError(f"span {span.span_id.hex()}: {type(error).__name__}: {error}") from error
    if call.exact and not len(call.completion) == len(call.logprobs) == len(call.weight_versions):
        counts = f"{len(call.completion)} ids, {len(call.logprobs)} logprobs, {len(call.weight_versions)} versions"
        raise PayloadError(f"span {call.id}: {counts}; an exact call has as many of each")
    return call


def attributes_of(span: Span) -> dict[str, Any]:
    """Return a span's attributes as Python values."""
    return {item.key: python_value(item.value) for item in span.attributes}


def python_value(value: AnyValue) -> Any:
    """Return an OTLP value as the Python value it stands for."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind is None:
        return None
    if kind == "array_value":
        return [python_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: python_value(item.value) for item in value.kvlist_value.values}
    return getattr(value, kind)


def run_lengths(versions: Int32s) -> Int32s:
    """Code versions as (first index, version) pairs. Example: 4 4 5 -> 0 4 2 5."""
    if versions == versions[:1] * len(versions):  # as nearly always
        return Int32s((0, *versions[:1])) if versions else Int32s()
    pairs = Int32s()
    for index, version in enumerate(versions):
        if not pairs or pairs[-1] != version:
            pairs.extend((index, version))
    return pairs


def expand(pairs: Int32s, length: int) -> Int32s:
    """Undo `run_lengths` for `length` tokens; raises ValueError where the pairs do not start at 0 and ascend."""
    starts = [*pairs[0::2], length]
    if len(pairs) % 2 or (length and not pairs) or starts != sorted(starts) or (pairs and starts[0] != 0):
        raise ValueError(f"run lengths {list(pairs)} do not cover {length} tokens")
    versions = Int32s()
    for start, end, version in zip(starts, starts[1:], pairs[1::2], strict=False):
        versions.extend(Int32s((version,)) * (end - start))
    return versions


def _decode(span: Span, values: Mapping[str, Any]) -> Call:
    for name, value in values.items():
        if (name in TEXTS and not isinstance(value, str)) or (name in FLAGS and not isinstance(value, bool)):
            raise TypeError(f"{name} is of type {type(value).__name__}")
    reason = values[at.FINISH_REASONS][0]
    if not isinstance(reason, str):
        raise TypeError(f"{at.FINISH_REASONS} holds a {type(reason).__name__}")
    completion = unpack_int32s(values[at.COMPLETION])
    return Call(
        id=span.span_id.hex(),
        session=values[at.SESSION],
        parent=values.get(at.PARENT),
        prompt_delta=unpack_int32s(values[at.PROMPT_DELTA]),
        completion=completion,
        logprobs=unpack_float32s(values[at.LOGPROBS]) if at.LOGPROBS in values else Float32s(),
        weight_versions=expand(unpack_int32s(values[at.WEIGHT_VERSIONS]), len(completion)),
        temperature=float(values[at.REQUEST_TEMPERATURE]),
        finish_reason=reason,
        sampling=_dict.decode(values.get(at.SAMPLING, "{}")),
        template=_dict.decode(values.get(at.TEMPLATE, "{}")),
        instructed=bool(values.get(at.INSTRUCTED)),
        stored=bool(values.get(at.STORED)),
        exact=values[at.EXACT],
        other_model=bool(values.get(at.OTHER_MODEL)),
        policy=values.get(at.POLICY, ""),
        drift=values.get(at.DRIFT),
        agent=values.get(at.AGENT_NAME),
        group=values.get(at.GROUP),
        model=values[at.REQUEST_MODEL],
        dialect=values[at.DIALECT],
        response=values[at.RESPONSE_ID],
        messages=_dicts.decode(values[at.INPUT_MESSAGES]),
        tools=_dicts.decode(values[at.TOOL_DEFINITIONS]) if at.TOOL_DEFINITIONS in values else None,
        reply=_dicts.decode(values[at.OUTPUT_MESSAGES])[0],
        malformed_tool_call=values[at.MALFORMED_TOOL_CALL],
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
    )
