"""Several workers behind one port: they look like one proxy, and one that dies takes nothing with it."""

import asyncio
import contextlib
import itertools
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types.responses import Response
from proxy_world import ADMIN, served, until
from scripted_engine import Line
from scripted_vllm import Sampled, ScriptedVllm
from worker_world import HELLO, Proxy, World, gone, workers_of

from nexrl.keys import attempt_key
from nexrl_proxy.leftovers import spool_names
from nexrl_proxy.workers.peers import added
from nexrl_proxy.workers.pinning import owner_of

HUNG_S = 2.0
SESSIONS = [f"a-{number}" for number in range(24)]


def sessions_of(worker: int, workers: int) -> list[str]:
    return [session for session in SESSIONS if owner_of(session, workers) == worker]


@pytest.mark.slow
async def test_concurrent_sessions_stick_to_their_workers_and_every_call_arrives_once(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 4) as world:
        connector = aiohttp.TCPConnector(limit=7)
        async with aiohttp.ClientSession(connector=connector) as shared:  # many connections for all sessions alike
            answered = await asyncio.gather(*(world.talk(session, 4, http=shared) for session in SESSIONS))
        stats = await world.stats()
        counted = await asyncio.gather(*(world.flush(session) for session in SESSIONS))
        assert counted == [4] * len(SESSIONS)
        assert world.chains() == dict.fromkeys(SESSIONS, 1)
        assert sorted(call.response for call in world.ingest.calls) == sorted(itertools.chain(*answered))
        assert len(world.ingest.spans) == len(world.ingest.calls)
        homes = [len(sessions_of(worker, 4)) for worker in range(4)]
        assert [worker["sessions"] for worker in stats["workers"]] == homes
        assert (stats["calls"], stats["sessions"], stats["healthy_engines"]) == (96, 24, 1)
        assert (await world.stats())["sessions"] == 0
        async with world.http.get(f"{world.proxy.url}/metrics") as reply:
            text = await reply.text()
        assert "nexrl_proxy_calls_total 96.0" in text
        assert "nexrl_proxy_healthy_engines 1.0" in text
        assert "nexrl_proxy_pid" not in text


@pytest.mark.slow
async def test_a_killed_worker_takes_only_its_streams_with_it(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 2) as world:
        (mine, *_), (others, *_) = sessions_of(0, 2), sessions_of(1, 2)
        said = [await world.chat(mine)]
        said += [{"role": "user", "content": "and?"}]
        world.ingest.status = 503
        said += [await world.chat(mine, *plain(said)), {"role": "user", "content": "so?"}]
        world.engine.script = lambda asked: Line(ids=[300, 301], pause_before=1 if asked["stream"] else None)
        async with streaming(world, mine) as lost, streaming(world, others) as kept:
            assert await lost.content.readany()
            assert await kept.content.readany()
            victim, survivor = [worker["pid"] for worker in (await world.stats())["workers"]]
            await kill(victim)
            with pytest.raises(aiohttp.ClientError):
                await lost.content.read()
            assert await world.chat(others)
            for event in world.engine.aborted.values():
                event.set()
            assert b"[DONE]" in await kept.content.read()
        world.ingest.status = 200
        await until(lambda: len([call for call in world.ingest.calls if call.session == mine]) == 2)
        async with aiohttp.ClientSession() as world.http:
            await world.chat(mine, *plain(said))
            assert await world.flush(mine) == 1
            pids = [worker["pid"] for worker in (await world.stats())["workers"]]
        assert world.chains()[mine] == 1
        assert pids[1] == survivor
        assert pids[0] != victim
        assert "worker 0 ended with signal SIGKILL" in world.proxy.said()


@pytest.mark.slow
async def test_a_response_is_read_and_deleted_where_its_session_lives_and_stays_so_when_that_worker_dies(
    model_dir, tmp_path
):
    async with workers_of(model_dir("chatml"), tmp_path, 2) as world:
        homes = [sessions_of(worker, 2)[0] for worker in range(2)]
        kept = {session: await respond(world, session) for session in homes}
        gone = {session: await respond(world, session) for session in homes}
        for session, response in gone.items():
            async with client_of(world, session) as client:
                await client.responses.delete(response.id)
        await until(lambda: len(world.ingest.calls) == 4)
        await kill((await world.stats())["workers"][1]["pid"])
        for session in homes:
            async with client_of(world, session) as client:
                assert (await client.responses.retrieve(kept[session].id)).output == kept[session].output
            async with client_of(world, session) as client:
                with pytest.raises(NotFoundError):
                    await client.responses.retrieve(gone[session].id)


