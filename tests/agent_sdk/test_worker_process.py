"""Worker processes, started and killed for real: what they print is kept, and nothing of them is left."""

import asyncio
import os
import sys

import psutil
import pytest

from nexrl.worker_process import WorkerProcess, opened_log

TALKS = """
import socket, sys, time
from nexrl.worker_process import framed

print("it says this")
socket.socket(fileno=int(sys.argv[1])).sendall(framed(b"said"))
time.sleep(60)
"""


@pytest.fixture
async def talking(tmp_path, monkeypatch):
    """A worker that has printed a line, and its log."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "talks.py").write_text(TALKS)
    log = opened_log(tmp_path / "worker.log")
    process = await WorkerProcess.start("talks", log=log, environment={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert await process.receive() == b"said"
    yield process, tmp_path / "worker.log"
    await process.kill()
    log.close()


async def test_what_a_worker_printed_is_in_the_log_when_it_is_killed(talking):
    process, log = talking
    await process.kill()
    assert log.read_text() == "it says this\n"


async def test_a_kill_that_is_given_up_can_be_made_again(talking):
    process, _ = talking
    killing = asyncio.create_task(process.kill())
    await asyncio.sleep(0)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    await process.kill()
    assert await process.how_it_ended() == "was killed by SIGKILL: it says this"


async def test_a_worker_that_cannot_be_started_leaves_no_file_open(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError, match="/no/such/python"):
        await WorkerProcess.start("talks", log=None)
    assert psutil.Process().num_fds() == before
