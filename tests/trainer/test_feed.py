"""The flow of groups over a real ingest; agents are played by a script that says when each ends, and how."""

import asyncio
import random
import secrets
from pathlib import Path

import pytest

from nexrl import wire
from nexrl.errors import RunError
from nexrl.records import Attempt, Call, Float32s, Group, Int32s, Outcome, Reward, Task
from nexrl.rewards import TOTAL
from nexrl.spans import span_bytes
from nexrl_trainer.recipe.tree import Rollouts
from nexrl_trainer.rollouts.collected import GIVEN_UP
from nexrl_trainer.rollouts.feed import Feed
from nexrl_trainer.rollouts.planning import Position
from nexrl_trainer.rollouts.quarantine import Quarantine

RUN = "run"
AT_THE_START = Position()


def plan(number):
    return Group(id=f"{RUN}-g{number}", run=RUN, task=Task(id=str(number), fields={}), size=2)


def number_of(group):
    return int(group.id.split("-")[1].removeprefix("g"))


class Agents:
    """Each rollout makes one call under the weights of the moment; `ends` and `rewards` say how a group goes."""

    def __init__(self, client):
        self.client = client
        self.version = 0
        self.started = []
        self.running = set()
        self.ends = {}
        """By group number: an event that the group's rollouts wait for before they end."""
        self.rewards = {}
        """By group number, one per rollout; None fails."""
        self.unreadable = set()
        """Groups whose calls come in the proxy's name and are none."""
        self.quarantine = Quarantine(None, file=Path("unused"), say=print)
        self.forgotten = []

    def forget(self, group):
        self.forgotten.append(group)

    async def run(self, group, rollouts, *, priority, began):
        assert priority == (1, number_of(group))
        for _ in rollouts:
            began()
        self.started.append(number_of(group))
        self.running.add(number_of(group))
        try:
            for rollout in rollouts:
                await self._rollout(group, rollout)
        finally:
            self.running.discard(number_of(group))
        return len(rollouts)

    async def _rollout(self, group, rollout):
        attempt = Attempt(id=f"{group.id}-{rollout}-{secrets.token_hex(4)}", group=group.id, rollout=rollout)
        await self.client.put_attempt(attempt)
        sampled = {"prompt_delta": Int32s([1]), "completion": Int32s([2]), "logprobs": Float32s([-1.0])}
        versions = Int32s([self.version])
        call = Call(id=secrets.token_hex(8), session=attempt.id, weight_versions=versions, **sampled)
        if number_of(group) in self.unreadable:
            body = wire.request(
                [span_bytes(call, prompt_tokens=1).replace(b"[{}]", b"[{]}")], service="", scope="nexrl_proxy"
            )
            await self.client._request("POST", "/v1/traces", body, content_type="application/x-protobuf")
        else:
            await self.client.put_calls([call], {})
        if event := self.ends.get(number_of(group)):
            await event.wait()
        value = self.rewards.get(number_of(group), (0.0, 1.0))[rollout]
        if value is None:
            outcome = Outcome(status="failed", reason="agent: it broke", calls=1)
        else:
            outcome = Outcome(status="completed", rewards=[Reward(name=TOTAL, value=value)], calls=1)
        await self.client.put_outcome(attempt.id, outcome)


def feed_of(client, agents, position=AT_THE_START, version=0, **settings):
    recipe = Rollouts(**({"groups_per_step": 2, "group_size": 2} | settings))
    return Feed(recipe, plan=plan, attempts=agents, ingest=client, position=position, version=version)


def numbers(collected):
    return [number_of(item.group) for item in collected.groups]


async def settled(agents, count):
    """Wait until so many groups were started in all and are done or held, and see that no further one is started."""
    async with asyncio.timeout(10):
        while len(agents.started) < count or agents.running - agents.ends.keys():  # noqa: ASYNC110 - a script's facts
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert len(agents.started) == count


async def test_synchronous_is_a_steps_groups_at_a_time_in_their_order_and_nothing_while_it_trains(client):
    agents = Agents(client)
    agents.ends[0] = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, agents.ends[0].set)  # after group 1
    async with feed_of(client, agents) as feed:
        for step in range(3):
            collected = await feed.take(version=step, steps=3 - step)
            assert numbers(collected) == [2 * step, 2 * step + 1]
            assert collected.ran == collected.judged == 4
            assert feed.position == Position(planned=2 * step + 2)
            await settled(agents, 2 * step + 2)
            agents.version = step + 1
            feed.advance(step + 1)
            await client.ack(collected.leases)


async def test_rollouts_run_ahead_by_as_many_steps_as_may_be_stale_and_not_beyond_the_last_step(client):
    agents, trained = Agents(client), []
    async with feed_of(client, agents, max_staleness=2) as feed:
        for step, started in enumerate((6, 8, 8, 8)):
            trained += numbers(await feed.take(version=step, steps=4 - step))
            await settled(agents, started)
            assert feed.position == Position(planned=started, open=sorted(set(range(started)) - set(trained)))
            agents.version = step + 1
            feed.advance(step + 1)
    assert sorted(trained) == list(range(8))


