"""Capture: nothing answered is lost, nothing refused is hidden, and no reply waits for ingest."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from proxy_world import ADMIN, served, until, world_of
from scripted_engine import Line, ScriptedEngine
from stub_ingest import StubIngest

from nexrl.errors import ConfigError
from nexrl.keys import attempt_key
from nexrl.records import decode
from nexrl_proxy.recorder import Kept
from nexrl_proxy.spool import DEAD_LETTERS, Spool

HELLO = [{"role": "user", "content": "hello"}]


async def test_replies_do_not_wait_for_an_ingest_that_is_down_and_spans_arrive_when_it_is_up(world):
    world.says("ok")
    world.ingest.status = 503
    for _ in range(5):
        await world.chat(HELLO)
    status, reply = await world.post({}, path="/api/sessions/a-1/flush?timeout_s=0.05", authorization=f"Bearer {ADMIN}")
    assert status == 504
    assert "5 spans not acknowledged" in reply["error"]["message"]
    world.ingest.status = 200
    assert await world.flush() == 5
    assert len(world.ingest.calls) == 5
    stats = await world.stats()
    assert (stats["spooled"], stats["delivered"], stats["rejected"], stats["pending"]) == (5, 5, 0, 0)
    assert world.ingest.authorizations == {f"Bearer {ADMIN}"}


@pytest.mark.parametrize("status", [200, 400, 413], ids=["partial success", "400", "413"])
async def test_a_span_that_ingest_refuses_is_kept_apart_and_its_neighbours_arrive(world, tmp_path, status):
    world.says("ok")
    world.ingest.status = 503
    world.ingest.status_of_poison = status
    for _ in range(4):
        await world.chat(HELLO)
    spool = world.recorder._spool
    ids = [span_id(body) for body in spool.peek(frames=9, size=10**6)]
    world.ingest.poison = {ids[2]}
    world.ingest.status = 200
    assert await world.flush() == 3  # the refused one is not waited for
    assert [call.id for call in world.ingest.calls] == [ids[0], ids[1], ids[3]]
    stats = await world.stats()
    assert (stats["delivered"], stats["rejected"]) == (3, 1)
    assert bytes.fromhex(ids[2]) in (tmp_path / "spool" / DEAD_LETTERS).read_bytes()


def span_id(body: bytes) -> str:
    return Span.FromString(decode(body, Kept).span).span_id.hex()


async def test_many_spans_travel_in_batches_and_delivered_segments_are_deleted(world, tmp_path):
    world.says("ok")
    world.ingest.status = 503
    await asyncio.gather(*(world.chat(HELLO) for _ in range(70)))
    world.ingest.status = 200
    assert await world.flush() == 70
    assert max(world.ingest.batches) == 32
    await until(lambda: not list((tmp_path / "spool").glob("*.spool")))


async def test_a_disk_that_refuses_costs_no_reply_and_no_span(world):
    world.says("ok")
    world.ingest.status = 503
    await world.chat(HELLO)
    os.dup2(os.open("/dev/full", os.O_WRONLY), world.recorder._spool._writer)
    await world.chat(HELLO)
    assert (await world.stats())["kept_in_memory"] == 1
    world.recorder._spool._writer = None
    world.recorder._spool._written = 0
    world.ingest.status = 200
    assert await world.flush() == 2
    assert len(world.ingest.calls) == 2


async def test_what_a_stopped_proxy_could_not_deliver_the_next_one_delivers_first(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("nexrl_proxy.recorder.LINGER_S", 0.01)
    async with world_of(model_dir("chatml"), tmp_path) as world:
        world.says("ok")
        world.ingest.status = 503
        await world.chat(HELLO)
    async with world_of(model_dir("chatml"), tmp_path) as world:
        await world.flush()
        assert len(world.ingest.calls) == 1


@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(0, 2000), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_a_spool_returns_what_was_appended_in_order_and_sets_a_torn_end_aside(tmp_path_factory, bodies, cut, draw):
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory)
    done: list[bytes] = []
    for body in bodies:
        assert spool.append(body)
        if draw.random() < 0.3:
            done += take(spool, 1)
    assert done == bodies[: len(done)]
    spool.close()
    files = sorted(directory.glob("0*.spool"))
    kept = b"".join(path.read_bytes() for path in files)
    if files and cut:
        files[-1].write_bytes(files[-1].read_bytes()[: -min(cut, files[-1].stat().st_size)])
    again = Spool(directory)
    rest = [frame for batch in iter(lambda: take(again, 3), []) for frame in batch]
    again.close()
    expected = rest == bodies[len(bodies) - len(rest) :] if not cut else True
    assert expected
    assert all(body in bodies for body in rest)
    assert not kept or not list(directory.glob("0*.spool"))


def take(spool: Spool, frames: int) -> list[bytes]:
    found = spool.peek(frames=frames, size=500)
    spool.advance(found)
    return found


def test_a_disk_that_recovers_while_frames_wait_in_memory_loses_neither(tmp_path):
    spool = Spool(tmp_path)
    assert spool.append(b"first")
    os.close(spool._writer)
    assert not spool.append(b"kept in memory")
    spool._writer, spool._written = None, 0
    assert take(spool, 1) == [b"first"]
    waiting = spool.peek(frames=9, size=500)
    assert spool.append(b"on disk again")
    spool.advance(waiting)
    assert [waiting, take(spool, 9), take(spool, 9)] == [[b"kept in memory"], [b"on disk again"], []]
    spool.close()


def test_two_proxies_cannot_share_a_directory(tmp_path):
    spool = Spool(tmp_path)
    with pytest.raises(ConfigError, match="another proxy uses it"):
        Spool(tmp_path)
    spool.close()


class Process:
    """A real `nexrl proxy`."""

    def __init__(self, model: Path, data: Path, engine: str, ingest: str, *flags: str) -> None:
        command = [sys.executable, "-m", "nexrl_proxy", "--engine", engine, "--model", str(model), "--ingest", ingest]
        self.process = subprocess.Popen(
            [*command, "--data", str(data), "--port", "0", *flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "NEXRL_ADMIN_KEY": ADMIN},
        )  # fmt: skip
        self.line = self.process.stdout.readline()
        self.url = self.line.removeprefix("ready ").strip()

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.close()

    def close(self) -> int:
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(timeout=10)


@pytest.mark.slow
async def test_a_killed_proxy_loses_nothing_it_answered(model_dir, tmp_path):
    engine, ingest = ScriptedEngine(), StubIngest()
    engine.script = lambda _: Line(ids=[300, 301])
    ingest.status = 503
    async with served(engine.app) as engine_url, served(ingest.app) as ingest_url, aiohttp.ClientSession() as http:
        parts = (model_dir("chatml"), tmp_path, engine_url, ingest_url)
        first = await asyncio.to_thread(Process, *parts)
        answered = await asyncio.gather(*(ask(http, first.url, f"a-{number % 3}") for number in range(20)))
        assert await asyncio.to_thread(first.end, signal.SIGKILL) == -signal.SIGKILL
        assert ingest.spans == []
        ingest.status = 200
        second = await asyncio.to_thread(Process, *parts)
        await until(lambda: len(ingest.calls) == 20)
        assert {call.response for call in ingest.calls} == set(answered)
        assert await asyncio.to_thread(second.end) == 0


async def ask(http: aiohttp.ClientSession, url: str, attempt: str) -> str:
    headers = {"authorization": f"Bearer {attempt_key(attempt, ADMIN)}"}
    async with http.post(f"{url}/v1/chat/completions", json={"messages": HELLO}, headers=headers) as reply:
        assert reply.status == 200
        return (await reply.json())["id"]


@pytest.mark.slow
def test_the_process_announces_itself_and_stops_when_its_parent_is_gone(model_dir, tmp_path):
    process = Process(model_dir("chatml"), tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:1", "--exit-with-parent")
    assert process.line.startswith("ready http://127.0.0.1:")
    with urllib.request.urlopen(f"{process.url}/health") as reply:
        assert reply.status == 200
    assert process.close() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--engine-kind", "tgi"], "--engine-kind tgi: use one of sglang, vllm, openai"),
        (["--engine", "http://a:1,http://a:1/"], "twice"),
        (["--engine", "localhost:3"], "'localhost:3' is no engine's URL"),
        (["--sampling", '{"train": {"force": {"heat": 1}}}'], "train: heat is unknown"),
        (["--sampling", "hot"], "--sampling: JSON is malformed"),
        (["--history", "rewrite"], "choose from append, template"),
        (["--model", "/nowhere"], "--model: no directory /nowhere; give a model directory in Hugging Face layout"),
        (["--model", "/usr"], "--model: no config.json in /usr; give a model directory in Hugging Face layout"),
        (["--tool-parser", "prolog"], "choose from auto, "),
        (["--reasoning-parser", "kimi"], "choose from auto, none, "),
        (["--host", "203.0.113.1"], "choose another port"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(model_dir, tmp_path, monkeypatch, flags, complaint):
    import typer
    from typer.testing import CliRunner

    from nexrl_proxy.serve import proxy

    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN)
    app = typer.Typer()
    app.command()(proxy)
    usual = {"--engine": "http://127.0.0.1:1", "--model": str(model_dir("chatml")), "--ingest": "http://127.0.0.1:1"}
    given = {**usual, "--data": str(tmp_path), "--port": "0", **dict(zip(flags[::2], flags[1::2], strict=True))}
    result = CliRunner().invoke(app, [word for pair in given.items() for word in pair])
    assert result.exit_code == 2
    assert complaint in result.output


@pytest.mark.slow
def test_importing_the_proxy_loads_neither_torch_nor_transformers():
    code = "import sys, nexrl_proxy.serve; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


async def test_stats_are_json_counters(world):
    world.says("ok")
    await world.chat(HELLO)
    await world.flush()
    stats = await world.stats()
    assert json.dumps(stats)
    assert (stats["calls"], stats["running"], stats["unattributed"]) == (1, 0, 0)
