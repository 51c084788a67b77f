"""What agents and judges do wrong, with real processes: right status, right counts, nothing stuck, nothing lost."""

import asyncio
import resource
from itertools import chain
from pathlib import Path

import pytest
import pytest_asyncio
from rollout_world import rollout_world

from nexrl_trainer.rollouts.runners.survivors import carriers

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("misbehaviour")]
FOLDER = Path(__file__).parent / "misbehaving"
NO_CALL = "agent: it ended without a model call; does it read OPENAI_BASE_URL and OPENAI_API_KEY?"
CRASHED = "agent: exit code 1: "
KEY_ERROR = "raise KeyError(\"price\") | KeyError: 'price'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with rollout_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.mark.parametrize(
    ("trouble", "count", "status", "reason", "calls", "attempts"),
    [
        ("leaves-children", 0, "completed", "", 1, 1),
        ("ignores-sigterm", 0, "failed", "agent: no end within 6 s", 1, 2),
        ("shouts", 64, "completed", "", 1, 1),
        pytest.param("shouts", 1024, "completed", "", 1, 1, marks=pytest.mark.soak),
        ("calls-often", 100, "completed", "", 100, 1),
        pytest.param("calls-often", 10_000, "completed", "", 10_000, 1, marks=pytest.mark.soak),
        ("uses-anothers-key", 0, "completed", "", 1, 1),
        ("makes-no-call", 0, "failed", NO_CALL, 0, 2),
        ("crashes", 0, "failed", KEY_ERROR, 1, 2),
        ("judge-hangs", 0, "failed", "reward 'judged': no answer within 0.5 s", 1, 1),
        ("judge-raises", 0, "failed", "reward 'judged': ZeroDivisionError: division by zero", 1, 1),
        ("judge-returns-nan", 0, "failed", "reward 'judged' returned nan: return a finite number", 1, 1),
        ("judge-prints", 0, "completed", "", 1, 1),
    ],
)
async def test_what_misbehaves_is_recorded_as_it_went_and_leaves_nothing_behind(
    world, trouble, count, status, reason, calls, attempts
):
    limit_s = 6 if trouble == "ignores-sigterm" else 900
    command = ["python", "agent.py", "{trouble}", "{count}"]
    async with world.attempts(FOLDER, command=command, timeout_s=limit_s, attempts=2) as running:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        record = await world.rollouts(running, f"{trouble}-{count}", trouble=trouble, count=count)
        # In KiB: what an agent prints, or how often it calls, does not fill the trainer's memory.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 32 << 10
        assert running.slots.spent().busy_s > 0
    assert [item.outcome.final for item in record.attempts] == [False] * (attempts - 1) + [True]
    for item in record.attempts:
        assert (item.outcome.status, item.outcome.calls) == (status, calls)
        assert reason in item.outcome.reason
        assert len(await world.ingest.calls(item.attempt.id)) == calls
        # Also of those that no listing of sessions has, since they never called.
        assert (f"{item.attempt.id} after" in world.failures()) == (status == "failed" and "reward" not in reason)
    last = record.attempts[-1]
    assert {reward.name: reward.value for reward in last.rewards} == (
        {"judged": 1.0, "total": 1.0} if status == "completed" else {}
    )
    assert not [attempt for _, attempt in carriers() if attempt.startswith(f"{trouble}-{count}-")]


@pytest.mark.parametrize(
    ("program", "calls", "reason"), [("python", 1, ""), ("no-such-agent", 0, "agent: it cannot be started: [Errno 2]")]
)
async def test_a_call_after_the_agents_end_is_refused_and_changes_nothing(world, program, calls, reason):
    async with world.attempts(FOLDER, command=[program, "agent.py", "fine"], attempts=1) as running:
        record = await world.rollouts(running, f"late-{program}")
    [ended] = record.attempts
    assert await world.call(ended.attempt.id) == 403
    assert await world.call("somebody-else") == 200
    assert len(await world.ingest.calls(ended.attempt.id)) == ended.outcome.calls == calls
    assert ended.outcome.reason.startswith(reason)
    assert bool(ended.outcome.reason) == bool(reason)


async def test_rollouts_of_all_kinds_run_at_once_and_each_is_counted_once(world):
    troubles = ["fine", "crashes", "makes-no-call", "leaves-children", "judge-raises", "judge-returns-nan"]
    outcomes = []
    settings = {"command": ["python", "agent.py", "{trouble}"], "attempts": 1, "concurrency": 4}
    async with world.attempts(FOLDER, outcomes.append, **settings) as running:
        work = [world.rollouts(running, f"mixed-{name}", size=3, run="mixed", trouble=name) for name in troubles]
        records = await asyncio.gather(*work)
        assert running.slots.spent().taken_s > 0
    assert len(outcomes) == 3 * len(troubles)
    statuses = [[item.outcome.status for item in record.attempts] for record in records]
    fine, bad = ["completed"] * 3, ["failed"] * 3
    assert statuses == [fine, bad, bad, fine, bad, bad]


CALLABLE = """
import json, os, urllib.request

def ask(base_url):
    body = b'{"model": "any", "messages": [{"role": "user", "content": "Well?"}]}'
    request = urllib.request.Request(base_url + "/chat/completions", body, {"Content-Type": "application/json"})
    json.load(urllib.request.urlopen(request))

def act(task, base_url):
    if task["do"] != "nothing":
        ask(base_url)
    if task["do"] == "crash":
        os._exit(3)
    if task["do"] == "raise":
        raise KeyError("price")
    return task["do"]
"""


async def test_a_callable_that_takes_its_process_down_costs_nobody_else_an_attempt(world, tmp_path):
    (tmp_path / "agent.py").write_text(CALLABLE)
    (tmp_path / "reward.py").write_text((FOLDER / "reward.py").read_text())
    kinds = ["fine", "crash", "raise", "nothing"]
    settings = {"callable": "agent.py:act", "workers": 1, "attempts": 1}
    async with world.attempts(tmp_path, **settings) as running:
        work = [world.rollouts(running, f"callable-{n}", do=do) for n, do in enumerate(kinds)]
        records = await asyncio.gather(*work)
    for item in chain.from_iterable(record.attempts for record in records):
        assert await world.call(item.attempt.id) == 403
    finals = [next(item.outcome for item in record.attempts if item.outcome.final) for record in records]
    assert [final.status for final in finals] == ["completed", "failed", "failed", "failed"]
    for final, said in zip(finals, ["", "its process ended with exit code 3", KEY_ERROR, NO_CALL], strict=True):
        assert said in final.reason


async def test_a_task_at_which_agents_always_fail_is_set_aside_whatever_judges_do(world):
    settings = {"command": ["python", "agent.py", "{trouble}"], "attempts": 1, "quarantine": 2}
    async with world.attempts(FOLDER, **settings) as running:
        for number, trouble in enumerate(["makes-no-call", "judge-raises", "makes-no-call", "makes-no-call"]):
            assert not running.quarantine.passes_over("always")
            await world.rollouts(running, f"q-{number}", size=2, task_id="always", trouble=trouble)
        assert running.quarantine.passes_over("always")
        assert (running.quarantine.count, running.quarantine.passes_over("another")) == (1, False)
    async with world.attempts(FOLDER, **settings) as resumed:
        assert resumed.quarantine.passes_over("always")
