"""An engine in a Ray actor: a real one, published to, killed, and back where it was."""

import asyncio
import os
import shutil

import aiohttp
import psutil
import pytest
import ray
from embedded_world import true_logprobs
from scripted_fleet import ScriptedProxy
from test_engine_commands import recipe

from nexrl_trainer.engines.door import Door
from nexrl_trainer.engines.fleet import Fleet, Weights
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.recipe.engine import Engine
from nexrl_trainer.recipe.train import Train
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.services.engines import PlacedEngine, start_all

pytestmark = [pytest.mark.slow, pytest.mark.soak]


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Policy:
    def __init__(self, weights):
        self.weights = weights

    async def publish_weights(self, folder):
        for name in ("model.safetensors", "config.json"):
            shutil.copy(self.weights / name, folder)


async def sampled(http, url, folder):
    """Return the weight version of a completion whose logprobs are those of the weights in a folder."""
    body = {
        "input_ids": [5, 6, 7],
        "sampling_params": {"max_new_tokens": 8, "ignore_eos": True},
        "return_logprob": True,
    }
    async with http.post(f"{url}/generate", json=body) as reply:
        answer = await reply.json()
    logprobs = [logprob for logprob, _, _ in answer["meta_info"]["output_token_logprobs"]]
    assert logprobs == pytest.approx(true_logprobs(folder, [5, 6, 7], answer["output_ids"]), abs=1e-5)
    return answer["meta_info"]["weight_version"]


def kill(url):
    """End the process that listens there, as the machine would."""
    port = int(url.rsplit(":", 1)[1])
    [process] = {one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port}
    os.kill(process, 9)


async def test_a_killed_engine_is_back_at_its_address_with_the_newest_weights(cluster, weights, tmp_path):
    said, journal = [], []
    here = recipe(Engine(max_length=64), train=Train(device="cpu"))
    engine = PlacedEngine(here, weights[0], 0, tmp_path / "logs")
    proxy = ScriptedProxy(journal)
    await proxy.begin()
    async with aiohttp.ClientSession() as http:
        [url] = await start_all([engine], here, Weights(weights[0], 0))
        door = Door(ProxyClient(proxy.url, "key", http))
        fleet = await Fleet.of(
            {url: engine}, here.engine, Weights(weights[0], 0), door=door, http=http, say=said.append
        )
        await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(weights[1]), 4)
        assert await sampled(http, url, weights[1]) == "4"
        kill(url)
        while not await engine.ended():
            pass
        assert await fleet.failed() is None
        assert await sampled(http, url, weights[1]) == "4"
        assert said == ["engine ended (exit code -9): started again with weights 4, restart 1 of 3"]
        assert journal == ["proxy hold 0", "proxy release"]
        ray.kill(engine.actor)
        async with asyncio.timeout(60):  # Ray takes its time to notice
            while (how := await fleet.failed()) is None:  # noqa: ASYNC110 - nothing tells us but this
                await asyncio.sleep(0.1)
        assert "engine: its Ray actor died" in how
    await proxy.close()
