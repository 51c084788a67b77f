"""Which task each group is about: epochs, shares by weight, a curriculum; a resumed run goes on as it would have."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexrl.errors import ConfigError
from nexrl.records import Group, Reward, Task, TrainingGroup, Trajectory
from nexrl.rewards import TOTAL
from nexrl_ingest.client import GroupState
from nexrl_ingest.wire import RolloutState
from nexrl_trainer.data.curriculum import Curriculum, DrawLog
from nexrl_trainer.data.epochs import Epochs
from nexrl_trainer.data.mixing import Mixture
from nexrl_trainer.data.pools import Pool
from nexrl_trainer.data.successes import successes
from nexrl_trainer.recipe.tasks import Curriculum as Rule

brief = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 3)


def pool(name, count, weight=1.0):
    return Pool(name=name, weight=weight, tasks=[Task(id=f"{name}{index}", fields={}) for index in range(count)])


pools = st.lists(st.tuples(st.integers(1, 12), st.floats(0.05, 20)), min_size=1, max_size=5).map(
    lambda given: [pool(f"p{index}-", count, weight) for index, (count, weight) in enumerate(given)]
)


def trained(task, *values):
    """Return a group as it is trained; None is a rollout that failed."""
    trajectories = [
        Trajectory(
            session=f"{task}-{index}",
            rollout=index,
            status="failed" if value is None else "completed",
            reason="",
            rewards=[] if value is None else [Reward(name=TOTAL, value=value, by="trainer")],
            sequences=[],
            drift=[],
        )
        for index, value in enumerate(values)
    ]
    group = Group(id=task, run="r", task=Task(id=task, fields={}), size=len(values))
    return TrainingGroup(group=group, trajectories=trajectories)


def dropped(task, *values):
    """Return the same, as ingest reports a group that it dropped."""
    outcomes = [
        RolloutState(
            rollout=index,
            attempt=str(index),
            status="failed" if value is None else "completed",
            reason="",
            rewards={} if value is None else {TOTAL: value},
        )
        for index, value in enumerate(values)
    ]
    size = len(values)
    return GroupState(id=task, task=task, mode="train", size=size, final=size, state="dropped", outcomes=outcomes)


def ids(draws, numbers):
    return [draws.task(number).id for number in numbers]


@brief
@given(st.integers(1, 20), seeds, st.booleans())
def test_every_task_is_seen_once_an_epoch(count, seed, shuffled):
    seen = ids(Epochs([pool("t", count)], seed=seed, shuffled=shuffled), range(3 * count))
    for start in range(0, len(seen), count):
        assert len(set(seen[start : start + count])) == count


@brief
@given(pools, seeds)
def test_with_weights_every_source_has_epochs_of_its_own(sources, seed):
    seen = ids(Epochs(sources, seed=seed, shuffled=True), range(80))
    for source in sources:
        own = [name for name in seen if name.startswith(source.name)]
        count = len(source.tasks)
        for start in range(0, len(own) - count + 1, count):
            assert len(set(own[start : start + count])) == count


@brief
@given(pools, seeds, st.booleans(), st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_the_task_of_a_group_is_a_function_of_its_number_in_whatever_order_they_are_asked_for(
    sources, seed, shuffled, numbers
):
    straight = ids(Epochs(sources, seed=seed, shuffled=shuffled), range(101))
    resumed = Epochs(sources, seed=seed, shuffled=shuffled)
    assert ids(resumed, numbers) == [straight[number] for number in numbers]


def test_epochs_differ_from_each_other_and_by_seed_and_a_listed_order_is_the_list():
    tasks = [pool("t", 50)]
    one, other = (ids(Epochs(tasks, seed=seed, shuffled=True), range(100)) for seed in (1, 2))
    assert one != other
    assert one[:50] != one[50:]
    assert ids(Epochs(tasks, seed=1, shuffled=False), range(60)) == [f"t{index % 50}" for index in range(60)]


def test_with_weights_epochs_differ_from_each_other_and_from_those_of_other_sources():
    seen = ids(Epochs([pool("a", 30), pool("b", 30)], seed=1, shuffled=True), range(120))
    one, other = ([name[1:] for name in seen if name.startswith(letter)] for letter in "ab")
    assert one[:30] != one[30:]
    assert one != other


def test_the_order_of_a_single_pool_follows_from_the_seed_and_the_epoch():
    order = ids(Epochs([pool("t", 8)], seed=1, shuffled=True), range(10))
    assert order == [
        f"t{index}"
        for index in (*random.Random("1-0").sample(range(8), 8), *random.Random("1-1").sample(range(8), 8)[:2])
    ]


def test_weights_3_and_1_take_turns_like_this():
    mixture = Mixture([3, 1])
    turns = [mixture.turn(number) for number in range(8)]
    assert turns == [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (0, 4), (1, 1), (0, 5)]


@brief
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 100))
def test_at_every_moment_each_source_has_its_share_to_within_the_bound(weights, groups):
    mixture, counts, total = Mixture(weights), Counter(), sum(weights)
    for number in range(groups):
        turn, place = mixture.turn(number)
        assert place == counts[turn]
        counts[turn] += 1
        for index, weight in enumerate(weights):
            share = weight / total
            assert abs(counts[index] - share * (number + 1)) <= 0.5 + share * len(weights) / 2 + 1e-9


def curriculum(sources, *, seed=1, apart=1, rates=(), log=None, **rule):
    return Curriculum(
        sources, Rule(**rule), seed=seed, apart=apart, success_at=1.0, rates=dict(rates), log=DrawLog(log)
    )


def test_a_task_is_drawn_in_proportion_to_p_1_minus_p_plus_the_floor():
    rates = {"t0": 0.5, "t1": 0.9, "t2": 1.0, "t3": 0.0}
    draws = curriculum([pool("t", 4)], rates=rates, floor=0.05)
    weights = [0.25 + 0.05, 0.09 + 0.05, 0.05, 0.05]
    assert [draws.weight(name) for name in rates] == pytest.approx(weights)
    counts = Counter(ids(draws, range(4000)))
    for name, weight in zip(rates, weights, strict=True):
        assert counts[name] / 4000 == pytest.approx(weight / sum(weights), abs=0.03)


def test_the_estimate_starts_in_the_middle_and_goes_its_pace_to_each_share():
    draws = curriculum([pool("t", 2)], pace=0.5)
    draws.observe([trained("t0", 1.0, 1.5)], [])
    draws.observe([], [dropped("t0", 0.5, 0.0)])
    draws.observe([trained("t1", 1.0, 0.0, None, None)], [])
    assert draws.rates == {"t0": 0.375, "t1": 0.375}  # 0.5 -> 0.75 -> 0.375; 0.5 -> 0.375


@brief
@given(st.integers(1, 9), st.integers(1, 6), seeds)
def test_groups_of_a_step_are_about_different_tasks_as_far_as_there_are_any(count, apart, seed):
    drawn = ids(curriculum([pool("t", count)], seed=seed, apart=apart), range(60))
    window = min(apart, count // 2 + 1)
    for start in range(len(drawn) - window + 1):
        assert len(set(drawn[start : start + window])) == window


def outcome(name):
    """How a task goes: the same whenever it is tried."""
    return trained(name, *random.Random(name).choices([0.0, 1.0], k=4))


def steps(draws, first, last, groups=4):
    """Run steps as a synchronous run does: all groups of one are drawn, then observed."""
    drawn = []
    for step in range(first, last):
        names = ids(draws, range(step * groups, (step + 1) * groups))
        draws.observe([outcome(name) for name in names], [])
        drawn += names
    return drawn


@pytest.mark.parametrize("torn", [b"", b'{"number": 99, "ta'], ids=["between lines", "within a line"])
@pytest.mark.parametrize("checkpoint", [0, 2, 5])
def test_a_run_that_is_killed_goes_on_with_the_draws_it_would_have_made(tmp_path, checkpoint, torn):
    sources = [pool("a", 30, 2.0), pool("b", 10, 1.0)]
    straight = steps(curriculum(sources, apart=4), 0, 8)

    log = tmp_path / "draws.jsonl"
    killed = curriculum(sources, apart=4, log=log)
    steps(killed, 0, checkpoint)
    saved = killed.rates
    steps(killed, checkpoint, 5)
    ids(killed, [20, 21])  # and was about to begin two groups more
    with log.open("ab") as file:
        file.write(torn)

    resumed = curriculum(sources, apart=4, rates=saved, log=log)
    assert steps(resumed, checkpoint, 8) == straight[4 * checkpoint :]
    assert [json.loads(line)["number"] for line in log.read_text().splitlines()] == list(range(32))


def test_what_was_drawn_stays_drawn_whatever_is_learned_afterwards(tmp_path):
    log = tmp_path / "draws.jsonl"
    before = ids(curriculum([pool("t", 20)], log=log), range(10))
    changed = curriculum([pool("t", 20)], rates={f"t{index}": 0.0 for index in range(19)}, log=log)
    assert ids(changed, range(10)) == before


def test_a_task_that_was_drawn_and_is_gone_is_named(tmp_path):
    log = tmp_path / "draws.jsonl"
    [name] = ids(curriculum([pool("t", 1)], log=log), [0])
    with pytest.raises(ConfigError, match=f"group 0 of this run is about task '{name}', which tasks.train no longer"):
        curriculum([pool("other", 1)], log=log).task(0)


def test_success_is_counted_over_all_rollouts_of_a_task_in_trained_and_in_dropped_groups():
    groups = [trained("a", 1.0, 0.2, None, 1.0), trained("twice", 1.0), trained("broken", None)]
    found = successes(groups, [dropped("b", 0.0, 0.0), dropped("twice", 0.0, None)], at=1.0)
    assert found == {"a": 0.5, "twice": pytest.approx(1 / 3), "broken": 0.0, "b": 0.0}
