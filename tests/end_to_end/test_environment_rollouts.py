"""Environments played through everything real but the model: one chain, rewards on the calls that earned them; and what
environments do wrong, with real processes: right status, right counts, nothing stuck."""

import asyncio

import pytest
import pytest_asyncio
from rollout_world import rollout_world

from nexrl_trainer.batches.selection import rewards_of_calls

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("environments")]
ENVIRONMENT = """
import time

class Stairs:
    '''Three steps up; the second costs nothing.'''

    def reset(self, *, seed=None, options=None):
        self.does, self.height = options["do"], 0
        if self.does == "raises at reset":
            raise KeyError("price")
        return "You stand below.", {}

    def step(self, action):
        assert action == "IJ"
        self.height += 1
        match self.does:
            case "raises":
                raise KeyError("price")
            case "returns nan":
                return "?", float("nan"), False, False, {}
            case "hangs":
                time.sleep(600)
            case "never ends":
                return "On and on.", 0.25, False, False, {}
        return f"You are at {self.height}.", [0.5, 0, 1][self.height - 1], self.height == 3, False, {}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environments")
    (folder / "stairs.py").write_text(ENVIRONMENT)
    async with rollout_world(folder) as made:
        yield made


async def test_an_episode_is_one_chain_and_every_step_is_credited_to_its_call(world):
    agent = {"environment": "stairs.py:Stairs", "system": "Go {way}.", "workers": 1}
    async with world.attempts(world.folder, **agent) as running:
        record = await world.rollouts(running, "climbs", size=2, run="climbs", do="climb", way="up")
    assert [(item.outcome.status, item.outcome.reason) for item in record.attempts] == [("completed", "")] * 2
    [leased] = await world.ingest.lease("climbs")
    for trajectory in leased.group.trajectories:
        [sequence] = trajectory.sequences
        assert (trajectory.drift, [turn.end - turn.start for turn in sequence.turns]) == ([], [3, 3, 3])
        assert sum(sequence.loss_mask) == 9
        whole = {reward.name: reward.value for reward in trajectory.rewards if not reward.call}
        assert whole == {"environment": 1.5, "total": 1.5}
        assert rewards_of_calls(trajectory, ["step"]) == dict(zip(sequence.calls, [0.5, 0.0, 1.0], strict=True))
        [first, *_] = sorted(await world.ingest.calls(trajectory.session), key=lambda call: call.started_ns)
        assert [message["content"] for message in first.messages] == ["Go up.", "You stand below."]


WRONG = {
    "raises": (1, "failed", "raise KeyError(\"price\") | KeyError: 'price'"),
    "raises at reset": (0, "failed", "KeyError: 'price'"),
    "returns nan": (1, "failed", "stairs.py:Stairs: step returned the reward nan: return a finite number"),
    "never ends": (4, "completed", "cut off after 4 turns"),
}


async def test_what_an_environment_does_wrong_is_its_own_failure_with_its_reason(world):
    agent = {"environment": "stairs.py:Stairs", "workers": 1, "attempts": 1, "max_turns": 4}
    async with world.attempts(world.folder, **agent) as running:
        work = [world.rollouts(running, f"wrong-{n}", do=do) for n, do in enumerate(WRONG)]
        records = await asyncio.gather(*work)
    for record, (calls, status, reason) in zip(records, WRONG.values(), strict=True):
        [final] = [item.outcome for item in record.attempts if item.outcome.final]
        assert (final.calls, final.status) == (calls, status)
        assert reason in final.reason
    never = records[-1].attempts[-1].rewards
    assert {reward.name: reward.value for reward in never if not reward.call} == {"environment": 1.0, "total": 1.0}
    assert [reward.explanation for reward in never if reward.name == "environment"] == ["cut off after 4 turns"]


async def test_one_that_hangs_has_its_process_killed_when_its_time_is_up(world, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.callable.CANCEL_S", 0.1)
    agent = {"environment": "stairs.py:Stairs", "workers": 1, "attempts": 1, "timeout_s": 1}
    async with world.attempts(world.folder, **agent) as running:
        record = await world.rollouts(running, "hangs", do="hangs")
        [item] = record.attempts
        assert (item.outcome.status, item.outcome.reason) == ("failed", "agent: no end within 1 s")
        again = await world.rollouts(running, "climbs-after", do="climb")
    assert again.attempts[-1].outcome.status == "completed"
