"""Whether a span surely holds a call that can be read back, found without reading it: as for those of the proxy.

Where the answer is no, `nexrl.spans.call_of` decides, and says what is wrong. Never yes where that would refuse, except
for texts that the proxy wrote.
"""

from typing import Any

import msgspec

from nexrl import attributes as at
from nexrl.spans import FLAGS, TEXTS
from nexrl_ingest.otlp.skimming import Attributes

SESSION, COMPLETION = at.SESSION.encode(), at.COMPLETION.encode()
_LOGPROBS, _PROMPT_DELTA, _VERSIONS = at.LOGPROBS.encode(), at.PROMPT_DELTA.encode(), at.WEIGHT_VERSIONS.encode()
_EXACT, _MALFORMED, _TEMPERATURE = at.EXACT.encode(), at.MALFORMED_TOOL_CALL.encode(), at.REQUEST_TEMPERATURE.encode()
_REASONS, _ASKED, _ANSWERED = at.FINISH_REASONS.encode(), at.INPUT_MESSAGES.encode(), at.OUTPUT_MESSAGES.encode()
_TOOLS = at.TOOL_DEFINITIONS.encode()
_OBJECTS = (at.SAMPLING.encode(), at.TEMPLATE.encode())
_NAMES = tuple(
    name.encode()
    for name in (at.SESSION, at.REQUEST_MODEL, at.DIALECT, at.RESPONSE_ID, at.INPUT_MESSAGES, at.OUTPUT_MESSAGES)
)
_OPTIONAL_NAMES = frozenset([*(name.encode() for name in TEXTS), *_OBJECTS, _TOOLS]).difference(_NAMES)
_OPTIONAL_FLAGS = frozenset(name.encode() for name in FLAGS).difference((_EXACT, _MALFORMED))
_dict = msgspec.json.Decoder(dict[str, Any])
_dicts = msgspec.json.Decoder(list[dict[str, Any]])
_skimmed = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_QUOTE = ord('"')
_WIDTH = 4
"""Bytes of a token id, and of a logprob."""
_ONE_RUN = 8
"""Bytes of weight versions that never changed."""


def is_sound(found: Attributes, *, ours: bool) -> bool:
    """Whether the call with these attributes surely can be read.

    `ours`: the proxy wrote it. Then its texts are taken for JSON where JSON belongs, and are not looked through: that
    takes from half as long to twice as long as everything else that is done with a span before it is stored. Where one
    is none, its session is refused when it is read (`span_log.calls_of`).
    """
    try:
        return _has_names(found) and _has_tokens(found) and (ours or _has_texts(found))
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        return False


def _has_names(found: Attributes) -> bool:
    return (
        all(type(found[name]) is bytes for name in _NAMES)
        and bool(found[SESSION])
        and all(type(found[name]) is bytes for name in _OPTIONAL_NAMES.intersection(found))
        and all(type(found[name]) is bool for name in _OPTIONAL_FLAGS.intersection(found))
        and type(found[_MALFORMED]) is bool
        and type(found[_TEMPERATURE]) is float
        and type(found[_REASONS]) is list
        and type(found[_REASONS][0]) is str
    )


def _has_tokens(found: Attributes) -> bool:
    """Whether it is exact, one run of one weight version sampled it, and there is a logprob for each token."""
    completion, logprobs, versions = found[COMPLETION], found[_LOGPROBS], found[_VERSIONS]
    sampled = len(completion)
    return (
        type(completion) is type(logprobs) is type(versions) is type(found[_PROMPT_DELTA]) is memoryview
        and found[_EXACT] is True
        and sampled > 0
        and sampled % _WIDTH == 0
        and len(logprobs) == sampled
        and len(versions) == _ONE_RUN
        and not any(versions[:_WIDTH])
        and len(found[_PROMPT_DELTA]) % _WIDTH == 0
    )


def _has_texts(found: Attributes) -> bool:
    for name in _OBJECTS:
        if name in found:
            _dict.decode(found[name])
    if _TOOLS in found:
        _dicts.decode(found[_TOOLS])
    return _messages(found[_ASKED]) >= 0 and _messages(found[_ANSWERED]) > 0


def _messages(text: bytes) -> int:
    """Return how many messages a text holds; raises ValueError where it holds something else."""
    found = _skimmed.decode(text)
    for message in found:
        # Skimming checks all but the size of numbers, and a string holds none.
        if any(memoryview(raw)[0] != _QUOTE for raw in message.values()):
            return len(_dicts.decode(text))
    return len(found)
