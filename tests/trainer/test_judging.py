"""Judging over a real ingest: what reward functions are given, what is stored, and what a crash leaves."""

import shutil

import pytest
import torch
from msgspec import structs
from trajectories import group, trajectory

import nexrl
from nexrl import PerCall, Verdict
from nexrl.errors import RewardError
from nexrl.records import Attempt, Call, Float32s, Group, Int32s, Outcome, Reward, Task
from nexrl.rewards import TOTAL
from nexrl.rewards.returned import rewards_of
from nexrl_ingest.wire import RewardRequest
from nexrl_trainer.batches.selection import lay_out
from nexrl_trainer.recipe.algorithm import Algorithm
from nexrl_trainer.recipe.tree import Rewards
from nexrl_trainer.rollouts.conversation import longest_conversation
from nexrl_trainer.rollouts.judging import Judge, latest
from nexrl_trainer.rollouts.runners.runner import Ended

GROUP = Group(id="run-g1", run="run", task=Task(id="t", fields={"right": "yes"}), size=3)


@pytest.fixture
async def ingest(client):
    await client.put_group(GROUP)
    return client


def judge_of(ingest, tmp_path, *functions, **rule):
    return Judge(rewards=functions, rule=Rewards(**rule), ingest=ingest, folder=tmp_path / "judging")


def ended(answer="yes", **fields):
    defaults = {"exit_code": 0, "timed_out": False, "stderr": "a warning", "duration_s": 2.5}
    return Ended(**{**defaults, "answer": answer, "stdout": f"{answer}\n", **fields})


async def an_attempt(ingest, rollout=0, name=None):
    """An attempt that has made one call."""
    attempt = Attempt(id=name or f"run-g1-r{rollout}", group=GROUP.id, rollout=rollout)
    await ingest.put_attempt(attempt)
    call = Call(
        id=f"{rollout + 1:015x}{'a' if name else '0'}",
        session=attempt.id,
        prompt_delta=Int32s([1, 2]),
        completion=Int32s([3]),
        logprobs=Float32s([-0.5]),
        weight_versions=Int32s([0]),
        messages=[{"role": "user", "content": "Is it?"}],
        reply={"role": "assistant", "content": "yes"},
    )
    await ingest.put_calls([call], {})
    return attempt


async def finish(judge, ingest, rollout, answer):
    """What `attempts.py` does with an agent that did its part."""
    attempt = await an_attempt(ingest, rollout)
    return await judge.settle(GROUP, attempt, await judge.judge(GROUP, attempt, ended(answer), 1))


async def stored(ingest):
    """Return status, reason and rewards of every final rollout, and whether the group is ready."""
    [state] = await ingest.groups("run")
    return {item.rollout: (item.status, item.reason, item.rewards) for item in state.outcomes}, state.state


async def test_a_reward_function_is_given_what_it_asks_for(ingest, tmp_path):
    @nexrl.reward
    def all_of_it(rollout):
        [call], [_, reply] = rollout.calls, rollout.messages
        assert (list(call.completion), reply["content"]) == ([3], "yes")
        assert (rollout.answer, rollout.stdout, rollout.stderr) == ("yes", "yes\n", "a warning")
        assert (rollout.exit_code, rollout.duration_s, rollout.steps) == (0, 2.5, [])
        return rollout.task["right"] == rollout.answer

    @nexrl.reward
    def by_call(calls):
        return PerCall({call.id: 0.5 for call in calls})

    async with judge_of(ingest, tmp_path, all_of_it, by_call) as judge:
        attempt = await an_attempt(ingest)
        outcome = await judge.judge(GROUP, attempt, ended(), 1)
        assert await judge.settle(GROUP, attempt, outcome) == [outcome]
    assert outcome.calls == 1
    assert [(item.name, item.call, item.value) for item in outcome.rewards] == [
        ("all_of_it", None, 1.0),
        ("by_call", "0000000000000010", 0.5),
        (TOTAL, None, 1.0),
    ]
    assert (await stored(ingest))[0] == {0: ("completed", "", {"all_of_it": 1.0, TOTAL: 1.0})}


async def test_a_reward_function_that_fails_is_a_failed_rollout_that_is_not_tried_again(ingest, tmp_path):
    async with judge_of(ingest, tmp_path, nexrl.reward(name="bad")(lambda answer: 1 / 0)) as judge:
        [outcome] = await finish(judge, ingest, 0, "yes")
    assert outcome == Outcome(
        status="failed", reason="reward 'bad': ZeroDivisionError: division by zero", calls=1, final=True
    )


async def test_what_others_gave_counts_where_the_recipe_names_it(ingest, tmp_path):
    correct = nexrl.reward(name="correct")(lambda task, answer: answer == task["right"])
    async with judge_of(ingest, tmp_path, correct, weights={"thumbs": 0.5}) as judge:
        attempt = await an_attempt(ingest)
        outcome = await judge.judge(GROUP, attempt, ended(), 1)
        assert (outcome.status, outcome.reason[:29]) == ("failed", "reward 'thumbs': nobody gave ")
        await ingest.reward(attempt.id, RewardRequest(name="thumbs", value=1.0, by="agent"))
        assert (await judge.judge(GROUP, attempt, ended(), 1)).status == "failed"
        await ingest.reward(attempt.id, RewardRequest(name="thumbs", value=3.0, by="a person"))
        [_, given] = (await judge.judge(GROUP, attempt, ended(), 1)).rewards
        assert given == Reward(name=TOTAL, value=2.5)


