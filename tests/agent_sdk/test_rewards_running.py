"""Functions that misbehave, for real: in worker processes, and in threads."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

import nexrl
from nexrl.errors import RewardError
from nexrl.rewards import Rollout, Scorer, load_rewards

FILE = Path(__file__).parent / "reward_files/misbehaving.py"
ROLLOUT = Rollout(task={"n": 3}, answer="four")


@asynccontextmanager
async def scorer(*names, file=FILE, log=None):
    functions = [function for function in load_rewards(file) if function.name in names]
    assert len(functions) == len(names)
    async with Scorer(functions, log=log) as opened:
        yield opened
    assert workers() == []


def workers():
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "nexrl.rewards.worker" in " ".join(child.cmdline())]


async def values(scoring):
    return {item.reward.name: item.reward.value for item in await scoring.score(ROLLOUT)}


async def test_functions_of_a_file_run_in_a_process_and_get_what_they_ask_for():
    async with scorer("fine", "where") as opened:
        given = await values(opened)
    assert given["fine"] == 1.0
    assert given["where"] != os.getpid()


MISBEHAVIOUR = {
    "raises": "ZeroDivisionError: division by zero",
    "nan": "returned nan: return a finite number",
    "sys_exit": "SystemExit: 0",
    "os_exit": r"its process ended with exit code 7: before \| the end",
    "ends_before_its_child": "its process ended with exit code 8",
    "segfaults": "its process was killed by SIGSEGV",
    "hangs": r"no answer within 0\.3 s",
    "hangs_in_c": r"no answer within 0\.3 s",
    "hangs_politely": r"no answer within 0\.3 s",
    "ignores_signals": r"no answer within 0\.3 s",
    "closes_its_files": "its process (closed the connection|ended with exit code 1)",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISBEHAVIOUR)
async def test_what_misbehaves_fails_with_its_reason_and_what_comes_next_is_judged(name):
    async with scorer("fine", name) as opened:
        with pytest.raises(RewardError, match=f"reward '{name}':? {MISBEHAVIOUR[name]}"):
            await opened.score(ROLLOUT)
        opened._single = [function for function in opened._single if function.name == "fine"]
        assert await values(opened) == {"fine": 1.0}


@pytest.mark.slow
async def test_a_fork_answers_once_and_leaves_nothing_running():
    async with scorer("forks", "leaves_a_child") as opened:
        scored = [await values(opened) for _ in range(2)]
    assert [item["forks"] for item in scored] == [1.0, 1.0]
    # Whoever adopts the orphans also has to bury them.
    left = [int(item["leaves_a_child"]) for item in scored]
    assert [pid for pid in left if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []


@pytest.mark.slow
async def test_what_is_printed_goes_to_a_log_that_does_not_grow_for_ever(tmp_path):
    log = tmp_path / "rewards.log"
    async with scorer("prints", log=log) as opened:
        assert await values(opened) == {"prints": 1.0}
    written = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(written) <= 10_000_000
    assert log.read_text().endswith("done\n")


@pytest.mark.slow
async def test_a_class_is_made_once_per_process_before_its_time_counts():
    async with scorer("SlowToMake") as opened:
        opened._workers._slots = asyncio.Semaphore(1)
        assert [await values(opened) for _ in range(3)] == [{"SlowToMake": count} for count in (1.0, 2.0, 3.0)]


@pytest.mark.slow
async def test_many_rollouts_share_the_processes():
    async with scorer("where") as opened:
        given = await asyncio.gather(*(values(opened) for _ in range(20)))
        assert 1 <= len({item["where"] for item in given}) <= len(os.sched_getaffinity(0))


@pytest.mark.slow
async def test_a_rollout_that_is_given_up_takes_its_process_with_it():
    async with scorer("hangs_for_long") as opened:
        scoring = asyncio.create_task(opened.score(ROLLOUT))
        while not workers():  # noqa: ASYNC110 - it says so to nobody
            await asyncio.sleep(0.01)
        scoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scoring


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, sys\nfrom pathlib import Path\nfrom nexrl.rewards import *\n"
        "async def main():\n"
        "    functions = [f for f in load_rewards(Path(sys.argv[1])) if f.name == 'hangs_for_long']\n"
        "    async with Scorer(functions) as scorer:\n"
        "        await scorer.score(Rollout(task={}, answer=sys.argv[2]))\n"
        "asyncio.run(main())\n"
    )
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, script, FILE, ready])
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    [worker] = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    worker.wait(timeout=20)


@pytest.mark.slow
async def test_a_file_that_changed_meanwhile_is_said(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text("import nexrl\n@nexrl.reward\ndef there(answer): return 1\n")
    async with scorer("there", file=path) as opened:
        path.write_text("import nexrl\n@nexrl.reward\ndef other(answer): return 1\n")
        with pytest.raises(RewardError, match=r"'there': it is gone from .*reward\.py"):
            await opened.score(ROLLOUT)


@pytest.mark.slow
async def test_the_admin_key_does_not_reach_a_worker(monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "k" * 30)
    async with scorer("sees_the_admin_key") as opened:
        assert await values(opened) == {"sees_the_admin_key": 0.0}


async def score_in_thread(function, **options):
    async with Scorer([nexrl.reward(name="slow", timeout_s=0.05, **options)(function)]) as opened:
        return await values(opened)


async def test_in_a_thread_too_a_hang_is_given_up():
    ended = threading.Event()
    with pytest.raises(RewardError, match=r"'slow': no answer within 0\.05 s"):
        await score_in_thread(lambda answer: ended.wait(30))
    ended.set()


async def test_in_a_thread_too_an_exit_is_an_error():
    with pytest.raises(RewardError, match="'slow': SystemExit: 3"):
        await score_in_thread(lambda answer: sys.exit(3))


async def test_an_async_function_that_never_ends_is_cancelled_and_the_next_is_asked_in_the_same_loop():
    cancelled, loops = threading.Event(), []

    async def hang_once(answer):
        loops.append(asyncio.get_running_loop())
        if len(loops) > 1:
            return 1.0
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    assert await score_in_thread(hang_once, retries=1) == {"slow": 1.0}
    assert cancelled.is_set()
    assert loops[0] is loops[1]


async def test_an_async_function_that_blocks_its_loop_gets_another(monkeypatch):
    monkeypatch.setattr("nexrl.rewards.threads.PING_S", 0.05)
    ended, loops = threading.Event(), []

    async def block_once(answer):
        loops.append(asyncio.get_running_loop())
        if len(loops) == 1:
            ended.wait(30)
        return 1.0

    assert await score_in_thread(block_once, retries=1) == {"slow": 1.0}
    assert loops[0] is not loops[1]
    ended.set()
    while not loops[0].is_closed():  # noqa: ASYNC110 - it says so to nobody
        await asyncio.sleep(0.01)


async def test_async_functions_do_not_wait_for_each_other():
    barrier = None

    async def ask(answer):
        nonlocal barrier
        barrier = barrier or asyncio.Barrier(8)
        await barrier.wait()
        return 1.0

    async with Scorer([nexrl.reward(ask)]) as opened:
        assert len(await asyncio.gather(*(opened.score(ROLLOUT) for _ in range(8)))) == 8
