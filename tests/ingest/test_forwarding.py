"""What is stored is sent on to another OTLP endpoint: all of it, at least once, readable, and in nobody's way.

One file, since all of it is seen at the same receiver.
"""

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections import Counter

import aiohttp
import pytest
from aiohttp import web
from google.protobuf.unknown_fields import UnknownFieldSet
from ingest_world import ADMIN_KEY, call, request_of
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl.errors import ConfigError
from nexrl.spans import attributes_of, span_of
from nexrl_ingest.forwarding import forwarder as forwarding
from nexrl_ingest.forwarding.forwarder import Forwarder
from nexrl_ingest.forwarding.sending import parts_of, sendable
from nexrl_ingest.forwarding.target import target_of
from nexrl_ingest.otlp.spans import batch
from nexrl_ingest.span_log import append


class Receiver:
    """An OTLP endpoint that is told what to answer: statuses for the next requests, then 200."""

    def __init__(self):
        self.answers: list[int] = []
        self.retry_after = ""
        self.poison = b"never"
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.asked = 0

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        assert request.content_type == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(gzip.decompress(await request.read()))
        self.headers.append(dict(request.headers))
        if self.answers:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=self.answers.pop(0), text="not now", headers=headers)
        if any(span.name.encode() == self.poison for span in spans_in(message)):
            return web.Response(status=400, text="no such span")
        self.requests.append(message)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString())

    def names(self) -> list[str]:
        return [span.name for message in self.requests for span in spans_in(message)]

    async def has(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.names()) < count:  # noqa: ASYNC110 - the receiver is another server
                await asyncio.sleep(0.01)
        return self.names()


def spans_in(message):
    return [span for spans in message.resource_spans for scope in spans.scope_spans for span in scope.spans]


@contextlib.asynccontextmanager
async def receiving(receiver, port=0):
    # Bodies come as they are: decompressing them is the receiver's part here.
    app = web.Application(handler_args={"auto_decompress": False})
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def receiver():
    receiver = Receiver()
    async with receiving(receiver) as receiver.url:
        yield receiver


@contextlib.asynccontextmanager
async def forwarding_to(url, store, headers=(), **options):
    forwarder = Forwarder(store, target_of(url, headers), **options)
    task = asyncio.create_task(forwarder.run())
    try:
        yield forwarder
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def noted(forwarder, count: int) -> Counter[str]:
    """Wait until it knows that so many spans were taken, which is after they were; return what it counted."""
    async with asyncio.timeout(10):
        while forwarder.counters["forwarded"] < count:  # noqa: ASYNC110 - the forwarder announces nothing
            await asyncio.sleep(0.01)
    return forwarder.counters


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(forwarding, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(forwarding, "NAP_S", 0.01)


def named(*names: str) -> list[Span]:
    return [Span(trace_id=b"t" * 16, span_id=os.urandom(8), name=name) for name in names]


@pytest.mark.parametrize("open_store", ["embedded", "postgres"], indirect=True)
async def test_what_was_stored_before_and_what_comes_later_arrives_in_order(ingest, receiver):
    await ingest.send(*named("a", "b"))
    async with forwarding_to(receiver.url, ingest.store, ["Authorization=Bearer k", "x-tenant = t"]) as forwarder:
        assert await receiver.has(2) == ["a", "b"]
        await ingest.send(*named("c"))
        assert await receiver.has(3) == ["a", "b", "c"]
        assert await noted(forwarder, 3) == Counter(forwarded=3)
    assert {headers["Authorization"] for headers in receiver.headers} == {"Bearer k"}
    assert {headers["x-tenant"] for headers in receiver.headers} == {"t"}


async def test_a_call_is_sent_without_its_packed_tokens_and_readable_to_others(ingest, receiver):
    asked = [{"role": "user", "content": "hi"}]
    tool = {"name": "search", "parameters": {}}
    reply = {"role": "assistant", "content": "hello"}
    await ingest.send(call([1], [2], messages=asked, reply=reply, tools=[{"type": "function", "function": tool}]))
    async with forwarding_to(receiver.url, ingest.store):
        await receiver.has(1)
    [span] = spans_in(receiver.requests[0])
    values = attributes_of(span)
    assert [name for name, value in values.items() if isinstance(value, bytes)] == []
    assert len(UnknownFieldSet(span)) == 0
    assert not {at.COMPLETION, at.PROMPT_DELTA, at.LOGPROBS, at.WEIGHT_VERSIONS} & set(values)
    assert (values[at.SESSION], values["session.id"], values[at.EXACT]) == ("session-1", "session-1", True)
    text = {"type": "text", "content": "hi"}
    assert json.loads(values[at.INPUT_MESSAGES]) == [{"role": "user", "parts": [text]}]
    assert json.loads(values[at.OUTPUT_MESSAGES]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "hello"}], "finish_reason": "stop"}
    ]
    assert json.loads(values[at.TOOL_DEFINITIONS]) == [{"type": "function"} | tool]


