"""Whether a span surely holds a call that can be read back, found without reading it: as for those of the proxy.

Where the answer is no, `nexrl.spans.call_of` decides, and says what is wrong. Never yes where that would refuse.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from nexrl import attributes as at
from nexrl.spans import FLAGS, TEXTS

_dict = msgspec.json.Decoder(dict[str, Any])
_dicts = msgspec.json.Decoder(list[dict[str, Any]])
_skimmed = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_QUOTE = ord('"')
_STRING, _LAST = 0x0A, 0x7F
"""The tag of a string in an `AnyValue`, and the largest byte that ends a number."""
_WIDTH = 4
"""Bytes of a token id, and of a logprob."""
_ONE_RUN = 8
"""Bytes of weight versions that never changed."""
_NAMES = (at.SESSION, at.REQUEST_MODEL, at.DIALECT, at.RESPONSE_ID)
_OPTIONAL_NAMES = TEXTS.difference(_NAMES)
_OPTIONAL_FLAGS = FLAGS - {at.EXACT, at.MALFORMED_TOOL_CALL}


def is_sound(values: Mapping[str, AnyValue]) -> bool:
    """Whether the call with these attributes surely can be read."""
    try:
        return _has_names(values) and _has_tokens(values) and _has_texts(values)
    except (KeyError, IndexError, ValueError, RecursionError):
        return False


def _has_names(values: Mapping[str, AnyValue]) -> bool:
    # Of a value of another type the text is empty.
    return (
        all(values[name].string_value for name in _NAMES)
        and all(values[name].string_value for name in _OPTIONAL_NAMES if name in values)
        and bool(values[at.FINISH_REASONS].array_value.values[0].string_value)
        and values[at.MALFORMED_TOOL_CALL].HasField("bool_value")
        and all(values[name].HasField("bool_value") for name in _OPTIONAL_FLAGS if name in values)
        and values[at.REQUEST_TEMPERATURE].HasField("double_value")
    )


def _has_tokens(values: Mapping[str, AnyValue]) -> bool:
    """Whether it is exact, one run of one weight version sampled it, and there is a logprob for each token."""
    sampled = len(values[at.COMPLETION].bytes_value)
    versions = values[at.WEIGHT_VERSIONS].bytes_value
    prompt = values[at.PROMPT_DELTA]
    return (
        values[at.EXACT].bool_value
        and sampled > 0
        and sampled % _WIDTH == 0
        and len(values[at.LOGPROBS].bytes_value) == sampled
        and len(versions) == _ONE_RUN
        and not any(versions[:_WIDTH])
        and prompt.HasField("bytes_value")
        and len(prompt.bytes_value) % _WIDTH == 0
    )


def _has_texts(values: Mapping[str, AnyValue]) -> bool:
    for name in (at.SAMPLING, at.TEMPLATE):
        if name in values:
            _dict.decode(values[name].string_value)
    if at.TOOL_DEFINITIONS in values:
        _dicts.decode(values[at.TOOL_DEFINITIONS].string_value)
    return _messages(values[at.INPUT_MESSAGES]) >= 0 and _messages(values[at.OUTPUT_MESSAGES]) > 0


def _messages(value: AnyValue) -> int:
    """Return how many messages a text holds; raises ValueError where it holds something else."""
    text = _utf8(value)
    found = _skimmed.decode(text)
    for message in found:
        # Skimming checks all but the size of numbers, and a string holds none.
        if any(memoryview(raw)[0] != _QUOTE for raw in message.values()):
            return len(_dicts.decode(text))
    return len(found)


def _utf8(value: AnyValue) -> memoryview:
    """Return a string's bytes; as a `str` it would be made of them, and they of that again."""
    data = value.SerializeToString()
    if not data or data[0] != _STRING:
        raise ValueError("no string")
    start = 1
    while data[start] > _LAST:  # its length, seven bits a byte
        start += 1
    return memoryview(data)[start + 1 :]
