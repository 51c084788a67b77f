"""Connections of a proxy that is asked to stop: a request that is on its way in is answered, then each is closed."""

import asyncio
import contextlib

import pytest
from proxy_world import until
from worker_pair import HERE, THERE, answered, started

from nexrl_proxy.draining import drained
from nexrl_proxy.listening import listen

PATIENCE_S = 5.0


def request_of(session: str, body: bytes = b"") -> bytes:
    return f"POST /s/{session}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def draining(worker):
    """A worker that ends; it must have ended well when this does."""
    asked = asyncio.create_task(drained(worker.runner, PATIENCE_S, asyncio.Event()))
    await asyncio.sleep(0.05)  # it has looked at its connections
    async with asyncio.timeout(PATIENCE_S):
        yield
    assert await asked, "a connection was left open"


@pytest.mark.parametrize("kind", ["alone", "of several"])
@pytest.mark.parametrize("sent", [20, -5], ids=["half a head", "half a body"])
async def test_a_request_that_is_arriving_is_answered_and_its_connection_closed(kind, sent):
    async with started(0) as [worker]:
        port = await listen(worker.runner, "127.0.0.1", 0) if kind == "alone" else worker.port
        request = request_of(HERE[0], b"0123456789")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request[:sent])
        await until(lambda: [connection.arriving for connection in worker.runner.server.connections] == [True])
        async with draining(worker):
            writer.write(request[sent:])
            assert (await reader.read()).endswith(b'{"worker": 0, "bytes": 10}')
        writer.close()


async def test_a_connection_that_another_worker_brings_meanwhile_is_answered_and_closed():
    async with started(0, 1) as [first, second]:
        second.may_answer.clear()
        ours = await asyncio.open_connection("127.0.0.1", second.port)
        ours[1].write(request_of(THERE[0]))
        await until(lambda: second.runner.server.requests_count == 1)
        async with draining(second):
            brought = await asyncio.open_connection("127.0.0.1", first.port)
            brought[1].write(request_of(THERE[1]))
            await until(lambda: second.runner.server.requests_count == 2)
            second.may_answer.set()
            for reader, _ in (ours, brought):
                assert await answered(reader)
                assert await reader.read() == b""
        assert [len(worker.served) for worker in (first, second)] == [0, 2]
        ours[1].close(), brought[1].close()


async def test_a_request_that_waits_for_a_worker_is_told_to_come_again_instead_of_being_cut():
    async with started(0) as [worker]:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(request_of(THERE[0]))
        await until(lambda: [connection.arriving for connection in worker.runner.server.connections] == [True])
        async with draining(worker):
            answer = await reader.read()
            assert b"503 Service Unavailable" in answer
            assert b"worker_unavailable" in answer
        writer.close()
