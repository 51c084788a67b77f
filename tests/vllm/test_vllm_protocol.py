"""What a run relies on of vLLM, seen in a real server: exact logprobs, and weights that come between requests."""

import asyncio
from pathlib import Path

import pytest
from sglang_models import true_logprobs
from sglang_world import EXACT, Heard, work

from nexrl.errors import ServiceError
from nexrl_proxy.engines.http import Upstream
from nexrl_proxy.engines.vllm import VllmEngine
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.client import EngineClient

PROMPT = [72, 101, 108, 108, 111, 44, 32]


class Server:
    """The server as trainer and proxy see it."""

    def __init__(self, url: str, http) -> None:
        self.client = EngineClient(url, http)
        self.engine = VllmEngine(Upstream(url), processed_logprobs=True)

    async def publish(self, folder: Path, version: int) -> None:
        generation = await self.client.generation("vllm")
        await self.client.update(generations.from_folder(generation, folder, version))
        self.engine.adopt(version)

    async def assert_samples(self, folder: Path, version: int, *, temperature: float = 1.0) -> None:
        heard = Heard()
        asked = work(f"r-{version}-{temperature}", PROMPT, 40, stream=False, temperature=temperature)
        await self.engine.complete(asked, heard)
        found = heard.completion
        assert found.exact
        assert list(found.weight_versions) == [version] * len(found.ids)
        expected = true_logprobs(folder, PROMPT, list(found.ids), temperature)
        assert list(found.logprobs) == pytest.approx(expected, abs=EXACT)


@pytest.fixture
async def server(address: str, http):
    server = Server(address, http)
    yield server
    await server.engine.close()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_logprobs_are_those_of_the_distribution_sampled_from(server: Server, weights, temperature):
    await server.publish(weights[0], 1)
    await server.assert_samples(weights[0], 1, temperature=temperature)


async def test_published_weights_sample_the_very_next_token(server: Server, weights):
    for version, folder in enumerate(weights, start=2):
        await server.publish(folder, version)
        assert await server.client.version("/weight_info") == str(version)
        await server.assert_samples(folder, version)


async def test_an_update_waits_until_requests_are_done(server: Server, weights):
    await server.publish(weights[0], 5)
    heard = Heard()
    running = asyncio.create_task(server.engine.complete(work("running", PROMPT, 300, stream=True), heard))
    while not heard.completion.ids:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    generation = await server.client.generation("vllm")
    await server.client.update(generations.from_folder(generation, weights[1], 6))
    await running
    found = heard.completion
    assert len(found.ids) == 300
    assert list(found.logprobs) == pytest.approx(true_logprobs(weights[0], PROMPT, list(found.ids)), abs=EXACT)


async def test_weights_that_cannot_be_read_leave_requests_aside_until_others_come(server: Server, weights, tmp_path):
    with pytest.raises(ServiceError, match="refused weight version 7 at /collective_rpc"):
        await server.publish(tmp_path / "nowhere", 7)
    waiting = asyncio.create_task(server.engine.complete(work("waiting", PROMPT, 5, stream=False), Heard()))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    await server.publish(weights[2], 8)
    await waiting
    await server.assert_samples(weights[2], 8)
