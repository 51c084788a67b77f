"""Blocks: requests are stored as they come where that can be, and every span is found in them again."""

import zstandard
from ingest_world import call, request_of
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl.spans import call_of
from nexrl_ingest import blocks, span_log
from nexrl_ingest.otlp.spans import batch
from nexrl_ingest.sessions.retention import DAY_NS, Limits, keep_within
from nexrl_ingest.store import Connection

ON_BOTH_STORES = True


async def bodies(store) -> list[bytes]:
    def read(connection: Connection) -> list[bytes]:
        numbers = connection.fetch("SELECT seq FROM blocks ORDER BY seq")
        return [bytes(connection.bodies.read(number)) for [number] in numbers]

    return await store.read(read)


async def calls(store, session: str):
    return await store.read(lambda connection: span_log.calls_of(connection, session))


async def test_a_request_that_comes_as_zstd_is_stored_as_it_came(ingest):
    first, second = call([1], [2]), call([3], [4], session="session-2")
    packed = zstandard.ZstdCompressor(level=19).compress(request_of(first, second).SerializeToString())
    assert await ingest.post(packed, Content_Encoding="zstd") == (200, b"")
    assert await bodies(ingest.store) == [packed]
    assert await calls(ingest.store, "session-1") == [first]
    assert await calls(ingest.store, "session-2") == [second]


async def test_a_rejected_span_is_not_stored_with_its_neighbours(ingest):
    kept = call([1], [2])
    request = request_of(kept, Span(name="nobody", trace_id=b"short")).SerializeToString()
    await ingest.post(zstandard.ZstdCompressor().compress(request), Content_Encoding="zstd")
    [body] = await bodies(ingest.store)
    assert [call_of(found.span) for found in blocks.spans_in(body)] == [kept]


async def test_a_nul_in_a_text_of_a_span_refuses_no_other_span(ingest):
    """PostgreSQL keeps none in its texts."""
    odd = {"group": "\0", "model": "m\0", "response": "r\0", "agent": "\0a", "drift": "\0", "finish_reason": "\0"}
    kept = call([1], [2], session="odd", messages=[{"role": "user", "content": "\0"}], **odd)
    others = call([1], [2], session="others")
    nameless = Span(name="\0", trace_state="\0", trace_id=b"t" * 16, span_id=b"s" * 8)
    reply = await ingest.send(kept, call([1], [2], session="a\0b"), nameless, others)
    assert reply.partial_success.rejected_spans == 1
    assert await calls(ingest.store, "odd") == [kept]
    assert await calls(ingest.store, "others") == [others]


async def test_a_frame_that_does_not_say_how_large_it_is_is_stored_as_one_that_does(ingest):
    sent = call([1], [2])
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(request_of(sent).SerializeToString())
    assert await ingest.post(unsized, Content_Encoding="zstd") == (200, b"")
    assert await calls(ingest.store, "session-1") == [sent]


async def test_a_large_request_is_cut_so_that_one_span_is_not_read_with_thousands(ingest, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 3000)
    sent = [call(range(200), [1], session=f"session-{number % 3}") for number in range(20)]
    packed = zstandard.ZstdCompressor().compress(request_of(*sent).SerializeToString())
    assert await ingest.post(packed, Content_Encoding="zstd") == (200, b"")
    parts = [[found.span.ByteSize() for found in blocks.spans_in(body)] for body in await bodies(ingest.store)]
    assert sum(map(len, parts)) == 20
    assert all(len(part) == 1 or sum(part) <= 3000 for part in parts)
    for number in range(3):
        assert await calls(ingest.store, f"session-{number}") == sent[number::3]


async def test_spans_that_all_came_before_leave_no_block_behind(ingest):
    sent = call([1], [2])
    await ingest.send(sent, call([3], [4], session="session-2"))
    await ingest.send(sent)
    assert len(await bodies(ingest.store)) == 1


async def test_a_block_is_written_anew_once_half_of_it_is_forgotten_and_goes_with_its_last_span(store):
    sent = [call([number], [number], session=f"session-{number}") for number in range(4)]
    [block] = batch(request_of(*sent), None).blocks

    def append(connection: Connection) -> None:
        span_log.append(connection, block, 1)
        # Later ones are heard of again, each a day after the other.
        for number in range(4):
            connection.execute("UPDATE sessions SET last_ns = ? WHERE id = ?", (number * DAY_NS, f"session-{number}"))

    await store.write(append)
    for forgotten, in_block in [(1, 4), (2, 2), (3, 1)]:
        assert await keep_within(store, Limits(age_ns=1), (forgotten - 1) * DAY_NS + 2) == 1
        [body] = await bodies(store)
        assert len(blocks.spans_in(body)) == in_block
        for number in range(4):
            assert await calls(store, f"session-{number}") == ([sent[number]] if number >= forgotten else [])
    await keep_within(store, Limits(age_ns=1), 9 * DAY_NS)
    assert await bodies(store) == []
    for table in ("span_index", "traces", "sessions"):
        counted = await store.read(lambda connection, table=table: connection.fetch(f"SELECT count(*) FROM {table}"))
        assert counted == [(0,)]
