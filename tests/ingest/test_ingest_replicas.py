"""Several ingest processes on one PostgreSQL: they may die, and so may it, and nothing is lost or done twice."""

import asyncio
import time

import pytest
from crash_world import Load, Promised, check, drain, sessions_of
from ingest_process import Process
from ingest_world import ADMIN_KEY, finish, group
from postgres_server import PostgresServer

from nexrl_ingest.client import IngestClient


async def reached(enough, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not enough():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_of_two_replicas_one_is_killed_while_it_leases_and_the_other_carries_on(tmp_path, postgres):
    database = postgres.new_database()
    promised = Promised()
    load = Load(promised, 1)
    with (
        Process(tmp_path / "a", "--database", database) as first,
        Process(tmp_path / "b", "--database", database) as second,
    ):
        loading = asyncio.create_task(load.run(first.url, second.url))
        await reached(lambda: len(promised.handed) > 20)
        first.kill()
        handed = len(promised.handed)
        await reached(lambda: len(promised.handed) > handed + 20)
        load.stopping = True
        await loading
        await check(second.url, promised, sessions_of(1))
        for name, lease in list(promised.held.items())[:10]:
            async with IngestClient(second.url, ADMIN_KEY) as client:
                await client.ack([lease])
            del promised.held[name]
            promised.acked.add(name)
        await drain(second.url, promised)


@pytest.mark.slow
async def test_a_database_that_crashes_underneath_is_waited_for_and_what_was_acknowledged_is_there(tmp_path):
    promised = Promised()
    load = Load(promised, 1, patient=True)
    with (
        PostgresServer() as server,
        Process(tmp_path, "--database", server.new_database()) as running,
    ):
        loading = asyncio.create_task(load.run(running.url))
        for _ in range(2):
            known = len(promised.calls)
            await reached(lambda known=known: len(promised.calls) > known + 100)
            refused = promised.refusals
            await asyncio.to_thread(server.kill)
            await reached(lambda refused=refused: promised.refusals > refused)
            await asyncio.to_thread(server.start)
        known, acked = len(promised.calls), len(promised.acked)
        await reached(lambda: len(promised.calls) > known + 100 and len(promised.acked) > acked + 5)
        load.stopping = True
        await loading
        await check(running.url, promised, sessions_of(1))
        await drain(running.url, promised)


@pytest.mark.slow
async def test_whoever_waits_at_one_replica_gets_what_becomes_ready_at_the_other(tmp_path, postgres):
    database = postgres.new_database()
    with (
        Process(tmp_path / "a", "--database", database) as first,
        Process(tmp_path / "b", "--database", database) as second,
    ):
        async with IngestClient(first.url, ADMIN_KEY) as here, IngestClient(second.url, ADMIN_KEY) as there:
            waiting = asyncio.create_task(here.lease("run-1", wait_s=20))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            await finish(there, group())
            [leased] = await waiting
            assert (leased.group.group.id, time.monotonic() - started < 3) == ("group-1", True)
            await there.ack([leased.lease])
            assert [item.state for item in await here.groups("run-1")] == ["done"]
    assert not list(tmp_path.glob("*/ingest.sqlite"))


@pytest.mark.slow
def test_a_database_that_is_not_there_is_one_clear_line_without_the_password(tmp_path):
    process = Process(tmp_path, "--database", "postgresql://me:hunter2@127.0.0.1:1/traces")
    errors = process.end()
    assert process.process.returncode == 1
    assert errors.startswith("error: PostgreSQL database 'traces' at 127.0.0.1:1: ")
    assert "hunter2" not in errors
