"""Fixtures: three sets of weights, one SGLang server for all tests that talk to it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from sglang_models import save_models
from sglang_world import PYTHON, Server, serving


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of one architecture, weights 0, 1, 2."""
    assert PYTHON.exists(), f"no {PYTHON}: `make test-sglang` installs SGLang there"
    return save_models(tmp_path_factory.mktemp("models"), 3)


@pytest.fixture(scope="session")
def address(weights: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(weights[0], tmp_path_factory.mktemp("logs") / "sglang.log") as url:
        yield url


@pytest.fixture(scope="session")
def folders(weights: list[Path]) -> dict[int, Path]:
    """Which version of the server is which weights."""
    return {0: weights[0]}


@pytest.fixture
async def server(address: str, weights: list[Path], folders: dict[int, Path]) -> AsyncIterator[Server]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as http:
        server = Server(address, weights, http)
        server.folders = folders
        yield server
        await server.engine.close()
