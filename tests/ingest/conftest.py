"""A real ingest on a free port over a real store, and a way to make calls."""

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from ingest_world import ADMIN_KEY, Ingest
from postgres_server import PostgresServer

from nexrl_ingest.app import make_app
from nexrl_ingest.client import IngestClient
from nexrl_ingest.store import Store
from nexrl_ingest.store.embedded import EmbeddedStore
from nexrl_ingest.store.postgres import PostgresStore


@pytest.fixture(scope="session")
def postgres():
    with PostgresServer() as server:
        yield server


@pytest.fixture
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the test's own storage: a directory, or a database in modules that say `ON_BOTH_STORES = True`."""
    if getattr(request, "param", "embedded") == "embedded":
        return lambda: EmbeddedStore(tmp_path / "data")
    database = request.getfixturevalue("postgres").new_database()
    return lambda: PostgresStore(database)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "open_store" in metafunc.fixturenames and getattr(metafunc.module, "ON_BOTH_STORES", False):
        metafunc.parametrize("open_store", ["embedded", "postgres"], indirect=True)


@pytest.fixture
def store(open_store: Callable[[], Store]):
    store = open_store()
    yield store
    store.close()


@pytest.fixture
async def ingest(store: Store) -> AsyncIterator[Ingest]:
    runner = web.AppRunner(make_app(store=store, admin_key=ADMIN_KEY), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http:
        yield Ingest(f"http://127.0.0.1:{runner.addresses[0][1]}", http, store)
    await runner.cleanup()


@pytest.fixture
def client(ingest: Ingest) -> IngestClient:
    return IngestClient(ingest.url, ADMIN_KEY, ingest.http, give_up_s=1.0)


@pytest.fixture
def unused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
