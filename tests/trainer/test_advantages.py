import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexrl_trainer.algorithms.advantages import dr_grpo, grpo


def test_grpo_centres_and_divides_by_the_groups_deviation():
    assert grpo([1.0, 0.0, 0.0, 1.0]) == pytest.approx([1, -1, -1, 1], abs=1e-5)
    # mean 0.25, deviation sqrt(3)/4
    assert grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3], abs=1e-5)


def test_dr_grpo_centres_only():
    assert dr_grpo([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


def test_equal_rewards_give_no_advantage():
    assert grpo([0.3, 0.3, 0.3]) == [0, 0, 0]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=32))
def test_advantages_sum_to_nothing_and_keep_the_order_of_the_rewards(rewards):
    for advantages in (grpo(rewards), dr_grpo(rewards)):
        assert sum(advantages) == pytest.approx(0, abs=1e-6 * max(map(abs, rewards), default=1) + 1e-6)
        ascending = sorted(range(len(rewards)), key=lambda index: (rewards[index], advantages[index]))
        assert [advantages[index] for index in ascending] == sorted(advantages)