async def test_the_first_to_finish_are_trained_and_a_straggler_that_is_too_old_then_is_stopped(client):
    agents = Agents(client)
    agents.ends[0] = asyncio.Event()
    async with feed_of(client, agents, max_staleness=1) as feed:
        for version in range(2):
            assert 0 not in numbers(await feed.take(version, steps=9 - version))
            assert 0 in agents.running
            agents.version = version + 1
            feed.advance(version + 1)
        # What group 0 began to sample under weights 0 is two versions behind now.
        await asyncio.sleep(0)
        assert 0 not in agents.running
        assert (await feed.take(version=2, steps=7)).dropped[GIVEN_UP] == 1
        assert 0 not in feed.position.open
    assert agents.forgotten == ["run-g0"]  # what is open at the end goes on with the next start


async def test_a_group_that_became_too_old_while_it_waited_is_dropped_and_replaced(client):
    agents = Agents(client)
    async with feed_of(client, agents, max_staleness=1) as feed:
        first = numbers(await feed.take(version=0, steps=9))
        await settled(agents, 4)
        position = feed.position
    agents.version = 5
    # After a restart only ingest knows how old they are.
    async with feed_of(client, agents, position, version=5, max_staleness=1) as feed:
        collected = await feed.take(version=5, steps=8)
        assert collected.dropped == {"stale": 2}
        assert min(numbers(collected)) > 3
    assert len(first) == 2


async def test_tasks_that_are_set_aside_are_passed_over_and_counted(client, tmp_path):
    agents = Agents(client)
    agents.quarantine = Quarantine(1, file=tmp_path / "quarantine.json", say=print)
    for number in (0, 2):
        agents.quarantine.note(plan(number), ["agent: it broke"] * 2)
    async with feed_of(client, agents) as feed:
        collected = await feed.take(version=0, steps=1)
        assert (numbers(collected), collected.quarantined) == ([1, 3], 2)
        assert feed.position == Position(planned=4)


async def test_an_engine_that_does_not_say_which_weights_it_has_is_an_error_and_no_endless_search(client):
    agents = Agents(client)  # its version stays 0
    async with feed_of(client, agents, max_staleness=1, version=5) as feed:
        with pytest.raises(RunError, match=r"run-g\d began under weights 5, and its tokens are of older ones"):
            await feed.take(version=5, steps=9)


async def test_what_is_stale_is_handed_over_where_the_recipe_keeps_it(client):
    agents = Agents(client)
    async with feed_of(client, agents, max_staleness=1, stale="keep") as feed:
        first = numbers(await feed.take(version=0, steps=9))
        await settled(agents, 4)
        feed.advance(7)
        assert sorted(first + numbers(await feed.take(version=7, steps=8))) == [0, 1, 2, 3]


async def test_groups_without_contrast_are_replaced_until_the_step_is_full(client):
    agents = Agents(client)
    agents.rewards = {0: (1.0, 1.0), 2: (0.0, 0.0)}
    async with feed_of(client, agents, dynamic_sampling=1) as feed:
        collected = await feed.take(version=0, steps=9)
        assert numbers(collected) == [1, 3]
        assert collected.dropped == {"zero-advantage": 2}
        assert feed.position == Position(planned=4)


async def test_a_group_that_ingest_cannot_read_is_replaced_although_the_run_has_no_rule(client):
    agents = Agents(client)
    agents.unreadable = {0}
    async with feed_of(client, agents) as feed, asyncio.timeout(20):
        collected = await feed.take(version=0, steps=9)
        assert (numbers(collected), collected.dropped) == ([1, 2], {"unreadable": 1})


@pytest.mark.parametrize(("a_step", "read", "bound"), [(2, (), 8), (2, (3,), 8), (10, (), 10)])
async def test_groups_that_are_unreadable_one_after_the_other_end_the_run_and_are_not_searched_for_ever(
    client, a_step, read, bound
):
    agents = Agents(client)
    agents.unreadable = set(range(100)) - {*read}
    async with feed_of(client, agents, groups_per_step=a_step) as feed, asyncio.timeout(20):
        with pytest.raises(
            RunError, match=rf"^{bound} groups in a row were dropped as unreadable, run-g\d+ the last: .*"
        ):
            await feed.take(version=0, steps=9)
    assert len(agents.started) >= bound


async def test_unreadable_groups_here_and_there_end_no_run(client):
    agents = Agents(client)
    agents.unreadable = {number for number in range(100) if number % 4}
    async with feed_of(client, agents) as feed, asyncio.timeout(20):
        for step in range(3):
            assert len((await feed.take(version=step, steps=9)).groups) == 2


