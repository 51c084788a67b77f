"""Where adapters are trained, they alone travel; the engine then samples from what the trainer would have merged."""

import asyncio

import msgspec
import pytest
import safetensors.torch
import torch
from aiohttp import ClientSession
from embedded_world import logprobs_of, save_llama, serve, true_logprobs
from test_publication import DISK, Policy

from nexrl.errors import ServiceError
from nexrl_trainer.engines.adapters import AdapterError, whole
from nexrl_trainer.engines.fleet import Fleet, Weights
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.engine import Engine
from nexrl_trainer.recipe.train import Lora, Train


class Adapting(Policy):
    """Learns before each publication; keeps the merged weights to compare with."""

    def __init__(self, model, kept, targets=("all-linear",)):
        super().__init__(model, kept)
        lora = Lora(rank=4, alpha=8, targets=list(targets))
        self.backend = TorchBackend(model, Train(device="cpu", lora=lora))

    async def publish_adapter(self, folder):
        await asyncio.to_thread(self.write, folder)

    def write(self, folder):
        version = int(folder.name[1:])
        for _ in range(2):  # after the first step one of each pair of matrices is still what it was
            self.learn(version)
        self.backend.publish_adapter(folder)
        self.kept.mkdir(exist_ok=True)
        (self.kept / str(version)).mkdir()
        self.backend.publish_weights(self.kept / str(version))


async def publisher_to(client, http, folder, model):
    fleet = await Fleet.of(
        {str(client.http._base_url): None}, DISK.engine, Weights(model, 0), door=None, http=http, say=print
    )
    return Publisher(fleet, folder, Engine(verify=True), adapters=True)


async def test_each_token_is_sampled_by_the_merged_weights_of_the_version_it_names(tmp_path, weights):
    policy = Adapting(weights[0], tmp_path / "kept")
    async with serve(weights[0]) as client, ClientSession() as http:
        publisher = await publisher_to(client, http, tmp_path / "weights", weights[0])
        running = asyncio.create_task(client.generate([7, 8], rid="r", max_new_tokens=4000, ignore_eos=True))
        for version in (1, 2):
            # Once another's token is there, the one that runs has one of the same weights.
            await client.generate([9], max_new_tokens=2, ignore_eos=True)
            await publisher.publish(policy, version)
        await client.generate([9], max_new_tokens=2, ignore_eos=True)
        await client.post("/abort_request", {"rid": "r"})
        reply = await running
        spans = [(int(span["version"]), span["start"], span["end"]) for span in reply["meta_info"]["weight_versions"]]
        assert [version for version, _, _ in spans] == [0, 1, 2]
        folders = [weights[0], tmp_path / "kept/1", tmp_path / "kept/2"]
        for version, start, end in spans:
            expected = true_logprobs(folders[version], [7, 8], reply["output_ids"])[start:end]
            assert logprobs_of(reply)[start:end] == pytest.approx(expected, abs=2e-5)
        held = {name: weight.tensor for weight in client.engine.model.weights for name in weight.names}
        for name, tensor in safetensors.torch.load_file(folders[2] / "model.safetensors").items():
            assert torch.equal(held[name], tensor), name


async def test_an_engine_begins_with_an_adapter_and_nothing_but_it_was_published(tmp_path, weights):
    policy = Adapting(weights[1], tmp_path / "kept", targets=("q_proj", "down_proj"))
    folder = tmp_path / "v000003"
    policy.write(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    async with serve(folder) as client:
        reply = await client.generate([7, 8, 9], max_new_tokens=20)
    expected = true_logprobs(tmp_path / "kept/3", [7, 8, 9], reply["output_ids"])
    assert logprobs_of(reply) == pytest.approx(expected, abs=2e-5)


def changed(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | settings))


def test_an_adapter_of_another_kind_or_model_is_refused_by_name(tmp_path, weights):
    folder = tmp_path / "v000001"
    Adapting(weights[0], tmp_path / "kept").write(folder)
    changed(folder, use_dora=True)
    with pytest.raises(AdapterError, match="use_dora=True cannot be merged; it has to be False"):
        whole(folder)
    other = save_llama(tmp_path / "other", seed=0, hidden_size=64)
    changed(folder, use_dora=False, base_model_name_or_path=str(other))
    with pytest.raises(AdapterError, match=r"_proj\.weight of .*other is not what it adapts"):
        whole(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors"):
        whole(folder)


async def test_an_adapter_that_cannot_be_merged_leaves_the_engine_as_it_was(tmp_path, weights):
    policy = Adapting(weights[0], tmp_path / "kept")

    class Torn(Adapting):
        def write(self, folder):
            super().write(folder)
            changed(folder, use_rslora=True)

    policy = Torn(weights[0], tmp_path / "kept")
    async with serve(weights[0]) as client, ClientSession() as http:
        publisher = await publisher_to(client, http, tmp_path / "weights", weights[0])
        with pytest.raises(ServiceError, match=r"refused weight version 1 .*use_rslora=True cannot be merged"):
            await publisher.publish(policy, 1)
        reply = await client.generate([7], max_new_tokens=5)
    assert reply["meta_info"]["weight_version"] == "0"
    assert logprobs_of(reply) == pytest.approx(true_logprobs(weights[0], [7], reply["output_ids"]), abs=1e-5)
