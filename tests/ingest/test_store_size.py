"""Bytes on disk: what a span of a conversation costs, and that what was deleted is given back."""

import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from pydoc_data import topics

from ingest_world import request_of
from test_store_schema import of_version_1

from nexrl.records import Call, Float32s, Int32s
from nexrl.spans import span_of
from nexrl_ingest.otlp import spans as otlp_spans
from nexrl_ingest.sessions.retention import DAY_NS, Limits, keep_within
from nexrl_ingest.span_log import append, calls_of
from nexrl_ingest.store.embedded import FILE, EmbeddedStore

SESSIONS, TURNS = 40, 4
FIRST_PROMPT, LATER_PROMPT, COMPLETION = 1000, 100, 500
GOAL_BYTES = 6_500
"""For a span of a 2,000+500-token call in a conversation with 10 KB of text."""


def conversations() -> list[tuple[Call, int]]:
    """Calls of 1,900+500 tokens on average, with the lengths of their prompts: English, 4 letters a token."""
    draw = random.Random(5)
    words = re.findall(r" ?\w{1,6}|\s+|[^\w\s]", "\n".join(topics.topics[name] for name in sorted(topics.topics)))
    common = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    # As in a vocabulary of BPE: the rarer a word, the larger its id.
    ids = {word: 13 + 6 * rank for rank, (word, _) in enumerate(common)}

    def spoken(length: int) -> tuple[str, Int32s]:
        start = draw.randrange(len(words) - length)
        said = words[start : start + length]
        return "".join(said), Int32s(ids[word] for word in said)

    made: list[tuple[Call, int]] = []
    for _ in range(SESSIONS):
        session, parent, length = f"{draw.getrandbits(128):032x}", None, 0
        for turn in range(TURNS):
            asked, prompt = spoken(LATER_PROMPT if turn else FIRST_PROMPT)
            answered, completion = spoken(COMPLETION)
            call = Call(
                id=f"{draw.getrandbits(64):016x}",
                session=session,
                parent=parent,
                prompt_delta=prompt,
                completion=completion,
                logprobs=Float32s(
                    -draw.expovariate(1.5) if draw.random() < 0.4 else -(draw.random() ** 8) for _ in completion
                ),
                weight_versions=Int32s([7] * COMPLETION),
                sampling={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 1024},
                model="Qwen/Qwen3-8B",
                response=f"chatcmpl-{draw.getrandbits(128):032x}",
                messages=[{"role": "user", "content": asked}],
                reply={"role": "assistant", "content": answered},
                started_ns=1_760_000_000_000_000_000 + turn,
                ended_ns=1_760_000_000_000_000_000 + turn + 1,
            )
            made.append((call, length + len(prompt)))
            parent, length = call.id, length + len(prompt) + len(completion)
    draw.shuffle(made)
    return made


def held(directory: Path) -> int:
    """Return the bytes of the database and of the bodies beside it, without the log that is truncated at the end."""
    return (directory / FILE).stat().st_size + sum(path.stat().st_size for path in directory.glob("blocks/*"))


async def stored(store: EmbeddedStore, calls: list[tuple[Call, int]]) -> None:
    spans = [span_of(call, prompt_tokens=length) for call, length in calls]
    for start, end in pairwise(range(0, len(spans) + 1, 16)):
        [block] = otlp_spans.batch(request_of(*spans[start:end]), None).blocks
        await store.write(lambda connection, block=block: append(connection, block, 1))


async def test_a_span_of_a_conversation_stays_small_on_disk(tmp_path):
    store = EmbeddedStore(tmp_path)
    empty = await store.size()
    calls = conversations()
    await stored(store, calls)
    session = calls[0][0].session
    expected = sorted((call for call, _ in calls if call.session == session), key=lambda call: call.started_ns)
    found = await store.read(lambda connection: calls_of(connection, session))
    assert sorted(found, key=lambda call: call.started_ns) == expected
    store.close()
    per_span = (held(tmp_path) - empty) / len(calls)
    assert sum(length for _, length in calls) / len(calls) == 1900
    assert 3_000 < per_span < GOAL_BYTES


async def test_what_retention_deleted_is_given_back_to_the_disk(tmp_path):
    store = EmbeddedStore(tmp_path)
    empty = await store.size()
    await stored(store, conversations())
    assert await store.size() > empty + 600_000
    await keep_within(store, Limits(age_ns=1), 5 * DAY_NS)
    assert held(tmp_path) < 1.2 * empty
    store.close()


async def test_a_file_of_version_1_gives_back_too(tmp_path):
    store = EmbeddedStore(of_version_1(tmp_path / "old"))
    empty = await store.size()
    await stored(store, conversations())
    await keep_within(store, Limits(age_ns=1), 5 * DAY_NS)
    store.close()
    assert held(tmp_path / "old") < 1.2 * empty
