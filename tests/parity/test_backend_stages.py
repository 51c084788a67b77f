"""The other ZeRO stages, and a checkpoint that moves to DeepSpeed: as the torch backend, which is the measure."""

import asyncio
import gc
import sys
from pathlib import Path

import pytest
import ray

sys.path.append(str(Path(__file__).parents[1] / "trainer"))
from backend_contract import STAGES, TORCH, assert_alike, course
from backend_world import make_model


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


@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_on_two_ranks_trains_as_torch_does(folder, measure, tmp_path, stage):
    assert_alike(asyncio.run(course(folder, STAGES[stage], tmp_path)), measure[1])


def test_a_torch_checkpoint_goes_on_in_zero_3_on_two_ranks(folder, measure, tmp_path):
    path, (measured, *rest) = measure
    ours = asyncio.run(course(folder, STAGES[3], tmp_path, path / "checkpoint"))
    assert_alike(ours, (measured[2:], *rest))
