"""Sessions that nobody planned, over a real ingest: what a step takes, what it was worth, what a crash leaves."""

import asyncio
import itertools

import pytest

import nexrl
from nexrl import PerCall
from nexrl.errors import ConfigError
from nexrl.records import Call, Float32s, Int32s
from nexrl.rewards import TOTAL
from nexrl_ingest.client import ExternalState, RewardRequest
from nexrl_trainer.batches.selection import lay_out, select
from nexrl_trainer.recipe.algorithm import Algorithm
from nexrl_trainer.recipe.sessions import Sessions
from nexrl_trainer.rollouts.hindsight import Hindsight, refuse_planned
from nexrl_trainer.rollouts.sessions import SessionFlow, waiting_for

_ids = itertools.count(1)


async def talks(client, session, *, version=0, said="yes", group=None, agent=None):
    call = Call(
        id=f"{next(_ids):016x}",
        session=session,
        prompt_delta=Int32s([1, 2]),
        completion=Int32s([3]),
        logprobs=Float32s([-0.5]),
        weight_versions=Int32s([version]),
        messages=[{"role": "user", "content": "Is it?"}],
        reply={"role": "assistant", "content": said},
        group=group,
        agent=agent,
    )
    await client.put_calls([call], {})
    return call.id


async def thumbs(client, session, value, **fields):
    await client.reward(session, RewardRequest(name="thumbs", value=value, **fields))


class World:
    """A flow and what it says."""

    def __init__(self, client, *functions, size=2, group_size=1, **settings):
        self.said, self.outcomes, self.spoke = [], [], asyncio.Event()
        rule = Sessions(**({"feedback": {"thumbs": 1.0}, "idle_s": 0} | settings))
        self.judge = Hindsight(rewards=functions, rule=rule, ingest=client)
        self.flow = SessionFlow(
            "live",
            rule.external(group_size),
            size=size,
            max_staleness=rule.max_staleness,
            ingest=client,
            judge=self.judge,
            say=self.hear,
            on_outcome=self.outcomes.append,
        )

    def hear(self, text):
        self.said.append(text)
        self.spoke.set()

    async def __aenter__(self):
        await self.judge.__aenter__()
        await self.flow.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.judge.__aexit__(*error)

    async def take(self, version=0):
        return await self.flow.take(version, 1)


def totals(collected):
    return {
        item.session: next((one.value for one in item.rewards if one.name == TOTAL), item.reason)
        for group in collected.groups
        for item in group.trajectories
    }


async def test_a_step_takes_the_sessions_that_have_feedback_and_each_is_worth_what_it_says(client):
    for session in ("a", "b", "c", "nobody"):
        await talks(client, session)
    for session, value in (("a", 1.0), ("b", -1.0), ("b", -3.0), ("c", 1.0)):
        await thumbs(client, session, value, by="user-7")
    async with World(client, feedback={"thumbs": 0.5}) as world:
        collected = await world.take()
    assert totals(collected) == {"a": 0.5, "b": -1.5}
    assert (collected.judged, collected.failures, collected.ran) == (2, [], 0)
    assert collected.standing.waiting == 1  # nobody; c has its feedback
    assert collected.standing.ready == 0
    plain = Algorithm(advantage="reinforce_pp")
    [first, second] = select(lay_out(collected.groups, plain, 0), plain).datums
    assert [list(first.advantages), list(second.advantages)] == [
        [0, 0, pytest.approx(1, 1e-5)],
        [0, 0, pytest.approx(-1, 1e-5)],
    ]


