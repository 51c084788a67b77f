"""Fixtures: the same models as SGLang's tests have, and one vLLM server for all tests."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sglang"))
from sglang_models import save_models

from nexrl_trainer.services.process import ServiceProcess

ENVIRONMENT = Path(os.environ.get("TEST_VLLM_ENVIRONMENT", Path.home() / ".cache/nexrl/vllm/env"))
PYTHON = ENVIRONMENT / "bin/python"
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
FLAGS = "--dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 16 --logprobs-mode processed_logprobs"
START_S = 900.0
HEAD_DIM = 64
"""Its attention on a CPU has no smaller heads than of 32."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of one architecture."""
    assert PYTHON.exists(), f"no {PYTHON}: `make test-vllm` installs vLLM there"
    return save_models(tmp_path_factory.mktemp("models"), 3, head_dim=HEAD_DIM)


@pytest.fixture(scope="session")
def address(weights: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [sys.executable, "-m", "nexrl_trainer.engines.servers", "--kind", "vllm", "--python", str(PYTHON)]
    command += ["--exit-with-parent", "--", "--model", str(weights[0]), *FLAGS.split()]
    process = ServiceProcess("vllm", command, str(tmp_path_factory.mktemp("logs") / "vllm.log"), VARIABLES)
    try:
        yield process.url(START_S)
    finally:
        process.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