@pytest.mark.parametrize(("rule", "given"), [({"agent": True}, 3.0), ({"missing": "zero"}, 1.0)])
async def test_the_agents_own_rewards_count_where_the_recipe_says_so(ingest, tmp_path, rule, given):
    correct = nexrl.reward(name="correct")(lambda answer: 1)
    async with judge_of(ingest, tmp_path, correct, weights={"effort": 2.0}, **rule) as judge:
        attempt = await an_attempt(ingest)
        await ingest.reward(attempt.id, RewardRequest(name="effort", value=1.0, by="agent"))
        assert (await judge.judge(GROUP, attempt, ended(), 1)).rewards[-1].value == given


def test_of_rewards_given_twice_the_latest_counts_and_an_agents_never_hides_anothers():
    given = [Reward(name="a", value=1.0, by="x"), Reward(name="a", value=2.0, by="y")]
    agents = [Reward(name="a", value=3.0, by="agent"), Reward(name="b", value=4.0, by="agent")]
    of_a_call = Reward(name="c", value=5.0, call="c1", by="x")
    assert latest([*given, *agents, of_a_call], agent=True) == {"a": 2.0, "b": 4.0}
    assert latest([*given, *agents], agent=False) == {"a": 2.0}


@nexrl.reward(group=True)
def rank(answers):
    """1 for the shortest answer."""
    return [len(answer) == min(map(len, answers)) for answer in answers]


@nexrl.reward(weight=0.5)
def correct(task, answer):
    return answer == task["right"]


async def test_a_group_is_judged_together_once_the_last_of_it_ended(ingest, tmp_path):
    async with judge_of(ingest, tmp_path, correct, rank) as judge:
        assert await finish(judge, ingest, 2, "no") == []
        assert await finish(judge, ingest, 0, "yes") == []
        assert await stored(ingest) == ({}, "open")
        failed = Outcome(status="failed", reason="agent: exit code 1", calls=1)
        outcomes = await judge.settle(GROUP, await an_attempt(ingest, 1), failed)
    assert [outcome.status for outcome in outcomes] == ["completed", "failed", "completed"]
    assert await stored(ingest) == (
        {
            0: ("completed", "", {"correct": 1.0, "rank": 0.0, TOTAL: 0.5}),
            1: ("failed", "agent: exit code 1", {}),
            2: ("completed", "", {"correct": 0.0, "rank": 1.0, TOTAL: 1.0}),
        },
        "ready",
    )
    assert list((tmp_path / "judging").iterdir()) == []


@pytest.mark.parametrize("function", [correct, rank], ids=["by itself", "compared"])
async def test_an_episode_that_was_cut_off_is_judged_and_says_so(ingest, tmp_path, function):
    async with judge_of(ingest, tmp_path, function) as judge:
        for rollout in range(3):
            attempt = await an_attempt(ingest, rollout)
            over = ended("yes", cut_off="cut off after 4 turns" if rollout == 1 else "")
            await judge.settle(GROUP, attempt, await judge.judge(GROUP, attempt, over, 1))
    outcomes, _ = await stored(ingest)
    assert {rollout: outcome[:2] for rollout, outcome in outcomes.items()} == {
        0: ("completed", ""),
        1: ("completed", "cut off after 4 turns"),
        2: ("completed", ""),
    }


async def test_an_attempt_that_is_tried_again_does_not_wait_for_its_group(ingest, tmp_path):
    async with judge_of(ingest, tmp_path, rank) as judge:
        first = await an_attempt(ingest, 0, "run-g1-r0-first")
        assert await judge.settle(GROUP, first, Outcome(status="failed", reason="agent", calls=1, final=False)) == []
        record = await ingest.group(GROUP.id)
        assert record.attempts[0].outcome.final is False
        assert await judge.resume(GROUP) == frozenset()
        for rollout in range(3):
            outcomes = await finish(judge, ingest, rollout, "x")
        assert len(outcomes) == 3


@pytest.mark.parametrize("trouble", ["raises", "too few", "a name twice"])
async def test_where_the_comparison_fails_all_that_were_compared_fail(ingest, tmp_path, trouble):
    @nexrl.reward(group=True, name="compared")
    def compared(answers):
        if trouble == "raises":
            raise KeyError("nothing")
        return [1] if trouble == "too few" else [{"correct": 1}] * 3

    async with judge_of(ingest, tmp_path, correct, compared) as judge:
        for rollout in range(3):
            await finish(judge, ingest, rollout, "yes")
    outcomes, state = await stored(ingest)
    assert state == "ready"
    reasons = {"raises": "reward 'compared': KeyError: 'nothing'", "too few": "reward 'compared' returned 1 values"}
    for status, reason, _ in outcomes.values():
        assert status == "failed"
        assert reason.startswith(reasons.get(trouble, "reward 'correct' was given 2 times"))