async def test_spans_keep_the_resource_and_the_scope_they_came_with(ingest, receiver):
    sent = [request_of(*named(name)) for name in ("a", "b", "c")]
    for message, service in zip(sent, ("one", "two", "one"), strict=True):
        service_name = message.resource_spans[0].resource.attributes.add(key="service.name")
        service_name.value.string_value = service
        message.resource_spans[0].scope_spans[0].scope.name = "tracer"
        await ingest.post(message.SerializeToString())
    async with forwarding_to(receiver.url, ingest.store):
        await receiver.has(3)
    [message] = receiver.requests
    found = {
        spans.resource.attributes[0].value.string_value: [span.name for span in spans.scope_spans[0].spans]
        for spans in message.resource_spans
    }
    assert found == {"one": ["a", "c"], "two": ["b"]}
    assert {spans.scope_spans[0].scope.name for spans in message.resource_spans} == {"tracer"}


async def test_another_process_goes_on_where_the_last_one_stopped(ingest, receiver):
    await ingest.send(*named("a"))
    async with forwarding_to(receiver.url, ingest.store):
        await receiver.has(1)
        await asyncio.sleep(0.05)
    await ingest.send(*named("b"))
    async with forwarding_to(receiver.url, ingest.store):
        assert await receiver.has(2) == ["a", "b"]


async def test_while_the_endpoint_is_away_spans_wait_and_senders_do_not(ingest, unused_url):
    port, receiver = int(unused_url.rpartition(":")[2]), Receiver()
    async with forwarding_to(unused_url, ingest.store):
        for name in "abc":
            await ingest.send(*named(name))
        async with receiving(receiver, port):
            assert await receiver.has(3) == ["a", "b", "c"]


@pytest.mark.parametrize("status", [401, 404, 429, 502, 503])
async def test_what_may_succeed_later_is_tried_again_and_nothing_is_lost(ingest, receiver, status):
    receiver.answers = [status, status]
    await ingest.send(*named("a", "b"))
    async with forwarding_to(receiver.url, ingest.store) as forwarder:
        assert await receiver.has(2) == ["a", "b"]
    assert forwarder.counters["refused"] == 0


async def test_retry_after_is_waited_for(ingest, receiver):
    receiver.answers, receiver.retry_after = [503], "30"
    await ingest.send(*named("a"))
    async with forwarding_to(receiver.url, ingest.store):
        async with asyncio.timeout(10):
            while not receiver.asked:  # noqa: ASYNC110 - the receiver is another server
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert receiver.asked == 1


async def test_a_span_that_the_endpoint_refuses_is_left_out_and_all_others_arrive(ingest, receiver, caplog):
    receiver.poison = b"bad"
    await ingest.send(*named("a", "b", "c", "bad", "d", "e"))
    async with forwarding_to(receiver.url, ingest.store) as forwarder:
        assert sorted(await receiver.has(5)) == ["a", "b", "c", "d", "e"]
    assert forwarder.counters["refused"] == 1
    assert "is not forwarded" in caplog.text


async def test_an_endpoint_that_fails_on_a_request_for_good_does_not_hold_up_the_rest(ingest, receiver):
    receiver.answers = [500] * forwarding.TRIES
    await ingest.send(*named("a"))
    async with forwarding_to(receiver.url, ingest.store) as forwarder:
        async with asyncio.timeout(10):
            while not forwarder.counters["refused"]:  # noqa: ASYNC110 - the forwarder announces nothing
                await asyncio.sleep(0.01)
        await ingest.send(*named("b"))
        assert await receiver.has(1) == ["b"]


async def test_large_requests_are_cut(ingest, receiver, monkeypatch):
    monkeypatch.setattr(forwarding, "MOST_BYTES", 4000)
    noise = [KeyValue(key="k", value=AnyValue(string_value=os.urandom(1500).hex()))]
    await ingest.send(*(Span(trace_id=b"t" * 16, span_id=bytes([9] * 7 + [i]), attributes=noise) for i in range(6)))
    async with forwarding_to(receiver.url, ingest.store):
        await receiver.has(6)
    assert max(len(spans_in(message)) for message in receiver.requests) < 6


