"""`kill -9` at random instants under load, again and again: whatever was acknowledged is there, once, and whole."""

import asyncio
import random
from pathlib import Path

import pytest
from crash_world import Load, Promised, check, drain, sessions_of
from ingest_process import Process
from postgres_server import PostgresServer

FRESH_AFTER = 20
"""Lives of one store: every life is checked against all groups there are."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


async def outlive(directory: Path, lives: int, seed: int, *flags: str) -> int:
    """Kill an ingest `lives` times under load; return how many spans it had acknowledged."""
    promised, moments = Promised(), random.Random(seed)
    for life in range(lives):
        with Process(directory, *flags) as running:
            await check(running.url, promised, sessions_of(life - 1))
            loading = asyncio.create_task(Load(promised, life).run(running.url))
            await asyncio.sleep(moments.uniform(0, 0.6))
            running.kill()
            await loading
    with Process(directory, *flags) as running:
        await check(running.url, promised, [name for life in range(lives) for name in sessions_of(life)])
        await drain(running.url, promised)
    return len(promised.calls)


async def test_200_kills_of_an_ingest_on_its_own_file(tmp_path):
    for number in range(200 // FRESH_AFTER):
        assert await outlive(tmp_path / str(number), FRESH_AFTER, seed=number) > 100


async def test_60_kills_of_an_ingest_on_postgresql(tmp_path):
    with PostgresServer() as server:
        for number in range(60 // FRESH_AFTER):
            flags = ("--database", server.new_database())
            assert await outlive(tmp_path / str(number), FRESH_AFTER, number, *flags) > 100


async def test_40_crashes_of_postgresql_under_a_running_ingest(tmp_path):
    promised, moments = Promised(), random.Random(1)
    load = Load(promised, 1, patient=True)
    with PostgresServer() as server, Process(tmp_path, "--database", server.new_database()) as running:
        loading = asyncio.create_task(load.run(running.url))
        for _ in range(40):
            known = len(promised.calls)
            async with asyncio.timeout(60):
                while len(promised.calls) < known + 20:  # noqa: ASYNC110 - until it goes on
                    await asyncio.sleep(0.01)
            await asyncio.sleep(moments.uniform(0, 0.5))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await asyncio.sleep(1)
        load.stopping = True
        await loading
        await check(running.url, promised, sessions_of(1))
        await drain(running.url, promised)
