"""What becomes of attempts: why they failed, and those that were disturbed."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from msgspec import convert

from nexrl.records import Group, Task
from nexrl_ingest.client import GroupState
from nexrl_ingest.wire import RolloutState
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.tree import Rewards
from nexrl_trainer.rollouts.attempts import Attempts, failure_of, pause_after
from nexrl_trainer.rollouts.conversation import last_message
from nexrl_trainer.rollouts.failures import Failures
from nexrl_trainer.rollouts.judging import Judge
from nexrl_trainer.rollouts.planning import afresh
from nexrl_trainer.rollouts.proxy import Flushed, ProxyClient, Refused
from nexrl_trainer.rollouts.quarantine import Quarantine
from nexrl_trainer.rollouts.runners.runner import DisturbedError, Ended


def ended(**fields):
    return Ended(**{"exit_code": 0, "timed_out": False, "answer": "", "stderr": "", "duration_s": 1.0, **fields})


def called(calls, of_other_models=0, refused=None):
    return Flushed(calls=calls, of_other_models=of_other_models, refused=refused)


def test_why_an_attempt_failed_is_said_in_one_line():
    assert failure_of(ended(), called(2), 60) is None
    assert failure_of(ended(timed_out=True), called(2), 60) == "agent: no end within 60 s"
    assert failure_of(ended(exit_code=3), called(2), 60) == "agent: exit code 3"
    trace = "Traceback ...\n  File x\n  y\nKeyError: 'x'\n"
    assert (
        failure_of(ended(exit_code=1, stderr=trace), called(2), 60) == "agent: exit code 1: File x | y | KeyError: 'x'"
    )
    assert failure_of(ended(problem="KeyError: 'x'"), called(2), 60) == "agent: KeyError: 'x'"
    assert "without a model call" in failure_of(ended(), called(0), 60)
    assert failure_of(ended(), called(3, of_other_models=2), 60) is None
    assert failure_of(ended(), called(2, of_other_models=2), 60) == (
        "agent: it asked other models alone, never one that is trained; does it ask for OPENAI_MODEL?"
    )


def test_an_agent_that_swallows_what_it_was_refused_is_told_that_and_not_to_read_its_environment():
    once = Refused(count=1, status=400, message="the embedded engine has no `logit_bias`")
    assert failure_of(ended(), called(0, refused=once), 60) == (
        "agent: it ended without a reply of the model: its 1 call was refused (400): "
        "the embedded engine has no `logit_bias`"
    )
    twice = Refused(count=2, status=404, message="no route")
    told = failure_of(ended(), called(3, of_other_models=3, refused=twice), 60)
    assert told.endswith("its 2 calls were refused, the last one (404): no route")
    assert failure_of(ended(), called(1, refused=twice), 60) is None


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"content": " 42\n"}, "42"),
        ({"content": [{"type": "text", "text": " 4"}, {"type": "text", "text": "2\n"}]}, "42"),
        ({"content": [{"type": "text", "text": None}, {"type": "image"}, {"type": "text", "text": "42"}]}, "42"),
        ({"content": None, "tool_calls": []}, ""),
    ],
)
def test_the_last_message_of_the_model_is_its_text(reply, said):
    call = {"id": "c", "parent": None, "messages": [{"role": "user", "content": "6*7?"}]}
    session = {"calls": [{**call, "reply": {"role": "assistant", **reply}}], "chains": [["c"]]}
    assert last_message(session) == said
    assert last_message({"calls": [], "chains": []}) == ""


def state(group, status):
    outcome = RolloutState(rollout=0, attempt="a", status=status, reason="", rewards={})
    return GroupState(id=group.id, task="t", mode="train", size=1, final=1, state="ready", outcomes=[outcome])


def test_a_step_that_failed_as_a_whole_is_planned_anew_and_any_other_goes_on():
    groups = [Group(id=name, run="r", task=Task(id="t", fields={}), size=1) for name in ("g", "h")]
    g, h = groups
    assert afresh(groups, {}) == groups
    assert afresh(groups, {"g": state(g, "failed")}) == groups
    assert afresh(groups, {"g": state(g, "failed"), "h": state(h, "completed")}) == groups
    again = afresh(groups, {"g": state(g, "failed"), "h": state(h, "failed")})
    assert [group.id for group in again] == ["g-again", "h-again"]


class Disturbed:
    """A runner whose first agents are taken away, the second under suspicion, and whose last ends on its own."""

    def __init__(self):
        self.left = [
            DisturbedError("agent: its pod was taken away: drain"),
            DisturbedError("agent: crashed", suspect=True),
        ]
        self.alone = []

    async def run(self, job, timeout_s):
        self.alone.append(job.alone)
        if self.left:
            raise self.left.pop(0)
        return ended(exit_code=3)


@pytest.fixture
async def proxy():
    """What a proxy says of every session: it made no call, and all of it is stored."""

    async def flushed(_):
        return web.json_response({"calls": 0, "of_other_models": 0, "refused": None})

    app = web.Application()
    app.add_routes([web.post("/api/sessions/{session}/flush", flushed)])
    served = web.AppRunner(app, access_log=None)
    await served.setup()
    await web.TCPSite(served, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http:
        yield ProxyClient(f"http://127.0.0.1:{served.addresses[0][1]}", "s", http)
    await served.cleanup()


GROUP = Group(id="run-g0", run="run", task=Task(id="t", fields={}), size=1)


async def attempts_of(runner, client, proxy, tmp_path, on_outcome=print):
    await client.put_group(GROUP)
    return Attempts(
        agent=convert({"command": ["agent"], "attempts": 1}, Agent),
        runner=runner,
        judge=Judge(rewards=[], rule=Rewards(), ingest=client, folder=tmp_path / "judging"),
        ingest=client,
        proxy=proxy,
        admin_key="s",
        quarantine=Quarantine(None, file=tmp_path / "quarantine.json", say=print),
        failures=Failures(tmp_path / "failures.log"),
        on_outcome=on_outcome,
    )


async def test_an_attempt_that_was_disturbed_is_made_again_costs_no_try_and_is_told(client, proxy, tmp_path):
    runner, outcomes = Disturbed(), []
    attempts = await attempts_of(runner, client, proxy, tmp_path, outcomes.append)
    await attempts.run(GROUP, range(1), priority=(0,))
    assert runner.alone == [False, False, True]
    assert [outcome.reason for outcome in outcomes] == ["agent: exit code 3"]
    told = (tmp_path / "failures.log").read_text().splitlines()
    assert [line.partition(" s: ")[2] for line in told if line] == [
        "agent: its pod was taken away: drain",
        "agent: crashed",
        "agent: exit code 3",
    ]


class Evicted:
    """A runner whose agents are all taken away."""

    async def run(self, job, timeout_s):
        raise DisturbedError("agent: its pod was taken away: drain")


async def test_a_rollout_that_is_always_disturbed_is_given_up_and_says_so(client, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.attempts.DISTURBED_AT_MOST", 3)
    monkeypatch.setattr("nexrl_trainer.rollouts.attempts.PAUSE_S", 0.0)
    outcomes = []
    attempts = await attempts_of(Evicted(), client, proxy, tmp_path, outcomes.append)
    async with asyncio.timeout(10):
        await attempts.run(GROUP, range(1), priority=(0,))
    given_up = "agent: its pod was taken away: drain; it is not tried again: 3 attempts ended like that"
    assert [(outcome.status, outcome.final, outcome.reason) for outcome in outcomes] == [("failed", True, given_up)]
    assert (tmp_path / "failures.log").read_text().count("its pod was taken away") == 3


async def test_it_is_not_made_again_at_once(client, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.attempts.pause_after", lambda disturbed: 1000)
    runner = Disturbed()
    attempts = await attempts_of(runner, client, proxy, tmp_path)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await attempts.run(GROUP, range(1), priority=(0,))
    assert runner.alone == [False]


def test_who_is_disturbed_again_and_again_waits_longer_each_time_up_to_a_limit():
    assert [pause_after(times) for times in (0, 1, 2, 6, 7, 5000)] == [0.1, 0.2, 0.4, 6.4, 10, 10]
