import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nexrl.records import Float32s, Group, Int32s, Reward, Sequence, Task, TrainingGroup, Trajectory
from nexrl_trainer.policy.batches import Datum, micro_batches, minibatches, select


def sequence(*, length=4, trained=2):
    mask = [0] * (length - trained) + [1] * trained
    return Sequence(
        ids=Int32s(range(length)),
        loss_mask=Int32s(mask),
        logprobs=Float32s([-0.5 * flag for flag in mask]),
        weight_versions=Int32s([3 if flag else -1 for flag in mask]),
        temperatures=Float32s([1.0] * length),
        calls=["c"],
    )


def trajectory(name, reward, *, sequences=1, status="completed"):
    rewards = [Reward(name="total", value=reward)] if status == "completed" else []
    return Trajectory(
        session=name,
        rollout=0,
        status=status,
        reason="",
        rewards=rewards,
        sequences=[sequence() for _ in range(sequences)],
        drift=[],
    )


def group(*trajectories):
    task = Task(id="t", fields={})
    return TrainingGroup(
        group=Group(id="g", run="r", task=task, size=len(trajectories)), trajectories=list(trajectories)
    )


def test_every_sequence_of_a_rollout_carries_the_rollouts_advantage_on_its_trained_tokens_only():
    chosen = select([group(trajectory("a", 1.0, sequences=2), trajectory("b", 0.0))], "dr_grpo")
    assert [(datum.session, list(datum.advantages)) for datum in chosen.datums] == [
        ("a", [0, 0, 0.5, 0.5]),
        ("a", [0, 0, 0.5, 0.5]),
        ("b", [0, 0, -0.5, -0.5]),
    ]


def test_a_failed_rollout_is_neither_baseline_nor_data():
    chosen = select([group(trajectory("a", 1.0), trajectory("b", 0.0), trajectory("x", 0, status="failed"))], "dr_grpo")
    assert {datum.session for datum in chosen.datums} == {"a", "b"}
    assert (chosen.rewards, chosen.failed) == ([1.0, 0.0], 1)


def test_a_group_whose_rewards_are_all_equal_is_left_out_and_counted():
    chosen = select([group(trajectory("a", 1.0), trajectory("b", 1.0))], "grpo")
    assert (chosen.datums, chosen.without_contrast, chosen.rewards) == ([], 1, [1.0, 1.0])


def test_an_agent_cannot_set_the_reward_it_is_trained_on():
    honest = trajectory("a", 0.0)
    claimed = Reward(name="total", value=1000.0, by="agent")
    greedy = msgspec.structs.replace(honest, rewards=[claimed, *honest.rewards])
    assert select([group(greedy, trajectory("b", 1.0))], "dr_grpo").rewards == [0.0, 1.0]


datums = st.lists(
    st.builds(
        lambda session, length: Datum(
            ids=Int32s(range(length)),
            loss_mask=Int32s([0, *[1] * (length - 1)]),
            logprobs=Float32s([0.0] * length),
            temperatures=Float32s([1.0] * length),
            weight_versions=Int32s([0] * length),
            advantages=Float32s([0.0] * length),
            session=session,
        ),
        st.sampled_from("abcdefgh"),
        st.integers(2, 50),
    ),
    max_size=30,
)


@given(datums, st.integers(1, 6))
def test_minibatches_hold_every_datum_once_and_never_split_a_rollout(items, count):
    parts = minibatches(items, count)
    assert sorted(id(item) for part in parts for item in part) == sorted(map(id, items))
    assert len(parts) <= count
    assert all(parts)
    homes = [{item.session for item in part} for part in parts]
    assert sum(map(len, homes)) == len(set().union(*homes))


@given(datums, st.integers(1, 120))
def test_micro_batches_hold_every_datum_once_within_the_budget_or_alone(items, budget):
    packs = micro_batches(items, budget)
    assert sorted(id(item) for part in packs for item in part) == sorted(map(id, items))
    for part in packs:
        assert len(part) == 1 or sum(len(item.ids) for item in part) <= budget
