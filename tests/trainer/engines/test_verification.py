"""What an engine holds is compared with what was published, by the checksums that engines compute."""

import base64
import hashlib
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from embedded_world import serve
from scripted_fleet import fleet_of

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines.checksums import digest, mixed
from nexrl_trainer.engines.client import EngineClient, checksums_in
from nexrl_trainer.engines.generations import sglang
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.engines.tensors import buckets
from nexrl_trainer.engines.verification import Published, parts, verify
from nexrl_trainer.recipe.engine import Engine

ROUTES = ["pause_generation", "begin_weight_update", "update_weights_from_tensor", "end_weight_update"]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.arange(10, dtype=torch.float32), "3015603431603089"),
        (torch.arange(9001, dtype=torch.bfloat16), "6c63ad84737f01f6"),
        ((torch.arange(20000) % 251).to(torch.uint8), "9c7fabba7faaf242"),
    ],
)
def test_a_gpus_checksum_is_what_sglangs_own_kernel_returns(tensor, expected):
    """The numbers: SGLang 0.5.23's `hash_tiles32_kernel_blocked`, run by Triton's interpreter."""
    assert mixed(tensor) == expected


def test_a_large_tensors_checksum_does_not_depend_on_how_many_words_are_summed_at_once(monkeypatch):
    tensor = torch.arange(50_000, dtype=torch.float32)
    found = set()
    for at_once in (1, 3, 16):
        monkeypatch.setattr("nexrl_trainer.engines.checksums.TILES_AT_ONCE", at_once)
        found.add(mixed(tensor))
    assert len(found) == 1


def test_a_cpus_checksum_is_half_a_sha_256_of_the_bytes():
    assert digest(torch.tensor([[1.0, 2.0]])) == hashlib.sha256(bytes.fromhex("0000803f00000040")).hexdigest()[:16]


def test_what_an_engine_stores_as_one_is_found_by_its_parts_and_what_it_has_beside_is_left_out():
    layer = "model.layers.0.self_attn"
    names = frozenset(f"{layer}.{part}_proj.weight" for part in "qkvo") | {"model.norm.weight"}
    held = [f"{layer}.qkv_proj.weight", f"{layer}.o_proj.weight", "model.norm.weight", f"{layer}.k_scale"]
    assert parts(held, names) == {
        f"{layer}.qkv_proj.weight": tuple(f"{layer}.{part}_proj.weight" for part in "qkv"),
        f"{layer}.o_proj.weight": (f"{layer}.o_proj.weight",),
        "model.norm.weight": ("model.norm.weight",),
    }


