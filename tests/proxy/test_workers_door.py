"""The port that workers share: every request reaches the worker of its session, however it arrives."""

import asyncio

import aiohttp
import psutil
import pytest
from proxy_world import ADMIN, until
from worker_pair import HERE, THERE, Worker, answered, started

from nexrl.keys import attempt_key
from nexrl_proxy.listening import Site, bound, runner_of, server_of
from nexrl_proxy.workers.door import Door
from nexrl_proxy.workers.handover import Handovers
from nexrl_proxy.workers.pinning import owner_of
from nexrl_proxy.workers.worker import serve_publicly


@pytest.fixture
async def two():
    async with started(0, 1) as workers:
        yield workers


@pytest.fixture
def opened():
    """Connections that the client opened."""
    return []


@pytest.fixture
async def http(opened):
    async def note(_session, _context, parameters):
        opened.append(parameters)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(note)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as client:
        yield client


async def test_one_connection_follows_its_requests_from_worker_to_worker(two, http, opened):
    url = f"http://127.0.0.1:{two[0].port}/v1/chat/completions"
    answered = []
    for session in (*HERE, *THERE, HERE[0], THERE[0], HERE[0]):
        headers = {"authorization": f"Bearer {attempt_key(session, ADMIN)}"}
        async with http.post(url, data=b"x" * 1000, headers=headers) as reply:
            answered.append(await reply.json())
    assert [reply["worker"] for reply in answered] == [0, 0, 0, 1, 1, 1, 0, 1, 0]
    assert {reply["bytes"] for reply in answered} == {1000}
    assert len(opened) == 1


@pytest.mark.parametrize("size", [0, 1, 100_000, 300_000, 900_000])
async def test_a_body_arrives_whole_wherever_the_connection_is_brought_while_it_does(two, http, size):
    for session in (THERE[0], HERE[0], THERE[1]):
        async with http.post(f"http://127.0.0.1:{two[0].port}/s/{session}/v1/x", data=b"x" * size) as reply:
            assert await reply.json() == {"worker": owner_of(session, 2), "bytes": size}


async def test_bodies_in_chunks_and_bodies_that_wait_for_leave_arrive_too(two, http):
    async def chunks():
        for _ in range(5):
            yield b"12345"
            await asyncio.sleep(0.001)

    for session in (THERE[0], HERE[0]):
        url = f"http://127.0.0.1:{two[0].port}/s/{session}/v1/x"
        async with http.post(url, data=chunks()) as reply:
            assert await reply.json() == {"worker": owner_of(session, 2), "bytes": 25}
        async with http.post(url, data=b"12345", expect100=True) as reply:
            assert await reply.json() == {"worker": owner_of(session, 2), "bytes": 5}


async def test_a_head_may_arrive_byte_by_byte(two):
    reader, writer = await asyncio.open_connection("127.0.0.1", two[0].port)
    for session in (THERE[0], HERE[0]):
        for byte in f"POST /s/{session}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi".encode():
            writer.write(bytes([byte]))
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert await reader.readexactly(len(b'{"worker": 1, "bytes": 2}'))
    writer.close()
    assert [len(worker.served) for worker in two] == [1, 1]


async def test_a_client_who_leaves_a_stream_is_noticed_where_the_stream_is_made(two, http):
    async with http.post(f"http://127.0.0.1:{two[0].port}/s/{THERE[0]}/v1/stream") as reply:
        assert await reply.content.readexactly(3) == b"111"
        reply.close()
    async with asyncio.timeout(5):
        await two[1].left.wait()


async def test_a_request_waits_for_a_worker_that_is_starting(http):
    async with started(0) as [first]:
        url = f"http://127.0.0.1:{first.port}/s/{THERE[0]}/v1/x"
        asked = asyncio.create_task(http.post(url, data=b"12"))
        await asyncio.sleep(0.1)
        assert not asked.done()
        late = Worker(1)
        runner = runner_of(late.app)
        await runner.setup()
        directory = first.handovers._directory
        handovers = Handovers(directory, 1)
        await serve_publicly([], runner, late.pinning, handovers)
        async with asyncio.timeout(5), await asked as reply:
            assert await reply.json() == {"worker": 1, "bytes": 2}
        await http.close()
        await runner.cleanup()
        handovers.close()


async def test_a_request_whose_worker_stays_away_is_refused_and_may_be_sent_again(http):
    async with started(0) as [first]:
        sockets = bound("127.0.0.1", 0)
        server = server_of(first.runner)
        door = lambda: Door(server, first.pinning, first.handovers, patience_s=0.05)  # noqa: E731
        await Site(first.runner, sockets[0], door).start()
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/s/{THERE[0]}/v1/chat/completions"
        async with http.post(url, data=b"12") as reply:
            assert reply.status == 503
            error = (await reply.json())["error"]
        assert (error["code"], first.served) == ("worker_unavailable", [])
        assert "send the request again" in error["message"]


async def test_a_request_that_comes_while_another_is_answered_is_brought_away_after_that(two):
    reader, writer = await asyncio.open_connection("127.0.0.1", two[0].port)
    two[0].may_answer.clear()
    writer.write(f"POST /s/{HERE[0]}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    await until(lambda: two[0].runner.server.requests_count == 1)
    writer.write(f"POST /s/{THERE[0]}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    await asyncio.sleep(0.05)
    assert two[1].served == []
    two[0].may_answer.set()
    async with asyncio.timeout(5):
        assert [await answered(reader), await answered(reader)] == [True, True]
    assert [len(worker.served) for worker in two] == [1, 1]
    writer.close()


async def test_requests_sent_before_the_answer_to_the_last_one_are_answered_by_none_but_their_own_worker(two):
    """Clients that do so are rare; theirs is the one refusal, and the connection is closed with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", two[0].port)
    one, other = (
        f"POST /s/{session}/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
        for session in (HERE[0], THERE[0])
    )
    writer.write(one + one + other)
    answers = await reader.read()
    assert answers.count(b"200 OK") == 2
    assert answers.count(b"503 Service Unavailable") == 1
    assert [len(worker.served) for worker in two] == [2, 0]
    writer.close()


async def test_what_is_no_http_is_refused_by_the_server(two):
    reader, writer = await asyncio.open_connection("127.0.0.1", two[0].port)
    writer.write(b"\x16\x03\x01\x02\r\n\r\n")
    assert b"400 Bad Request" in await reader.readline()
    writer.close()


async def test_the_socket_is_closed_with_the_client(two):
    """No worker keeps a descriptor of a connection that went through it."""
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(20):
        async with aiohttp.ClientSession() as client:
            for session in (THERE[0], HERE[0]):
                async with client.post(f"http://127.0.0.1:{two[0].port}/s/{session}/v1/x") as reply:
                    assert reply.status == 200
    await until(lambda: process.num_fds() <= before)
