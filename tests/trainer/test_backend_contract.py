"""What every backend has to do alike: the torch backend is the measure. The other ZeRO stages are in tests/parity."""

import asyncio
import gc

import pytest
import ray
from backend_contract import STAGES, TORCH, assert_alike, course
from backend_world import make_model

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("backends")]


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


def test_deepspeed_on_two_ranks_trains_as_torch_does(folder, measure, tmp_path):
    assert_alike(asyncio.run(course(folder, STAGES[3], tmp_path)), measure[1])