def published(folder: Path, **tensors) -> Published:
    safetensors.torch.save_file(
        {name.replace("_at_", "."): value for name, value in tensors.items()}, folder / "m.safetensors"
    )
    return Published(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("summed", [digest, mixed])
def test_engines_may_store_what_was_published_in_a_narrower_type_with_a_padded_vocabulary(tmp_path, dtype, summed):
    rows, gate, up = torch.randn(70, 4), torch.randn(3, 4), torch.randn(3, 4)
    whole = published(tmp_path, embed_tokens_at_weight=rows, m_at_gate_proj_at_w=gate, m_at_up_proj_at_w=up)
    held = {
        "embed_tokens.weight": summed(torch.cat([rows, torch.zeros(58, 4)]).to(dtype)),
        "m.gate_up_proj.w": summed(torch.cat([gate, up]).to(dtype)),
    }
    verify("engine e", 3, whole, held)
    held["m.gate_up_proj.w"] = summed(torch.cat([up, gate]).to(dtype))
    with pytest.raises(ServiceError, match=r"e holds something else than weight version 3 in m\.gate_proj\.w, m\.up"):
        verify("engine e", 3, whole, held)


def test_tensors_in_different_types_are_not_taken_for_one_another(tmp_path):
    whole = published(tmp_path, a=torch.full((4,), 1 / 3), b=torch.full((4,), 1 / 5))
    held = {"a": digest(torch.full((4,), 1 / 3)), "b": digest(torch.full((4,), 1 / 5).bfloat16())}
    with pytest.raises(ServiceError, match=r"in b \(1 of 2"):
        verify("engine e", 3, whole, held)


def test_a_tensor_that_the_engine_does_not_speak_of_is_refused_by_name(tmp_path):
    whole = published(tmp_path, a=torch.ones(2), b=torch.ones(2))
    with pytest.raises(
        ConfigError, match=r"engine e does not say what it holds of b \(1 of 2 tensors\); set engine\.v"
    ):
        verify("engine e", 3, whole, {"a": digest(torch.ones(2))})


@pytest.mark.parametrize("ranks", [0, 2])
def test_an_engine_that_is_split_up_cannot_be_compared(ranks):
    with pytest.raises(ConfigError, match=rf"engine e is split over {ranks} ranks"):
        checksums_in("engine e", {"ranks": [{"checksums": {}}] * ranks})


class Policy:
    def __init__(self, folder: Path) -> None:
        self.weights = safetensors.torch.load_file(folder / "model.safetensors")

    async def publish_weights(self, folder):
        safetensors.torch.save_file(self.weights, folder / "model.safetensors")


async def test_the_embedded_engine_says_what_it_holds_and_one_changed_number_is_found(client, weights):
    engine = EngineClient(str(client.http._base_url), client.http)
    await client.update(weights[1], 1)
    whole = Published(weights[1])
    verify("engine", 1, whole, await engine.checksums())
    client.engine.model.weights[3].tensor.data.flatten()[5] += 1e-3
    [name] = client.engine.model.weights[3].names
    with pytest.raises(ServiceError, match=rf"in {name} \(1 of"):
        verify("engine", 1, whole, await engine.checksums())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_a_publication_is_verified_where_the_recipe_says_so(tmp_path, weights, dtype):
    async with serve(weights[0], dtype=dtype) as client, fleet_of(tmp_path, engines=1) as (fleet, *_):
        fleet.members[0].client = EngineClient(str(client.http._base_url), client.http)
        await Publisher(fleet, tmp_path / "w", Engine(verify=True)).publish(Policy(weights[1]), 1)
        assert (await client.info())["weight_version"] == "1"


async def test_an_engine_with_other_weights_than_published_ends_the_run(tmp_path, weights):
    async with fleet_of(tmp_path, engines=1) as (fleet, engines, _, journal, _said):
        tensors = safetensors.torch.load_file(weights[1] / "model.safetensors")
        sums = {name: digest(tensor) for name, tensor in tensors.items()}
        engines[0].ranks = [{"checksums": sums}]
        publisher = Publisher(fleet, tmp_path / "w", Engine(verify=True))
        await publisher.publish(Policy(weights[1]), 1)
        assert journal[-1] == "engine-1 weights_checker"
        engines[0].ranks = [{"checksums": {**sums, "model.norm.weight": "0" * 16}}]
        with pytest.raises(ServiceError, match=r"something else than weight version 2 in model\.norm\.weight"):
            await publisher.publish(Policy(weights[1]), 2)


def test_tensors_are_sent_some_at_a_time_and_each_once(weights):
    sent = [pickle.loads(base64.b64decode(bucket)) for bucket in buckets(weights[0], most=10_000)]
    assert len(sent) > 3
    together = dict(pair for bucket in sent for pair in bucket)
    assert sum(map(len, sent)) == len(together)
    for name, tensor in safetensors.torch.load_file(weights[0] / "model.safetensors").items():
        assert torch.equal(together[name], tensor)


async def test_tensors_that_are_refused_halfway_leave_the_engine_paused_until_they_are_whole(tmp_path, weights):
    config = Engine(kind="sglang", publication="tensors")
    async with fleet_of(tmp_path, engines=1, generation=sglang("0.5.23")) as (fleet, engines, _, journal, _said):
        publisher = Publisher(fleet, tmp_path / "w", config)
        engines[0].refuses.add("update_weights_from_tensor")
        with pytest.raises(ServiceError, match="refused weight version 1 at /update_weights_from_tensor"):
            await publisher.publish(Policy(weights[1]), 1)
        assert [line.split()[1] for line in journal] == ROUTES
        engines[0].refuses.clear()
        await publisher.publish(Policy(weights[1]), 1)
        assert [line.split()[1] for line in journal][len(ROUTES) :] == [*ROUTES, "continue_generation"]
        assert engines[0].version == "1"