async def test_a_session_whose_lease_ran_out_while_others_are_waited_for_is_taken_once(client, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.sessions.LEASE_S", 0.2)
    for session in ("a", "b"):
        await talks(client, session)
    await thumbs(client, "a", 1.0)
    async with World(client) as world:
        taking = asyncio.create_task(world.take())
        while len(world.outcomes) < 2:  # a, and a again  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
        await thumbs(client, "b", -1.0)
        collected = await taking
        assert totals(collected) == {"a": 1.0, "b": -1.0}
        await client.ack(collected.leases)


async def test_sessions_are_judged_at_the_same_time(client):
    both = asyncio.Barrier(2)

    @nexrl.reward
    async def together(answer):
        async with asyncio.timeout(5):
            await both.wait()
        return len(answer)

    for session in ("a", "b"):
        await talks(client, session)
        await thumbs(client, session, 1.0)
    async with World(client, together) as world:
        assert totals(await world.take()) == {"a": 4.0, "b": 4.0}


async def test_what_is_waited_for_is_said(client):
    await talks(client, "a")
    await talks(client, "b")
    await thumbs(client, "a", 1.0)
    async with World(client) as world:
        taking = asyncio.create_task(world.take())
        await world.spoke.wait()
        await thumbs(client, "b", 1.0)
        await taking
    assert world.said[0] == "waiting for feedback: 1 of 2 groups; sessions: 1 without feedback yet"
    assert [outcome.status for outcome in world.outcomes] == ["completed", "completed"]


def test_groups_that_were_left_out_are_said_with_what_is_waited_for():
    standing = ExternalState(talking=2, waiting=0, without_feedback=0, ready=0, dropped={"unreadable": 3, "stale": 1})
    assert waiting_for(0, 2, standing) == (
        "waiting for feedback: 0 of 2 groups; sessions: 2 still talking; groups left out: 3 unreadable, 1 stale"
    )


async def test_functions_judge_what_was_said_beside_the_feedback(client):
    @nexrl.reward(weight=2.0)
    def short(answer, messages):
        assert [message["content"] for message in messages] == ["Is it?", answer]
        return len(answer) < 3

    @nexrl.reward
    def by_call(calls):
        return PerCall({call.id: 0.5 for call in calls})

    call = await talks(client, "a", said="no")
    await talks(client, "b", said="certainly")
    for session in ("a", "b"):
        await thumbs(client, session, 1.0)
    async with World(client, short, by_call) as world:
        collected = await world.take()
    assert totals(collected) == {"a": 3.0, "b": 1.0}
    of_calls = [item for item in collected.groups[0].trajectories[0].rewards if item.call]
    assert [(item.name, item.call, item.value) for item in of_calls] == [("by_call", call, 0.5)]


async def test_a_function_that_fails_is_a_failed_rollout_and_the_others_are_learned_from(client):
    @nexrl.reward
    def brittle(answer):
        return 1 / (answer != "no")

    for session, said in (("a", "no"), ("b", "yes")):
        await talks(client, session, said=said)
    async with World(client, brittle, feedback={}, reward="judge.py") as world:
        collected = await world.take()
    assert totals(collected) == {"a": "reward 'brittle': ZeroDivisionError: division by zero", "b": 1.0}
    assert (collected.judged, len(collected.failures)) == (1, 1)


async def test_functions_of_groups_see_the_sessions_of_a_key_together(client):
    @nexrl.reward(group=True)
    def shortest(answers):
        return [len(answer) == min(map(len, answers)) for answer in answers]

    for session, said in (("a", "no"), ("b", "certainly"), ("c", "never mind")):
        await talks(client, session, said=said, group="refunds")
    async with World(client, shortest, size=1, group_size=3, feedback={}, reward="judge.py", group="key") as world:
        assert totals(await world.take()) == {"a": 1.0, "b": 0.0, "c": 0.0}


async def test_what_was_not_acknowledged_comes_again_worth_the_same_and_is_judged_once(client):
    asked = []

    @nexrl.reward
    def once(answer):
        asked.append(answer)
        return len(asked)

    await talks(client, "a")
    await talks(client, "b")
    settings = {"feedback": {}, "reward": "judge.py"}
    async with World(client, once, **settings) as world:
        first = await world.take()
    async with World(client, once, **settings) as world:
        again = await world.take()
        await client.ack(again.leases)
    assert totals(first) == totals(again)
    assert sorted(totals(first).values()) == [1.0, 2.0]
    assert len(asked) == 2
    await talks(client, "c")
    await talks(client, "d")
    async with World(client, once, **settings) as world:
        assert totals(await world.take()).keys() == {"c", "d"}


async def test_what_older_weights_sampled_is_left_out_and_counted(client):
    for session, version in (("old", 1), ("new", 4), ("newer", 5)):
        await talks(client, session, version=version)
        await thumbs(client, session, 1.0)
    async with World(client, max_staleness=2) as world:
        collected = await world.take(version=6)
    assert totals(collected).keys() == {"new", "newer"}
    assert collected.dropped == {"stale": 1}


@pytest.mark.parametrize("asked", ["task", "exit_code", "stdout", "duration_s"])
def test_a_function_that_asks_for_what_only_a_task_has_is_refused(asked):
    namespace = {}
    exec(f"def judge({asked}):\n    return 1", namespace)
    with pytest.raises(ConfigError, match=f"'judge' asks for '{asked}'"):
        refuse_planned([nexrl.reward(namespace["judge"])])
