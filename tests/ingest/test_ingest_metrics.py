"""GET /metrics: what Prometheus reads of an ingest, without a key and without a session's name."""

import asyncio
from http import HTTPStatus
from urllib.parse import urlsplit

from ingest_world import ADMIN_KEY, call, finish, group, request_of
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "nexrl_ingest_"


async def figures(ingest):
    async with ingest.http.get(f"{ingest.url}/metrics") as reply:
        assert (reply.status, reply.content_type) == (HTTPStatus.OK, "text/plain")
        families = text_string_to_metric_families(await reply.text())
        return {family.name.removeprefix(PREFIX): int(family.samples[0].value) for family in families}


async def test_everything_is_counted_from_zero(ingest):
    before = await figures(ingest)
    assert set(before.values()) == {0}
    assert (await figures(ingest))["requests"] == 1


async def test_spans_groups_and_refusals_are_counted(ingest, client):
    nameless = Span(trace_id=bytes(16), span_id=bytes(8))
    await ingest.send(call([1], [2], session="a-0"), call([1, 2, 3], [4], session="a-0"), nameless)
    planned = group(size=1)
    await finish(client, planned)
    [grant] = await client.lease(planned.run, limit=1)
    for _ in range(2):  # the second says again what an answer that got lost has said
        await client.ack([grant.lease])
    await ingest.post(b"not protobuf")
    found = await figures(ingest)
    assert [found[name] for name in ("spans", "rejected_spans", "leased_groups", "acked_groups")] == [2, 1, 1, 1]
    assert [found[name] for name in ("refused", "unavailable", "failed")] == [1, 0, 0]
    assert found["received_bytes"] > 0


async def test_a_request_whose_client_goes_away_is_counted(ingest):
    url = urlsplit(ingest.url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"POST /v1/traces HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"half of it")
    await writer.drain()
    await asyncio.sleep(0.1)  # its handler reads
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.1)
    found = await figures(ingest)
    assert [found[name] for name in ("requests", "refused", "failed")] == [1, 0, 0]


async def test_a_store_that_cannot_be_written_is_counted_as_unavailable(ingest):
    ingest.store.connection.execute("PRAGMA query_only = ON")
    status, _ = await ingest.post(request_of(call([1], [2])).SerializeToString())
    assert (status, (await figures(ingest))["unavailable"]) == (HTTPStatus.SERVICE_UNAVAILABLE, 1)
