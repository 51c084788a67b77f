"""Acknowledged means durable: real processes, killed at any moment; and one commit for all who wait."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import aiohttp
import pytest
from ingest_world import ADMIN_KEY, call, finish, group, request_of

from nexrl.errors import ConfigError
from nexrl.spans import span_of
from nexrl_ingest.client import IngestClient
from nexrl_ingest.refusals import NotFoundError, UnavailableError
from nexrl_ingest.store import Store


class Process:
    """A real `nexrl ingest`."""

    def __init__(self, data: Path, *flags: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "nexrl_ingest", "ingest", "--data", str(data), "--port", str(port), *flags]
        environment = os.environ | {"NEXRL_ADMIN_KEY": ADMIN_KEY}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        word, self.url = self.process.stdout.readline().split()
        assert word == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int | None = None) -> str:
        """Send a signal, or close standard input; return what was said on standard error."""
        if number is not None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return errors


def stored_ids(data: Path) -> list[str]:
    connection = sqlite3.connect(data / "ingest.sqlite")
    try:
        return [span_id.hex() for [span_id] in connection.execute("SELECT span_id FROM spans")]
    finally:
        connection.close()


async def load(url: str, acknowledged: list[str]) -> None:
    """Send small batches from several connections until the server is gone."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/x-protobuf"}

    async def sender(http: aiohttp.ClientSession) -> None:
        while True:
            spans = [span_of(call(range(50), [1, 2]), prompt_tokens=50) for _ in range(4)]
            body = request_of(*spans).SerializeToString()
            async with http.post(f"{url}/v1/traces", data=body, headers=headers) as response:
                await response.read()
                assert response.status == 200
                acknowledged.extend(span.span_id.hex() for span in spans)

    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(sender(http) for _ in range(6)), return_exceptions=True)


@pytest.mark.slow
async def test_every_acknowledged_span_survives_kill_9_and_is_there_once(tmp_path):
    acknowledged: list[str] = []
    moments = random.Random(5)
    for _ in range(3):
        before = len(acknowledged)
        with Process(tmp_path) as running:
            loading = asyncio.create_task(load(running.url, acknowledged))
            async with asyncio.timeout(10):
                while len(acknowledged) == before:  # noqa: ASYNC110 - the kill is to hit real load
                    await asyncio.sleep(0.01)
            await asyncio.sleep(moments.uniform(0.05, 0.3))
            running.process.kill()
            await loading
        found = stored_ids(tmp_path)
        assert len(found) == len(set(found))
        assert set(acknowledged) <= set(found)
    with Process(tmp_path) as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            assert {item["id"] for item in (await client.session("session-1"))["calls"]} >= set(acknowledged)


@pytest.mark.slow
async def test_groups_outcomes_and_leases_survive_kill_9(tmp_path):
    with Process(tmp_path) as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            await finish(client, group("done", size=1))
            [leased] = await client.lease("run-1")
            await client.ack([leased.lease])
            await finish(client, group("held", size=1))
            [held] = await client.lease("run-1")
            await finish(client, group("free", size=1))
            running.process.kill()
    with Process(tmp_path) as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            assert [item.state for item in await client.groups("run-1")] == ["done", "leased", "ready"]
            await client.ack([held.lease])


@pytest.mark.slow
async def test_the_client_rides_out_a_restart(tmp_path):
    with Process(tmp_path) as running:
        port = int(running.url.rpartition(":")[2])
        client = IngestClient(running.url, ADMIN_KEY, give_up_s=20)
        await client.put_group(group())
        running.process.kill()
        running.process.wait()
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


@pytest.mark.slow
def test_a_port_in_use_is_one_clear_line(tmp_path):
    with Process(tmp_path / "a") as running:
        port = int(running.url.rpartition(":")[2])
        second = Process(tmp_path / "b", port=port)
        errors = second.end()
        assert second.process.returncode == 1
        assert errors.startswith(f"error: cannot listen on 127.0.0.1:{port}")
        assert "use another --port" in errors


async def test_a_failing_submission_undoes_its_own_changes_and_nobody_elses(store):
    def add(id_: str, *, fail: bool = False):
        def work(connection: sqlite3.Connection) -> str:
            connection.execute("INSERT INTO attempts (id, group_id, rollout) VALUES (?, 'g', 0)", (id_,))
            if fail:
                raise NotFoundError(id_)
            return id_

        return work

    works = [add("a"), add("b", fail=True), add("a"), add("c")]
    results = await asyncio.gather(*map(store.write, works), return_exceptions=True)
    assert (results[0], results[3]) == ("a", "c")
    assert [type(item) for item in results[1:3]] == [NotFoundError, sqlite3.IntegrityError]
    rows = await store.read(lambda connection: connection.execute("SELECT id FROM attempts ORDER BY id").fetchall())
    assert rows == [("a",), ("c",)]


async def test_what_waits_together_is_committed_together(store):
    commits: list[str] = []
    store.connection.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    await asyncio.gather(
        store.write(lambda _: time.sleep(0.2)),
        *(store.write(lambda connection: connection.execute("SELECT 1").fetchone()) for _ in range(100)),
    )
    assert len(commits) <= 2


async def test_a_commit_that_fails_acknowledges_none_of_its_submissions(store):
    def add(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO attempts (id, group_id, rollout) VALUES (hex(randomblob(8)), 'g', 0)")

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("INSERT INTO attempts (id, group_id, rollout) VALUES (hex(zeroblob(999999)), 'g', 0)")

    works = [lambda _: time.sleep(0.05), add, fill, add]
    results = await asyncio.gather(*map(store.write, works), return_exceptions=True)
    assert [type(item) for item in results[1:]] == [UnavailableError] * 3
    assert await store.read(lambda connection: connection.execute("SELECT count(*) FROM attempts").fetchone()) == (0,)


def test_a_file_of_a_newer_nexrl_is_refused(tmp_path):
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "ingest.sqlite")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(ConfigError, match="has schema version 7, this NexRL knows 1"):
        Store(tmp_path)


def test_a_data_directory_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    process = Process(tmp_path / "file" / "data")
    assert process.end().startswith(f"error: data directory {tmp_path}/file/data")
    assert process.process.returncode == 1


def test_two_processes_never_share_a_data_directory(tmp_path, monkeypatch):
    from nexrl_ingest import serve

    monkeypatch.setattr(serve, "LOCK_PATIENCE_S", 0.1)
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN_KEY)
    with Process(tmp_path) as running, pytest.raises(ConfigError, match=f"in use by process {running.process.pid}"):
        serve.ingest(data=tmp_path, port=0)
