"""Ports and connections: those that say nothing are closed, alone as behind a port that workers share."""

import asyncio
import contextlib

import aiohttp
import pytest
from worker_pair import HERE, answered, started

from nexrl.errors import ConfigError
from nexrl_proxy.draining import drained
from nexrl_proxy.listening import Guarded, Site, bound, listen, server_of
from nexrl_proxy.workers.door import Door


@contextlib.asynccontextmanager
async def impatient(kind: str):
    """A port where a head must arrive within 0.5 s."""
    async with started(0) as [worker]:
        if kind == "alone":
            yield await listen(worker.runner, "127.0.0.1", 0, head_timeout_s=0.5)
            return
        [sock] = bound("127.0.0.1", 0)

        def door() -> Guarded:
            return Door(server_of(worker.runner), worker.pinning, worker.handovers, head_timeout_s=0.5)

        await Site(worker.runner, sock, door).start()
        yield sock.getsockname()[1]


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.mark.parametrize("kind", ["alone", "of several"])
async def test_connections_that_do_not_say_what_they_want_are_closed_while_others_are_served(kind, http):
    request = f"POST /s/{HERE[0]}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    async with impatient(kind) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        for place, (_, writer) in enumerate(silent):
            writer.write((b"", request[:20], request[:-2])[place % 3])
        kept = await asyncio.open_connection("127.0.0.1", port)
        second = await asyncio.open_connection("127.0.0.1", port)
        for reader, writer in (kept, second):
            writer.write(request)
            assert await answered(reader)
        second[1].write(request[:30])  # the second request of a connection is waited for as long
        async with asyncio.timeout(5):
            for _ in range(5):
                async with http.post(f"http://127.0.0.1:{port}/s/{HERE[1]}/v1/x") as reply:
                    assert reply.status == 200
            for reader, _ in (*silent, second):
                assert await closed(reader)
        kept[1].write(request)  # idle for longer than that, which is no offence
        assert await answered(kept[0])
        for _, writer in (*silent, kept, second):
            writer.close()


async def test_idle_connections_do_not_put_off_the_end_of_a_server(http):
    async with started(0) as [worker]:
        async with http.post(f"http://127.0.0.1:{worker.port}/s/{HERE[0]}/v1/x") as reply:
            assert reply.status == 200
        idle, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(f"POST /s/{HERE[0]}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        assert await answered(idle)
        assert await drained(worker.runner, 5.0, asyncio.Event())
        assert await closed(idle)
        writer.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionResetError):  # it was written to afterwards
        return await reader.read() == b""
    return True


def test_a_name_with_several_addresses_has_one_port():
    sockets = bound("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    with pytest.raises(ConfigError, match="choose another port"):
        bound("127.0.0.1", sockets[0].getsockname()[1])
    for sock in sockets:
        sock.close()