@pytest.mark.parametrize("open_store", ["postgres"], indirect=True)
async def test_of_two_replicas_one_forwards_and_the_other_takes_over(open_store, receiver):
    [block] = batch(request_of(*named("a", "b")), None).blocks
    [later] = batch(request_of(*named("c")), None).blocks
    first, second = open_store(), open_store()
    await first.write(lambda connection: append(connection, block, 1))
    async with forwarding_to(receiver.url, first) as one:
        assert await receiver.has(2) == ["a", "b"]
        async with forwarding_to(receiver.url, second) as other:
            await first.write(lambda connection: append(connection, later, 1))
            assert await receiver.has(3) == ["a", "b", "c"]
            assert (await noted(one, 3), other.counters) == (Counter(forwarded=3), Counter())
            assert not await second.leads(f"forward to {receiver.url}/v1/traces")
    first.close()
    assert not await first.leads("anything")
    async with forwarding_to(receiver.url, second):
        [block] = batch(request_of(*named("d")), None).blocks
        await second.write(lambda connection: append(connection, block, 1))
        async with asyncio.timeout(10):
            while "d" not in receiver.names():  # noqa: ASYNC110 - the receiver is another server
                await asyncio.sleep(0.01)
    # At least once: what the first had sent last it need not have noted.
    assert set(receiver.names()) == {"a", "b", "c", "d"}
    second.close()


async def test_young_spans_wait_where_several_replicas_write(ingest, receiver):
    await ingest.send(*named("a"))
    async with forwarding_to(receiver.url, ingest.store, settled_s=3600):
        await asyncio.sleep(0.2)
        assert receiver.asked == 0
    async with forwarding_to(receiver.url, ingest.store, settled_s=0.01):
        assert await receiver.has(1) == ["a"]


@pytest.mark.parametrize(
    ("url", "headers", "reason"),
    [
        (None, ["a=b"], "without --forward"),
        ("127.0.0.1:6006", [], "give a URL such as"),
        ("ftp://host", [], "give a URL such as"),
        ("http://host/?a=1", [], "give a URL such as"),
        ("http://user:secret@host", [], "credentials go into --forward-header"),
        ("http://host", ["Authorization: Bearer k"], "give NAME=VALUE"),
        ("http://host", ["=x"], "give NAME=VALUE"),
        ("http://host", ["a=b\nc: d"], "give NAME=VALUE"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused_without_telling_secrets(url, headers, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        target_of(url, headers)
    assert "secret" not in str(refused.value)


def test_the_path_is_added_as_opentelemetry_does():
    assert target_of("http://host/otel/", []).url == "http://host/otel/v1/traces"
    assert target_of("http://host/v1/traces", []).url == "http://host/v1/traces"


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"role": "user", "content": ""}, []),
        (
            {"role": "assistant", "reasoning_content": "hm", "content": "yes"},
            [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "yes"}],
        ),
        (
            {"role": "tool", "tool_call_id": "c", "content": "42"},
            [{"type": "tool_call_response", "id": "c", "response": "42"}],
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}],
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url"}]},
            [{"type": "text", "content": "see"}, {"type": "image_url"}],
        ),
        ({"role": "user", "parts": [{"type": "text", "content": "hi"}]}, [{"type": "text", "content": "hi"}]),
    ],
)
def test_chat_messages_become_messages_of_parts(message, parts):
    assert parts_of(message) == {"role": message["role"], "parts": parts}


def test_messages_that_are_none_are_sent_as_they_are():
    span = span_of(call([1], [2]), prompt_tokens=1)
    for item in span.attributes:
        if item.key == at.INPUT_MESSAGES:
            item.value.string_value = "no JSON"
    assert attributes_of(sendable(span, None))[at.INPUT_MESSAGES] == "no JSON"


@pytest.mark.slow
async def test_a_killed_ingest_forwards_the_rest_after_its_restart(tmp_path, unused_url):
    receiver, port = Receiver(), int(unused_url.rpartition(":")[2])
    command = [sys.executable, "-m", "nexrl_ingest", "ingest", "--data", str(tmp_path), "--port", "0"]
    command += ["--forward", unused_url, "--forward-header", "x-key=k"]
    environment = os.environ | {"NEXRL_ADMIN_KEY": ADMIN_KEY}

    def start() -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return process, process.stdout.readline().split()[1]

    process, url = start()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/x-protobuf"}
    async with aiohttp.ClientSession() as http:
        for index in range(20):
            body = request_of(*named(f"span-{index}")).SerializeToString()
            async with http.post(f"{url}/v1/traces", data=body, headers=headers) as response:
                assert response.status == 200
    process.kill()
    process.communicate()
    process, _ = start()
    try:
        async with receiving(receiver, port):
            assert set(await receiver.has(20)) == {f"span-{index}" for index in range(20)}
    finally:
        process.kill()
        process.communicate()
    assert receiver.headers[0]["x-key"] == "k"
