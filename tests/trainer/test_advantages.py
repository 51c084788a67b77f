import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexrl_trainer.algorithms.advantages import advantages, best, dr_grpo, grpo, rloo
from nexrl_trainer.algorithms.credit import call_advantages, overlong_penalty, returns
from nexrl_trainer.algorithms.normalising import token_weights

ROOT3 = math.sqrt(3)


def test_grpo_centres_and_divides_by_the_groups_deviation():
    assert grpo([1.0, 0.0, 0.0, 1.0]) == pytest.approx([1, -1, -1, 1], abs=1e-5)
    # mean 0.25, deviation sqrt(3)/4
    assert grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([ROOT3, *[-1 / ROOT3] * 3], abs=1e-5)


def test_dr_grpo_centres_only():
    assert dr_grpo([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


def test_rloo_compares_each_rollout_with_the_mean_of_the_others():
    # 1 - 0, and 0 - 1/3
    assert rloo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert rloo([0.7]) == [0.0]


def test_only_the_best_of_a_group_are_imitated():
    assert best([0.5, 2.0, 2.0, -1.0]) == [0, 1, 1, 0]


def test_reinforce_pp_normalises_rewards_over_the_batch_and_not_over_groups():
    # rewards 1 0 0 0: mean 0.25, deviation sqrt(3)/4
    found = advantages("reinforce_pp", [[1.0, 0.0], [0.0, 0.0]])
    assert [value for group in found for value in group] == pytest.approx([ROOT3, *[-1 / ROOT3] * 3], abs=1e-5)
    assert [len(group) for group in found] == [2, 2]


def test_reinforce_pp_with_a_baseline_centres_each_group_first():
    # groups centred: 0.5 -0.5 and 1.5 -1.5, deviation of all sqrt((0.25 + 2.25) / 2) = sqrt(1.25)
    [one, other] = advantages("reinforce_pp_baseline", [[1.0, 0.0], [3.0, 0.0]])
    assert one == pytest.approx([0.5 / math.sqrt(1.25), -0.5 / math.sqrt(1.25)], abs=1e-5)
    assert other == pytest.approx([1.5 / math.sqrt(1.25), -1.5 / math.sqrt(1.25)], abs=1e-5)


def test_equal_rewards_give_no_advantage():
    assert grpo([0.3, 0.3, 0.3]) == [0, 0, 0]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=32))
def test_advantages_sum_to_nothing_and_keep_the_order_of_the_rewards(rewards):
    for values in (grpo(rewards), dr_grpo(rewards), rloo(rewards)):
        assert sum(values) == pytest.approx(0, abs=1e-6 * max(map(abs, rewards), default=1) + 1e-6)
        ascending = sorted(range(len(rewards)), key=lambda index: (rewards[index], values[index]))
        assert [values[index] for index in ascending] == sorted(values)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-100, 100))
def test_the_level_of_the_rewards_makes_no_difference_to_a_baseline(rewards, level):
    moved = [reward + level for reward in rewards]
    for advantage in (dr_grpo, rloo):
        assert advantage(moved) == pytest.approx(advantage(rewards), abs=1e-9)


def test_a_calls_reward_reaches_it_and_discounted_the_calls_before_it():
    assert returns([0.0, 0.0, 1.0], 0.5) == [0.25, 0.5, 1.0]


def test_rewards_of_calls_are_centred_over_the_group_and_absent_ones_count_nothing():
    # Given: 1 0 0, mean 1/3. Centred 2/3 0 -1/3 and -1/3 0, summed from the end with discount 1/2.
    [one, other] = call_advantages([[1.0, None, 0.0], [0.0, None]], discount=0.5, divided=False)
    assert one == pytest.approx([7 / 12, -1 / 6, -1 / 3])
    assert other == pytest.approx([-1 / 3, 0.0])
    # Divided by their deviation, sqrt(2)/3.
    [divided, _] = call_advantages([[1.0, None, 0.0], [0.0, None]], discount=0.5, divided=True)
    assert divided == pytest.approx([value * 3 / math.sqrt(2) for value in (7 / 12, -1 / 6, -1 / 3)], abs=1e-5)


def test_without_rewards_of_calls_nothing_is_added():
    assert call_advantages([[None, None], []], discount=0.5, divided=True) == [[0.0, 0.0], []]


@pytest.mark.parametrize(("tokens", "penalty"), [(0, 0), (6, 0), (8, 0.5), (10, 1), (12, 1)])
def test_the_punishment_of_length_grows_over_the_buffer(tokens, penalty):
    assert overlong_penalty(tokens, limit=10, buffer=4) == penalty


@pytest.mark.parametrize(
    ("normalisation", "weights"),
    [
        ("token", [1 / 8, 1 / 8, 1 / 8]),
        ("sequence", [1 / 6, 1 / 12, 1 / 6]),
        ("rollout", [1 / 12, 1 / 12, 1 / 4]),
        ("constant", [1 / 20, 1 / 20, 1 / 20]),
    ],
)
def test_a_tokens_weight_follows_from_what_counts_the_same(normalisation, weights):
    # Two sequences of rollout a, one of b.
    assert token_weights([2, 4, 2], ["a", "a", "b"], normalisation, 10) == pytest.approx(weights)


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from("abc")), min_size=1, max_size=12))
def test_all_weights_but_the_constants_sum_to_one(sequences):
    lengths, rollouts = zip(*sequences, strict=True)
    for normalisation in ("token", "sequence", "rollout"):
        weights = token_weights(lengths, rollouts, normalisation)
        assert sum(map(math.prod, zip(weights, lengths, strict=True))) == pytest.approx(1)
