"""What every backend has to do alike, in Ray actors as runs have them: the torch backend is the measure."""

import asyncio
import gc

import msgspec
import pytest
import ray
import torch
from backend_world import OPTIMIZER, datum, family, make_model
from safetensors.torch import load_file

from nexrl.errors import ServiceError
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.policy import placed
from nexrl_trainer.policy.placed import PlacedTrainService
from nexrl_trainer.recipe.train import Train

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("backends")]

OBJECTIVE = Objective(entropy=0.01)
TORCH = Train(device="cpu")
FSDP = Train(device="cpu", backend="fsdp", ranks=2, micro_batch_tokens=60, activation_checkpointing=True)
STAGES = {
    1: Train(device="cpu", backend="deepspeed", ranks=2, zero_stage=1, micro_batch_tokens=60),
    2: Train(device="cpu", backend="deepspeed", ranks=2, zero_stage=2, micro_batch_tokens=60, offload_optimizer=True),
    3: Train(
        device="cpu", backend="deepspeed", ranks=2, zero_stage=3, micro_batch_tokens=60, activation_checkpointing=True
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    gc.collect()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Matrices above 100,000 elements: ZeRO 3 shares out nothing smaller.
    return make_model(tmp_path_factory.mktemp("model"), intermediate=3200)


@pytest.fixture(scope="module")
def measure(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch")
    return path, asyncio.run(course(folder, TORCH, path))


async def steps(service, count):
    """Train; return losses and gradient norms. A batch comes in two calls, as minibatches may."""
    measured = []
    for _ in range(count):
        sums = [await service.forward_backward(part, OBJECTIVE) for part in (family()[:3], family()[3:])]
        norm = (await service.optim_step(OPTIMIZER)).grad_norm
        measured += [sum(item["loss"] for item in sums), norm]
    return measured


async def weights(service, folder):
    folder.mkdir()
    await service.publish_weights(folder)
    return load_file(folder / "model.safetensors")


async def course(folder, config, tmp_path, checkpoint=None):
    """Train three steps, saved after the first while the others go on; or, from somebody's checkpoint, the two."""
    service = await PlacedTrainService.start(folder, config, gpus=0)
    try:
        if checkpoint:
            await service.load(checkpoint)
            measured = await steps(service, 2)
        else:
            (tmp_path / "checkpoint").mkdir()
            measured = await steps(service, 1)
            saving = service.save(tmp_path / "checkpoint")
            measured += await steps(service, 2)
            await saving
        logprobs = [value for values in await service.forward(family()) for value in values]
        trained = await weights(service, tmp_path / "weights")
        await service.forward_backward([datum(1, 12, advantage=float("nan"))] * 3, OBJECTIVE)
        with pytest.raises(ServiceError, match=r"FloatingPointError: gradient norm is (nan|inf)"):
            await service.optim_step(OPTIMIZER)
        untouched = await weights(service, tmp_path / "untouched")
        assert all(torch.equal(untouched[name], value) for name, value in trained.items())
        return measured, logprobs, trained
    finally:
        await service.stop()


def assert_alike(ours, theirs):
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=2e-5)
    for name, value in theirs[2].items():
        torch.testing.assert_close(ours[2][name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak), 3])
def test_deepspeed_on_two_ranks_trains_as_torch_does(folder, measure, tmp_path, stage):
    assert_alike(asyncio.run(course(folder, STAGES[stage], tmp_path)), measure[1])


@pytest.mark.soak
def test_fsdp_on_two_ranks_trains_as_torch_does(folder, measure, tmp_path):
    assert_alike(asyncio.run(course(folder, FSDP, tmp_path)), measure[1])


@pytest.mark.soak
def test_checkpoints_of_fsdp_and_torch_go_on_in_each_other(folder, measure, tmp_path):
    path, (measured, *rest) = measure
    (tmp_path / "fsdp").mkdir()
    (tmp_path / "torch").mkdir()
    ours = asyncio.run(course(folder, FSDP, tmp_path / "fsdp"))
    there = asyncio.run(course(folder, TORCH, tmp_path / "torch", tmp_path / "fsdp" / "checkpoint"))
    assert_alike(there, (ours[0][2:], *ours[1:]))
    (tmp_path / "back").mkdir()
    back = asyncio.run(course(folder, FSDP, tmp_path / "back", path / "checkpoint"))
    assert_alike(back, (measured[2:], *rest))


@pytest.mark.soak
def test_fsdp_in_bfloat16_computes_about_the_same_and_keeps_float32_weights(folder, measure, tmp_path):
    narrow = msgspec.structs.replace(FSDP, dtype="bfloat16")
    (losses, _, weights), (exact, _, _) = asyncio.run(course(folder, narrow, tmp_path)), measure[1]
    assert losses == pytest.approx(exact, rel=0.1, abs=5e-3)
    assert losses != pytest.approx(exact, rel=1e-4)
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.soak
def test_a_torch_checkpoint_goes_on_in_zero_3_on_two_ranks(folder, measure, tmp_path):
    path, (measured, *rest) = measure
    ours = asyncio.run(course(folder, STAGES[3], tmp_path, path / "checkpoint"))
    assert_alike(ours, (measured[2:], *rest))


def test_more_ranks_than_the_cluster_has_room_for_are_refused_with_what_it_has(folder, monkeypatch):
    monkeypatch.setattr(placed, "PLACEMENT_S", 1.0)
    config = Train(device="cpu", backend="deepspeed", ranks=64)
    with pytest.raises(ServiceError, match=r"no room for train\.ranks=64 of 1 CPU each .*: lower train\.ranks"):
        asyncio.run(PlacedTrainService.start(folder, config, gpus=0))
