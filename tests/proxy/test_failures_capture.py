"""Ingest is away, the disk is full, the proxy is killed: agents notice nothing, and what was said is stored once."""

import asyncio
import contextlib
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from failure_clients import DIALECTS, everything
from failure_world import Deployment, key_of, new_attempt

from nexrl_proxy.restoring import TIMEOUT_S

pytestmark = pytest.mark.slow

pytest_plugins = ["failure_fixtures"]
SOON_S = 6.0
"""A reply takes milliseconds; this is what eight official clients take to be made on a busy machine."""


async def answered(deployment: Deployment, attempt: str) -> list[str]:
    """Return what a request of every kind gets; none may wait for anything."""
    async with asyncio.timeout(SOON_S):
        return await everything(deployment.proxy.url, key_of(attempt))


async def arrived_once(deployment: Deployment, attempt: str, said: list[str], mark: int) -> None:
    """Check that the engine's tokens, the clients' texts and ingest's calls are the same."""
    calls = await deployment.kept(attempt)
    sampled = deployment.sampled(mark)
    assert sorted(list(call.completion) for call in calls) == sampled
    assert sorted(map(deployment.text, sampled)) == sorted(said)
    assert len({call.id for call in calls}) == len(calls)
    assert (await deployment.stats())["pending"] == 0


@pytest.mark.parametrize("away_s", [0.3, pytest.param(12.0, marks=pytest.mark.slow)])
async def test_agents_do_not_notice_that_ingest_is_away_and_every_call_arrives_once(deployment, away_s):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.kill()
    said = await answered(deployment, attempt)
    with pytest.raises(aiohttp.ClientResponseError, match="504"):
        await deployment.admin("POST", f"{deployment.proxy.url}/api/sessions/{attempt}/flush?timeout_s={away_s}")
    assert (await deployment.stats())["pending"] >= len(said)
    await asyncio.to_thread(deployment.ingest.start)
    said += await answered(deployment, attempt)
    await arrived_once(deployment, attempt, said, mark)


@pytest.mark.slow
async def test_agents_do_not_notice_that_ingest_hangs(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.signal(signal.SIGSTOP)
    try:
        said = await answered(deployment, attempt)
    finally:
        deployment.ingest.signal(signal.SIGCONT)
    await arrived_once(deployment, attempt, said, mark)


@pytest.mark.slow
async def test_a_silent_ingest_is_asked_for_sessions_once_and_not_by_every_agent(deployment):
    deployment.ingest.signal(signal.SIGSTOP)
    completions = DIALECTS["completions"]
    try:
        began = time.monotonic()
        for _ in range(8):  # each with a session that ingest might know
            await completions.say(deployment.proxy.url, key_of(new_attempt()))
        assert time.monotonic() - began < 2 * TIMEOUT_S
    finally:
        deployment.ingest.signal(signal.SIGCONT)
        deployment.proxy.end()  # or it would be thought silent by the next test too


@pytest.mark.slow
async def test_ingest_killed_while_spans_arrive_has_each_of_them_once(deployment):
    mark, attempts = deployment.mark(), [new_attempt() for _ in range(6)]
    said: list[str] = []
    for number, attempt in enumerate(attempts):
        said += await answered(deployment, attempt)
        if number % 2:
            deployment.ingest.kill()
            await asyncio.to_thread(deployment.ingest.start)
    calls = [call for attempt in attempts for call in await deployment.kept(attempt)]
    assert sorted(list(call.completion) for call in calls) == deployment.sampled(mark)
    assert len(calls) == len(said) == len({call.id for call in calls})


@pytest.mark.slow
async def test_a_disk_that_takes_no_more_costs_no_reply_and_no_call(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.kill()
    said = await answered(deployment, attempt)
    deployment.proxy.may_write(0)
    said += await answered(deployment, attempt)
    assert (await deployment.stats())["kept_in_memory"] == 8
    deployment.proxy.may_write()
    said += await answered(deployment, attempt)
    await asyncio.to_thread(deployment.ingest.start)
    await arrived_once(deployment, attempt, said, mark)


async def test_a_disk_that_stays_full_lets_spans_through_to_ingest(deployment):
    mark, attempt = deployment.mark(), new_attempt()
    deployment.proxy.may_write(0)
    try:
        said = await answered(deployment, attempt)
        await arrived_once(deployment, attempt, said, mark)
    finally:
        deployment.proxy.may_write()


@contextlib.contextmanager
def on_a_tiny_disk(deployment: Deployment, directory: Path) -> Iterator[Path]:
    """Let the deployment's proxy be one that keeps its data on a disk of its own, of 512 KiB; yield that disk."""
    data, usual = directory / "proxy", deployment.proxy
    data.mkdir()
    mounting = f'mount -t tmpfs -o size=512k tmpfs {shlex.quote(str(data))} && exec "$@"'
    deployment.proxy = deployment.proxy_in(directory, inside=("unshare", "-rm", "sh", "-c", mounting, "sh"))
    deployment.proxy.start()
    try:
        yield Path(f"/proc/{deployment.proxy.pid}/root{data}")
    finally:
        deployment.proxy.end()
        deployment.proxy = usual


@pytest.mark.slow
async def test_a_disk_that_is_really_full_costs_no_reply_and_no_call(deployment, tmp_path):
    if not shutil.which("unshare") or await asyncio.to_thread(subprocess.call, ["unshare", "-rm", "true"]):
        pytest.skip("this system lets nobody mount a disk of his own")
    mark, attempt = deployment.mark(), new_attempt()
    deployment.ingest.kill()
    with on_a_tiny_disk(deployment, tmp_path) as disk:
        said = await answered(deployment, attempt)
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(b" " * 2**20)
        for _ in range(4):
            said += await answered(deployment, attempt)
        assert (await deployment.stats())["kept_in_memory"] > 0
        (disk / "filler").unlink()
        said += await answered(deployment, attempt)
        await asyncio.to_thread(deployment.ingest.start)
        await arrived_once(deployment, attempt, said, mark)