def client_of(world: World, session: str) -> AsyncOpenAI:
    """Return a client whose connection is its own: it arrives at any worker."""
    return AsyncOpenAI(base_url=f"{world.proxy.url}/v1", api_key=attempt_key(session, ADMIN), max_retries=0)


async def respond(world: World, session: str) -> Response:
    async with client_of(world, session) as client:
        return await client.responses.create(model="m", input="hello")


async def kill(worker: int) -> None:
    """Kill a worker; connections that clients keep for later break with it, so open new ones."""
    process = psutil.Process(worker)
    process.kill()
    await gone([process])


def plain(messages):
    return [{"role": message["role"], "content": message["content"]} for message in messages]


@contextlib.asynccontextmanager
async def streaming(world: World, session: str):
    """Have a stream that ends where its engine aborts it: with a seed it does not go on behind its tokens."""
    headers = {"authorization": f"Bearer {attempt_key(session, ADMIN)}"}
    body = {"messages": [HELLO], "stream": True, "seed": 1}
    async with world.http.post(f"{world.proxy.url}/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.status == 200
        yield reply


@pytest.mark.slow
async def test_a_hold_is_everybodys_and_a_worker_that_starts_again_keeps_to_it(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 2) as world:
        here, there = sessions_of(0, 2)[0], sessions_of(1, 2)[0]
        assert await world.ask("POST", "/api/hold?drain_s=5") == (200, {"held": True, "drained": True, "running": 0})
        waiting = [asyncio.create_task(world.chat(session)) for session in (here, there)]
        await settled(world, waiting=2)
        await kill((await world.stats())["workers"][1]["pid"])
        with pytest.raises(aiohttp.ClientError):
            await waiting.pop()
        async with aiohttp.ClientSession() as world.http:
            waiting.append(asyncio.create_task(world.chat(there)))
            stats = await settled(world, waiting=2)
            assert [worker["held"] for worker in stats["workers"]] == [True, True]
            assert not any(task.done() for task in waiting)
            assert await world.ask("POST", "/api/release") == (200, {"held": False})
            await asyncio.gather(*waiting)


async def settled(world: World, *, waiting: int) -> dict:
    async with asyncio.timeout(10):
        while (stats := await world.stats())["waiting"] != waiting:  # noqa: ASYNC110 - nothing in this process tells
            await asyncio.sleep(0.02)
    return stats


@pytest.mark.slow
async def test_draining_takes_its_time_once_for_all_workers(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 2) as world:
        world.engine.script = lambda asked: Line(ids=[300, 301], pause_before=1)
        async with streaming(world, sessions_of(0, 2)[0]) as one, streaming(world, sessions_of(1, 2)[0]) as other:
            began = time.monotonic()
            held = await world.ask("POST", "/api/hold?drain_s=1")
            assert held == (200, {"held": True, "drained": False, "running": 2})
            assert 1 <= time.monotonic() - began < 1.9
            for event in world.engine.aborted.values():
                event.set()
            held = await world.ask("POST", "/api/hold?drain_s=5")
            assert held == (200, {"held": True, "drained": True, "running": 0})
            await one.read(), await other.read()
        status, error = await world.ask("POST", "/api/hold?drain_s=soon")
        assert (status, error["error"]["param"]) == (400, "drain_s")
        async with world.http.post(f"{world.proxy.url}/api/release") as reply:
            assert reply.status == 401
        assert (await world.stats())["held"]


@pytest.mark.slow
async def test_a_worker_that_starts_again_knows_the_weight_version(model_dir, tmp_path):
    vllm = ScriptedVllm(Sampled(ids=[300, 301], logprobs=[-0.5, -0.25]))
    flags = ("--engine-kind", "vllm", "--processed-logprobs")
    async with served(vllm.app) as url, workers_of(model_dir("chatml"), tmp_path, 2, "--engine", url, *flags) as world:
        await world.ask("POST", "/api/release?weight_version=7")
        victim = (await world.stats())["workers"][0]["pid"]
        await kill(victim)
        async with aiohttp.ClientSession() as world.http:
            for session in SESSIONS[:6]:
                await world.chat(session)
                await world.flush(session)
            assert (await world.stats())["workers"][0]["pid"] != victim
        assert {version for call in world.ingest.calls for version in call.weight_versions} == {7}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "parent"])