async def test_dynamic_sampling_stops_at_its_bound_with_what_it_found(client):
    agents = Agents(client)
    agents.rewards = {number: (1.0, 1.0) for number in range(100) if number != 3}
    async with feed_of(client, agents, dynamic_sampling=2) as feed:
        collected = await feed.take(version=0, steps=9)
        assert numbers(collected) == [3]
        assert collected.dropped == {"zero-advantage": 5}
        agents.rewards[3] = (1.0, 1.0)
        nothing = await feed.take(version=0, steps=8)
        assert numbers(nothing) == []
        assert nothing.judged == 12


async def test_why_everything_failed_is_told_also_where_it_was_dropped(client):
    agents = Agents(client)
    agents.rewards = dict.fromkeys(range(100), (None, None))
    async with feed_of(client, agents, dynamic_sampling=1) as feed:
        collected = await feed.take(version=0, steps=9)
    assert (collected.groups, collected.judged, collected.failures) == ([], 0, ["agent: it broke"] * 8)


async def test_oversampling_takes_the_first_to_finish_and_stops_the_rest(client):
    agents = Agents(client)
    agents.ends = {0: asyncio.Event(), 2: asyncio.Event()}
    async with feed_of(client, agents, oversampling=2.0) as feed:
        collected = await feed.take(version=0, steps=9)
        assert numbers(collected) == [1, 3]
        await asyncio.sleep(0)
        assert not agents.running
        assert feed.position == Position(planned=4)


async def test_a_run_goes_on_from_a_position_with_what_was_open_first_and_runs_only_what_is_missing(client):
    before = Agents(client)
    before.ends = {3: asyncio.Event(), 2: asyncio.Event()}
    async with feed_of(client, before, max_staleness=1) as feed:
        await feed.take(version=0, steps=9)
        await settled(before, 4)
        position = feed.position
    assert position == Position(planned=4, open=[2, 3])
    after = Agents(client)
    after.ends = {4: asyncio.Event(), 5: asyncio.Event()}
    async with feed_of(client, after, position, max_staleness=1) as feed:
        collected = await feed.take(version=0, steps=9)
        assert numbers(collected) == [2, 3]
        assert feed.position == Position(planned=6, open=[4, 5])


async def test_groups_trained_before_a_checkpoint_are_acknowledged_and_never_handed_over_again(client):
    agents = Agents(client)
    async with feed_of(client, agents) as feed:
        await feed.take(version=0, steps=9)  # killed between the checkpoint and the acknowledgement
        position = feed.position
    async with feed_of(client, agents, position, version=1) as feed:
        assert numbers(await feed.take(version=1, steps=8)) == [2, 3]
    states = {state.id: state.state for state in await client.groups(RUN)}
    assert (states[f"{RUN}-g0"], states[f"{RUN}-g1"]) == ("done", "done")


async def test_a_group_that_was_trained_and_forgotten_by_every_checkpoint_is_an_error_that_says_so(client):
    agents = Agents(client)
    async with feed_of(client, agents) as feed:
        await client.ack((await feed.take(version=0, steps=9)).leases)
    async with feed_of(client, agents) as feed:
        with pytest.raises(RunError, match=r"run-g\d: trained and acknowledged already, but no checkpoint holds it"):
            await feed.take(version=0, steps=9)


async def test_a_first_step_that_failed_as_a_whole_is_run_again_under_other_names(client):
    agents = Agents(client)
    agents.rewards = dict.fromkeys(range(2), (None, None))
    async with feed_of(client, agents) as feed:
        assert not (await feed.take(version=0, steps=9)).judged
    agents.rewards = {}
    async with feed_of(client, agents) as feed:
        collected = await feed.take(version=0, steps=9)
    assert [item.group.id for item in collected.groups] == [f"{RUN}-g0-again", f"{RUN}-g1-again"]
    assert collected.judged == 4


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_finishes_when_nothing_is_trained_twice_and_no_token_is_older_than_allowed(client, seed):
    chance = random.Random(seed)
    staleness = chance.randint(0, 3)
    settings = {"max_staleness": staleness, "oversampling": chance.choice([1.0, 1.5]), "dynamic_sampling": 1}
    agents, trained = Agents(client), []
    agents.ends = {number: asyncio.Event() for number in range(100)}
    agents.rewards = {number: (0.0, float(chance.random() < 0.7)) for number in range(100)}

    async def let_go():
        while True:
            held = [number for number in agents.running if not agents.ends[number].is_set()]
            if held:
                agents.ends[chance.choice(held)].set()
            await asyncio.sleep(0.002)

    ending = asyncio.create_task(let_go())
    async with feed_of(client, agents, **settings) as feed:
        for version in range(6):
            collected = await feed.take(version, 6 - version)
            for item in collected.groups:
                trained.append(number_of(item.group))
                sampled = [v for t in item.trajectories for s in t.sequences for v in s.weight_versions if v >= 0]
                assert all(0 <= version - v <= staleness for v in sampled)
            if staleness:
                await asyncio.sleep(chance.random() * 0.02)
            agents.version = version + 1
            feed.advance(version + 1)
            await client.ack(collected.leases)
    ending.cancel()
    assert len(trained) == len(set(trained))
    assert trained
