"""The spans that are sent: calls as the proxy records them and spans of an agent's tools, in OTLP requests of 32.

Text is English from Python's own documentation. Token ids are by rank of words, as in a vocabulary of BPE, and
logprobs have mantissas as random as an engine's. All of it is drawn from one seed; ids of spans are new in each run.
"""

import base64
import random
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pydoc_data import topics

import zstandard
from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl import wire
from nexrl.records import Call, Float32s, Int32s
from nexrl.spans import span_bytes
from stores.wire import Body

SPANS_AT_ONCE = 32
TOOL_TOKENS = 180
"""What a tool returned: with its other attributes such a span has about 1 KB."""
TURNS = 4
FIRST_PROMPT, LATER_PROMPT, COMPLETION = 1000, 300, 500
"""Of conversations whose prompts have 2,200 tokens on average; a later turn brings what the turn before had not."""
DOUBTFUL = 0.4
"""Share of tokens that were not near certain."""
AT_ONCE = 64
"""Conversations that go on at the same time."""


class Spoken(Struct, frozen=True):
    """Text and its tokens."""

    text: str
    ids: Int32s


class Made(Struct, frozen=True, kw_only=True):
    """A call, and what its whole prompt has of tokens."""

    call: Call
    prompt_tokens: int


class Speaker:
    """Draws text, tokens and logprobs."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def spoken(self, length: int) -> Spoken:
        words, ids = _language()
        start = self.draw.randrange(len(words) - length)
        return Spoken("".join(words[start : start + length]), Int32s(ids[start : start + length]))

    def logprobs(self, length: int) -> Float32s:
        draw = self.draw
        return Float32s(
            -draw.expovariate(1.5) if draw.random() < DOUBTFUL else -(draw.random() ** 8) for _ in range(length)
        )

    def call(self, session: str, asked: Spoken, completion: int, parent: str | None = None) -> Call:
        answered = self.spoken(completion)
        return Call(
            id=secrets.token_hex(8),
            session=session,
            parent=parent,
            prompt_delta=asked.ids,
            completion=answered.ids,
            logprobs=self.logprobs(completion),
            weight_versions=Int32s([7] * completion),
            sampling={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 1024},
            model="Qwen/Qwen3-8B",
            response=f"chatcmpl-{secrets.token_hex(16)}",
            messages=[{"role": "user", "content": asked.text}],
            reply={"role": "assistant", "content": answered.text},
            started_ns=1_760_000_000_000_000_000 + self.draw.getrandbits(40),
            ended_ns=1_760_000_001_000_000_000 + self.draw.getrandbits(40),
        )


def tools(count: int) -> list[bytes]:
    """Return an agent's own spans, eight to a session, without token ids."""
    speaker, trace, session = Speaker(1), b"", ""
    spans: list[bytes] = []
    for number in range(count):
        if number % 8 == 0:
            trace, session = secrets.token_bytes(16), secrets.token_hex(16)
        spans.append(_tool(speaker, trace, session))
    return spans


def calls(count: int, prompt: int, completion: int) -> Iterator[Made]:
    """Yield calls that bring their whole prompts."""
    speaker = Speaker(2)
    for _ in range(count):
        call = speaker.call(secrets.token_hex(16), speaker.spoken(prompt), completion)
        yield Made(call=call, prompt_tokens=prompt)


def conversations(count: int) -> list[list[Made]]:
    """Return sessions of several turns."""
    speaker = Speaker(3)
    made: list[list[Made]] = []
    for _ in range(count):
        session, parent, length = secrets.token_hex(16), None, 0
        turns: list[Made] = []
        for turn in range(TURNS):
            asked = speaker.spoken(LATER_PROMPT if turn else FIRST_PROMPT)
            call = speaker.call(session, asked, COMPLETION, parent)
            turns.append(Made(call=call, prompt_tokens=length + len(asked.ids)))
            parent, length = call.id, length + len(asked.ids) + COMPLETION
        made.append(turns)
    return made


def interleaved(sessions: Sequence[Sequence[Made]]) -> Iterator[Made]:
    """Yield the calls of sessions that go on at the same time, as a proxy sees them."""
    for start in range(0, len(sessions), AT_ONCE):
        yield from chain.from_iterable(zip(*sessions[start : start + AT_ONCE], strict=True))


def spans_of(made: Iterable[Made]) -> list[bytes]:
    return [span_bytes(one.call, prompt_tokens=one.prompt_tokens) for one in made]


def as_text(span: bytes, named: Mapping[str, str]) -> bytes:
    """Return a span for a server that keeps no bytes: they are base64 there, the fewest values of all it would keep."""
    read = Span.FromString(span)
    for item in read.attributes:
        if item.value.HasField("bytes_value"):
            item.value.string_value = base64.b64encode(item.value.bytes_value).decode()
    read.attributes.extend(KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in named.items())
    return read.SerializeToString()


def bodies(spans: Sequence[bytes]) -> Iterator[Body]:
    """Yield OTLP requests as the proxy sends them."""
    compressor = zstandard.ZstdCompressor(level=1)
    for start in range(0, len(spans), SPANS_AT_ONCE):
        some = spans[start : start + SPANS_AT_ONCE]
        plain = wire.request(some, service="nexrl-proxy", scope="nexrl_proxy")
        yield Body(spans=len(some), plain_bytes=len(plain), packed=compressor.compress(plain))


def _tool(speaker: Speaker, trace: bytes, session: str) -> bytes:
    values = {
        at.OPERATION: "execute_tool",
        "gen_ai.tool.name": "search",
        "gen_ai.tool.call.id": f"call_{secrets.token_hex(12)}",
        "gen_ai.tool.call.arguments": f'{{"query": "{speaker.spoken(8).text.split()}"}}',
        "gen_ai.tool.call.result": speaker.spoken(TOOL_TOKENS).text,
        at.SESSION: session,
    }
    return wire.span(
        trace_id=trace,
        span_id=secrets.token_bytes(8),
        parent_span_id=secrets.token_bytes(8),
        name="execute_tool search",
        start_ns=1_760_000_000_000_000_000,
        end_ns=1_760_000_001_000_000_000,
        attributes=wire.span_attributes(values),
    )


@cache
def _language() -> tuple[list[str], list[int]]:
    """Return text as pieces of words, and the id of each: the rarer a piece, the larger."""
    words = re.findall(r" ?\w{1,6}|\s+|[^\w\s]", "\n".join(topics.topics[name] for name in sorted(topics.topics)))
    common = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    ids = {word: 13 + 6 * rank for rank, (word, _) in enumerate(common)}
    return words, [ids[word] for word in words]
