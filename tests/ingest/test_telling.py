"""Who waits is told: by this replica, by another one, by the time; and looks from time to time where nobody tells."""

import asyncio
import itertools
from contextlib import asynccontextmanager, closing

import aiohttp
import psycopg
import pytest
from aiohttp import web
from ingest_world import ADMIN_KEY, finish, group
from postgres_server import PostgresServer

from nexrl_ingest.app import make_app
from nexrl_ingest.client import IngestClient
from nexrl_ingest.groups import waiting
from nexrl_ingest.store import hearing
from nexrl_ingest.store.postgres import PostgresStore

ON_BOTH_STORES = True
PATIENCE_S = 30.0


@asynccontextmanager
async def serving(store):
    runner = web.AppRunner(make_app(store=store, admin_key=ADMIN_KEY), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http:
        yield IngestClient(f"http://127.0.0.1:{runner.addresses[0][1]}", ADMIN_KEY, http, give_up_s=1.0)
    await runner.cleanup()


async def heard(store) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not store.hears():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def long_naps(monkeypatch):
    """Whoever is not told would sleep for longer than a test may take."""
    monkeypatch.setattr(waiting, "LONGEST_NAP_S", 600.0)


async def test_a_trainer_that_waits_is_told_of_a_group_that_is_ready(client, store):
    await heard(store)
    async with asyncio.timeout(PATIENCE_S):
        wait = asyncio.create_task(client.lease("run-1", wait_s=600))
        await asyncio.sleep(0.05)
        await finish(client, group())
        [leased] = await wait
    assert leased.group.group == group()


async def test_a_trainer_that_waits_looks_again_when_a_lease_runs_out(client, store):
    await heard(store)
    await finish(client, group())
    async with asyncio.timeout(PATIENCE_S):
        [first] = await client.lease("run-1", lease_s=0.3)
        [second] = await client.lease("run-1", wait_s=600)
    assert second.group == first.group


async def test_a_trainer_that_waits_at_one_replica_is_told_of_what_another_did(postgres):
    database = postgres.new_database()
    with closing(PostgresStore(database)) as here, closing(PostgresStore(database)) as there:
        await heard(here)
        async with serving(here) as waiter, serving(there) as other, asyncio.timeout(PATIENCE_S):
            wait = asyncio.create_task(waiter.lease("run-1", wait_s=600))
            await asyncio.sleep(0.05)
            await finish(other, group())
            [leased] = await wait
    assert leased.group.group == group()


async def test_where_no_word_arrives_that_is_said_and_those_who_wait_look(postgres, monkeypatch, caplog):
    database, elsewhere, count = postgres.new_database(), postgres.new_database(), itertools.count()
    real = hearing.connect
    # PostgreSQL tells only those of the same database: as with a pooler, the word gets lost.
    monkeypatch.setattr(hearing, "connect", lambda url: real(elsewhere if next(count) else url))
    monkeypatch.setattr(hearing, "TRIAL_S", 0.1)
    with closing(PostgresStore(database)) as here, closing(PostgresStore(database)) as there:
        async with serving(here) as waiter, serving(there) as other, asyncio.timeout(PATIENCE_S):
            while "who waits polls" not in caplog.text:  # noqa: ASYNC110 - another thread says it
                await asyncio.sleep(0.01)
            assert not here.hears()
            wait = asyncio.create_task(waiter.lease("run-1", wait_s=600))
            await asyncio.sleep(0.05)
            await finish(other, group())
            [leased] = await wait
    assert leased.group.group == group()


async def test_who_hears_nothing_tries_again_and_says_once_that_it_is_deaf(postgres, monkeypatch, caplog):
    database, elsewhere, count = postgres.new_database(), postgres.new_database(), itertools.count()
    real = hearing.connect

    def connect(url):
        number = next(count)
        if number == 0:
            raise psycopg.NotSupportedError("LISTEN is not supported")
        # Each try takes two connections: one that listens, and one that says the first word.
        return real(elsewhere if number in (2, 4) else url)

    monkeypatch.setattr(hearing, "connect", connect)
    monkeypatch.setattr(hearing, "TRIAL_S", 0.05)
    monkeypatch.setattr(hearing, "DEAF_S", 0.01)
    with closing(PostgresStore(database)) as store:
        await heard(store)
    said = [record.getMessage() for record in caplog.records if record.name == hearing.__name__]
    assert said == [
        f"{store.where} has no notifications (LISTEN is not supported): who waits polls",
        f"{store.where} passes notifications on again",
    ]


@pytest.mark.slow
async def test_after_an_outage_words_arrive_again_and_who_waits_looks_once_for_what_was_missed():
    with PostgresServer() as server, closing(PostgresStore(server.new_database())) as store:
        await heard(store)
        rung = asyncio.Event()
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(PATIENCE_S):
            while store.hears():  # noqa: ASYNC110 - what is waited for happens in another thread
                await asyncio.sleep(0.01)
            store.bell.listen(lambda: loop.call_soon_threadsafe(rung.set))
            await asyncio.to_thread(server.start)
            await rung.wait()
        assert store.hears()