def test_rollouts_that_could_not_be_judged_are_counted_apart_from_those_whose_agents_failed():
    reasons = ["agent: exit code 1", "reward 'bad': KeyError: 'x'", "reward 'bad' returned nan"]
    failed = [structs.replace(trajectory(name, 0.0, status="failed"), reason=name) for name in reasons]
    counts = lay_out([group(trajectory("a", 1.0), *failed)], Algorithm(), 0).counts
    assert (counts["failed"], counts["misjudged"]) == (3, 2)


@pytest.mark.parametrize("rule", [{"weights": {TOTAL: 1.0}}, {"agent": True}, {"missing": "zero"}])
def test_a_rule_that_says_nothing_or_names_the_total_is_refused(rule):
    with pytest.raises(ValueError, match=r"rewards\."):
        Rewards(**rule)


class StoppedError(Exception):
    """The process is gone."""


async def stop_after(ingest, monkeypatch, stores):
    """Let so many outcomes through, then be killed."""
    left, put_outcome = [None] * stores, ingest.put_outcome

    async def put(attempt, outcome):
        if not left:
            raise StoppedError
        left.pop()
        await put_outcome(attempt, outcome)

    monkeypatch.setattr(ingest, "put_outcome", put)


@pytest.mark.parametrize("stores", [0, 1, 2])
async def test_a_crash_while_a_group_is_stored_leaves_nothing_half_judged(ingest, tmp_path, monkeypatch, stores):
    asked = []

    @nexrl.reward(group=True)
    def once(answers):
        asked.append(answers)
        return [len(asked)] * len(answers)

    async with judge_of(ingest, tmp_path, once) as judge:
        await finish(judge, ingest, 0, "a")
        await finish(judge, ingest, 1, "b")
        with monkeypatch.context() as patched:
            await stop_after(ingest, patched, stores)
            with pytest.raises(StoppedError):
                await finish(judge, ingest, 2, "c")

    async with judge_of(ingest, tmp_path, once) as judge:
        assert await judge.resume(GROUP) == {0, 1, 2}
    outcomes, state = await stored(ingest)
    assert state == "ready"
    assert {rewards[TOTAL] for _, _, rewards in outcomes.values()} == {1.0}
    assert asked == [["a", "b", "c"]]


async def test_a_crash_before_the_last_one_ended_keeps_the_others(ingest, tmp_path):
    async with judge_of(ingest, tmp_path, correct, rank) as judge:
        await finish(judge, ingest, 0, "yes")
        await finish(judge, ingest, 2, "no")
    async with judge_of(ingest, tmp_path, correct, rank) as judge:
        assert await judge.resume(GROUP) == {0, 2}
        assert await judge.resume(GROUP) == {0, 2}
        assert len(await finish(judge, ingest, 1, "maybe")) == 3
    assert (await stored(ingest))[0][2] == ("completed", "", {"correct": 0.0, "rank": 1.0, TOTAL: 1.0})


async def test_a_crash_after_all_was_stored_stores_nothing_else(ingest, tmp_path, monkeypatch):
    async with judge_of(ingest, tmp_path, rank) as judge:
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(StoppedError))
            for rollout in (0, 1):
                await finish(judge, ingest, rollout, "x")
            with pytest.raises(StoppedError):
                await finish(judge, ingest, 2, "x")
        before = await stored(ingest)
        assert await judge.resume(GROUP) == {0, 1, 2}
        assert await stored(ingest) == before
        assert await judge.resume(GROUP) == frozenset()


async def test_of_a_group_that_is_given_up_nothing_is_kept(ingest, tmp_path):
    async with judge_of(ingest, tmp_path, rank) as judge:
        await finish(judge, ingest, 0, "yes")
        judge.forget(GROUP.id)
        assert await judge.resume(GROUP) == frozenset()
    assert list((tmp_path / "judging").iterdir()) == []


def test_scalars_of_torch_are_numbers():
    assert rewards_of("r", Verdict(torch.tensor(0.5)), ())[0].value == 0.5
    with pytest.raises(RewardError, match="'r' returned"):
        rewards_of("r", torch.ones(2), ())


def call(id_, parent, said, reply):
    return {"id": id_, "parent": parent, "messages": [{"content": said}], "reply": {"content": reply}}


def test_the_longest_conversation_is_told_from_its_beginning_also_where_it_is_a_branch():
    calls = [call("a", None, "q", "1"), call("b", "a", "x", "2"), call("c", "a", "y", "3"), call("d", "c", "z", "4")]
    told = longest_conversation({"calls": calls, "chains": [["a", "b"], ["c", "d"]]})
    assert [message["content"] for message in told] == ["q", "1", "y", "3", "z", "4"]
    assert longest_conversation({"calls": [], "chains": []}) == []
    whole = [call("a", None, "q", "1"), call("b", None, "q 1 x", "2"), call("c", "b", "y", "3")]
    told = longest_conversation({"calls": whole, "chains": [["a", "b", "c"]]})
    assert [message["content"] for message in told] == ["q 1 x", "2", "y", "3"]
