"""Acknowledged means durable: real processes, killed at any moment; and one commit for all who wait."""

import asyncio
import random
import signal
import time

import psycopg
import pytest
from crash_world import Load, Promised, check, drain, sessions_of
from ingest_process import Process
from ingest_world import ADMIN_KEY, finish, group

from nexrl.errors import ConfigError
from nexrl_ingest.client import IngestClient
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store import Connection
from nexrl_ingest.store.embedded import FILE
from nexrl_ingest.store.postgres import PostgresStore

LIVES = 8
pytestmark = pytest.mark.slow


async def test_whatever_was_acknowledged_survives_kill_9_at_any_moment(tmp_path):
    promised, moments = Promised(), random.Random(5)
    for life in range(LIVES):
        with Process(tmp_path) as running:
            await check(running.url, promised, sessions_of(life - 1))
            loading = asyncio.create_task(Load(promised, life).run(running.url))
            await asyncio.sleep(moments.uniform(0.05, 0.5))
            running.kill()
            await loading
    assert min(len(promised.calls), len(promised.finished), len(promised.acked), len(promised.held)) > 1
    with Process(tmp_path) as running:
        await check(running.url, promised, [name for life in range(LIVES) for name in sessions_of(life)])
        await drain(running.url, promised)


async def test_on_a_full_disk_nothing_is_acknowledged_that_is_not_there_and_room_mends_it(tmp_path):
    promised = Promised()
    with Process(tmp_path) as running:
        load = Load(promised, 1, patient=True)
        loading = asyncio.create_task(load.run(running.url))
        await asyncio.sleep(0.4)
        for _ in range(2):
            before = promised.refusals
            running.may_write((tmp_path / f"{FILE}-wal").stat().st_size + 10_000)
            async with asyncio.timeout(10):
                while promised.refusals < before + 10:  # noqa: ASYNC110 - until the disk is felt to be full
                    await asyncio.sleep(0.01)
            await check(running.url, promised, sessions_of(1))
            running.may_write()
            kept = len(promised.calls)
            async with asyncio.timeout(10):
                while len(promised.calls) < kept + 50:  # noqa: ASYNC110 - until it goes on
                    await asyncio.sleep(0.01)
        running.may_write((tmp_path / f"{FILE}-wal").stat().st_size + 10_000)
        await asyncio.sleep(0.3)
        running.kill()
        load.stopping = True
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    with Process(tmp_path) as running:
        await check(running.url, promised, sessions_of(1))
        await drain(running.url, promised)


async def test_groups_outcomes_and_leases_survive_kill_9(tmp_path):
    with Process(tmp_path) as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            await finish(client, group("done", size=1))
            [leased] = await client.lease("run-1")
            await client.ack([leased.lease])
            await finish(client, group("held", size=1))
            [held] = await client.lease("run-1")
            await finish(client, group("free", size=1))
            running.kill()
    with Process(tmp_path) as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            assert [item.state for item in await client.groups("run-1")] == ["done", "leased", "ready"]
            await client.ack([held.lease])


async def test_the_client_rides_out_a_restart(tmp_path):
    with Process(tmp_path) as running:
        port = int(running.url.rpartition(":")[2])
        client = IngestClient(running.url, ADMIN_KEY, give_up_s=20)
        await client.put_group(group())
        running.kill()
        waiting = asyncio.create_task(client.groups("run-1"))
        with Process(tmp_path, port=port):
            assert [item.id for item in await waiting] == ["group-1"]
            await client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_quietly(tmp_path, number):
    with Process(tmp_path) as running:
        time.sleep(0.1)
        assert running.end(number) == ""
        assert running.process.returncode == 0
    assert list(tmp_path.glob("*-wal")) == []


def test_with_exit_with_parent_it_ends_when_its_input_closes(tmp_path):
    with Process(tmp_path, "--exit-with-parent") as running:
        assert running.end() == ""
        assert running.process.returncode == 0


def test_a_port_in_use_is_one_clear_line(tmp_path):
    with Process(tmp_path / "a") as running:
        port = int(running.url.rpartition(":")[2])
        second = Process(tmp_path / "b", port=port)
        errors = second.end()
        assert second.process.returncode == 1
        assert errors.startswith(f"error: cannot listen on 127.0.0.1:{port}")
        assert "use another --port" in errors


async def test_a_commit_of_the_file_reaches_the_disk_before_it_is_acknowledged(store):
    pragmas = ("journal_mode", "synchronous")
    found = await store.write(lambda connection: [connection.fetch(f"PRAGMA {name}") for name in pragmas])
    assert found == [[("wal",)], [(2,)]], "2 is FULL: an fsync per commit"


async def test_a_server_told_to_acknowledge_early_does_not_for_us(postgres):
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        store = PostgresStore(url)
        assert await store.write(lambda connection: connection.fetch("SHOW synchronous_commit")) == [("on",)]
        store.close()
    finally:
        with psycopg.connect(url, autocommit=True) as raw:
            raw.execute("ALTER ROLE postgres RESET synchronous_commit")


async def test_a_commit_that_fails_acknowledges_none_of_its_submissions(store):
    def add(connection: Connection) -> None:
        connection.execute("INSERT INTO attempts (id, group_id, rollout) VALUES (hex(randomblob(8)), 'g', 0)")

    def fill(connection: Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("INSERT INTO attempts (id, group_id, rollout) VALUES (hex(zeroblob(999999)), 'g', 0)")

    works = [lambda _: time.sleep(0.05), add, fill, add]
    results = await asyncio.gather(*map(store.write, works), return_exceptions=True)
    assert [type(item) for item in results[1:]] == [UnavailableError] * 3
    assert await store.read(lambda connection: connection.fetch("SELECT count(*) FROM attempts")) == [(0,)]


def test_a_data_directory_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    process = Process(tmp_path / "file" / "data")
    assert process.end().startswith(f"error: data directory {tmp_path}/file/data")
    assert process.process.returncode == 1


def test_two_processes_never_share_a_data_directory(tmp_path, monkeypatch):
    from nexrl_ingest.commands import serve

    monkeypatch.setattr(serve, "LOCK_PATIENCE_S", 0.1)
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN_KEY)
    with Process(tmp_path) as running, pytest.raises(ConfigError, match=f"in use by process {running.process.pid}"):
        serve.ingest(data=tmp_path, port=0)
