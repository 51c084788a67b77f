"""Agents of a trainer that is killed: their processes end at once, whoever they are and wherever they hide."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from runner_world import alive, gone

from nexrl_trainer.rollouts.runners.guard import still_open

TRAINER = """
import asyncio, sys
from pathlib import Path
from runner_world import job, runner

AGENT = '''
import os, subprocess, time
hidden = subprocess.Popen(["sleep", "600"], start_new_session=True)
with open("pids.part", "w") as file:
    file.write(f"{os.getpid()} {hidden.pid}")
os.rename("pids.part", "pids")
time.sleep(600)
'''

async def main():
    async with runner(Path(sys.argv[1]), command=[sys.executable, "-c", AGENT]) as started:
        await started.run(job(sys.argv[2]), 600)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_agents_end_with_a_trainer_that_is_killed_and_so_does_what_they_started(tmp_path):
    trainer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TRAINER, str(tmp_path), f"of-a-killed-trainer-{os.getpid()}"),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    async with asyncio.timeout(30):
        while not (tmp_path / "pids").exists():  # noqa: ASYNC110 - another process' doing
            await asyncio.sleep(0.02)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(alive(pid) for pid in pids)
    trainer.send_signal(signal.SIGKILL)
    await trainer.wait()
    ended = [await gone(pid) for pid in pids]
    for pid, is_gone in zip(pids, ended, strict=True):
        if not is_gone:
            os.kill(pid, signal.SIGKILL)
    assert ended == [True, True]


def test_attempts_that_ended_are_not_looked_for():
    assert still_open(["+a\n", "+b\n", "-a\n", "-never-begun\n", "+c"]) == {"b", "c"}
