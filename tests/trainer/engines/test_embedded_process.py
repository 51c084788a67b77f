"""The engine as a process: it announces itself, and stops when told to or when its parent is gone."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

COMMAND = [sys.executable, "-m", "nexrl_trainer.engines.embedded"]
pytestmark = pytest.mark.slow  # importing torch and transformers takes seconds
PIPE = asyncio.subprocess.PIPE


@asynccontextmanager
async def process(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_a_process_announces_itself_serves_and_stops_on_sigterm_and_on_end_of_input(weights):
    async with (
        process("--model", str(weights[0]), "--weight-version", "7") as first,
        process("--model", str(weights[1]), "--exit-with-parent") as second,
        asyncio.timeout(120),
    ):
        for started, version in ((first, "7"), (second, "0")):
            ready, url = (await started.stdout.readline()).decode().split()
            assert ready == "ready"
            async with aiohttp.ClientSession(url) as http:
                async with http.get("/model_info") as response:
                    assert (await response.json())["weight_version"] == version
                async with http.post("/generate", json={"input_ids": [5]}) as response:
                    assert (await response.json())["meta_info"]["weight_version"] == version
        first.send_signal(signal.SIGTERM)
        second.stdin.close()
        assert await first.wait() == 0
        assert await second.wait() == 0
        assert (await first.stderr.read(), await second.stderr.read()) == (b"", b"")


async def test_a_model_that_cannot_be_served_ends_the_process_with_one_line(tmp_path):
    async with process("--model", str(tmp_path)) as started, asyncio.timeout(120):
        _, errors = await started.communicate()
        assert errors.decode() == f"--model {tmp_path}: no config.json there; give a directory in Hugging Face layout\n"
        assert started.returncode == 2
