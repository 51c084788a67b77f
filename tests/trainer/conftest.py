"""What many of the trainer's tests need: a real ingest with the trainer's own client of it, and a cluster of agents."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from kubernetes_world import Cluster, cluster_at

from nexrl_ingest.app import make_app
from nexrl_ingest.client import IngestClient
from nexrl_ingest.store.embedded import EmbeddedStore

ADMIN_KEY = "an-admin-key-for-tests"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[IngestClient]:
    store = EmbeddedStore(tmp_path / "ingest")
    runner = web.AppRunner(make_app(store=store, admin_key=ADMIN_KEY), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http:
        yield IngestClient(f"http://127.0.0.1:{runner.addresses[0][1]}", ADMIN_KEY, http)
    await runner.cleanup()
    store.close()


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    async with cluster_at(tmp_path) as made:
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig))
        yield made