async def test_stopping_leaves_no_process_and_no_socket(model_dir, tmp_path, how):
    flags = ["--exit-with-parent"] if how == "parent" else []
    async with workers_of(model_dir("chatml"), tmp_path, 3, *flags) as world:
        workers = world.proxy.workers()
        assert len(workers) == 3
        await world.chat("a-1")
        if how == "parent":
            world.proxy.process.stdin.close()
        else:
            world.proxy.process.send_signal(signal.Signals[how])
        assert await asyncio.to_thread(world.proxy.close) == 0
        await gone(workers)
        assert world.proxy.left() == []
        assert world.proxy.said() == ""


@pytest.mark.slow
async def test_workers_whose_supervisor_is_killed_stop_and_lose_nothing(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 3) as world:
        workers = world.proxy.workers()
        await asyncio.gather(*(world.chat(session) for session in SESSIONS))
        await asyncio.to_thread(world.proxy.end, signal.SIGKILL)
        await gone(workers)
        assert world.proxy.left() == []
        assert len(world.ingest.calls) == len(SESSIONS)


@pytest.mark.slow
async def test_an_error_at_the_start_is_shown_once_and_ends_all(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 3) as world:
        parts = (model_dir("chatml"), tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:1")
        second = await asyncio.to_thread(Proxy, *parts, "--workers", "3")
        assert await asyncio.to_thread(second.close) == 2
        assert second.line == ""
        assert second.said().count("another proxy uses it") == 1
        assert second.left() == []
        second.directory.cleanup()
        assert await world.chat("a-1")


@pytest.mark.slow
async def test_each_process_may_open_as_many_files_as_the_system_allows_and_runs_on_uvloop(model_dir, tmp_path):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for workers in (1, 2):
        async with workers_of(model_dir("chatml"), tmp_path / str(workers), workers) as world:
            proxy = psutil.Process(world.proxy.process.pid)
            serving = proxy.children() or [proxy]
            assert [one.rlimit(psutil.RLIMIT_NOFILE) for one in serving] == [(most, most)] * workers
            assert all(any("uvloop" in place.path for place in one.memory_maps()) for one in serving)
            assert (await world.chat("a-1"))["id"]


@pytest.mark.slow
async def test_spans_left_by_other_numbers_of_workers_are_delivered(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 3) as world:
        world.ingest.status = 503
        await asyncio.gather(*(world.chat(session) for session in SESSIONS))
        left = world.ingest
        await asyncio.to_thread(world.proxy.end)
    assert left.calls == []
    async with workers_of(model_dir("chatml"), tmp_path, 2) as world:
        await until(lambda: len(world.ingest.calls) == len(SESSIONS))
        assert sorted(path.name for path in tmp_path.glob("spool*")) == spool_names(2)


def test_counters_add_up_and_an_engine_is_healthy_where_all_say_so():
    def said(pid, **more):
        usual = {"calls": 2, "sessions": 1, "running": 0, "pending": 0, "waiting": 1, "held": False, "engines": []}
        return usual | {"pid": pid, "healthy_engines": 2} | more

    together = added([said(7), said(8, healthy_engines=1, drift_edited=3, held=True)])
    workers = together.pop("workers")
    assert together == {
        "calls": 4,
        "sessions": 2,
        "running": 0,
        "pending": 0,
        "waiting": 2,
        "held": True,
        "healthy_engines": 1,
        "drift_edited": 3,
    }
    assert [(worker["pid"], worker["held"]) for worker in workers] == [(7, False), (8, True)]


@pytest.fixture
def short_of_patience(tmp_path):
    """One worker behind a port, under a supervisor that takes `HUNG_S` of silence for its end."""
    script = Path(__file__).with_name("hanging_worker.py")
    command = [sys.executable, script, tmp_path, str(HUNG_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(timeout=20)


@pytest.mark.slow
@pytest.mark.soak
async def test_a_worker_lives_on_until_its_event_loop_no_longer_turns_and_is_then_started_again(short_of_patience):
    url = short_of_patience.stdout.readline().removeprefix("ready ").strip()
    supervisor = psutil.Process(short_of_patience.pid)
    [first] = supervisor.children()
    await asyncio.sleep(2 * HUNG_S)
    assert supervisor.children() == [first]
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(10 * HUNG_S):
                await http.post(f"{url}/hang")
        await gone([first])
        async with http.get(f"{url}/health") as reply:
            assert reply.status == 200
    [second] = supervisor.children()
    await asyncio.sleep(2 * HUNG_S)
    assert supervisor.children() == [second] != [first]
